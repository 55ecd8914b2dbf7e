"""What is kept for clients that have not logged in: no more than Valkey keeps for them, and it is given back."""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Callable, Iterable

import psutil
import pytest

from tests.conftest import Server, Start, wait_until
from tests.sidecar.relay.test_transparency import bulk

_CLIENTS = 300
_MB = 1 << 20
_ARGUMENT = 16_384
_MORE_THAN_VALKEY = 10 * _MB
_GIVEN_BACK = 10 * _MB

# What a read brings waits for the engine's word, whatever it is; it is freed then, and given back within a second.
_FOR_A_MOMENT = 20 * _MB

_UNFINISHED = (b"*10\r\n$5\r\nDEBUG\r\n" + b"$%d\r\n%b\r\n" % (_ARGUMENT, b"x" * _ARGUMENT) * 9)[:-3]


def _memory(processes: Iterable[psutil.Process]) -> int:
    return sum(process.memory_full_info().pss for process in processes)


def _ours(server: Server) -> int:
    """Of our processes, without the engine."""
    return _memory([server.process, *(p for p in server.process.children(recursive=True) if p != server.engine)])


def _bare(server: Server) -> int:
    return _memory([server.process])


def _crowd(server: Server, data: bytes) -> list[socket.socket]:
    """Each sends this, as far as the server takes it."""
    socks = []
    for _ in range(_CLIENTS):
        sock = server.connect()
        sock.settimeout(0.05)
        with contextlib.suppress(OSError):
            sock.sendall(data)
        socks.append(sock)
    return socks


def _growth(server: Server, memory: Callable[[Server], int], data: bytes) -> tuple[int, Callable[[], int]]:
    """By how much it has grown while they are connected; and what tells how much of it is there since they left."""
    before = memory(server)
    _crowd(server, data)
    looks = deque([0], maxlen=30)

    def settled() -> bool:
        looks.append(memory(server) - before)
        return len(looks) == looks.maxlen and max(looks) - min(looks) < _MB // 4

    wait_until(settled, "it has read what they sent")
    while_there = looks[-1]
    server.close_sockets()
    return while_there, lambda: memory(server) - before


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_most_that_clients_may_send_before_they_log_in(
    start: Start, start_bare: Start, workers: str, record_property: Callable[[str, object], None]
) -> None:
    server = start("--save", "", "--sidecar-workers", workers, "--requirepass", "secret", password="secret")
    bare = start_bare("--requirepass", "secret")
    bare.password = "secret"
    valkeys, kept_by_valkey = _growth(bare, _bare, _UNFINISHED)
    ours, left = _growth(server, _ours, _UNFINISHED)
    assert ours <= valkeys + _MORE_THAN_VALKEY
    wait_until(lambda: left() < _GIVEN_BACK, "it has given the memory back")
    figures = {"connected": (ours, valkeys), "left": (left(), kept_by_valkey())}
    record_property("MB of ours and of bare Valkey", {k: [round(n / _MB, 1) for n in v] for k, v in figures.items()})


@pytest.mark.parametrize(
    "data",
    [
        bulk("CONFIG", "SET", "maxmemory", b"x" * 1_000_000)[:-3],
        bulk("TRACEPARENT", b"x" * 1_000_000)[:-3],
        bulk("AUTH", b"x" * 1_000_000)[:-3],
        bulk("CLIENT", "REPLY", "OFF") + bulk("CONFIG", "SET", "maxmemory", b"x" * 1_000_000)[:-3],
        bulk("REPLCONF", "ACK", "1") + bulk("DEBUG", b"x" * 1_000_000)[:-3],
        bulk("ACL", "SETUSER", *["x"] * 100_000)[:-3],
        bulk("TRACEPARENT") * 400_000,
    ],
    ids=["an argument", "TRACEPARENT", "AUTH", "no replies", "no reply", "arguments", "answers that nobody reads"],
)
def test_nothing_of_what_only_others_may_send_is_kept(
    start: Start, data: bytes, record_property: Callable[[str, object], None]
) -> None:
    server = start("--save", "", "--sidecar-workers", "1", "--requirepass", "secret", password="secret")
    grown, left = _growth(server, _ours, data)
    record_property("MB", round(grown / _MB, 1))
    assert grown < _FOR_A_MOMENT
    wait_until(lambda: left() < _GIVEN_BACK, "it has given the memory back")
