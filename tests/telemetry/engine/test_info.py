"""INFO's text, taken apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.engine.families import families
from telemetry.engine.info import Info, number
from telemetry.engine.points import points
from telemetry.engine.table import ROWS
from telemetry.prometheus import write

_SOURCES = sorted({row.source for row in ROWS})
_COUNTS = ["server_time_usec", "config:databases"]
_FIELDS = _COUNTS + [source for source in _SOURCES if "*" not in source]
_VALUES = st.one_of(
    st.text(max_size=30),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        ["ok", "err", "master", "slave", "", "-1", "1_0", " 1", "٣", "1e999", "nan", "9" * 400, "9" * 5000]
    ),
)
_PARTS = st.lists(st.tuples(st.sampled_from(["calls", "usec", "count", "p50", "keys", "lag", "ip", "x"]), _VALUES)).map(
    lambda parts: ",".join(f"{name}={value}" for name, value in parts)
)
_LINES = st.one_of(
    st.text(max_size=60),
    st.tuples(st.sampled_from(_FIELDS), _VALUES).map(":".join),
    st.tuples(
        st.sampled_from(["cmdstat_get", "errorstat_ERR", "latency_percentiles_usec_get", "db0", "db3", "slave0"]),
        _PARTS,
    ).map(":".join),
)


@given(st.lists(_LINES).map("\r\n".join))
def test_no_text_is_too_strange(text: str) -> None:
    info = Info.parse(text)
    for point in points(info):
        assert point.value == point.value  # no nan
        assert all(isinstance(value, str) for value in point.attributes.values())
    write(families(info), openmetrics=True)
    write(families(info), openmetrics=False)


def test_fields_and_records() -> None:
    info = Info.parse(
        "# Stats\r\nkeyspace_hits:7\r\nos:Linux: yes\r\n\r\n"
        "cmdstat_config|get:calls=2,usec=9,usec_per_call=4.50\r\ndb12:keys=3,expires=1\r\n"
    )
    assert info.fields == {"keyspace_hits": "7", "os": "Linux: yes"}
    assert info.records == {
        "cmdstat_*": {"config|get": {"calls": "2", "usec": "9", "usec_per_call": "4.50"}},
        "db*": {"12": {"keys": "3", "expires": "1"}},
    }


def test_the_start_is_told_by_the_engine_s_own_clock() -> None:
    info = Info.parse("server_time_usec:1700000010900000\r\nuptime_in_seconds:10\r\n")
    assert info.fields["start_time"] == "1700000000"


def test_calls_stand_beside_percentiles() -> None:
    info = Info.parse("cmdstat_get:calls=2,usec=9\r\nlatency_percentiles_usec_get:p50=1.003\r\ncmdstat_set:calls=1\r\n")
    assert info.records["latency_percentiles_usec_*"] == {"get": {"p50": "1.003", "calls": "2", "usec": "9"}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("-1", -1),
        ("0.50", 0.5),
        ("ok", 1),
        ("err", 0),
        ("up", 1),
        ("down", 0),
        ("fail", 0),
        ("", None),
        ("none", None),
        ("nan", None),
        ("inf", None),
        ("1_000", None),
        (" 1", None),
        ("٣", None),
        ("9" * 400, None),
        ("9" * 5000, None),
        (str(2**63), 2**63),
        ("99.20%", None),
    ],
)
def test_numbers(text: str, value: float | None) -> None:
    assert number(text) == value
