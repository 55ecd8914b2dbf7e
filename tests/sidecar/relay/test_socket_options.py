from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import pytest

from sidecar.counts import ClientCount, ConnectionCounts
from sidecar.relay.commands import CommandTable
from sidecar.relay.listener import Listener
from sidecar.relay.shared import Relay
from telemetry.ledger import Ledger
from telemetry.spans import Tracer


class Door:
    """A listening socket that keeps whom it lets in, to look at."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = self._socket.getsockname()
        self.entered: list[socket.socket] = []
        self.somebody_entered = asyncio.Event()

    def fileno(self) -> int:
        return self._socket.fileno()

    def setblocking(self, flag: bool) -> None:
        self._socket.setblocking(flag)

    def accept(self) -> Any:
        sock, peer = self._socket.accept()
        self.entered.append(sock)
        self.somebody_entered.set()
        return sock, peer

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize(
    ("keepalive", "expected"), [(77, [1, 1, 77, 25, 3]), (1, [1, 1, 1, 1, 3]), (0, [1, 0])], ids=["on", "short", "off"]
)
def test_clients_have_no_delay_and_the_keepalive_that_was_asked_for(keepalive: int, expected: list[int]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        table = CommandTable()
        relay = Relay(loop, table, Ledger(table.names), Tracer(table.names), "no engine")
        settings = {"tcp_keepalive": keepalive, "maxclients": 10, "protected_mode": False}
        count = ClientCount(os.dup(ConnectionCounts().fd), 0)
        listener = Listener(relay, None, settings, count, None)  # type: ignore[arg-type]
        door = Door()
        listener.replace([(door, "tcp", "here")])  # type: ignore[list-item]
        listener.resume()
        with socket.create_connection(door.address):
            await door.somebody_entered.wait()
            (client,) = door.entered
            options = [
                (socket.IPPROTO_TCP, socket.TCP_NODELAY),
                (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
                (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
                (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
            ]
            assert [client.getsockopt(*option) for option in options][: len(expected)] == expected
        listener.close()
        for session in list(relay.sessions):
            session.close()
        relay.poller.close()

    asyncio.run(asyncio.wait_for(main(), 30))
