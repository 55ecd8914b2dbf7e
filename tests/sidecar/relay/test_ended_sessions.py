"""A session that has ended is gone: it does not wait for Python's garbage collector, which may come in hours."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.process import memory
from tests.conftest import Server, Start, receive

_ROOT = Path(__file__).parents[3]
_SESSIONS = 1000
_GROWTH_BYTES = 1_000_000
"""Less than a third of what so many sessions took when they waited."""

# Python imports a module of this name first: the worker has no garbage collector.
_NO_COLLECTOR = """
import gc, sys
if "sidecar.relay.worker" in sys.orig_argv:
    gc.disable()
"""


def _home(server: Server) -> None:
    with server.connect() as sock:
        sock.sendall(b"CLIENT ID\r\n")
        receive(sock, b"\r\n")


def _lane(server: Server) -> None:
    with server.connect() as sock:
        for _ in range(3):  # the first goes home
            sock.sendall(b"*1\r\n$4\r\nPING\r\n")
            receive(sock, b"\r\n")


def _blocked(server: Server) -> None:
    with server.connect() as sock:
        sock.sendall(b"BLPOP nothing 0\r\n")


def _inspected(server: Server) -> None:
    with server.connect() as sock:
        sock.sendall(b"CONFIG GET port\r\n")
        receive(sock, f"{server.port}\r\n".encode())


@pytest.mark.parametrize("visit", [_home, _lane, _blocked, _inspected])
def test_sessions_that_end_leave_no_memory(start: Start, tmp_path: Path, visit: Callable[[Server], None]) -> None:
    (tmp_path / "sitecustomize.py").write_text(_NO_COLLECTOR)
    environment = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{_ROOT}", "SIDECAR_WORKERS": "1"}
    server = start("--save", "", env=environment).wait_ready()
    for _ in range(3):  # others, so that there are lanes
        other = server.connect()
        other.sendall(b"*1\r\n$4\r\nPING\r\n")
        receive(other, b"\r\n")
    for _ in range(200):
        visit(server)
    before = memory(server.worker.pid).rss
    for _ in range(_SESSIONS):
        visit(server)
    assert memory(server.worker.pid).rss - before < _GROWTH_BYTES
