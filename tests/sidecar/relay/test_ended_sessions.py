"""A session that has ended is gone: it does not wait for Python's garbage collector, which may come in hours."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.process import memory
from tests.conftest import PATIENCE_S, Start, receive, receive_exactly, wait_until
from tests.sidecar.relay.test_transparency import lines
from tests.sidecar.tls_server import StartTls, TlsServer

_ROOT = Path(__file__).parents[3]
_SESSIONS = 400
_GROWTH_BYTES = 400_000
"""Less than a third of what so many sessions took when they waited."""
_BATCHES = 4
"""Many sessions at a time may raise the heap once; sessions that stay raise it every time."""

# Python imports a module of this name first: the worker has no garbage collector.
_NO_COLLECTOR = """
import gc, sys
if "sidecar.relay.worker" in sys.orig_argv:
    gc.disable()
"""

_CROWD = 3000

_LARGE = b"*3\r\n$6\r\nCONFIG\r\n$3\r\nGET\r\n$100000\r\n" + b"x" * 70_000


def _asks(request: bytes, until: bytes) -> Callable[[TlsServer], None]:
    def visit(tls: TlsServer) -> None:
        with tls.server.connect() as sock:
            sock.sendall(request)
            receive(sock, until)

    return visit


def _lane(tls: TlsServer) -> None:
    with tls.server.connect() as sock:
        for _ in range(3):  # the first goes home
            sock.sendall(b"*1\r\n$4\r\nPING\r\n")
            receive(sock, b"\r\n")


def _monitor(tls: TlsServer) -> None:
    with tls.server.connect() as sock:
        sock.sendall(b"MONITOR\r\n")
        receive_exactly(sock, len(b"+OK\r\n"))  # what others do may come with it


def _leaves(request: bytes) -> Callable[[TlsServer], None]:
    def visit(tls: TlsServer) -> None:
        with tls.server.connect() as sock:
            sock.sendall(request)

    return visit


def _tls(tls: TlsServer) -> None:
    with tls.connect() as sock:
        sock.sendall(b"PING\r\n")
        receive(sock, b"\r\n")


def _refused_tls(tls: TlsServer) -> None:
    with socket.create_connection(("127.0.0.1", tls.port), timeout=PATIENCE_S) as sock:
        sock.sendall(b"PING\r\n")
        with contextlib.suppress(ConnectionResetError):
            receive(sock)


_VISITS = {
    "home": _asks(b"CLIENT ID\r\n", b"\r\n"),
    "lane": _lane,
    "inspected": _asks(b"CONFIG GET port\r\n", b"\r\n"),
    "elsewhere": _asks(b"CLIENT LIST\r\n", b"\r\n"),
    "too large": _asks(_LARGE, b"inspected\r\n"),
    "protocol error": _asks(b"*1\r\n$x\r\n", b"length\r\n"),
    "quit": _asks(b"QUIT\r\n", b"OK\r\n"),
    "subscriber": _asks(lines("SUBSCRIBE channel"), b":1\r\n"),
    "monitor": _monitor,
    "tracked": _asks(lines("HELLO 3\nCLIENT TRACKING ON"), b"+OK\r\n"),
    "transaction": _asks(lines("WATCH a\nMULTI\nGET a"), b"+QUEUED\r\n"),
    "blocked": _leaves(b"BLPOP nothing 0\r\n"),
    "waits": _leaves(lines("SET a 1\nWAIT 1 0")),
    "nothing said": _leaves(b""),
    "half a request": _leaves(b"*2\r\n$3\r\nGET\r\n$100\r\nx"),
    "TLS": _tls,
    "no TLS": _refused_tls,
}


@pytest.mark.parametrize("visit", _VISITS.values(), ids=_VISITS.keys())
def test_sessions_that_end_leave_no_memory(
    start_tls: StartTls, tmp_path: Path, visit: Callable[[TlsServer], None]
) -> None:
    (tmp_path / "sitecustomize.py").write_text(_NO_COLLECTOR)
    tls = start_tls(
        "--sidecar-client-query-buffer-limit",
        "64kb",
        env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{_ROOT}", "SIDECAR_WORKERS": "1"},
    )
    server = tls.server.wait_ready()
    for _ in range(3):  # others, so that there are lanes
        other = server.connect()
        other.sendall(b"*1\r\n$4\r\nPING\r\n")
        receive(other, b"\r\n")
    for _ in range(100):
        visit(tls)
    worker = server.worker.pid
    growths = []
    for _ in range(_BATCHES):
        before = memory(worker).rss
        for _ in range(_SESSIONS):
            visit(tls)
        with contextlib.suppress(AssertionError):
            wait_until(lambda: memory(worker).rss - before < _GROWTH_BYTES, "they leave no memory", timeout=5)  # noqa: B023
        growths.append(memory(worker).rss - before)
        if growths[-1] < _GROWTH_BYTES:
            return
    raise AssertionError(f"{_SESSIONS} sessions left so many bytes each time: {growths}")


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """As many as the system lets this process have; a shell allows 1,024 by itself."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("many_descriptors")
def test_what_a_crowd_needed_is_given_back(start: Start) -> None:
    server = start("--save", "", "--sidecar-workers", "1").wait_ready()

    def used() -> int:
        return memory(server.worker.pid).rss

    before = used()
    with contextlib.ExitStack() as crowd:
        socks = [crowd.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(_CROWD)]
        for sock in socks:
            sock.sendall(b"PING\r\n")
        for sock in socks:
            assert receive(sock, b"\r\n") == b"+PONG\r\n"
        most = used()
    assert most - before > 5 * _GROWTH_BYTES
    wait_until(lambda: used() - before < (most - before) / 4, "the memory is given back")
