from __future__ import annotations

from dataclasses import replace

import pytest

from telemetry import spanpacket
from telemetry.slow import SlowCommands
from telemetry.spanpacket import Identity, Span
from tests.telemetry.recorder import Recorder

_WHO = Identity("tcp", "10.0.0.1", 5000, client_name="worker-7")
_SLOW = Span(
    "GET",
    1_700_000_000_000_000_000,
    1_700_000_000_012_345_678,
    bytes.fromhex("0af7651916cd43dd8448eb211c80319c"),
    bytes.fromhex("b7ad6b7169203331"),
    flags=spanpacket.SLOW,
    identity=_WHO,
)


@pytest.fixture
def log() -> Recorder:
    return Recorder()


def test_a_slow_command_is_one_warning_with_the_ids_of_its_span(log: Recorder) -> None:
    SlowCommands(log).offer(_SLOW)
    ((level, event, message, details, when),) = log.records
    assert (level, event, message) == ("warning", "command.slow", "GET took 12.3 ms for 10.0.0.1:5000 (worker-7).")
    assert details == {
        "db.operation.name": "GET",
        "network.peer.address": "10.0.0.1",
        "network.peer.port": 5000,
        "valkey.client.name": "worker-7",
        "duration": 0.012345678,
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "span_id": "b7ad6b7169203331",
    }
    assert when is not None
    assert when.isoformat() == "2023-11-14T22:13:20.012345+00:00"


def test_a_command_that_was_not_slow_is_not_logged(log: Recorder) -> None:
    SlowCommands(log).offer(replace(_SLOW, flags=spanpacket.SAMPLED))
    assert log.records == []


@pytest.mark.parametrize(
    ("span", "message"),
    [
        (replace(_SLOW, identity=replace(_WHO, address="::1", client_name="")), "GET took 12.3 ms for [::1]:5000."),
        (
            replace(_SLOW, identity=replace(_WHO, transport="unix", address="/tmp/s", port=0)),
            "GET took 12.3 ms for a client of the Unix socket (worker-7).",
        ),
        (
            replace(_SLOW, name="PIPELINE", batch_size=300, end_ns=_SLOW.start_ns + 2_500_000_000),
            "PIPELINE took 2,500.0 ms for 10.0.0.1:5000 (worker-7).",
        ),
        (
            replace(_SLOW, engine_us=11_900),
            "GET took 12.3 ms for 10.0.0.1:5000 (worker-7), 11.9 ms of it in the engine.",
        ),
    ],
)
def test_the_sentence_says_who_waited_how_long(log: Recorder, span: Span, message: str) -> None:
    SlowCommands(log).offer(span)
    assert log.records[0].message == message


def test_a_slow_error_says_its_code_and_no_argument(log: Recorder) -> None:
    flags = spanpacket.SLOW | spanpacket.ERROR_REPLY
    SlowCommands(log).offer(replace(_SLOW, flags=flags, error=b"ERR unknown 'secret'"))
    assert log.records[0].attributes["error.type"] == "ERR"
    assert "secret" not in str(log.records)


def test_a_flood_is_cut_and_the_next_record_says_by_how_much(log: Recorder) -> None:
    now = 0.0
    slow = SlowCommands(log, clock=lambda: now)
    for _ in range(60):
        slow.offer(_SLOW)
    assert len(log.records) == 50
    now = 0.1
    slow.offer(_SLOW)
    slow.offer(_SLOW)
    assert len(log.records) == 51
    assert log.records[-1].attributes["valkey.slow.left_out"] == 10
    assert all("valkey.slow.left_out" not in record.attributes for record in log.records[:-1])
