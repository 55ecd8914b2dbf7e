"""Whoever shares a lane has no part in what the others do: who does not read, who leaves, who breaks off."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct

import pytest
import uvloop

from sidecar.relay.commands import CommandTable
from tests.conftest import PATIENCE_S, Server
from tests.sidecar.relay.lanes import OK, PONG, command, standing_still, working
from tests.sidecar.relay.traced import T


def memory_kb() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4


def test_who_does_not_read_stalls_nobody_and_gets_all_of_it_later(socket_path: str, traced_table: CommandTable) -> None:
    size, each, rounds = 60_000, 100, 20

    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            watch.client.set("big", b"x" * size)
            slow, other = await worker.riders(watch)
            before = watch.carried()
            for _ in range(rounds):
                await worker.send(slow, command("GET", "big") * each)
                async with asyncio.timeout(PATIENCE_S):
                    await worker.send(other, command("ECHO", "quick"))
                    assert await worker.read(other, 11) == b"$5\r\nquick\r\n"
            assert watch.carried() - before < rounds + 2 * each  # its later ones went home
            assert watch.carried() - before > rounds
            reply = b"$%d\r\n%b\r\n" % (size, b"x" * size)
            for _ in range(rounds * each):
                assert await worker.read(slow, len(reply)) == reply
            with pytest.raises(BlockingIOError):
                slow.recv(1)

    uvloop.run(run())


def test_what_waits_for_who_does_not_read_is_bounded(socket_path: str, traced_table: CommandTable) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            watch.client.set("big", b"x" * 10_000)
            slow, other = await worker.riders(watch)
            before = memory_kb()
            for _ in range(200):  # 200 MB of replies
                await worker.send(slow, command("GET", "big") * 100)
                assert await worker.say_beside(other, command("PING")) == PONG
            assert memory_kb() - before < 50_000
            slow.close()

    uvloop.run(run())


def test_a_whole_pipeline_written_before_anything_is_read(socket_path: str, traced_table: CommandTable) -> None:
    value = b"x" * 2000

    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            clients = await worker.riders(watch, 3)
            data = (command("SET", "k", value) + command("GET", "k")) * 5000  # 10 MB
            expected = (OK + b"$2000\r\n%b\r\n" % value) * 5000
            async with asyncio.timeout(2 * PATIENCE_S):
                await asyncio.gather(*(worker.send(client, data) for client in clients))
                for client in clients:
                    assert await worker.read(client, len(expected)) == expected

    uvloop.run(run())


WRONG_LINE_ENDS = {
    "behind an argument": b"*2\r\n$4\r\nECHO\r\n$1\r\nxyz",
    "no LF behind an argument": b"*2\r\n$4\r\nECHO\r\n$1\r\nx\rz",
    "no CR behind an argument": b"*2\r\n$4\r\nECHO\r\n$1\r\nxy\n",
    "behind the name": b"*2\r\n$4\r\nECHOxy$1\r\nx\r\n",
    "behind a length": b"*2\r\n$4\r\nECHO\r\n$1\r$x\r\n",
    "behind the count": b"*2\r*$4\r\nECHO\r\n$1\r\nx\r\n",
    "behind a count of none": b"*0\r$",
}


@pytest.mark.parametrize("what", WRONG_LINE_ENDS)
def test_wrong_line_ends_cost_nobody_but_their_client(socket_path: str, traced_table: CommandTable, what: str) -> None:
    """The engine closes the connection on which it sees them: that must not be a lane."""
    before, odd = command("ECHO", "before"), WRONG_LINE_ENDS[what]
    expected = b"$6\r\nbefore\r\n-ERR Protocol error: invalid CRLF in request\r\n"

    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            _one, other = await worker.riders(watch)
            lanes = [lane["id"] for lane in watch.lanes()]
            for cut in range(len(odd)):
                client = worker.connect()
                await worker.riding(watch, client, other)
                await worker.send(client, before + odd[:cut])
                assert await worker.read(client, 12) == expected[:12]
                await worker.send(client, odd[cut:] + command("ECHO", "behind") * 3)
                assert await worker.read_all(client) == expected[12:]
                assert await worker.say(other, command("PING")) == PONG
            assert [lane["id"] for lane in watch.lanes()] == lanes

    uvloop.run(run())


def test_a_context_with_a_wrong_line_end_is_refused_by_lane_and_at_home(
    socket_path: str, traced_table: CommandTable
) -> None:
    """As the engine refuses any other command with one, and at no other client's expense."""
    good = command("TRACEPARENT", T)
    expected = b"-ERR Protocol error: invalid CRLF in request\r\n"

    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            _one, other = await worker.riders(watch)
            lanes = [lane["id"] for lane in watch.lanes()]
            for at in [place for place, byte in enumerate(good) if byte == ord("\n")]:
                odd = good[:at] + b"x" + good[at + 1 :] + command("PING")
                riding, home = worker.connect(), worker.connect()
                await worker.riding(watch, riding, other)
                for client in (riding, home):
                    await worker.send(client, odd)
                    assert await worker.read_all(client) == expected
            assert await worker.say(other, command("PING")) == PONG
            assert [lane["id"] for lane in watch.lanes()] == lanes

    uvloop.run(run())


def test_an_engine_that_does_not_read_slows_the_clients_down(
    socket_path: str, traced_table: CommandTable, traced_engine: Server
) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            clients = await worker.riders(watch, 4)
            data = command("SET", "k", b"x" * 30_000) * 200  # 6 MB each
            before = memory_kb()
            with standing_still(traced_engine):
                sending = [asyncio.create_task(worker.send(client, data)) for client in clients]
                _, pending = await asyncio.wait(sending, timeout=0.5)
                assert len(pending) == len(clients)
                assert memory_kb() - before < 15_000
            for client in clients:
                assert await worker.read(client, len(OK) * 200) == OK * 200
            await asyncio.gather(*sending)
            await worker.riding(watch, *clients)

    uvloop.run(run())


@pytest.mark.parametrize("how", ["closes", "resets", "ends its stream"])
def test_what_was_read_of_who_has_left_is_executed_and_harms_nobody(
    socket_path: str, traced_table: CommandTable, traced_engine: Server, how: str
) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            watch.client.flushall()
            client, other = await worker.riders(watch)
            with standing_still(traced_engine):
                for turn in range(3):
                    await worker.send(client, command("INCR", "n") * 10)
                    await worker.send(other, command("INCR", "m") * 10)
                    await worker.until(lambda turn=turn: worker.relay.in_flight == 20 * (turn + 1), "all is in flight")
                if how == "ends its stream":
                    client.shutdown(socket.SHUT_WR)
                else:
                    if how == "resets":
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    client.close()
                await asyncio.sleep(0.01)
            expected = b"".join(b":%d\r\n" % n for n in range(1, 31))
            assert await worker.read(other, len(expected)) == expected
            if how == "ends its stream":
                assert await worker.read_all(client) == expected
            await worker.until(lambda: len(worker.relay.sessions) == 1, "it has left")
            assert watch.client.get("n") == b"30"
            assert await worker.say(other, command("INCR", "m")) == b":31\r\n"

    uvloop.run(run())


def test_what_waited_behind_the_lane_of_who_has_left_is_executed(
    socket_path: str, traced_table: CommandTable, traced_engine: Server
) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            watch.client.flushall()
            client, _other = await worker.riders(watch)
            with standing_still(traced_engine):
                await worker.send(
                    client, command("INCR", "n") + command("EVAL", "redis.call('INCR','n')", "0") + command("INCR", "n")
                )
                await worker.until(lambda: worker.relay.in_flight == 1, "it is in flight")
                client.close()
                await asyncio.sleep(0.01)
            await worker.until(lambda: len(worker.relay.sessions) == 1, "it has left")
            assert watch.client.get("n") == b"3"

    uvloop.run(run())


def test_a_churn_of_clients_that_break_off_harms_nobody(socket_path: str, traced_table: CommandTable) -> None:
    """Over TCP, so that a reset is one."""
    rng = random.Random(4)
    churned = 0

    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            watch.client.flushall()
            clients = await worker.riders(watch, 3)
            done = asyncio.Event()
            with socket.socket() as listener:
                listener.bind(("127.0.0.1", 0))
                listener.listen(512)
                listener.setblocking(False)

                async def churn() -> None:
                    nonlocal churned
                    loop = asyncio.get_running_loop()
                    while not done.is_set():
                        client = socket.create_connection(listener.getsockname())
                        client.setblocking(False)
                        ours, _ = listener.accept()
                        ours.setblocking(False)
                        worker.attach(ours)
                        with contextlib.suppress(ConnectionError):
                            await worker.send(client, command("PING"))
                            if rng.random() < 0.9:
                                await loop.sock_recv(client, 100)
                            key = f"c{churned % 7}"
                            data = rng.choice(
                                [
                                    command("SET", key, "x" * 5000) + command("GET", key) * 30,
                                    command("INCR", "i") * 10,
                                    command("GET", key) + command("MULTI") + command("GET", key),
                                    command("GET", key) + command("BLPOP", "nosuch", "0"),
                                    command("GET", key) + b"*2\r\n$3\r\nGE",
                                    command("GET", key) + b"*x\r\n",
                                ]
                            )
                            await worker.send(client, data[: rng.choice([len(data), rng.randrange(1, len(data))])])
                            for _ in range(rng.randrange(3)):
                                await asyncio.sleep(0)
                        if rng.random() < 0.5:
                            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        client.close()
                        churned += 1

                async def check(client: socket.socket, name: str) -> None:
                    for n in range(1, 1001):
                        value = f"{name}-{n}" * 3
                        request = command("SET", name, value) + command("GET", name) + command("INCR", f"{name}-n")
                        await worker.send(client, request)
                        expected = b"+OK\r\n$%d\r\n%b\r\n:%d\r\n" % (len(value), value.encode(), n)
                        assert await worker.read(client, len(expected)) == expected

                churning = [asyncio.create_task(churn()) for _ in range(4)]
                try:
                    await asyncio.gather(*(check(client, f"v{i}") for i, client in enumerate(clients)))
                finally:
                    done.set()
                    await asyncio.gather(*churning)
            await worker.until(lambda: len(worker.relay.sessions) == len(clients), "they have left")
            assert worker.relay.in_flight == 0
            assert churned > 500

    uvloop.run(run())


def test_a_fault_of_ours_in_one_session_breaks_no_lane(
    socket_path: str, traced_table: CommandTable, traced_engine: Server
) -> None:
    def fail(*_args: object) -> None:
        raise RuntimeError("a fault of ours")

    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            client, other = await worker.riders(watch)
            worker.relay.special = fail  # type: ignore[assignment]
            with standing_still(traced_engine):
                await worker.send(client, command("PING") + command("CONFIG", "GET", "maxmemory"))
                await worker.send(other, command("ECHO", "x") * 3)
                await worker.until(lambda: worker.relay.in_flight == 4, "all is in flight")
            assert await worker.read_all(client) == PONG
            assert await worker.read(other, 21) == b"$1\r\nx\r\n" * 3
            assert len(worker.relay.sessions) == 1
            assert [str(fault["exception"]) for fault in worker.faults] == ["a fault of ours"]
            worker.faults.clear()

    uvloop.run(run())
