"""A client whose idle connection to the engine was closed: nobody can tell, neither it nor anyone who asks about it."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable

import pytest

from tests.conftest import Server, Start, receive, receive_exactly, wait_until
from tests.sidecar.test_client_identity import fields, is_open, name_of
from tests.sidecar.test_identity import connect
from tests.sidecar.test_lane_control import Engine, ask, listed_by, say

ARGUMENTS = ("--save", "", "--sidecar-home-timeout", "1")


@pytest.fixture(params=["1", "3"])
def server(start: Start, request: pytest.FixtureRequest) -> Server:
    return start(*ARGUMENTS, "--sidecar-workers", request.param)


class Scene:
    """Clients of a server of which some are parked, and one that asks."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.engine = Engine(server)
        self.asking = connect(server)
        assert ask(self.asking, "PING") == b"+PONG\r\n"

    def ids(self) -> dict[str, str]:
        """Ids by address, as the client that asks is told."""
        return {client["addr"]: client["id"] for client in listed_by(self.asking)}

    def id_of(self, sock: socket.socket) -> str:
        return self.ids()[name_of(sock)]

    def line_of(self, sock: socket.socket) -> dict[str, str]:
        (line,) = (client for client in listed_by(self.asking) if client["addr"] == name_of(sock))
        return line

    def park(self, *but: socket.socket) -> None:
        """Wait until only these, and nobody else, have a connection to the engine."""
        wait_until(lambda: self.engine.homes() == len(but), "the others are parked", 10)


def parked(server: Server, *said: str) -> tuple[Scene, socket.socket]:
    """A scene with a client that has said this and is parked."""
    scene = Scene(server)
    sock = connect(server)
    for request in said or ("PING",):
        assert not ask(sock, request).startswith(b"-")
    scene.park()
    return scene, sock


def id_in(hello: bytes) -> str:
    match = re.search(rb"id\r\n:(\d+)\r\n", hello)
    assert match is not None
    return match[1].decode()


def hello(sock: socket.socket, protocol: str = "") -> str:
    """The id in the answer to HELLO, and nothing of it left to read."""
    say(sock, f"HELLO {protocol}".strip(), "ECHO end")
    return id_in(receive(sock, b"$3\r\nend\r\n"))


def test_being_listed_makes_no_idle_client_active(server: Server, bare: Server) -> None:
    scene, sock = parked(server, "SELECT 3")
    scene.engine.close()
    beside, beside_asks = connect(bare), connect(bare)
    assert ask(sock, "PING") == ask(beside, "PING") == b"+PONG\r\n"
    began = time.monotonic()
    while (passed := time.monotonic() - began) < 4:
        assert int(scene.line_of(sock)["idle"]) >= int(passed - 0.5)
        assert int(scene.line_of(sock)["age"]) >= int(passed - 0.5)
        time.sleep(0.25)  # a monitor's interval
    assert [client["addr"] for client in listed_by(scene.asking, "IDLE 3")] == [name_of(sock)]
    assert [client["addr"] for client in fields(ask(beside_asks, "CLIENT LIST IDLE 3"))] == [name_of(beside)]
    assert ask(scene.asking, "CLIENT KILL IDLE 3") == ask(beside_asks, "CLIENT KILL IDLE 3") == b":1\r\n"
    assert not is_open(sock)


def test_a_monitor_that_lists_clients_keeps_none_from_its_timeout(start: Start) -> None:
    server = start(*ARGUMENTS, "--timeout", "4")
    scene, sock = parked(server, "SELECT 3")
    closed = []

    def is_closed() -> bool:
        listed_by(scene.asking)
        sock.settimeout(0.2)  # the monitor's interval
        try:
            closed.append(sock.recv(1))
        except TimeoutError:
            return False
        return True

    wait_until(is_closed, "its time is out", 10)
    assert closed == [b""]


def test_reopening_is_no_activity_of_the_client(server: Server) -> None:
    scene, sock = parked(server, "SELECT 3", "CLIENT SETNAME me")
    before = int(scene.line_of(sock)["idle"])
    assert ask(scene.asking, "ACL SETUSER default -select") == b"+OK\r\n"
    wait_until(lambda: scene.engine.homes() >= 1, "it has its own connection again")
    assert ask(scene.asking, "ACL SETUSER default +select") == b"+OK\r\n"
    wait_until(lambda: int(scene.line_of(sock)["idle"]) > max(before, 1), "it is idle for longer and longer")


@pytest.mark.parametrize("told", ["CLIENT ID", "CLIENT INFO", "CLIENT LIST", "HELLO", "HELLO 3"])
def test_a_client_has_one_id_for_its_whole_life(server: Server, told: str) -> None:
    scene = Scene(server)
    sock = connect(server)
    ask(sock, "CLIENT SETNAME me")
    if told.startswith("HELLO"):
        first = hello(sock, told.partition(" ")[2])
    elif told == "CLIENT ID":
        first = ask(sock, told)[1:-2].decode()
    elif told == "CLIENT INFO":
        (me,) = fields(ask(sock, told))
        first = me["id"]
    else:
        first = scene.id_of(sock)
    bulk = ask if told != "HELLO 3" else verbatim
    for _ in range(2):
        scene.park()
        assert scene.id_of(sock) == first
        assert ask(sock, "CLIENT ID") == f":{first}\r\n".encode()
        (me,) = fields(bulk(sock, "CLIENT INFO"))
        assert (me["id"], me["name"], me["addr"]) == (first, "me", name_of(sock))
        assert hello(sock) == first
        assert scene.id_of(sock) == first
        say(sock, "MULTI", "CLIENT ID", "EXEC")
        assert receive(sock, f"*1\r\n:{first}\r\n".encode())
        homes = {client["id"] for client in fields(scene.engine.ask("CLIENT LIST"))}
        assert first not in homes


def verbatim(sock: socket.socket, request: str) -> bytes:
    """The text of a verbatim string."""
    say(sock, request)
    head = receive_exactly(sock, 1)
    while not head.endswith(b"\r\n"):
        head += receive_exactly(sock, 1)
    return receive_exactly(sock, int(head[1:]) + 2)[4:-2]


@pytest.mark.parametrize("state", ["parked", "reopened"])
def test_ids_mean_the_clients_that_they_were_given_to(server: Server, state: str) -> None:
    scene = Scene(server)
    socks = [connect(server) for _ in range(3)]
    ids = []
    for sock in socks:
        assert ask(sock, "PING") == b"+PONG\r\n"
        ids.append(scene.id_of(sock))
    scene.park()
    if state == "reopened":
        for sock in socks:
            assert ask(sock, "CLIENT GETNAME") == b""
    ids, socks = map(list, zip(*sorted(zip(ids, socks, strict=True), key=lambda pair: int(pair[0])), strict=True))
    one, two, three = ids
    for filters, meant in (
        (f"ID {two}", [two]),
        (f"ID {three} {one}", [three, one]),
        (f"NOT-ID {one}", [two, three]),
        (f"ID {one} {two} NOT-ID {two}", [one]),
        (f"ID {one} ADDR {name_of(socks[0])}", [one]),
        (f"ID {one} ADDR {name_of(socks[1])}", []),
        (f"TYPE normal ID {one}", [one]),
        (f"TYPE pubsub ID {one}", []),
        (f"ADDR {name_of(socks[2])}", [three]),
    ):
        assert [c["id"] for c in listed_by(scene.asking, filters) if c["addr"] != name_of(scene.asking)] == meant, (
            filters
        )
    assert ask(scene.asking, f"CLIENT UNBLOCK {one}") == b":0\r\n"
    assert ask(scene.asking, f"CLIENT KILL ID {one}") == b":1\r\n"
    assert ask(scene.asking, f"CLIENT KILL ID {one}") == b":0\r\n"
    assert ask(scene.asking, f"CLIENT KILL {name_of(socks[1])}") == b"+OK\r\n"
    assert ask(scene.asking, f"CLIENT KILL ADDR {name_of(socks[2])} ID {two}") == b":0\r\n"
    assert [is_open(sock) for sock in socks] == [False, False, True]
    assert scene.ids().keys() == {name_of(socks[2]), name_of(scene.asking)}


def test_the_number_of_a_reopened_connection_is_no_clients_id(server: Server) -> None:
    scene, sock = parked(server, "CLIENT SETNAME me")
    first = scene.id_of(sock)
    assert ask(sock, "CLIENT GETNAME") == b"me"
    (internal,) = (c["id"] for c in fields(scene.engine.ask("CLIENT LIST")) if c["name"] == "me")
    assert internal != first
    assert listed_by(scene.asking, f"ID {internal}") == []
    assert ask(scene.asking, f"CLIENT KILL ID {internal}") == b":0\r\n"
    assert is_open(sock)


def test_a_blocked_client_is_unblocked_by_its_first_id(server: Server) -> None:
    scene, sock = Scene(server), connect(server)
    first = hello(sock)
    scene.park()
    for how, answer in (("", b"*-1\r\n"), ("ERROR", b"-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n")):
        say(sock, "BLPOP nosuch 0")
        wait_until(lambda: b"blocked_clients:1" in ask(scene.asking, "INFO clients"), "it waits")
        assert ask(scene.asking, f"CLIENT UNBLOCK {first} {how}".strip()) == b":1\r\n"
        assert receive(sock, b"\r\n") == answer


def test_caches_of_a_client_that_was_parked_do_not_go_stale(server: Server) -> None:
    scene, target = Scene(server), connect(server)
    first = hello(target)
    scene.park()
    caching = connect(server)
    assert ask(caching, f"CLIENT TRACKING ON REDIRECT {first}") == b"+OK\r\n"
    assert ask(caching, "CLIENT GETREDIR") == f":{first}\r\n".encode()
    say(caching, "CLIENT TRACKINGINFO", "ECHO end")
    assert f"redirect\r\n:{first}\r\n".encode() in receive(caching, b"$3\r\nend\r\n")
    assert scene.line_of(caching)["redir"] == first
    say(target, "SUBSCRIBE __redis__:invalidate")
    assert receive(target, b":1\r\n")
    assert ask(caching, "GET cached") == b""
    assert ask(scene.asking, "SET cached 1") == b"+OK\r\n"
    assert receive(target, b"cached\r\n").endswith(b"$6\r\ncached\r\n")


def test_a_target_of_invalidations_is_never_parked(server: Server) -> None:
    scene = Scene(server)
    target, caching, other = connect(server), connect(server), connect(server)
    assert hello(target, "3") == hello(target)
    first = hello(target)
    assert ask(other, "PING") == b"+PONG\r\n"
    assert ask(caching, f"CLIENT TRACKING ON BCAST REDIRECT {first}") == b"+OK\r\n"
    scene.park(target, caching)
    assert ask(other, "SET cached 1") == b"+OK\r\n"
    assert receive(target, b"cached\r\n") == b">2\r\n$10\r\ninvalidate\r\n*1\r\n$6\r\ncached\r\n"
    assert ask(caching, f"CLIENT TRACKING ON REDIRECT {1 << 40}").startswith(b"-ERR The client ID you want redirect to")


@pytest.mark.parametrize(
    "filters",
    [
        "USER ann",
        "TYPE normal USER ann",
        "NAME of-ann",
        "NOT-USER default",
        "DB 2",
        "NOT-NAME",
        "MAXAGE 1",
        "IP 127.0.0.1",
    ],
)
def test_parked_clients_are_judged_as_the_engine_judges(server: Server, filters: str) -> None:
    scene = Scene(server)
    assert ask(scene.asking, "ACL SETUSER ann on >secret-of-ann ~* +@all") == b"+OK\r\n"
    sock, other = connect(server), connect(server)
    for request in ("AUTH ann secret-of-ann", "SELECT 2", "CLIENT SETNAME of-ann"):
        assert ask(sock, request) == b"+OK\r\n"
    assert ask(other, "CLIENT SETNAME other") == b"+OK\r\n"
    if filters == "NOT-NAME":
        filters = "NOT-NAME other"
    ask(scene.asking, "CLIENT SETNAME other")
    present = {c["addr"] for c in listed_by(scene.asking, filters)} - {name_of(scene.asking), name_of(other)}
    scene.park()
    time.sleep(1.1)  # MAXAGE
    assert ask(scene.asking, "CLIENT GETNAME") == b"other"
    listed = {c["addr"] for c in listed_by(scene.asking, filters)} - {name_of(scene.asking), name_of(other)}
    assert listed == {name_of(sock)}
    assert present in ({name_of(sock)}, set())
    killed = ask(scene.asking, f"CLIENT KILL {filters} NOT-ID {scene.id_of(other)}")
    assert not is_open(sock)
    assert killed.startswith(b":")
    assert int(killed[1:]) >= 1


def test_a_line_of_a_parked_client_has_the_fields_of_any_other(server: Server, bare: Server) -> None:
    requests = ("SELECT 5", "CLIENT SETNAME me", "CLIENT SETINFO LIB-NAME lib", "CLIENT SETINFO LIB-VER 1.2", "PING")
    scene, sock = parked(server, *requests)
    here = scene.line_of(sock)
    beside, beside_asks = connect(bare), connect(bare)
    for request in requests:
        ask(beside, request)
    (there,) = (c for c in fields(ask(beside_asks, "CLIENT LIST")) if c["addr"] == name_of(beside))
    assert list(here) == list(there)
    own = {"id", "addr", "laddr", "fd", "age", "idle", "rbs", "rbp", "tot-mem", "tot-net-in", "tot-net-out", "tot-cmds"}
    assert {name: here[name] for name in here.keys() - own} == {name: there[name] for name in there.keys() - own}


def test_the_list_is_in_the_order_of_ids(server: Server) -> None:
    scene = Scene(server)
    socks = [connect(server) for _ in range(6)]
    for sock in socks:
        assert ask(sock, "PING") == b"+PONG\r\n"
    scene.park()
    assert ask(socks[1], "CLIENT GETNAME") == b""
    listed = [int(c["id"]) for c in listed_by(scene.asking)]
    assert listed == sorted(listed)
    assert len(listed) == 7


def test_nobody_is_brought_home_to_be_listed(server: Server) -> None:
    scene = Scene(server)
    socks = [connect(server) for _ in range(20)]
    for sock in socks:
        assert ask(sock, "PING") == b"+PONG\r\n"
    scene.park()
    assert len(listed_by(scene.asking)) == 21
    assert ask(scene.asking, "CLIENT KILL USER nosuch").startswith(b"-ERR No such user")
    assert ask(scene.asking, "CLIENT KILL TYPE pubsub") == b":0\r\n"
    assert ask(scene.asking, "ACL SETUSER ann on >secret-of-ann ~* +@all") == b"+OK\r\n"
    assert ask(scene.asking, "ACL SETUSER ann resetpass off") == b"+OK\r\n"
    assert ask(scene.asking, "ACL SETUSER default >another nopass") == b"+OK\r\n"
    assert ask(scene.asking, "ACL DELUSER ann") == b":1\r\n"
    assert scene.engine.homes() == 1  # who asks
    assert all(is_open(sock) for sock in socks)


def test_who_was_logged_in_as_a_deleted_user_is_cut_off_parked_or_not(server: Server) -> None:
    scene = Scene(server)
    assert ask(scene.asking, "ACL SETUSER ann on >secret-of-ann ~* +@all") == b"+OK\r\n"
    socks = [connect(server) for _ in range(3)]
    for sock in socks[:2]:
        assert ask(sock, "AUTH ann secret-of-ann") == b"+OK\r\n"
    assert ask(socks[2], "PING") == b"+PONG\r\n"
    scene.park()
    assert ask(socks[1], "ACL WHOAMI") == b"ann"
    assert ask(scene.asking, "ACL DELUSER nosuch") == b":0\r\n"
    assert ask(scene.asking, "ACL DELUSER ann nosuch") == b":1\r\n"
    assert [is_open(sock) for sock in socks] == [False, False, True]


def test_who_is_logged_in_stays_so_when_its_password_is_taken_away(server: Server) -> None:
    scene = Scene(server)
    assert ask(scene.asking, "ACL SETUSER ann on >secret-of-ann ~* +@all") == b"+OK\r\n"
    sock, other = connect(server), connect(server)
    assert ask(sock, "AUTH ann secret-of-ann") == b"+OK\r\n"
    assert ask(other, "PING") == b"+PONG\r\n"
    scene.park()
    first = scene.id_of(sock)
    assert ask(scene.asking, "ACL SETUSER ann resetpass >another") == b"+OK\r\n"
    assert scene.engine.homes() == 2  # who asks, and ann
    assert ask(sock, "ACL WHOAMI") == b"ann"
    assert ask(sock, "CLIENT ID") == f":{first}\r\n".encode()


def test_a_client_that_has_said_nothing_yet_is_listed_as_valkey_lists_it(server: Server, bare: Server) -> None:
    scene = Scene(server)
    sock, beside, beside_asks = connect(server), connect(bare), connect(bare)
    wait_until(lambda: name_of(sock) in scene.ids(), "it is accepted")
    (there,) = (c for c in fields(ask(beside_asks, "CLIENT LIST")) if c["addr"] == name_of(beside))
    here = scene.line_of(sock)
    assert (here["cmd"], here["flags"], here["resp"], here["user"]) == (there["cmd"], there["flags"], "2", "default")
    first = here["id"]
    assert ask(sock, "CLIENT ID") == f":{first}\r\n".encode()


def test_ids_start_anew_with_the_engine(start: Start) -> None:
    server = start(*ARGUMENTS, "--sidecar-workers", "1")
    scene, sock = parked(server)
    assert scene.id_of(sock)
    server.engine.kill()
    assert receive(sock) == b""
    wait_until(server.answers, "the engine is back")
    again, newcomer = parked(server)
    assert again.ids().keys() == {name_of(again.asking), name_of(newcomer)}


def test_when_hello_is_renamed_every_client_keeps_its_connection(start: Start) -> None:
    server = start(*ARGUMENTS, "--rename-command", "HELLO", "GREET", "--sidecar-workers", "1")
    scene = Scene(server)
    sock = connect(server)
    assert ask(sock, "CLIENT SETNAME me") == b"+OK\r\n"
    watched: Callable[[], bool] = lambda: int(scene.line_of(sock)["idle"]) >= 3  # noqa: E731
    wait_until(watched, "it would have been parked")
    assert scene.engine.homes() == 2
    assert ask(sock, "CLIENT GETNAME") == b"me"


@pytest.mark.parametrize("number", ["0", "-1", "x", "9" * 19, "9" * 20, "9" * 5000, ""])
def test_what_is_no_id_is_answered_as_the_engine_answers(start: Start, bare: Server, number: str) -> None:
    server = start(*ARGUMENTS, "--sidecar-workers", "1")
    parked(server)
    here, there = connect(server), connect(bare)
    for words in ("CLIENT UNBLOCK {}", "CLIENT TRACKING ON REDIRECT {}", "CLIENT KILL ID {}"):
        request = words.format(number).strip()
        assert ask(here, request) == ask(there, request)
    listed, beside = (ask(sock, f"CLIENT LIST NOT-ID {number}".strip()) for sock in (here, there))
    assert listed == beside or (listed.startswith(b"id=") and beside.startswith(b"id="))
