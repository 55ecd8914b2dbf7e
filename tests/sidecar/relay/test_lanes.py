"""What goes by lane and what goes home, and that a session's commands stay in order whichever way they go."""

from __future__ import annotations

import asyncio
import itertools
import socket

import pytest
import uvloop

from sidecar.relay.commands import CommandTable
from tests.sidecar.relay.lanes import HOME_TURNS, LARGE_TURNS, OK, PONG, Watch, Worker, command, lines, park, working
from tests.sidecar.relay.traced import T

NIL = b"$-1\r\n"


async def rides(worker: Worker, watch: Watch, client: socket.socket, **identity: str) -> bool:
    """Whether the next command of the client goes by lane."""
    before = watch.carried(**identity)
    await worker.send(client, command("PING"))
    assert await worker.read(client, len(PONG)) == PONG
    return watch.carried(**identity) == before + 1


def test_a_session_alone_has_no_lane(socket_path: str, traced_table: CommandTable) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            client = worker.connect()
            for _ in range(20):
                assert await worker.say(client, command("PING")) == PONG
            assert watch.lanes() == []
            assert worker.relay.homes == 1

    uvloop.run(run())


def test_a_lane_opens_at_the_second_session_and_says_who_it_is(socket_path: str, traced_table: CommandTable) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            await worker.riders(watch, 3)
            (lane,) = watch.lanes()
            assert (lane["user"], lane["resp"], lane["db"]) == ("default", "2", "0")
            assert worker.relay.lane_count == 1

    uvloop.run(run())


def test_a_first_command_goes_home_though_there_is_a_lane(socket_path: str, traced_table: CommandTable) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            await worker.riders(watch)
            third = worker.connect()
            assert not await rides(worker, watch, third)
            assert await rides(worker, watch, third)

    uvloop.run(run())


def test_without_lanes_everything_goes_home(socket_path: str, traced_table: CommandTable) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            worker.relay.lanes = False
            for client in (worker.connect(), worker.connect(), worker.connect()):
                for _ in range(5):
                    assert await worker.say(client, command("PING")) == PONG
            assert watch.lanes() == []

    uvloop.run(run())


_FEW_WORDS = b"-ERR wrong number of arguments for 'get' command\r\n"
COMING_BACK = {
    "a transaction": ("MULTI\nSET a 1\nINCR a\nEXEC", b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n:2\r\n"),
    "a transaction given up": ("MULTI\nSET a 1\nDISCARD", b"+OK\r\n+QUEUED\r\n+OK\r\n"),
    "an aborted transaction": (
        "WATCH a\nMULTI\nGET\nEXEC",
        OK + OK + _FEW_WORDS + b"-EXECABORT Transaction discarded because of previous errors.\r\n",
    ),
    "keys watched no more": ("WATCH a\nUNWATCH", OK + OK),
    "keys watched until EXEC": ("WATCH a\nMULTI\nEXEC", b"+OK\r\n+OK\r\n*0\r\n"),
    "a blocking call with data": ("RPUSH l 1\nBLPOP l 0", b":1\r\n*2\r\n$1\r\nl\r\n$1\r\n1\r\n"),
    "a blocking call in vain": ("BLPOP nosuch 0.01", b"*-1\r\n"),
    "a script": ("EVAL return{1} 0", b"*1\r\n:1\r\n"),
    "an error": ("EVAL", _FEW_WORDS.replace(b"get", b"eval")),
    "a name": ("CLIENT SETNAME x", OK),
    "a refused SELECT": ("SELECT x", b"-ERR value is not an integer or out of range\r\n"),
    "a refused HELLO": ("HELLO 9", b"-NOPROTO unsupported protocol version\r\n"),
    "a failed AUTH": ("AUTH nosuch x", b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"),
}


@pytest.mark.parametrize("what", COMING_BACK)
def test_a_session_comes_back_to_the_lane_after(socket_path: str, traced_table: CommandTable, what: str) -> None:
    conversation, expected = COMING_BACK[what]

    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            watch.client.flushall()
            client, _other = await worker.riders(watch)
            before = watch.carried()
            answers = [await worker.say_beside(client, command(*line.split())) for line in conversation.split("\n")]
            assert b"".join(answers) == expected
            assert watch.carried() == before + conversation.startswith("RPUSH")
            assert await rides(worker, watch, client)

    uvloop.run(run())


STAYING = {
    "SUBSCRIBE": lines("SUBSCRIBE a\nUNSUBSCRIBE a"),
    "PSUBSCRIBE": lines("PSUBSCRIBE a\nPUNSUBSCRIBE a"),
    "SSUBSCRIBE": lines("SSUBSCRIBE a\nSUNSUBSCRIBE a"),
    "CLIENT TRACKING": lines("CLIENT TRACKING OFF"),
    "CLIENT CACHING": lines("CLIENT CACHING YES"),
    "CLIENT NO-EVICT": lines("CLIENT NO-EVICT ON"),
    "CLIENT NO-TOUCH": lines("CLIENT NO-TOUCH ON"),
    "CLIENT REPLY": lines("CLIENT REPLY ON"),
    "CLIENT CAPA": lines("CLIENT CAPA redirect"),
    "READONLY": lines("READONLY"),
    "REPLCONF": lines("REPLCONF capa eof"),
    "SCRIPT DEBUG": lines("SCRIPT DEBUG NO"),
    "inline": b"client no-touch on\r\n",
    "in a transaction": lines("MULTI\nCLIENT NO-TOUCH ON\nEXEC"),
    "replies that cannot be matched": lines("MULTI\nSUBSCRIBE a b\nEXEC\nUNSUBSCRIBE"),
}


@pytest.mark.parametrize("what", STAYING)
def test_a_session_stays_home_after(socket_path: str, traced_table: CommandTable, what: str) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            client, other = await worker.riders(watch)
            await worker.send(client, STAYING[what] + command("ECHO", "done"))
            await worker.read_until(client, b"$4\r\ndone\r\n")
            assert not await rides(worker, watch, client)
            assert not await rides(worker, watch, client)
            assert await rides(worker, watch, other)
            assert await park(worker) == 1
            assert not await rides(worker, watch, client)

    uvloop.run(run())


def test_a_monitor_stays_home_and_sees_what_goes_by_lane(socket_path: str, traced_table: CommandTable) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            client, other = await worker.riders(watch)
            assert await worker.say(client, command("MONITOR")) == OK
            before = watch.carried()
            assert await worker.say(other, command("SET", "seen", "1")) == OK
            assert watch.carried() == before + 1
            seen = b""
            while b'"SET" "seen" "1"' not in seen:
                chunk = await worker.read(client, 1)
                assert chunk
                seen += chunk

    uvloop.run(run())


def test_messages_published_by_lane_arrive(socket_path: str, traced_table: CommandTable) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            client, other = await worker.riders(watch)
            assert await worker.say(client, command("SUBSCRIBE", "c"))
            before = watch.carried()
            assert await worker.say(other, command("PUBLISH", "c", "x")) == b":1\r\n"
            assert watch.carried() == before + 1
            message = b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n"
            assert await worker.read(client, len(message)) == message

    uvloop.run(run())


# ---- order -----------------------------------------------------------------------------------------------------------------------------------

MIXTURE = (
    lines("SET a 1\nINCR a\nMULTI\nINCR a\nEXEC\nINCR a")
    + b"\r\n"
    + command("TRACEPARENT", T)
    + lines("INCR a\nEVAL return{redis.call('INCR',KEYS[1])} 1 a\nINCR a")
    + b"incr a\r\n*0\r\n"
    + command("TRACEPARENT", "x")
    + lines("INCR a\nNOSUCH\nINCR a\nAPPEND b " + "v" * 70_000 + "\nINCR a\nGET b\nINCR a\nSELECT 1\nSELECT 0\nINCR a")
)


async def _mixture(path: str, table: CommandTable, *, ride: bool, cuts: list[int]) -> bytes:
    async with working(path, table) as (worker, watch):
        watch.client.flushall()
        if ride:
            client, _other = await worker.riders(watch)
        else:
            client = worker.connect()
        marks = [0, *cuts, len(MIXTURE)]
        answer = bytearray()
        for a, b in itertools.pairwise(marks):
            answer += await worker.say(client, MIXTURE[a:b])
        return bytes(answer)


def test_a_mixture_of_routes_stays_in_order_cut_at_every_byte(socket_path: str, traced_table: CommandTable) -> None:
    expected = uvloop.run(_mixture(socket_path, traced_table, ride=False, cuts=[]))
    assert expected.count(b":") >= 11

    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            client, _other = await worker.riders(watch)
            near = [at for at in range(1, len(MIXTURE)) if not _deep_in_the_value(at)]
            for at in near:
                watch.client.flushall()
                async with asyncio.timeout(30):
                    answer = await worker.say(client, MIXTURE[:at]) + await worker.say(client, MIXTURE[at:])
                assert answer == expected, f"cut at {at}"
                for _ in range(3):
                    await worker.riding(watch, client)

    uvloop.run(run())


def _deep_in_the_value(at: int) -> bool:
    begin = MIXTURE.index(b"v" * 1000)
    return begin + 5 < at < begin + 70_000 - 5 and at % 9973 != 0


@pytest.mark.parametrize("home", ["MULTI", "CLIENT NOSUCH", "EVAL", "SELECT 0"])
def test_a_context_alone_on_the_lane_is_answered_before_what_goes_home(
    socket_path: str, traced_table: CommandTable, home: str
) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            client, other = await worker.riders(watch)
            alone = await worker.say(other, command(*home.split()))
            assert await worker.say(client, command("TRACEPARENT", T) + command(*home.split())) == OK + alone

    uvloop.run(run())


@pytest.mark.parametrize("count", [1, 2, 100, 255, 256, 257, 2000])
def test_pipelines_of_several_sessions_stay_in_order(socket_path: str, traced_table: CommandTable, count: int) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            watch.client.flushall()
            clients = await worker.riders(watch, 4)
            before = watch.carried()
            requests = [b"".join(command("INCR", f"n{i}") for _ in range(count)) for i in range(len(clients))]
            expected = b"".join(b":%d\r\n" % n for n in range(1, count + 1))
            for client, request in zip(clients, requests, strict=True):
                await worker.send(client, request)
            for client in clients:
                assert await worker.read(client, len(expected)) == expected
            assert watch.carried() > before

    uvloop.run(run())


# ---- large ones ------------------------------------------------------------------------------------------------------------------------------


def test_a_large_request_goes_home_and_small_ones_come_back(socket_path: str, traced_table: CommandTable) -> None:
    value = b"x" * 65_537

    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            client, _other = await worker.riders(watch)
            before = watch.carried()
            assert await worker.say(client, command("SET", "large", value)) == OK
            assert watch.carried() == before
            for _ in range(LARGE_TURNS):
                assert not await rides(worker, watch, client)
            assert await rides(worker, watch, client)

    uvloop.run(run())


def test_after_a_large_reply_by_lane_the_next_ones_go_home(socket_path: str, traced_table: CommandTable) -> None:
    value = b"x" * 300_000

    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            client, other = await worker.riders(watch)
            watch.client.set("large", value)
            before = watch.carried()
            await worker.send(client, command("GET", "large"))
            assert await worker.read(client, 300_011) == b"$300000\r\n%b\r\n" % value
            assert watch.carried() == before + 1
            for _ in range(LARGE_TURNS):
                assert not await rides(worker, watch, client)
            assert await rides(worker, watch, client)
            assert await rides(worker, watch, other)

    uvloop.run(run())


@pytest.mark.parametrize("size", [65_000, 65_490, 65_536, 65_537, 70_000, 200_000, 20_000_000])
def test_values_of_all_sizes_pass_beside_small_ones(socket_path: str, traced_table: CommandTable, size: int) -> None:
    value = bytes(range(256)) * (size // 256) + b"." * (size % 256)

    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            client, other = await worker.riders(watch)
            expected = b"+OK\r\n+PONG\r\n$%d\r\n%b\r\n+PONG\r\n" % (size, value)
            data = command("SET", "v", value) + command("PING") + command("GET", "v") + command("PING")
            sending = asyncio.create_task(worker.send(client, data))
            reading = asyncio.create_task(worker.read(client, len(expected)))
            while not reading.done():
                assert await worker.say_beside(other, command("ECHO", "beside")) == b"$6\r\nbeside\r\n"
            await sending
            assert await reading == expected

    uvloop.run(run())


def test_commands_behind_others_in_flight_go_home_for_a_while(socket_path: str, traced_table: CommandTable) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            client, _other = await worker.riders(watch)
            before = watch.carried()
            assert await worker.say(client, lines("PING\nEVAL return{1} 0\nPING")) == b"+PONG\r\n*1\r\n:1\r\n+PONG\r\n"
            assert watch.carried() == before + 1
            for _ in range(HOME_TURNS - 1):
                assert not await rides(worker, watch, client)
            assert await rides(worker, watch, client)

    uvloop.run(run())
