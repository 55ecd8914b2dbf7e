"""The ledger counts to the unit, and what it says is what the supervisor's totals read."""

from __future__ import annotations

import pytest

from telemetry.ledger import Ledger
from telemetry.names import DURATION_BOUNDS_NS
from telemetry.totals import Totals

NAMES = ["_OTHER", "GET", "SET", "BLPOP"]
GET, SET = 1, 2


def totals_of(ledger: Ledger, *, gauges: tuple[tuple[str, str, int], ...] = ()) -> Totals:
    totals = Totals()
    for frame in ledger.snapshot(gauges, everything=True):
        totals.apply(0, frame)
    return totals


def test_calls_durations_and_bytes_are_exact() -> None:
    ledger = Ledger(NAMES)
    ledger.record(GET, 12_000, 30, 5)
    ledger.record(GET, 700_000, 31, 6)
    ledger.record(SET, -1, 40, 5)
    ledger.record(SET, 5_000, 41, 50, b"WRONGTYPE Operation against a key")
    totals = totals_of(ledger)
    outcomes = {(o.command, o.error_type): o for o in totals.outcomes()}
    assert outcomes["GET", ""].calls == 2
    assert outcomes["GET", ""].durations.sum_ns == 712_000
    assert outcomes["SET", ""].calls == 1
    assert sum(outcomes["SET", ""].durations.buckets) == 0
    assert outcomes["SET", "WRONGTYPE"].calls == 1
    commands = {c.command: c for c in totals.commands()}
    assert (commands["GET"].request_bytes, commands["GET"].response_bytes) == (61, 11)
    assert (commands["SET"].request_bytes, commands["SET"].response_bytes) == (81, 55)


@pytest.mark.parametrize("index", range(len(DURATION_BOUNDS_NS)))
def test_a_duration_on_a_bound_belongs_to_its_bucket(index: int) -> None:
    bound = DURATION_BOUNDS_NS[index]
    for duration, bucket in ((bound, index), (bound + 1, index + 1), (bound - 1, index)):
        ledger = Ledger(NAMES)
        ledger.record(GET, duration, 0, 0)
        (outcome,) = totals_of(ledger).outcomes()
        assert outcome.durations.buckets[bucket] == 1


@pytest.mark.parametrize(
    ("text", "code"),
    [(b"ERR no", "ERR"), (b"WRONGTYPE", "WRONGTYPE"), (b"NOAUTH\r", "NOAUTH"), (b"lower", "_OTHER"), (b"", "_OTHER"),
     (b"X" * 33, "_OTHER"), (b"X" * 32, "X" * 32),
     (b"A_B1 c", "A_B1"), (b"1A", "_OTHER"), (b"ERR\xff", "_OTHER")],
)  # fmt: skip
def test_error_codes_are_the_first_word_when_it_is_one(text: bytes, code: str) -> None:
    ledger = Ledger(NAMES)
    ledger.record(GET, 1, 0, 0, text)
    assert [o.error_type for o in totals_of(ledger).outcomes()] == [code]


def test_at_most_64_different_codes() -> None:
    ledger = Ledger(NAMES)
    for i in range(1000):
        ledger.record(GET, 1, 0, 0, b"CODE%d x" % i)
    ledger.lost(GET, "client_gone")
    codes = {o.error_type: o.calls for o in totals_of(ledger).outcomes()}
    assert len(codes) == 66
    assert codes["_OTHER"] == 1000 - 64
    assert codes["client_gone"] == 1, "our own types always have a place"


def test_a_frame_holds_only_what_changed_and_cumulative_values() -> None:
    ledger = Ledger(NAMES)
    totals = Totals()
    ledger.record(GET, 1, 1, 1)
    ledger.record(SET, 1, 1, 1)
    first = ledger.snapshot()
    ledger.record(SET, 1, 1, 1)
    ledger.count("connections.rejected", "maxclients")
    second = ledger.snapshot((("connections", "tcp", 3),))
    assert b"GET" in first[0]
    assert b"GET" not in second[0]
    for frame in first + second:
        totals.apply(7, frame)
    assert {o.command: o.calls for o in totals.outcomes()} == {"GET": 1, "SET": 2}
    assert totals.counter("connections.rejected") == {"maxclients": 1}
    assert totals.gauge("connections") == {"tcp": 3}
    assert ledger.snapshot() == []


def test_many_rows_come_in_several_frames_that_fit_a_packet() -> None:
    names = ["_OTHER", *(f"COMMAND{i}" for i in range(2000))]
    ledger = Ledger(names)
    for i in range(1, len(names)):
        ledger.record(i, 1, 1, 1)
    frames = ledger.snapshot()
    assert len(frames) > 5
    assert all(len(frame) < 64 * 1024 for frame in frames)
    totals = Totals()
    for frame in frames:
        totals.apply(0, frame)
    assert sum(o.calls for o in totals.outcomes()) == 2000


def test_names_may_come_later() -> None:
    names = list(NAMES)
    ledger = Ledger(names)
    names.append("JSON.GET")
    ledger.names_grew()
    ledger.record(4, 1, 1, 1)
    assert [o.command for o in totals_of(ledger).outcomes()] == ["JSON.GET"]
