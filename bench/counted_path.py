"""What a worker does with commands, in a process of its own under Callgrind: the product's relay, sessions and sockets.

Owns the cases, the clients, and an engine that is nothing but a socket with ready replies. Both are driven between the
turns of the relay's loop, where nothing is counted; asyncio's own part of a turn is not, either. It measures no time
and judges nothing. Started by
bench.instructions as ``python -m bench.counted_path MODULE NAME...``.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import compiled
from sidecar import tracing
from sidecar.relay.commands import CommandTable
from sidecar.relay.session import Session
from sidecar.relay.shared import Relay
from sidecar.settings import SidecarSettings
from telemetry.commandnames import KNOWN
from telemetry.ledger import Ledger
from telemetry.otlp.settings import Sampler
from telemetry.spans import Tracer

SESSIONS = 8
"""So many are ready in one turn, as in a worker with some load; their commands may share a lane."""
COMMANDS = 4096
"""Counted in each case; 1 % of them are 41 spans."""

_WARM_UP_ROUNDS = 8
_WARM_UP_ROUNDS_MOST = 100
_READ_BYTES = 1 << 16

# What redis-benchmark sends and gets.
_GET = b"*2\r\n$3\r\nGET\r\n$16\r\nkey:000000000042\r\n"
_SET = b"*3\r\n$3\r\nSET\r\n$16\r\nkey:000000000042\r\n$3\r\nVXK\r\n"
_REPLIES = {_GET: b"$3\r\nVXK\r\n", _SET: b"+OK\r\n"}
# With the flags that the engine gives them.
_TABLE = [
    ("get", ["readonly", "fast", "first-key-1"]),
    ("set", ["write", "denyoom", "first-key-1"]),
]


@dataclass(frozen=True)
class Case:
    """Requests of one kind from each session, so many in a write.

    lanes: the sessions share a connection to the engine; spans: the share that is sampled, 0: no tracing.
    """

    request: bytes
    pipeline: int
    lanes: bool = True
    ledger: bool = True
    spans: float = 0.0


CASES: Mapping[str, Case] = {
    "get p1": Case(_GET, 1),
    "get p1, no ledger": Case(_GET, 1, ledger=False),
    "get p1, spans 1 %": Case(_GET, 1, spans=0.01),
    "get p1, home": Case(_GET, 1, lanes=False),
    "get p16": Case(_GET, 16),
    "get p16, no ledger": Case(_GET, 16, ledger=False),
    "get p16, spans 1 %": Case(_GET, 16, spans=0.01),
    "get p16, home": Case(_GET, 16, lanes=False),
    "set p1": Case(_SET, 1),
    "set p1, home": Case(_SET, 1, lanes=False),
    "set p16": Case(_SET, 16),
    "set p16, home": Case(_SET, 16, lanes=False),
}
"""Commands go by lane where nothing else is said."""


class _Engine:
    """Answers each request with a ready reply, and everything else with OK."""

    def __init__(self, path: str, request: bytes) -> None:
        self._request = request
        self._reply = _REPLIES[request]
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(4 * SESSIONS)
        self._listener.setblocking(False)
        self._connections: list[socket.socket] = []

    def accept(self) -> None:
        """Take the connections that are waiting."""
        while True:
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            connection.setblocking(False)
            self._connections.append(connection)

    def serve(self) -> tuple[int, int]:
        """Answer what has come. How many requests of clients that was, and on how many connections."""
        served = used = 0
        for connection in self._connections:
            data = _received(connection)
            requests = data.count(self._request)
            others = data.replace(self._request, b"")  # what a lane says before it is one
            if data:
                connection.sendall(self._reply * requests + b"+OK\r\n" * others.count(b"*"))
            served += requests
            used += requests > 0
        return served, used

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
        self._listener.close()


def _received(sock: socket.socket) -> bytes:
    """What has come."""
    data = b""
    while True:
        try:
            more = sock.recv(_READ_BYTES)
        except BlockingIOError:
            return data
        if not more:
            raise RuntimeError("the relay has closed a connection")
        data += more


def _tracer(table: CommandTable, share: float) -> Tracer:
    tracer = Tracer(table.names)
    tracer.on_packet = lambda _packet: None
    if share:
        settings = SidecarSettings(slow_threshold=None)
        described = tracing.describe(settings, Sampler(share), exported=True)
        assert described is not None
        tracer.configure(described, tracing.budgets_memory())
        tracer.names_grew(table.first_keys)
    return tracer


class _Bench:
    """One case: its relay, its clients, its engine."""

    def __init__(self, loop: Any, case: Case, engine_socket: str) -> None:
        self._loop = loop
        self._case = case
        self._engine = _Engine(engine_socket, case.request)
        table = CommandTable()
        table.update(_TABLE)
        table.lack(KNOWN)
        ledger = Ledger(table.names, case.ledger)
        self._relay = Relay(loop, table, ledger, _tracer(table, case.spans), engine_socket)
        self._relay.lanes = case.lanes
        self._connections = 1 if case.lanes else SESSIONS
        self._missing = 0
        self._clients: list[socket.socket] = []
        for number in range(SESSIONS):
            ours, client = socket.socketpair()
            ours.setblocking(False)
            client.setblocking(False)
            self._clients.append(client)
            Session(self._relay, ours, f"127.0.0.1:{50000 + number}", "127.0.0.1:6379", "tcp", True)

    async def warm_up(self) -> None:
        """Rounds in asyncio's own loop, until the commands go the way that the case is about."""
        for number in range(1, _WARM_UP_ROUNDS_MOST):
            used = 0
            requests = self._send()
            while requests or self._missing:
                await asyncio.sleep(0)
                served, connections = self._engine_turn()
                requests -= served
                used += connections
                self._receive()
            if number >= _WARM_UP_ROUNDS and used == self._connections:
                return
        raise RuntimeError(f"the commands use {used} connections to the engine, and not {self._connections}")

    def round(self) -> None:
        """The same while turns are counted: one takes the requests, one the replies."""
        requests = self._send()
        self._loop.turn()
        served, used = self._engine_turn()
        if (served, used) != (requests, self._connections):
            raise RuntimeError(f"{served} of {requests} requests reached the engine, on {used} connections")
        self._loop.turn()
        self._receive()
        if self._missing:
            raise RuntimeError(f"{self._missing} bytes of replies are missing")

    def _send(self) -> int:
        for client in self._clients:
            client.sendall(self._case.request * self._case.pipeline)
        requests = SESSIONS * self._case.pipeline
        self._missing = len(_REPLIES[self._case.request]) * requests
        return requests

    def _engine_turn(self) -> tuple[int, int]:
        self._engine.accept()
        return self._engine.serve()

    def _receive(self) -> None:
        for client in self._clients:
            self._missing -= len(_received(client))

    def close(self) -> None:
        for session in list(self._relay.sessions):
            session.close()
        for client in self._clients:
            client.close()
        self._engine.close()


async def _run(module: Any, name: str, folder: str) -> None:
    case = CASES[name]
    loop = module.Loop(asyncio.get_running_loop())
    bench = _Bench(loop, case, f"{folder}/engine")
    await bench.warm_up()
    gc.collect()
    gc.freeze()
    gc.disable()
    loop.counts = True
    module.watch()
    for _ in range(COMMANDS // (SESSIONS * case.pipeline)):
        bench.round()
    module.dump(name.encode())
    loop.counts = False
    gc.enable()
    bench.close()


def main() -> None:
    # Ids and samples are the same in every run.
    os.urandom = lambda size: bytes(range(size))
    module = compiled.load(Path(sys.argv[1]))
    for name in sys.argv[2:]:
        with tempfile.TemporaryDirectory(prefix="valkey-bench-") as folder:
            asyncio.run(_run(module, name, folder))


if __name__ == "__main__":
    main()
