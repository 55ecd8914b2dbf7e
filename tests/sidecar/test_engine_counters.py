"""The engine's counters over a restart and over CONFIG RESETSTAT: every call is exported, and once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.conftest import Server, Start, receive, wait_until
from tests.sidecar.exported import attributes, environment
from tests.sidecar.relay.traced import command
from tests.sidecar.test_engine_metrics import wait_up
from tests.telemetry.otlp.receivers import GrpcReceiver, Receiver

_DELTA = {"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"}
_CALLS = {
    "plain": [("CONFIG", "RESETSTAT")],
    "in a transaction": [("MULTI",), ("CONFIG", "RESETSTAT"), ("EXEC",)],
    # EXEC's reply has more elements than it says: from then on nobody knows which reply is whose.
    "in a session that is not followed": [
        ("HELLO", "3"),
        ("MULTI",),
        ("SUBSCRIBE", "channel"),
        ("EXEC",),
        ("CONFIG", "RESETSTAT"),
    ],
}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with GrpcReceiver() as made:
        yield made


def _points(receiver: Receiver, name: str, **labels: str) -> list[tuple[int, int, int]]:
    """Start, end and value of every point that has come, in order."""
    return [
        (point.start_time_unix_nano, point.time_unix_nano, point.as_int)
        for metric in receiver.metrics
        if metric.name == name
        for point in metric.sum.data_points
        if attributes(point) == labels
    ]


def _gets(receiver: Receiver) -> int:
    """All that came, and that no two points are of the same time."""
    points = _points(receiver, "redis.cmd.calls", cmd="get")
    assert all(start >= end for (_, end, _), (start, _, _) in itertools.pairwise(points)), points
    return sum(value for _, _, value in points)


def _send(server: Server, *words: tuple[str, ...], gets: int) -> None:
    with server.connect() as sock:
        sock.sendall(b"".join(command(*each) for each in [*words, *[("GET", "a")] * gets, ("ECHO", "the-end")]))
        receive(sock, b"the-end\r\n")


@pytest.mark.parametrize("words", _CALLS.values(), ids=_CALLS)
def test_all_calls_are_exported_after_a_reset(
    start_here: Start, receiver: Receiver, words: list[tuple[str, ...]]
) -> None:
    server = start_here("--save", "", env=environment(receiver.endpoint, **_DELTA)).wait_ready()
    _send(server, gets=100)
    wait_until(lambda: _gets(receiver) == 100, "the first calls are exported")
    _send(server, *words, gets=3_000)
    wait_until(lambda: _gets(receiver) >= 3_000, "the later calls are exported")
    _send(server, gets=7)
    wait_until(lambda: _gets(receiver) >= 3_107, "and the last")
    assert _gets(receiver) == 3_107


def test_all_calls_are_exported_after_a_restart(start_here: Start, receiver: Receiver) -> None:
    server = start_here("--save", "", env=environment(receiver.endpoint, **_DELTA)).wait_ready()
    _send(server, gets=100)
    wait_until(lambda: _gets(receiver) == 100, "the first calls are exported")
    server.engine.kill()
    server.wait_said("engine.restarted")
    server.wait_ready()
    _send(server, gets=3_000)
    wait_until(lambda: _gets(receiver) >= 3_000, "the later calls are exported")
    _send(server, gets=7)
    wait_until(lambda: _gets(receiver) >= 3_107, "and the last")
    assert _gets(receiver) == 3_107


@pytest.mark.parametrize("words", _CALLS.values(), ids=_CALLS)
def test_info_counts_connections_anew_after_a_reset(start_here: Start, words: list[tuple[str, ...]]) -> None:
    server = start_here("--save", "").wait_ready()
    for _ in range(20):
        _send(server, gets=1)
    wait_up(server)
    with server.client() as client:
        _send(server, *words, gets=0)
        wait_until(
            lambda: int(client.info("stats")["total_connections_received"]) < 20,
            "they are counted anew",
        )


def test_info_counts_connections_anew_after_a_restart(start_here: Start) -> None:
    server = start_here("--save", "").wait_ready()
    for _ in range(20):
        _send(server, gets=1)
    server.engine.kill()
    server.wait_said("engine.restarted")
    server.wait_ready()
    with server.client() as client:
        assert int(client.info("stats")["total_connections_received"]) < 20
