"""Replies that arrive in pieces are told apart as those that arrive whole: the compiled route behind an engine whose bytes come one by one."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from sidecar.counts import ClientCount, ConnectionCounts
from sidecar.engine import commandtable
from sidecar.engine.connection import Connection
from sidecar.relay.commands import CommandTable
from sidecar.relay.roster import Roster
from sidecar.relay.session import Session
from sidecar.relay.shared import Relay
from sidecar.relay.special import HELD, Special
from telemetry.ledger import Ledger
from telemetry.spans import Tracer
from tests.conftest import PATIENCE_S, Server, launch_bare
from tests.sidecar.relay.test_transparency import CONVERSATIONS, END, converse, settled

_SETTINGS = {
    "settable": ["port"],
    "engine_values": {"port": "0"},
    "port": 0,
    "tcp_port": 0,
    "tls_info": {},
    "injected": {},
    "info_listeners": [],
    "maxclients": 10_000,
    "own_connections": 0,
    "workers": 1,
    "lanes": False,
    "config_file": "",
    "enable_debug_command": "yes",
    "enable_module_command": "yes",
    "enable_protected_configs": "yes",
}

_NOTHING = bytes(4)
"""In a socket's queue: the int 0."""


class Supervisor:
    """Answers what sessions ask; the only setting of ours in the conversations is a port that is none."""

    async def request(self, kind: str, *_args: object) -> dict[str, Any]:
        if kind == "config_check":
            return {"argument": "port", "error": "argument couldn't be parsed into an integer"}
        return {}

    def send(self, *_args: object) -> None:
        """It hears which settings of the engine's have changed."""


@pytest.fixture(scope="module")
def table(engine: Server) -> CommandTable:
    """The engine's commands."""

    async def read() -> commandtable.Table:
        connection = await Connection.open(socket_of(engine))
        try:
            return await commandtable.read(connection)
        finally:
            connection.close()

    table = CommandTable()
    table.update(asyncio.run(read()), HELD)
    return table


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, engine_binary: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("engine")
    server = launch_bare(engine_binary, folder, "--enable-debug-command", "yes", "--unixsocket", "engine.sock")
    yield server
    server.stop()


def socket_of(engine: Server) -> str:
    return str(engine.log.parent / "engine.sock")


async def forward(source: socket.socket, target: socket.socket, size: int) -> None:
    """Pass on what comes, so many bytes at a time: more only when those have been read."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):  # one of them has closed
        while data := await loop.sock_recv(source, 1 << 16):
            for i in range(0, len(data), size):
                await loop.sock_sendall(target, data[i : i + size])
                while fcntl.ioctl(target, termios.TIOCOUTQ, _NOTHING) != _NOTHING:  # noqa: ASYNC110 -- the kernel tells nobody
                    await asyncio.sleep(0)
        target.shutdown(socket.SHUT_WR)


async def split(listener: socket.socket, engine: str, size: int) -> None:
    """Stand before the engine, for one connection."""
    loop = asyncio.get_running_loop()
    relay, _ = await loop.sock_accept(listener)
    with relay, socket.socket(socket.AF_UNIX) as upstream:
        upstream.setblocking(False)
        await loop.sock_connect(upstream, engine)
        await asyncio.gather(forward(relay, upstream, 1 << 16), forward(upstream, relay, size))


async def converse_split(engine: str, table: CommandTable, path: str, data: bytes, size: int) -> bytes:
    """What a client of ours is answered, where the engine's bytes come in pieces of this size."""
    loop = asyncio.get_running_loop()
    faults: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _loop, context: faults.append(context))
    relay = Relay(loop, table, Ledger(table.names), Tracer(table.names), path)
    count = ClientCount(os.dup(ConnectionCounts().fd), 0)
    relay.special = Special(Supervisor(), _SETTINGS, {}, count, Roster(relay, _SETTINGS))  # type: ignore[arg-type]
    ours, client = socket.socketpair()
    with socket.socket(socket.AF_UNIX) as listener, client:
        for sock in (listener, ours, client):
            sock.setblocking(False)
        listener.bind(path)
        listener.listen()
        splitter = asyncio.create_task(split(listener, engine, size))
        Session(relay, ours, "192.0.2.1:5000", "192.0.2.9:6379", "tcp", True)
        sender = asyncio.create_task(loop.sock_sendall(client, data))
        answer = bytearray()
        while not answer.endswith(b"$11\r\nend-of-test\r\n") and (chunk := await loop.sock_recv(client, 1 << 16)):
            answer += chunk
        await sender
        assert relay.in_flight == 0
        client.close()
        await splitter
    assert not relay.sessions
    assert faults == []
    relay.poller.close()
    return settled(bytes(answer))


def clean(engine: Server) -> None:
    engine.close_sockets()
    with engine.client() as client:
        client.flushall()
        client.function_flush()


@pytest.mark.parametrize("size", [1, 5], ids=["bytes", "pieces"])
@pytest.mark.parametrize("name", sorted(set(CONVERSATIONS) - {"many"}))
def test_replies_in_pieces_are_the_same_bytes(
    engine: Server, table: CommandTable, tmp_path: Path, name: str, size: int
) -> None:
    data = CONVERSATIONS[name] + END
    clean(engine)
    directly = converse(engine, data, 1)
    clean(engine)
    in_pieces = converse_split(socket_of(engine), table, str(tmp_path / "split.sock"), data, size)
    assert uvloop.run(asyncio.wait_for(in_pieces, PATIENCE_S)) == directly
