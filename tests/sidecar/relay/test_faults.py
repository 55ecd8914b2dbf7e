"""A fault of ours costs one session: it is closed and told to whoever listens, and the others go on."""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar.relay.commands import CommandTable
from sidecar.relay.plan import Plan
from sidecar.relay.session import Session
from sidecar.relay.shared import Relay
from telemetry.ledger import Ledger
from telemetry.spans import Tracer
from tests.conftest import Start, receive
from tests.sidecar.relay.test_transparency import lines


def fail(*_args: object) -> Any:
    raise RuntimeError("a fault")


async def slow_reply(reply: bytes) -> bytes:
    await asyncio.sleep(0)
    return reply


async def slow_plan() -> Plan:
    await asyncio.sleep(0)
    return Plan(transform=slow_reply)


def first(plan: Plan | Awaitable[Plan], then: Callable[[], Plan]) -> Callable[..., Plan | Awaitable[Plan]]:
    """What decides about two commands in turn."""
    left = [lambda: plan, then]
    return lambda *_args: left.pop(0)()


FAULTS = {
    "deciding": lambda: fail,
    "changing a reply": lambda: lambda *_args: Plan(transform=fail),
    "deciding behind a decision that takes time": lambda: first(slow_plan(), fail),
    "changing a reply behind one that takes time": lambda: first(Plan(transform=slow_reply), lambda: Plan(transform=fail)),
}  # fmt: skip


@pytest.mark.parametrize("where", FAULTS)
def test_a_fault_closes_its_session_and_no_other(tmp_path: Path, start_bare: Start, where: str) -> None:
    engine = str(tmp_path / "engine.sock")
    start_bare("--unixsocket", engine)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        faults: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _loop, context: faults.append(context))
        table = CommandTable()
        table.update([("get", []), ("config", []), ("config|get", [])], {"CONFIG GET"})
        relay = Relay(loop, table, Ledger(table.names), Tracer(table.names), engine)
        relay.special = FAULTS[where]()  # type: ignore[assignment]

        def connect() -> socket.socket:
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            theirs.setblocking(False)
            Session(relay, ours, "[/tmp/peer:0]:0", "[/tmp/peer:0]:0", "unix", True)
            return theirs

        async def receive(client: socket.socket) -> bytes:
            return await asyncio.wait_for(loop.sock_recv(client, 1000), 10)

        with connect() as client, connect() as other:
            await loop.sock_sendall(client, lines("CONFIG GET port\nCONFIG GET port"))
            while await receive(client):
                pass  # until it is closed
            assert [str(fault["exception"]) for fault in faults] == ["a fault"]
            await loop.sock_sendall(other, lines("GET a"))
            assert await receive(other) == b"$-1\r\n"
            assert len(relay.sessions) == 1
            for session in list(relay.sessions):
                session.close()
            relay.poller.close()

    asyncio.run(main())


@pytest.mark.parametrize("name", [b"XREAD", b"XREADGROUP"])
def test_a_length_inside_an_argument_of_a_wrong_request_is_not_believed(name: bytes, start: Start) -> None:
    server = start("--sidecar-workers", "1")
    worker = server.worker
    for length in (1 << 64) - (1 << 31), (1 << 63) - 1, (1 << 64) - 8, 10**400:
        argument = b"\n$%d" % length
        sock = server.connect()
        sock.sendall(b"*2\rx$%d\rx%b\rx$%d\rx%b\r\n" % (len(name), name, len(argument), argument))
        assert receive(sock) == b"-ERR Protocol error: invalid CRLF in request\r\n"
    assert server.worker == worker


def test_what_a_task_was_to_await_ends_with_it_though_it_never_began(tmp_path: Path) -> None:
    async def outer(awaited: Awaitable[bytes]) -> None:
        await awaited

    async def main() -> None:
        table = CommandTable()
        relay = Relay(asyncio.get_running_loop(), table, Ledger(table.names), Tracer(table.names), str(tmp_path / "no"))
        inner = slow_reply(b"")
        task = relay.poller.start_task(None, outer(inner), inner)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert inspect.getcoroutinestate(inner) == inspect.CORO_CLOSED
        relay.poller.close()

    asyncio.run(main())
