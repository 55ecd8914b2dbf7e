"""One client's conversation through the compiled route, in front of a real engine, and the spans that it made."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import termios
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from sidecar import tracing
from sidecar.counts import ClientCount, ConnectionCounts
from sidecar.engine import commandtable
from sidecar.engine.connection import Connection
from sidecar.journal import Journal
from sidecar.relay.commands import CommandTable
from sidecar.relay.roster import Roster
from sidecar.relay.session import Session
from sidecar.relay.shared import Relay
from sidecar.relay.special import HELD, Special
from sidecar.settings import SidecarSettings
from sidecar.slowlog import SlowLog
from telemetry import spanpacket
from telemetry.commandnames import KNOWN
from telemetry.ledger import Ledger
from telemetry.otlp.settings import Sampler
from telemetry.spanpacket import Span
from telemetry.spans import Tracer
from tests.conftest import PATIENCE_S
from tests.sidecar.relay.test_split_replies import _SETTINGS, Supervisor

T = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE_ID = bytes.fromhex("0af7651916cd43dd8448eb211c80319c")
PARENT_ID = bytes.fromhex("b7ad6b7169203331")

ALWAYS_ON = Sampler()

_NOTHING = bytes(4)
"""In a socket's queue: the int 0."""


def command(*words: str | bytes) -> bytes:
    raw = [word if isinstance(word, bytes) else word.encode() for word in words]
    return b"*%d\r\n" % len(raw) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in raw)


def lines(text: str) -> bytes:
    """Commands, one a line, as RESP."""
    return b"".join(command(*line.split()) for line in text.strip().splitlines())


@dataclass
class Conversation:
    """What came back for each part, the spans, and what was dropped."""

    replies: list[bytes] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    drops: dict[str, int] = field(default_factory=dict)
    told: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    lane: bool = False

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> Span:
        (span,) = self.named(name)
        return span

    @property
    def tree(self) -> list[str]:
        """Every span as `parent > name`, in the order in which they ended."""
        names = {span.span_id: span.name for span in self.spans}
        return [f"{names.get(s.parent_id, 'remote')} > {s.name}" if s.flags & 1 else s.name for s in self.spans]


Talk = Callable[..., Conversation]
"""converse() with the engine of the test: parts as bytes, or as text with a command on each line."""


async def read_table(path: str) -> CommandTable:
    connection = await Connection.open(path)
    try:
        table = CommandTable()
        table.update(await commandtable.read(connection), HELD)
        table.update([("traceparent", [])])
        table.lack(KNOWN)
        return table
    finally:
        connection.close()


class _Connection(Connection):
    """As the supervisor's, in a worker's loop: uvloop's transports are no asyncio.Transport."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)


class _Engine:
    """What of the supervisor's engine its slow log needs."""

    def __init__(self, connection: Connection, table: commandtable.Table) -> None:
        self.connection: Connection | None = connection
        self.table: commandtable.Table | None = table
        self.child = None


class Tracing:
    """A relay with a tracer, as a worker has one."""

    def __init__(
        self, engine: str, table: CommandTable, sampler: Sampler = ALWAYS_ON, *, exported: bool = True, **settings: Any
    ) -> None:
        loop = asyncio.get_running_loop()
        self.faults: list[dict[str, Any]] = []
        self.watching: Connection | None = None
        self.told: list[tuple[str, dict[str, Any]]] = []
        """What the log says of the engine's slow commands that no span is about: events and their attributes."""
        self.journal = Journal()
        self.journal.attach(lambda _when, _level, event, _text, details: self.told.append((event, details)))
        loop.set_exception_handler(lambda _loop, context: self.faults.append(context))
        self.tracer = Tracer(table.names)
        self.packets: list[bytes] = []
        self.tracer.on_packet = self.packets.append
        # On a busy machine any command may be slow, and be kept: only for tests that ask for it.
        settings = {"slow_threshold": None, **settings}
        described = tracing.describe(SidecarSettings(**settings), sampler, exported=exported)
        if described is not None:
            self.tracer.configure(described, tracing.budgets_memory())
        self.tracer.names_grew(table.first_keys)
        self.ledger = Ledger(table.names)
        self.relay = Relay(loop, table, self.ledger, self.tracer, engine)
        count = ClientCount(os.dup(ConnectionCounts().fd), 0)
        self.roster = Roster(self.relay, _SETTINGS)
        self.relay.special = Special(Supervisor(), dict(_SETTINGS), {}, count, self.roster)  # type: ignore[arg-type]

    def connect(self, peer: str = "192.0.2.1:5000", transport: str = "tcp") -> socket.socket:
        ours, client = socket.socketpair()
        ours.setblocking(False)
        client.setblocking(False)
        Session(self.relay, ours, peer, "192.0.2.9:6379", transport, True)
        return client

    async def watch(self) -> None:
        """From now on the engine's slow log is asked which command was slow, as a supervisor does it."""
        connection = await _Connection.open(self.relay.engine_socket)
        await connection.introduce([])
        self.watching = connection
        self.slow_log = SlowLog(_Engine(connection, await commandtable.read(connection)), self.journal)
        await self.slow_log.look()
        self.told.clear()
        loop, asking = asyncio.get_running_loop(), set[asyncio.Task[None]]()

        def ask(question: dict[str, Any], decide: Callable[[dict[str, Any] | None], None]) -> None:
            async def answer() -> None:
                decide(await self.slow_log.witness(question))

            task = loop.create_task(answer())
            asking.add(task)
            task.add_done_callback(asking.discard)

        self.relay.suspects.ask = ask

    async def decided(self) -> None:
        """Until the engine has been asked about every late reply."""
        async with asyncio.timeout(PATIENCE_S):
            while self.relay.suspects.waiting:  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    async def wrote(self, spans: int) -> None:
        """Until it has written so many."""
        async with asyncio.timeout(PATIENCE_S):
            while self.tracer.made < spans:  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    async def say(self, client: socket.socket, data: bytes) -> bytes:
        """Send in one write; what has come back when the relay has read it and nothing of it is in flight."""
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(client, data)
        async with asyncio.timeout(PATIENCE_S):
            while fcntl.ioctl(client, termios.TIOCOUTQ, _NOTHING) != _NOTHING or not self.relay.quiet:  # noqa: ASYNC110
                await asyncio.sleep(0)
        answer = bytearray()
        with contextlib.suppress(BlockingIOError):
            while chunk := client.recv(1 << 16):
                answer += chunk
        return bytes(answer)

    async def share(self, *clients: socket.socket) -> None:
        """From now on these clients go by lane; what they had to say for that has left no trace."""
        pool = self.relay.lane_pool
        async with asyncio.timeout(PATIENCE_S):
            while not (pool.lanes and pool.lanes[0].open):
                for client in clients:
                    await self.say(client, command("ECHO", "sharing"))
        self.tracer.flush()
        self.packets.clear()
        self.tracer.take_drops()

    async def settle(self) -> None:
        """Until every session has ended."""
        async with asyncio.timeout(PATIENCE_S):
            while self.relay.sessions:  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    def spans(self) -> list[Span]:
        self.tracer.flush()
        return [span for packet in self.packets for span in spanpacket.unpack(packet)]

    def end(self) -> None:
        if self.watching is not None:
            self.watching.close()
        self.relay.lane_pool.close()
        self.relay.poller.close()
        assert self.faults == []
        assert self.relay.in_flight == 0


async def converse(
    engine: str,
    table: CommandTable,
    parts: Sequence[bytes],
    sampler: Sampler = ALWAYS_ON,
    *,
    lane: bool = False,
    watched: bool = False,
    **settings: Any,
) -> Conversation:
    """Each part goes in one write; the next one when everything has been answered. lane: what can go by lane does.

    watched: the engine's slow log is asked about late replies.
    """
    traced = Tracing(engine, table, sampler, **settings)
    if watched:
        await traced.watch()
    conversation = Conversation(lane=lane)
    with traced.connect() as client, traced.connect() as neighbour:
        if lane:
            await traced.share(client, neighbour)
        for part in parts:
            conversation.replies.append(await traced.say(client, part))
    await traced.settle()
    await traced.decided()
    if watched:
        await traced.slow_log.look()
        conversation.told = traced.told
    conversation.spans = traced.spans()
    conversation.drops = traced.tracer.take_drops()
    traced.end()
    return conversation
