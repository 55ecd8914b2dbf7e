"""Home connections are opened when first needed, closed after idle time, and made again as they were before anything of the client's is sent."""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from sidecar.relay.attributes import Attributes
from sidecar.relay.commands import CommandTable
from tests.conftest import Server
from tests.sidecar.relay.lanes import OK, PONG, command, lines, park, working

PASSWORD = "secret-of-ann"
LOGIN = command("AUTH", "ann", PASSWORD)


@pytest.fixture(autouse=True)
def ann(traced_engine: Server) -> Iterator[None]:
    with traced_engine.client() as client:
        client.flushall()
        client.execute_command("ACL", "SETUSER", "ann", "reset", "on", f">{PASSWORD}", "~*", "&*", "+@all")
    yield
    with traced_engine.client() as client:
        client.execute_command("ACL", "DELUSER", "ann")


def test_a_session_needs_no_connection_before_its_first_command(socket_path: str, traced_table: CommandTable) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, _watch):
            client, other = worker.connect(), worker.connect()
            assert worker.relay.homes == 0
            assert await worker.say(other, command("PING")) == PONG
            assert worker.relay.homes == 1  # the other one's
            assert await worker.say(client, command("PING")) == PONG
            assert worker.relay.homes == 2

    uvloop.run(run())


def test_only_connections_idle_for_long_enough_are_closed(socket_path: str, traced_table: CommandTable) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            client = worker.connect()
            assert await worker.say(client, command("PING")) == PONG
            worker.relay.park_idle(60)
            worker.relay.park_idle(0)
            assert worker.relay.homes == 1
            assert await park(worker) == 0
            await worker.until(lambda: watch.homes() == [], "the engine has no client of ours")
            assert await worker.say(client, command("PING")) == PONG

    uvloop.run(run())


def test_who_only_authenticated_goes_by_lane_when_its_connection_was_closed(
    socket_path: str, traced_table: CommandTable
) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            clients = [worker.connect(f"192.0.2.1:{5000 + i}") for i in range(3)]
            for client in clients:
                assert await worker.say(client, LOGIN) == OK
            assert await park(worker) == 0
            assert await worker.say(clients[0], command("PING")) == PONG
            await worker.until(worker.has_lane, "a lane")
            await worker.riding(watch, *clients[1:], user="ann")
            assert worker.relay.homes == 1

    uvloop.run(run())


RESTORED = {
    "nothing": (b"", {"user": "default", "resp": "2", "db": "0", "name": "", "lib-name": "", "lib-ver": ""}),
    "user": (LOGIN, {"user": "ann", "resp": "2", "db": "0"}),
    "RESP3": (command("HELLO", "3"), {"user": "default", "resp": "3"}),
    "RESP3 and user": (command("HELLO", "3", "AUTH", "ann", PASSWORD, "SETNAME", "n"), {"user": "ann", "resp": "3", "name": "n"}),
    "RESP3, then user": (command("HELLO", "3") + LOGIN, {"user": "ann", "resp": "3"}),
    "database": (command("SELECT", "7"), {"db": "7"}),
    "name": (command("CLIENT", "SETNAME", "me"), {"name": "me"}),
    "name taken back": (lines("CLIENT SETNAME me") + command("CLIENT", "SETNAME", ""), {"name": ""}),
    "library": (lines("CLIENT SETINFO lib-name l\nCLIENT SETINFO LIB-VER 1.2"), {"lib-name": "l", "lib-ver": "1.2"}),
    "inline": (b"select 3\r\nclient setname 'in'\r\nhello 3 auth ann secret-of-ann\r\n", {"db": "3", "name": "in", "user": "ann", "resp": "3"}),
    "in a transaction": (lines("MULTI\nSELECT 4\nCLIENT SETNAME t\nEXEC"), {"db": "4", "name": "t"}),
    "refused": (lines("AUTH ann wrong\nSELECT 99\nCLIENT SETNAME a\u00e9"), {"user": "default", "db": "0", "name": ""}),
    "RESET": (LOGIN + lines("CLIENT SETINFO lib-name l\nSELECT 7\nCLIENT SETNAME me\nRESET"), {"user": "default", "db": "0", "name": "", "lib-name": "l"}),
    "all": (
        command("HELLO", "3", "AUTH", "ann", PASSWORD) + lines("SELECT 5\nCLIENT SETNAME me\nCLIENT SETINFO lib-name l"),
        {"user": "ann", "resp": "3", "db": "5", "name": "me", "lib-name": "l"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", RESTORED)
def test_a_connection_made_again_is_what_it_was(socket_path: str, traced_table: CommandTable, what: str) -> None:
    said, fields = RESTORED[what]

    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            client = worker.connect()
            await worker.say(client, said + command("PING"))
            (before,) = watch.homes()
            assert {name: before[name] for name in fields} == fields
            for _ in range(3):
                assert await park(worker) == 0
                answer = await worker.say(client, lines("ACL WHOAMI\nCLIENT GETNAME\nSET here 1\nGET nosuch"))
                (after,) = watch.homes()
                assert after["id"] != before["id"]
                same = ("user", "resp", "db", "name", "lib-name", "lib-ver")
                assert {name: after[name] for name in same} == {name: before[name] for name in same}
                assert answer.startswith(b"$%d\r\n%b\r\n" % (len(after["user"]), after["user"].encode()))
                assert answer.endswith(b"+OK\r\n_\r\n" if after["resp"] == "3" else b"+OK\r\n$-1\r\n")

    uvloop.run(run())


def test_a_client_on_a_lane_finds_its_home_as_it_was(socket_path: str, traced_table: CommandTable) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            clients = [worker.connect(), worker.connect()]
            for client in clients:
                assert b"-" not in await worker.say(
                    client, LOGIN + command("SELECT", "2") + command("CLIENT", "SETNAME", "me")
                )
            idle_s = 0.1
            while worker.relay.homes or worker.relay.lane_count == 0:  # the machine was too busy
                await worker.riding(watch, *clients, user="ann", db="2")
                await asyncio.sleep(idle_s)
                assert await worker.say(clients[0], command("SET", "a", "x")) == OK
                await park(worker, idle_s * 0.9)
            assert await worker.say(clients[0], command("SET", "a", "x")) == OK
            assert worker.relay.homes == 0  # by lane nobody needs one
            answer = await worker.say(clients[0], lines("GET a\nMULTI\nGET a\nEXEC\nCLIENT GETNAME\nACL WHOAMI\nGET a"))
            assert answer == b"$1\r\nx\r\n+OK\r\n+QUEUED\r\n*1\r\n$1\r\nx\r\n$2\r\nme\r\n$3\r\nann\r\n$1\r\nx\r\n"
            assert worker.relay.homes == 1

    uvloop.run(run())


REFUSING = {
    "another password": ("resetpass", ">another"),
    "a user that is off": ("off",),
    "no right to SELECT": ("-select",),
    "no right to a name": ("-client",),
}


@pytest.mark.parametrize("what", REFUSING)
def test_a_client_that_would_be_refused_now_is_told_so_and_nothing_is_executed(
    socket_path: str, traced_table: CommandTable, what: str
) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            client = worker.connect()
            assert b"-" not in await worker.say(client, LOGIN + lines("SELECT 2\nCLIENT SETNAME me"))
            assert await park(worker) == 0
            watch.client.execute_command("ACL", "SETUSER", "ann", *REFUSING[what])
            await worker.send(client, lines("INCR a\nPING\nINCR a"))
            error = b"-NOPERM " if "right" in what else b"-WRONGPASS "
            answer = await worker.read_all(client)
            assert answer.startswith(error)
            assert answer.count(b"\r\n") == 1
            assert PASSWORD.encode() not in answer
            for database in (0, 2):
                watch.client.execute_command("SELECT", database)
                assert watch.client.exists("a") == 0
            await worker.until(lambda: not worker.relay.sessions, "the session has ended")

    uvloop.run(run())


KEPT = {
    "subscribed": lines("SUBSCRIBE a"),
    "subscribed once": lines("SUBSCRIBE a\nUNSUBSCRIBE a"),
    "a transaction": lines("MULTI\nSET a 1"),
    "keys watched": lines("WATCH a"),
    "blocked": lines("BLPOP nosuch 0"),
    "a monitor": lines("MONITOR"),
    "tracking": lines("HELLO 3\nCLIENT TRACKING ON"),
    "no eviction": lines("CLIENT NO-EVICT ON"),
    "replies off": lines("CLIENT REPLY OFF"),
    "half a request": b"*2\r\n$3\r\nGET\r\n$1",
    "half a large request": b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$100000\r\nx",
}  # fmt: skip


@pytest.mark.parametrize("what", KEPT)
def test_a_connection_is_kept_while_it_is_needed(socket_path: str, traced_table: CommandTable, what: str) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, _watch):
            client = worker.connect()
            assert await worker.say(client, command("PING")) == PONG
            await worker.say(client, KEPT[what])
            assert await park(worker) == 1

    uvloop.run(run())


def test_a_transaction_that_was_kept_goes_on_and_its_connection_is_closed_then(
    socket_path: str, traced_table: CommandTable
) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, _watch):
            client = worker.connect()
            assert await worker.say(client, lines("WATCH a\nMULTI\nSET a 1")) == b"+OK\r\n+OK\r\n+QUEUED\r\n"
            assert await park(worker) == 1
            assert await worker.say(client, lines("EXEC")) == b"*1\r\n+OK\r\n"
            assert await park(worker) == 0

    uvloop.run(run())


def test_idle_clients_need_no_connections_of_the_engine(socket_path: str, traced_table: CommandTable) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            clients = []
            for _ in range(4):
                clients += [worker.connect() for _ in range(75)]
                for client in clients[-75:]:
                    assert await worker.say(client, command("SELECT", "1")) == OK
                assert await park(worker) == 0
            for client in clients:
                assert await worker.say(client, command("PING")) == PONG
            assert await park(worker) == 0
            await worker.until(lambda: watch.homes() == [], "no connection of a client's")
            assert len(watch.lanes()) <= 1
            worker.relay.lane_pool.close_idle(1e-9)
            assert worker.relay.lane_count == 0
            for client in clients[::10]:
                assert (
                    await worker.say(client, lines("SET a 1\nMULTI\nGET a\nEXEC"))
                    == b"+OK\r\n+OK\r\n+QUEUED\r\n*1\r\n$1\r\n1\r\n"
                )
            watch.client.execute_command("SELECT", 0)
            assert watch.client.exists("a") == 0

    uvloop.run(run())


# ---- the engine is away ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def away(socket_path: str) -> Iterator[Path]:
    """Nobody can connect to the engine until this is back at its place."""
    hidden = Path(socket_path + ".away")
    yield hidden
    if hidden.exists():
        hidden.rename(socket_path)


@pytest.mark.parametrize("who", ["new", "parked", "parked as ann"])
def test_a_session_waits_for_an_engine_that_is_away(
    socket_path: str, traced_table: CommandTable, away: Path, who: str
) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, _watch):
            client = worker.connect()
            if who != "new":
                assert await worker.say(client, LOGIN if "ann" in who else command("PING")) in (OK, PONG)
                assert await park(worker) == 0
            os.rename(socket_path, away)
            await worker.send(client, lines("INCR a\nINCR a"))
            await asyncio.sleep(0.05)
            with pytest.raises(BlockingIOError):
                client.recv(1)
            os.rename(away, socket_path)
            assert await worker.read(client, 8) == b":1\r\n:2\r\n"
            user = b"ann" if "ann" in who else b"default"
            assert await worker.say(client, lines("ACL WHOAMI")) == b"$%d\r\n%b\r\n" % (len(user), user)

    uvloop.run(run())


@pytest.mark.parametrize("who", ["new", "parked"])
def test_a_session_is_told_when_the_engine_does_not_come_back(
    socket_path: str, traced_table: CommandTable, away: Path, who: str
) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            worker.relay.engine_timeout = 0.1
            client = worker.connect()
            if who == "parked":
                assert await worker.say(client, command("PING")) == PONG
                assert await park(worker) == 0
            os.rename(socket_path, away)
            await worker.send(client, lines("INCR a"))
            answer = await worker.read_all(client)
            assert answer == b"-LOADING valkey-sidecar: the engine does not answer, try again later\r\n"
            os.rename(away, socket_path)
            assert watch.client.exists("a") == 0

    uvloop.run(run())


# ---- secrets ---------------------------------------------------------------------------------------------------------------------------------


def test_a_kept_password_is_shown_nowhere(
    socket_path: str, traced_table: CommandTable, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shown: list[str] = []

    def fail(self: Attributes) -> list[bytes]:
        shown.append(f"{self!r} {self!s} {self.identity}")
        raise RuntimeError(f"while restoring {self}")

    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            client = worker.connect()
            assert await worker.say(client, LOGIN) == OK
            shown.append(str(watch.client.execute_command("CLIENT LIST")))
            assert await park(worker) == 0
            monkeypatch.setattr(Attributes, "restoring", fail)
            await worker.send(client, command("PING"))
            shown.append(repr(await worker.read_all(client)))
            (fault,) = worker.faults
            error: Any = fault["exception"]
            shown.append("".join(traceback.TracebackException.from_exception(error, capture_locals=True).format()))
            shown.append(str(fault))
            worker.faults.clear()

    uvloop.run(run())
    shown += capfd.readouterr()
    assert "while restoring Attributes()" in "".join(shown)
    assert PASSWORD not in "".join(shown)
