"""A lane that breaks: every command in flight gets one error, none is sent twice, and everybody goes on."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from sidecar.relay.commands import CommandTable
from tests.conftest import Server
from tests.sidecar.relay.lanes import LOST, OK, PONG, FakeEngine, Watch, Worker, command, lines, standing_still, working
from tests.sidecar.relay.traced import T


def kill_request(watch: Watch) -> bytes:
    (lane,) = watch.lanes()
    return command("CLIENT", "KILL", "ID", lane["id"])


@pytest.mark.parametrize("first", ["kill", "commands"])
def test_every_command_in_flight_gets_one_error_and_none_runs_twice(
    socket_path: str, traced_table: CommandTable, traced_engine: Server, first: str
) -> None:
    each = 50

    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            watch.client.flushall()
            clients = await worker.riders(watch, 4)
            kill = kill_request(watch)
            sent = worker.relay.in_flight
            with socket.socket(socket.AF_UNIX) as control:
                control.connect(socket_path)
                control.sendall(command("PING"))
                assert control.recv(100) == PONG
                with standing_still(traced_engine):
                    if first == "kill":
                        control.sendall(kill)
                    for i, client in enumerate(clients):
                        await worker.send(client, command("INCR", f"n{i}") * each)
                    await worker.until(lambda: worker.relay.in_flight == sent + 4 * each, "all is in flight")
                    await asyncio.sleep(0)
                    if first == "commands":
                        control.sendall(kill)
                for client in clients:
                    answers = await worker.read_lines(client, each)
                    numbers = [a for a in answers if a.startswith(b":")]
                    assert numbers == [b":%d" % n for n in range(1, len(numbers) + 1)]
                    assert answers == numbers + [LOST.rstrip()] * (each - len(numbers))
                assert control.recv(100) == b":1\r\n"
            await worker.until(lambda: worker.relay.in_flight == 0, "nothing is in flight")
            counts = [int(watch.client.get(f"n{i}") or 0) for i in range(4)]
            assert all(count <= each for count in counts)
            if first == "kill":
                assert counts == [0] * 4
            for i, client in enumerate(clients):
                assert await worker.say(client, command("INCR", f"n{i}")) == b":%d\r\n" % (counts[i] + 1)
            await worker.riding(watch, *clients)

    uvloop.run(run())


def test_what_waited_for_the_lane_goes_home_when_it_breaks(
    socket_path: str, traced_table: CommandTable, traced_engine: Server
) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            watch.client.flushall()
            client, other = await worker.riders(watch)
            kill = kill_request(watch)
            with socket.socket(socket.AF_UNIX) as control:
                control.connect(socket_path)
                control.sendall(command("PING"))
                assert control.recv(100) == PONG
                with standing_still(traced_engine):
                    control.sendall(kill)
                    request = command("TRACEPARENT", T) + lines("INCR a\nMULTI\nINCR a\nEXEC\nINCR a")
                    await worker.send(client, command("INCR", "a") + request)
                    await worker.send(other, command("INCR", "b"))
                    await worker.until(lambda: worker.relay.in_flight == 4, "all is in flight")
                expected = LOST + OK + LOST + b"+OK\r\n+QUEUED\r\n*1\r\n:1\r\n:2\r\n"
                assert await worker.read(client, len(expected)) == expected
                assert await worker.read(other, len(LOST)) == LOST
                await worker.riding(watch, client, other)

    uvloop.run(run())


def test_an_error_is_counted_and_every_command_once(socket_path: str, traced_table: CommandTable) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            clients = await worker.riders(watch)
            for _ in range(20):  # again and again, at whatever moment
                watch.client.set("n", 0)
                sending = [asyncio.create_task(worker.send(client, command("INCR", "n") * 200)) for client in clients]
                for lane in watch.lanes():
                    watch.client.client_kill_filter(_id=lane["id"])
                answers = [line for client in clients for line in await worker.read_lines(client, 200)]
                await asyncio.gather(*sending)
                executed = int(watch.client.get("n"))
                answered = [int(a[1:]) for a in answers if a.startswith(b":")]
                lost = [a for a in answers if a == LOST.rstrip()]
                assert len(answered) + len(lost) == 400
                assert len(set(answered)) == len(answered)
                assert len(answered) <= executed <= 400
                await worker.riding(watch, *clients)

    uvloop.run(run())


# ---- an engine that says what the test wants -------------------------------------------------------------------------------------------------

Talk = Callable[[Worker, FakeEngine, list[socket.socket]], Awaitable[None]]


@pytest.fixture
def with_fake(tmp_path: Path, traced_table: CommandTable) -> Callable[[Talk], None]:
    """Runs a test with three clients that go by one lane of a fake engine."""

    def run_with(test: Talk) -> None:
        async def run() -> None:
            engine = FakeEngine(tmp_path / "fake.sock")
            await engine.start()
            worker = Worker(engine.path, traced_table)
            clients = [worker.connect() for _ in range(3)]
            for _ in range(2):
                for client in clients:
                    assert await worker.say(client, command("PING")) == PONG
            await worker.until(lambda: worker.has_lane() and worker.relay.quiet, "a lane")
            for client in clients:
                assert await worker.say(client, command("PING")) == PONG
            try:
                await test(worker, engine, clients)
                await worker.finish()
            finally:
                for session in list(worker.relay.sessions):
                    session.close()
                worker.relay.lane_pool.close()
                await engine.stop()

        uvloop.run(run())

    return run_with


async def _ask(worker: Worker, engine: FakeEngine, clients: list[socket.socket]) -> None:
    """Have every client send a GET; all three are at the engine."""
    for i, client in enumerate(clients):
        await worker.send(client, command("GET", f"k{i}"))
    size = len(command("GET", "k0")) * len(clients)
    (lane,) = engine.lanes
    await worker.until(lambda: len(engine.received[lane]) == size, "the engine has it all")


def test_half_a_reply_closes_its_client_and_the_others_get_errors(with_fake: Callable[[Talk], None]) -> None:
    async def test(worker: Worker, engine: FakeEngine, clients: list[socket.socket]) -> None:
        await _ask(worker, engine, clients)
        (lane,) = engine.lanes
        lane.write(b"$2\r\nk0\r\n$10\r\nhal")
        assert await worker.read(clients[0], 8) == b"$2\r\nk0\r\n"
        assert await worker.read(clients[1], 8) == b"$10\r\nhal"
        lane.close()
        assert await worker.read_all(clients[1]) == b""
        assert await worker.read(clients[2], len(LOST)) == LOST
        for client in (clients[0], clients[2]):
            assert await worker.say(client, command("PING")) == PONG
        assert len(worker.relay.sessions) == 2

    with_fake(test)


@pytest.mark.parametrize("reply", [b"x", b"$abc\r\n", b">1\r\n$4\r\npush\r\n"])
def test_a_reply_that_cannot_be_one_breaks_the_lane_for_all(with_fake: Callable[[Talk], None], reply: bytes) -> None:
    async def test(worker: Worker, engine: FakeEngine, clients: list[socket.socket]) -> None:
        await _ask(worker, engine, clients)
        (lane,) = engine.lanes
        lane.write(b"$2\r\nk0\r\n" + reply)
        assert await worker.read(clients[0], 8) == b"$2\r\nk0\r\n"
        for client in clients[1:]:
            assert await worker.read(client, len(LOST)) == LOST
        for client in clients:
            assert await worker.say(client, command("PING")) == PONG

    with_fake(test)


def test_a_reply_that_nobody_asked_for_reaches_nobody(with_fake: Callable[[Talk], None]) -> None:
    async def test(worker: Worker, engine: FakeEngine, clients: list[socket.socket]) -> None:
        (lane,) = engine.lanes
        lane.write(b"+STRAY\r\n")
        await worker.until(lambda: worker.relay.lane_count == 0, "the lane is given up")
        for client in clients:
            assert await worker.say(client, command("PING")) == PONG

    with_fake(test)


def test_replies_that_come_byte_by_byte_reach_whom_they_are_for(with_fake: Callable[[Talk], None]) -> None:
    async def test(worker: Worker, engine: FakeEngine, clients: list[socket.socket]) -> None:
        (lane,) = engine.lanes
        for client in clients:
            await worker.send(client, command("GET", "k") + command("TRACEPARENT", T) + command("GET", "l"))
        await worker.until(lambda: len(engine.received[lane]) == 6 * len(command("GET", "k")), "the engine has it all")
        for byte in b"".join(b"$3\r\nk-%d\r\n*2\r\n:%d\r\n$1\r\nl\r\n" % (i, i) for i in range(3)):
            lane.write(bytes([byte]))
            await lane.drain()
            await asyncio.sleep(0.001)
        for i, client in enumerate(clients):
            expected = b"$3\r\nk-%d\r\n+OK\r\n*2\r\n:%d\r\n$1\r\nl\r\n" % (i, i)
            assert await worker.read(client, len(expected)) == expected

    with_fake(test)


def test_replies_to_who_has_left_reach_nobody(with_fake: Callable[[Talk], None]) -> None:
    async def test(worker: Worker, engine: FakeEngine, clients: list[socket.socket]) -> None:
        await _ask(worker, engine, clients)
        (lane,) = engine.lanes
        lane.write(b"$2\r\nk0\r\n$100\r\nha")
        assert await worker.read(clients[1], 8) == b"$100\r\nha"
        clients[1].close()
        await asyncio.sleep(0.01)
        lane.write(b"l" * 98 + b"\r\n$2\r\nk2\r\n")
        assert await worker.read(clients[0], 8) == b"$2\r\nk0\r\n"
        assert await worker.read(clients[2], 8) == b"$2\r\nk2\r\n"
        await worker.until(lambda: len(worker.relay.sessions) == 2, "it has left")

    with_fake(test)
