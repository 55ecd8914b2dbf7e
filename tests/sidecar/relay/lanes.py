"""A relay as a worker has it, in front of a real engine, whose own CLIENT LIST says which commands went by lane; and an engine that is none."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import valkey

from sidecar.relay.commands import CommandTable
from sidecar.relay.session import Session
from tests.conftest import PATIENCE_S, Server
from tests.sidecar.relay.traced import Tracing, command, lines

LANE = "valkey-sidecar-lane"
LOST = b"-ERR valkey-sidecar: the connection to the engine was lost, the command may have been executed\r\n"
OK = b"+OK\r\n"
PONG = b"+PONG\r\n"

HOME_TURNS = 16
"""Reads of a session that go home after one that could not go by lane behind others in flight."""
LARGE_TURNS = 64
"""The same after a large request or reply."""

__all__ = ["HOME_TURNS", "LANE", "LARGE_TURNS", "LOST", "OK", "PONG", "command", "lines"]


class Watch:
    """The engine's own view, over its own socket."""

    def __init__(self, path: str) -> None:
        self.client = valkey.Valkey(unix_socket_path=path, socket_timeout=PATIENCE_S)
        self.client.client_setname("watch")

    def lanes(self, **identity: str) -> list[dict[str, Any]]:
        """The lanes, with these fields: user, resp, db."""
        return [
            entry
            for entry in self.client.client_list()
            if entry["name"] == LANE and all(entry[field] == value for field, value in identity.items())
        ]

    def homes(self) -> list[dict[str, Any]]:
        return [entry for entry in self.client.client_list() if entry["name"] not in (LANE, "watch")]

    def carried(self, **identity: str) -> int:
        """Commands that were executed by lane since it was opened, its own ones included."""
        return sum(int(entry["tot-cmds"]) for entry in self.lanes(**identity))

    def bytes_carried(self, **identity: str) -> int:
        """The same in bytes of requests, those included that the engine has refused."""
        return sum(int(entry["tot-net-in"]) for entry in self.lanes(**identity))


class Worker(Tracing):
    """A relay without spans."""

    def __init__(self, path: str, table: CommandTable, **settings: Any) -> None:
        super().__init__(path, table, exported=False, **settings)
        self.path = path
        self.clients: list[socket.socket] = []

    def connect(self, peer: str = "192.0.2.1:5000", transport: str = "tcp") -> socket.socket:
        client = super().connect(peer, transport)
        self.clients.append(client)
        return client

    def attach(self, sock: socket.socket) -> None:
        """Serve a client whose end of the connection the test has."""
        Session(self.relay, sock, "192.0.2.1:4999", "192.0.2.9:6379", "tcp", True)

    async def send(self, client: socket.socket, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(client, data)

    async def read(self, client: socket.socket, size: int) -> bytes:
        """The next `size` bytes; fewer at the end."""
        data = bytearray()
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE_S):
            while len(data) < size:
                chunk = await loop.sock_recv(client, min(1 << 16, size - len(data)))
                if not chunk:
                    break
                data += chunk
        return bytes(data)

    async def say_beside(self, client: socket.socket, request: bytes) -> bytes:
        """Send one request, and what answers it, while others of this worker are busy."""
        await self.send(client, request)
        return await asyncio.get_running_loop().sock_recv(client, 1 << 16)

    async def read_lines(self, client: socket.socket, count: int) -> list[bytes]:
        """The next `count` replies of one line each, without their ends."""
        return (await self.read_until(client, b"\r\n", count)).split(b"\r\n")[:-1]

    async def read_until(self, client: socket.socket, end: bytes, times: int = 1) -> bytes:
        """What comes until `end` has come so often; nothing may follow."""
        data = bytearray()
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE_S):
            while data.count(end) < times:
                chunk = await loop.sock_recv(client, 1 << 16)
                assert chunk, bytes(data)
                data += chunk
        assert data.endswith(end)
        return bytes(data)

    async def read_all(self, client: socket.socket) -> bytes:
        """What comes until the other side closes."""
        data = bytearray()
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(ConnectionError):
                while chunk := await loop.sock_recv(client, 1 << 16):
                    data += chunk
        return bytes(data)

    async def until(self, condition: Any, what: str) -> None:
        """Until it is so; polled, for the loop must run."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not condition():  # noqa: ASYNC110
                    await asyncio.sleep(0.002)
        except TimeoutError:
            raise AssertionError(f"not within {PATIENCE_S} s: {what}") from None

    def has_lane(self) -> bool:
        """Whether commands may go by a lane now: the engine lists it before we know that it is open."""
        return any(lane.open for lane in self.relay.lane_pool.lanes)

    async def riding(self, watch: Watch, *clients: socket.socket, **identity: str) -> None:
        """Have each of the clients say PING until it goes by lane."""
        for client in (*clients, clients[0]):
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    before = watch.carried(**identity)
                    assert await self.say(client, command("PING")) == PONG
                    if before and watch.carried(**identity) == before + 1:
                        break
                    if client is clients[0]:
                        await self.say(clients[-1], command("PING"))

    async def riders(self, watch: Watch, count: int = 2) -> list[socket.socket]:
        """New clients that go by lane."""
        clients = [self.connect(f"192.0.2.1:{5000 + i}") for i in range(count)]
        await self.riding(watch, *clients)
        return clients

    async def finish(self) -> None:
        """Everybody leaves; nothing may be in flight, and no fault have happened."""
        for client in self.clients:
            client.close()
        await self.settle()
        assert self.relay.homes == 0
        self.relay.lane_pool.close()
        assert self.relay.lane_count == 0
        self.end()


@contextlib.asynccontextmanager
async def working(path: str, table: CommandTable, **settings: Any) -> AsyncIterator[tuple[Worker, Watch]]:
    worker, watch = Worker(path, table, **settings), Watch(path)
    try:
        yield worker, watch
        await worker.finish()
    finally:
        watch.client.close()
        for client in worker.clients:
            client.close()
        for session in list(worker.relay.sessions):
            session.close()
        worker.relay.lane_pool.close()


async def park(worker: Worker, idle_s: float = 1e-9) -> int:
    """Close every home connection that may be closed: one whose id is not known by a second attempt. How many are left."""
    for _ in range(2):
        in_flight = worker.relay.in_flight
        worker.relay.park_idle(idle_s)
        await worker.until(lambda: not worker.relay.parking and worker.relay.in_flight == in_flight, "it is done")  # noqa: B023
    return worker.relay.homes


@contextlib.contextmanager
def standing_still(engine: Server) -> Iterator[None]:
    """The engine reads and answers nothing, though it is there."""
    engine.process.suspend()
    try:
        yield
    finally:
        engine.process.resume()


class FakeEngine:
    """Takes connections; answers HELLO, SELECT and PING as an engine does, and else what the test says."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.server: asyncio.Server | None = None
        self.lanes: list[asyncio.StreamWriter] = []
        self.homes: list[asyncio.StreamWriter] = []
        self.received: dict[asyncio.StreamWriter, bytearray] = {}

    async def start(self) -> None:
        self.server = await asyncio.start_unix_server(self._serve, self.path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got = self.received[writer] = bytearray()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                if data.startswith(b"*4\r\n$5\r\nHELLO"):
                    self.lanes.append(writer)
                    writer.write(b"*0\r\n")
                elif data == command("PING"):
                    if writer not in self.lanes and writer not in self.homes:
                        self.homes.append(writer)
                    writer.write(PONG)
                else:
                    got += data
        writer.close()

    async def stop(self) -> None:
        if self.server is not None:
            self.server.close()
            for writer in self.received:
                writer.close()
            await self.server.wait_closed()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
