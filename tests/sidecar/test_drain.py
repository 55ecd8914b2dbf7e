from __future__ import annotations

import socket
import time

from tests.conftest import Start, receive, wait_until


def test_a_command_that_never_ends_holds_the_end_up_for_the_drain_timeout_only(start_here: Start) -> None:
    server = start_here("--save", "", "--sidecar-drain-timeout", "1").wait_ready()
    with server.client() as client:
        client.client_pause(timeout=60_000, all=False)
    waiting = server.connect()
    waiting.sendall(b"SET key value\r\n")
    wait_until(lambda: server.metric("valkey_command_in_flight") == 1, "the command waits")
    began = time.monotonic()
    assert server.terminate() == 0  # long before the pause is over
    assert time.monotonic() - began >= 1
    assert closed(waiting)


def closed(sock: socket.socket) -> bool:
    """Whether the other side has closed, without another word."""
    try:
        return receive(sock) == b""
    except ConnectionResetError:
        return True
