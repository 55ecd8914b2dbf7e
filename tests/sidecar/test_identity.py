"""The private engine takes every client for a local one: what clients see and may do is as if it listened itself."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from sidecar.relay.listener import PROTECTED_ERROR
from tests.conftest import Server, Start, free_port, receive, wait_until

Ask = Callable[..., bytes]


def connect(server: Server, host: str = "127.0.0.1") -> socket.socket:
    sock = socket.create_connection((host, server.port), timeout=10)
    server.sockets.append(sock)
    return sock


def talk(server: Server, *requests: str, host: str = "127.0.0.1") -> bytes:
    """Everything answered to these inline requests, on a connection of their own."""
    sock = connect(server, host)
    sock.sendall("".join(f"{request}\r\n" for request in (*requests, "QUIT")).encode())
    return receive(sock).removesuffix(b"+OK\r\n")


def assert_engine_has_no_port(server: Server) -> None:
    assert server.engine.net_connections("tcp") == []


def settings_of(server: Server) -> dict[str, str]:
    with server.client(decode_responses=True) as client:
        return dict(client.config_get("*"))


# ---- protected mode


def denied(server: Server, host: str) -> bool:
    with socket.create_connection((host, server.port), timeout=10) as sock:
        sock.sendall(b"PING\r\n")
        data = receive(sock, b"\r\n")
    assert data in {PROTECTED_ERROR, b"+PONG\r\n", b"-NOAUTH Authentication required.\r\n"}
    return data == PROTECTED_ERROR


def test_a_stranger_is_refused_with_valkeys_words(start: Start, start_bare: Start, outer_address: str) -> None:
    answers = []
    for server in (start("--save", ""), start_bare()):
        sock = connect(server, outer_address)
        answers.append(receive(sock))  # until it is closed
    assert answers[0] == answers[1] == PROTECTED_ERROR


def test_neighbours_always_pass(start: Start, outer_address: str, tmp_path: Path) -> None:
    path = tmp_path / "valkey.sock"
    server = start("--save", "", "--unixsocket", str(path))
    assert denied(server, outer_address)
    for host in ("127.0.0.1", "127.0.0.2", "::1"):
        assert not denied(server, host)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.sendall(b"PING\r\n")
        assert receive(sock, b"\r\n") == b"+PONG\r\n"
    rejected = server.metrics()
    (counted,) = [value for name, value in rejected.items() if "rejected" in name and "protected_mode" in name]
    assert counted == 1


@pytest.mark.parametrize(
    "ends",
    [
        ["ACL SETUSER default >secret"],
        ["CONFIG SET requirepass secret"],
        ["CONFIG SET protected-mode no"],
        ["MULTI", "CONFIG SET protected-mode no", "EXEC"],
        ["ACL SETUSER default resetpass"],
    ],
    ids=lambda requests: requests[-1] if len(requests) == 1 else "in a transaction",
)
def test_protected_mode_ends_at_once(start: Start, outer_address: str, ends: list[str]) -> None:
    server = start("--save", "")
    assert denied(server, outer_address)
    assert b"-" not in talk(server, *ends).split(b"\r\n")[-2][:1]
    assert not denied(server, outer_address)


def test_protected_mode_begins_again_with_the_password_gone(start: Start, outer_address: str) -> None:
    server = start("--save", "", "--requirepass", "secret", password="secret")
    assert not denied(server, outer_address)
    with server.client() as client:
        client.config_set("requirepass", "")
        assert denied(server, outer_address)
        client.config_set("protected-mode", "no")
        assert not denied(server, outer_address)
        client.config_set("protected-mode", "yes")
        assert denied(server, outer_address)


def test_who_is_in_stays_when_protected_mode_begins(start: Start, outer_address: str) -> None:
    server = start("--save", "", "--protected-mode", "no")
    sock = connect(server, outer_address)
    talk(server, "CONFIG SET protected-mode yes")
    assert denied(server, outer_address)
    sock.sendall(b"PING\r\n")
    assert receive(sock, b"\r\n") == b"+PONG\r\n"


# ---- what only a local peer may do


_LOCAL = ("--enable-debug-command", "local", "--enable-module-command", "local", "--enable-protected-configs", "local")
OPEN = ("--save", "", "--protected-mode", "no")
_ASKED_FOR_LOCALLY = [
    ["DEBUG JMAP"],
    ["DEBUG"],
    ["debug sleep 0"],
    ["MODULE LOAD /nowhere.so"],
    ["MODULE LOAD"],
    ["MODULE LOADEX /nowhere.so ARGS a"],
    ["MODULE UNLOAD nothing"],
    ["MODULE LIST"],
    ["CONFIG SET dir /nowhere-at-all"],
    ["CONFIG SET DBFILENAME a/b"],
    ["CONFIG SET maxmemory-samples 7 dbfilename other.rdb", "CONFIG GET maxmemory-samples"],
    ["CONFIG SET no-such-thing 1 dbfilename other.rdb"],
    ["CONFIG SET daemonize yes dbfilename other.rdb"],
    ["CONFIG SET dbfilename other.rdb dbfilename other.rdb"],
    ["MULTI", "DEBUG JMAP", "PING", "EXEC"],
    ["MULTI", "MODULE UNLOAD nothing", "EXEC"],
    ["MULTI", "CONFIG SET dbfilename a/b", "PING", "EXEC"],
    ["MULTI", "CONFIG SET dbfilename a/b", "DISCARD", "PING"],
    ["HELLO 3", "CONFIG SET dbfilename a/b"],
]


def comparable(data: bytes) -> bytes:
    return re.sub(rb"(\$2\r\nid\r\n):\d+", rb"\1:N", data)


@pytest.mark.parametrize("setting", ["local", "yes", "no"])
def test_local_means_the_true_peer(start: Start, start_bare: Start, outer_address: str, setting: str) -> None:
    settings = tuple(word if word != "local" else setting for word in _LOCAL)
    server, bare = start(*OPEN, *settings), start_bare(*OPEN, *settings)
    for requests in _ASKED_FOR_LOCALLY:
        for host in ("127.0.0.1", outer_address):
            ours, theirs = (comparable(talk(one, *requests, host=host)) for one in (server, bare))
            assert ours == theirs, (requests, host)


def test_local_holds_before_authentication_too(start: Start, start_bare: Start, outer_address: str) -> None:
    settings = (*OPEN, *_LOCAL, "--requirepass", "secret")
    server, bare = start(*settings), start_bare(*settings)
    for requests in _ASKED_FOR_LOCALLY:
        if requests[0].startswith("HELLO"):
            continue
        for host in ("127.0.0.1", outer_address):
            assert talk(server, *requests, host=host) == talk(bare, *requests, host=host), (requests, host)


@pytest.mark.parametrize(
    "detour",
    [
        ["HELLO 3", "CLIENT REPLY OFF", "SUBSCRIBE a", "CLIENT REPLY ON"],
        ["MULTI", "SUBSCRIBE a b", "EXEC", "UNSUBSCRIBE"],
        ["MULTI", "CLIENT REPLY OFF", "EXEC"],
    ],
    ids=lambda detour: " ".join(detour[:2]),
)
def test_no_detour_makes_a_stranger_local(start: Start, outer_address: str, detour: list[str]) -> None:
    server = start(*OPEN, *_LOCAL)
    sock = connect(server, outer_address)
    sock.sendall("".join(f"{request}\r\n" for request in detour).encode())
    sock.sendall(b"DEBUG SET-ACTIVE-EXPIRE 0\r\nCONFIG SET dbfilename stolen.rdb\r\nQUIT\r\n")
    data = receive(sock)
    with server.client() as client:
        assert client.config_get("dbfilename") == {"dbfilename": "dump.rdb"}, data
        stats = client.info("commandstats")
    debug = stats.get("cmdstat_debug", {"calls": 0})
    assert debug["calls"] == 0, data


@pytest.mark.parametrize("request_", ["CONFIG SET dbfilename x.rdb", "CONFIG SET port 7", "DEBUG SET-ACTIVE-EXPIRE 0"])
def test_a_stranger_that_copies_the_data_is_no_local_peer(start: Start, outer_address: str, request_: str) -> None:
    server = start(*OPEN, *_LOCAL, "--repl-diskless-sync-delay", "0")
    before = settings_of(server)
    sock = connect(server, outer_address)
    sock.sendall(b"SYNC\r\n")
    assert sock.recv(1 << 16)
    sock.sendall(f"{request_}\r\n".encode())
    receive(sock)  # the engine refuses, and leaves a replica that errs
    assert settings_of(server) == before
    with server.client() as client:
        assert client.info("commandstats").get("cmdstat_debug", {"calls": 0})["calls"] == 0
    assert_engine_has_no_port(server)


def our_connection(server: Server) -> bytes:
    """The id of the supervisor's connection to the engine, which only the engine itself tells."""
    with socket.socket(socket.AF_UNIX) as engine:
        engine.connect(str(server.private_folder / "engine.sock"))
        engine.sendall(b"CLIENT LIST\r\nQUIT\r\n")
        (found,) = re.findall(rb"^id=(\d+) .* name=valkey-sidecar ", receive(engine), re.MULTILINE)
    return bytes(found)


def test_a_password_counts_though_our_own_connection_was_just_killed(start: Start, outer_address: str) -> None:
    server = start("--save", "")
    assert denied(server, outer_address)
    sock = connect(server)
    ours = our_connection(server)
    sock.sendall(b"ACL SETUSER default >secret\r\nCLIENT KILL ID %b\r\n" % ours)
    receive(sock, b":1\r\n")
    assert not denied(server, outer_address)


# ---- users and passwords


def test_users_may_do_what_the_engine_lets_them(server: Server) -> None:
    before = server.calls()
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "ann", "on", ">pw", "~ann:*", "+get", "+set", "+config|get", "+info")
        client.execute_command("ACL", "SETUSER", "eve", "on", ">pw", "+@all", "-config", "-client|list")
    try:
        answer = talk(server, "AUTH ann pw", "SET ann:1 v", "GET eve:1", "CONFIG SET maxclients 5", "CLIENT LIST")
        assert answer.split(b"\r\n")[:2] == [b"+OK", b"+OK"]
        assert answer.count(b"-NOPERM") == 3
        answer = talk(server, "AUTH ann pw", "CONFIG GET port", "CONFIG REWRITE", "CONFIG SET port 7")
        assert b"$4\r\nport\r\n$%d\r\n%d\r\n" % (len(str(server.port)), server.port) in answer
        assert answer.count(b"-NOPERM") == 2
        answer = talk(server, "AUTH eve pw", "CLIENT LIST ADDR 1.2.3.4:5", "MULTI", "CONFIG SET maxclients 5", "EXEC")
        assert answer.count(b"-NOPERM") == 2
        assert b"-EXECABORT" in answer
        with server.client() as client:
            assert int(client.config_get("maxclients")["maxclients"]) > 5
        after = server.calls()
        expected = {("GET", "NOPERM"): 1, ("CONFIG SET", "NOPERM"): 3, ("SET", ""): 1}
        assert {key: after[key] - before.get(key, 0) for key in expected} == expected
    finally:
        with server.client() as client:
            client.execute_command("ACL", "DELUSER", "ann", "eve")


@pytest.mark.parametrize("given", [True, False], ids=["with a user for us", "without"])
def test_without_the_default_user_we_still_serve(start: Start, tmp_path: Path, given: bool) -> None:
    acl = tmp_path / "users.acl"
    acl.write_text("user default off\nuser app on >pw ~* &* +@all\nuser sidecar on >own +@all\n")
    ours = ("--sidecar-engine-user", "sidecar", "--sidecar-engine-password", "own") if given else ()
    server = start("--save", "", "--aclfile", str(acl), *ours)
    with server.client(username="app", password="pw") as client:
        assert client.set("k", "v")
        assert client.get("k") == b"v"
        assert client.execute_command("ACL", "WHOAMI") == b"app"
    calls = server.calls()
    assert (calls["SET", ""], calls["GET", ""]) == (1, 1)
    assert server.get("/readyz")[0] == 200
    assert server.log_text().count("engine.no_rights") == (0 if given else 1)
    assert "own" not in " ".join(word for word in server.engine.cmdline())


@pytest.mark.parametrize("source", ["argument", "file", "run time"])
def test_the_password_holds_whoever_gave_it(start: Start, tmp_path: Path, source: str) -> None:
    if source == "file":
        (tmp_path / "valkey.conf").write_text('requirepass "se cret"\n')
        server = start(str(tmp_path / "valkey.conf"), "--save", "")
    elif source == "argument":
        server = start("--save", "", "--requirepass", "se cret")
    else:
        server = start("--save", "")
        with server.client() as client:
            client.config_set("requirepass", "se cret")
    assert talk(server, "GET k") == b"-NOAUTH Authentication required.\r\n"
    assert talk(server, "AUTH wrong").startswith(b"-WRONGPASS")
    assert talk(server, 'AUTH "se cret"', "GET k") == b"+OK\r\n$-1\r\n"
    server.password = "se cret"
    server.engine.kill()
    wait_until(lambda: "engine.restarted" in server.log_text(), "the engine is started again")
    wait_until(lambda: server.get("/readyz")[0] == 200, "the server is ready")
    # As when valkey-server is started again: what was only set at run time is forgotten.
    expected = b"$-1\r\n" if source == "run time" else b"-NOAUTH Authentication required.\r\n"
    assert talk(server, "GET k") == expected
    assert "engine.no_rights" not in server.log_text()


def test_a_renamed_command_is_still_ours_under_its_new_name(start: Start) -> None:
    server = start("--save", "", "--rename-command", "CONFIG", "SETTINGS", "--rename-command", "FLUSHALL", "")
    new = free_port()
    assert talk(server, "CONFIG GET port").startswith(b"-ERR unknown command 'CONFIG'")
    assert talk(server, "FLUSHALL").startswith(b"-ERR unknown command 'FLUSHALL'")
    assert b"$%d\r\n%d\r\n" % (len(str(server.port)), server.port) in talk(server, "SETTINGS GET port")
    assert talk(server, f"SETTINGS SET port {new}") == b"+OK\r\n"
    server.port = new
    assert talk(server, "PING") == b"+PONG\r\n"
    assert talk(server, "SETTINGS SET maxclients 11", "SETTINGS GET maxclients").endswith(b"$2\r\n11\r\n")
    assert_engine_has_no_port(server)
    calls = server.calls()
    assert calls["CONFIG SET", ""] == 2
    assert (calls["CONFIG GET", "ERR"], calls["FLUSHALL", "ERR"]) == (1, 1)
    assert ("_OTHER", "ERR") not in calls
