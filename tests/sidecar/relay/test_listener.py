from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import Any

import pytest

from sidecar.counts import ClientCount, ConnectionCounts
from sidecar.relay import listener as listener_module
from sidecar.relay.commands import CommandTable
from sidecar.relay.complaints import Complaints
from sidecar.relay.listener import PROTECTED_ERROR, Listener
from sidecar.relay.shared import Relay
from telemetry.ledger import Ledger
from telemetry.spans import Tracer
from tests.conftest import PATIENCE_S, Start, receive


class Crowded:
    """A socket on which somebody waits, in a process without a descriptor left."""

    def __init__(self) -> None:
        self.ours, self._theirs = socket.socketpair()
        self._theirs.send(b"x")
        self.tries = 0

    def fileno(self) -> int:
        return self.ours.fileno()

    def setblocking(self, _flag: bool) -> None:
        pass

    def accept(self) -> Any:
        self.tries += 1
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def close(self) -> None:
        self.ours.close()
        self._theirs.close()


class Silence:
    def send(self, *_args: object) -> None:
        pass


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def test_a_listener_that_could_not_accept_tries_again_but_not_while_it_is_told_to_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listener_module, "_PAUSE_S", 0)

    async def main() -> None:
        table = CommandTable()
        relay = Relay(asyncio.get_running_loop(), table, Ledger(table.names), Tracer(table.names), "")
        counts = ConnectionCounts()
        silence: Any = Silence()
        complaints = Complaints(silence, relay.loop)
        listener = Listener(relay, silence, {}, ClientCount(os.dup(counts.fd), 0), complaints)
        crowded = Crowded()
        listener.replace([(crowded, "tcp", "here")])  # type: ignore[list-item]
        listener.resume()
        await turns(20)
        assert crowded.tries > 3
        listener.pause()
        tries = crowded.tries
        await turns(20)
        assert crowded.tries == tries
        listener.resume()
        await turns(20)
        assert crowded.tries > tries
        new = Crowded()
        listener.replace([(new, "tcp", "there")])  # type: ignore[list-item]
        await turns(20)
        assert new.tries
        listener.close()
        relay.poller.close()

    asyncio.run(main())


def test_maxclients_holds_for_strangers_who_come_at_once(start: Start, outer_address: str) -> None:
    server = start(
        "--save", "", "--requirepass", "secret", "--maxclients", "10", "--sidecar-workers", "1", password="secret"
    )
    came = [socket.create_connection((outer_address, server.port), timeout=PATIENCE_S) for _ in range(40)]
    server.sockets += came
    for sock in came:
        sock.sendall(b"PING\r\n")
    answers = [receive(sock, b"\r\n") for sock in came]
    assert answers.count(b"-NOAUTH Authentication required.\r\n") == 10
    assert answers.count(b"-ERR max number of clients reached\r\n") == 30
    metrics = server.metrics()
    assert metrics['valkey_client_connections_rejected_total{reason="maxclients"}'] == 30


def test_whom_protected_mode_refuses_takes_nobodys_place(start: Start, outer_address: str) -> None:
    server = start("--save", "", "--maxclients", "5", "--sidecar-workers", "1")
    for _ in range(20):
        with socket.create_connection((outer_address, server.port), timeout=PATIENCE_S) as sock:
            assert receive(sock) == PROTECTED_ERROR
    for _ in range(5):
        sock = server.connect()
        sock.sendall(b"PING\r\n")
        assert receive(sock, b"\r\n") == b"+PONG\r\n"
