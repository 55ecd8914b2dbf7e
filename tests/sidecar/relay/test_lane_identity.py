"""Nobody rides on what somebody else is: user, RESP version and database each have their own lane, and rights are those of now."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest
import uvloop

from sidecar.relay.commands import CommandTable
from tests.conftest import Server
from tests.sidecar.relay.lanes import OK, PONG, Watch, Worker, command, lines, working

ANN = {"user": "ann"}
PASSWORD = "secret-of-ann"


@pytest.fixture(autouse=True)
def users(traced_engine: Server) -> Iterator[None]:
    """The engine has the users ann and bob, and afterwards none but the default one."""
    with traced_engine.client() as client:
        client.flushall()
        for name in ("ann", "bob"):
            client.execute_command("ACL", "SETUSER", name, "reset", "on", f">secret-of-{name}", "~*", "&*", "+@all")
    yield
    with traced_engine.client() as client:
        client.execute_command("ACL", "DELUSER", "ann", "bob")


async def login(worker: Worker, *clients: socket.socket, user: str = "ann") -> None:
    for client in clients:
        assert await worker.say(client, command("AUTH", user, f"secret-of-{user}")) == OK


async def anns(worker: Worker, watch: Watch, count: int = 2) -> list[socket.socket]:
    """Clients that go by a lane of ann's."""
    clients = [worker.connect() for _ in range(count)]
    await login(worker, *clients)
    await worker.riding(watch, *clients, **ANN)
    return clients


def test_every_identity_has_a_lane_of_its_own(socket_path: str, traced_table: CommandTable) -> None:
    kinds = {
        "default/2/0": command("PING"),
        "default/3/0": command("HELLO", "3"),
        "default/2/1": command("SELECT", "1"),
        "default/3/1": command("HELLO", "3") + command("SELECT", "1"),
        "ann/2/0": command("AUTH", "ann", PASSWORD),
        "ann/3/2": command("HELLO", "3", "AUTH", "ann", PASSWORD) + command("SELECT", "2"),
    }

    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            for i, (kind, hello) in enumerate(kinds.items()):
                user, resp, database = kind.split("/")
                identity = {"user": user, "resp": resp, "db": database}
                clients = [worker.connect(), worker.connect()]
                for client in clients:
                    assert b"-" not in await worker.say(client, hello)
                await worker.riding(watch, *clients, **identity)
                assert worker.relay.lane_count == i + 1
                assert await worker.say(clients[0], command("SET", "who", kind)) == OK
                assert await worker.say(clients[1], command("GET", "nosuch")) == (
                    b"_\r\n" if resp == "3" else b"$-1\r\n"
                )
            assert {(x["user"], x["resp"], x["db"]) for x in watch.lanes()} == {tuple(k.split("/")) for k in kinds}
            assert watch.client.execute_command("GET", "who") == b"ann/2/0"

    uvloop.run(run())


def test_who_has_not_authenticated_gets_nothing_though_there_is_a_lane(
    socket_path: str, traced_table: CommandTable, traced_engine: Server
) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            early = worker.connect()  # has said nothing yet
            first, second = await worker.riders(watch)
            watch.client.config_set("requirepass", "late")
            late = worker.connect()
            for client in (early, late):
                for _ in range(3):
                    assert (await worker.say(client, command("GET", "a"))).startswith(b"-NOAUTH ")
                assert (await worker.say(client, lines("PING\nGET a\nSET a 1"))).count(b"-NOAUTH ") == 3
                assert (await worker.say(client, command("AUTH", "wrong"))).startswith(b"-WRONGPASS ")
                assert (await worker.say(client, command("GET", "a"))).startswith(b"-NOAUTH ")
            assert await worker.say(first, command("GET", "a")) == b"$-1\r\n"  # who was in stays in, as directly
            assert await worker.say(second, command("RESET")) == b"+RESET\r\n"
            for _ in range(3):
                assert (await worker.say(second, command("GET", "a"))).startswith(b"-NOAUTH ")
            assert await worker.say(late, command("AUTH", "late")) == OK
            assert await worker.say(late, command("GET", "a")) == b"$-1\r\n"
            watch.client.config_set("requirepass", "")

    uvloop.run(run())


def test_a_failed_auth_changes_nothing(socket_path: str, traced_table: CommandTable) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            await anns(worker, watch)
            client, _other = await worker.riders(watch)
            for attempt in ("AUTH ann wrong", "AUTH nosuch x", "HELLO 2 AUTH ann wrong", "HELLO 3 AUTH ann wrong"):
                before = watch.carried(**ANN)
                answer = await worker.say(client, command(*attempt.split()) + lines("ACL WHOAMI\nGET a\nACL WHOAMI"))
                assert answer.startswith(b"-WRONGPASS ")
                assert answer.endswith(b"\r\n$7\r\ndefault\r\n$-1\r\n$7\r\ndefault\r\n")
                assert await worker.say(client, lines("GET a\nGET a")) == b"$-1\r\n$-1\r\n"
                assert watch.carried(**ANN) == before

    uvloop.run(run())


def test_a_user_without_the_right_is_refused_by_lane(socket_path: str, traced_table: CommandTable) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            watch.client.execute_command("ACL", "SETUSER", "ann", "resetkeys", "~ann:*", "-del")
            client, other = await anns(worker, watch)
            await worker.riders(watch)
            before = watch.bytes_carried(**ANN)
            requests = command("SET", "ann:1", "x"), command("GET", "bob:1"), command("DEL", "ann:1")
            assert await worker.say(client, requests[0]) == OK
            assert (await worker.say(client, requests[1])).startswith(b"-NOPERM ")
            assert (await worker.say(other, requests[2])).startswith(b"-NOPERM ")
            assert watch.bytes_carried(**ANN) == before + len(b"".join(requests))

    uvloop.run(run())


def test_a_right_taken_away_is_away_on_the_lane_at_once(socket_path: str, traced_table: CommandTable) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            client, other = await anns(worker, watch)
            assert await worker.say(client, command("GET", "a")) == b"$-1\r\n"
            watch.client.execute_command("ACL", "SETUSER", "ann", "-get")
            before = watch.bytes_carried(**ANN)
            for one in (client, other):
                assert (await worker.say(one, command("GET", "a"))).startswith(b"-NOPERM ")
            assert watch.bytes_carried(**ANN) == before + 2 * len(command("GET", "a"))
            watch.client.execute_command("ACL", "SETUSER", "ann", "+get")
            assert await worker.say(client, command("GET", "a")) == b"$-1\r\n"

    uvloop.run(run())


def test_a_user_that_may_hardly_anything_has_a_lane(socket_path: str, traced_table: CommandTable) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            watch.client.execute_command("ACL", "SETUSER", "ann", "resetkeys", "%R~*", "-@all", "+get", "+ping")
            client, _other = await anns(worker, watch)
            before = watch.bytes_carried(**ANN)
            assert await worker.say(client, command("GET", "a")) == b"$-1\r\n"
            assert (await worker.say(client, command("SET", "a", "1"))).startswith(b"-NOPERM ")
            assert watch.bytes_carried(**ANN) == before + len(lines("GET a\nSET a 1"))

    uvloop.run(run())


def test_deleting_a_user_cuts_its_sessions_and_no_others(socket_path: str, traced_table: CommandTable) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            mine = await anns(worker, watch, 3)
            others = await worker.riders(watch)
            watch.client.execute_command("ACL", "DELUSER", "ann")
            for client in mine:
                assert await worker.read_all(client) == b""
            await worker.until(lambda: watch.lanes(**ANN) == [] and len(worker.relay.sessions) == 2, "ann is gone")
            for client in others:
                assert await worker.say(client, command("PING")) == PONG
            late = worker.connect()
            assert (await worker.say(late, command("AUTH", "ann", PASSWORD))).startswith(b"-WRONGPASS ")

    uvloop.run(run())


def test_reset_makes_a_session_the_default_user_again(socket_path: str, traced_table: CommandTable) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            client, other = await anns(worker, watch)
            await worker.riders(watch)
            assert await worker.say(client, command("RESET")) == b"+RESET\r\n"
            ann, default = watch.carried(**ANN), watch.carried(user="default")
            assert await worker.say(client, command("GET", "a")) == b"$-1\r\n"
            assert await worker.say(client, command("GET", "a")) == b"$-1\r\n"
            assert watch.carried(**ANN) == ann
            assert watch.carried(user="default") > default
            assert await worker.say(other, command("ACL", "WHOAMI")) == b"$3\r\nann\r\n"

    uvloop.run(run())


def test_who_authenticates_as_somebody_else_changes_lanes(socket_path: str, traced_table: CommandTable) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            client, _other = await anns(worker, watch)
            await login(worker, client, second := worker.connect(), user="bob")
            await worker.riding(watch, client, second, user="bob")
            before = watch.carried(**ANN)
            assert await worker.say(client, lines("GET a\nGET b")) == b"$-1\r\n$-1\r\n"
            assert watch.carried(**ANN) == before

    uvloop.run(run())


def test_in_one_pipeline_everything_behind_auth_is_the_other_users(
    socket_path: str, traced_table: CommandTable
) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            watch.client.execute_command("ACL", "SETUSER", "bob", "-get")
            client, _other = await anns(worker, watch)
            data = lines("GET a\nAUTH bob secret-of-bob\nGET a\nAUTH ann secret-of-ann\nGET a")
            for _ in range(40):
                answer = (await worker.say(client, data)).split(b"\r\n")
                assert answer[:2] == [b"$-1", b"+OK"]
                assert answer[2].startswith(b"-NOPERM ")
                assert answer[3:] == [b"+OK", b"$-1", b""]

    uvloop.run(run())


SWITCHES = {
    "SELECT in a transaction": ("MULTI\nSELECT 1\nEXEC", {"user": "default", "resp": "2", "db": "1"}),
    "SELECT in a transaction given up": ("MULTI\nSELECT 1\nDISCARD", {"user": "default", "resp": "2", "db": "0"}),
    "SELECT of no database": ("SELECT 99", {"user": "default", "resp": "2", "db": "0"}),
    "HELLO in a transaction": ("MULTI\nHELLO 3\nEXEC", {"user": "default", "resp": "3", "db": "0"}),
    "AUTH in a transaction": ("MULTI\nAUTH ann secret-of-ann\nEXEC", {"user": "ann", "resp": "2", "db": "0"}),
    "all of it": ("HELLO 3 AUTH ann secret-of-ann\nMULTI\nSELECT 1\nEXEC", {"user": "ann", "resp": "3", "db": "1"}),
    "there and back": ("SELECT 1\nSELECT 0\nHELLO 3\nHELLO 2", {"user": "default", "resp": "2", "db": "0"}),
    "inline": ("", {"user": "default", "resp": "2", "db": "1"}),
}


@pytest.mark.parametrize("what", SWITCHES)
def test_a_session_goes_by_the_lane_of_what_it_has_become(
    socket_path: str, traced_table: CommandTable, what: str
) -> None:
    said, identity = SWITCHES[what]
    data = lines(said) if said else b"select 1\r\n"

    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            clients = await worker.riders(watch)
            for client in clients:
                await worker.say(client, data)
            await worker.riding(watch, *clients, **identity)
            where = command("SET", "where", what)
            assert await worker.say(clients[0], where) == OK
            assert watch.client.execute_command("SELECT", identity["db"])
            assert watch.client.get("where") == what.encode()
            assert watch.client.execute_command("SELECT", "0")

    uvloop.run(run())


def test_a_lane_that_the_engine_refuses_leaves_everybody_at_home(socket_path: str, traced_table: CommandTable) -> None:
    async def run() -> None:
        async with working(socket_path, traced_table) as (worker, watch):
            clients = [worker.connect(), worker.connect()]
            await login(worker, *clients)
            watch.client.execute_command("ACL", "SETUSER", "ann", "resetpass", ">another")
            for _ in range(10):
                for client in clients:
                    assert await worker.say(client, command("PING")) == PONG
                await asyncio.sleep(0.01)
            assert watch.lanes() == []
            assert worker.relay.lane_count == 0

    uvloop.run(run())
