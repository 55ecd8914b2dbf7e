"""The private engine takes every client for a local one: what clients see and may do is as if it listened itself."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from sidecar.relay.listener import PROTECTED_ERROR
from tests.conftest import Server, Start, free_port, receive, wait_until
from tests.sidecar.relay.test_transparency import lines

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
_OPEN = ("--save", "", "--protected-mode", "no")
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


def _comparable(data: bytes) -> bytes:
    return re.sub(rb"(\$2\r\nid\r\n):\d+", rb"\1:N", data)


@pytest.mark.parametrize("setting", ["local", "yes", "no"])
def test_local_means_the_true_peer(start: Start, start_bare: Start, outer_address: str, setting: str) -> None:
    settings = tuple(word if word != "local" else setting for word in _LOCAL)
    server, bare = start(*_OPEN, *settings), start_bare(*_OPEN, *settings)
    for requests in _ASKED_FOR_LOCALLY:
        for host in ("127.0.0.1", outer_address):
            ours, theirs = (_comparable(talk(one, *requests, host=host)) for one in (server, bare))
            assert ours == theirs, (requests, host)


def test_local_holds_before_authentication_too(start: Start, start_bare: Start, outer_address: str) -> None:
    settings = (*_OPEN, *_LOCAL, "--requirepass", "secret")
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
    server = start(*_OPEN, *_LOCAL)
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
    server = start(*_OPEN, *_LOCAL, "--repl-diskless-sync-delay", "0")
    before = _settings(server)
    sock = connect(server, outer_address)
    sock.sendall(b"SYNC\r\n")
    assert sock.recv(1 << 16)
    sock.sendall(f"{request_}\r\n".encode())
    receive(sock)  # the engine refuses, and leaves a replica that errs
    assert _settings(server) == before
    with server.client() as client:
        assert client.info("commandstats").get("cmdstat_debug", {"calls": 0})["calls"] == 0
    assert_engine_has_no_port(server)


def test_a_password_counts_though_our_own_connection_was_just_killed(start: Start, outer_address: str) -> None:
    server = start("--save", "")
    assert denied(server, outer_address)
    sock = connect(server)
    sock.sendall(b"ACL SETUSER default >secret\r\nCLIENT KILL TYPE normal\r\n")
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
    assert (calls["CONFIG SET", ""], calls["_OTHER", "ERR"]) == (2, 2)


# ---- CLIENT


def name_of(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_open(sock: socket.socket) -> bool:
    sock.sendall(b"PING\r\n")
    try:
        return receive(sock, b"\r\n") == b"+PONG\r\n"
    except ConnectionResetError:
        return False


def fields(text: bytes) -> list[dict[str, str]]:
    found = []
    for line in text.decode().splitlines():
        pairs = [word.partition("=") for word in line.split(" ") if "=" in word]
        if pairs:
            found.append({name: value for name, _, value in pairs})
    return found


def ask(sock: socket.socket, request: str) -> bytes:
    """One reply: a line, or a bulk string's text."""
    sock.sendall(request.encode() + b"\r\nECHO \x01\r\n")
    reply = receive(sock, b"$1\r\n\x01\r\n").removesuffix(b"$1\r\n\x01\r\n")
    return reply.partition(b"\r\n")[2].removesuffix(b"\r\n") if reply.startswith(b"$") else reply


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "outer"])
def test_clients_are_listed_where_they_are(start: Start, outer_address: str, host: str) -> None:
    server = start(*_OPEN)
    host = outer_address if host == "outer" else host
    sock, other = connect(server, host), connect(server)
    assert is_open(other)
    local = f"[{host}]:{server.port}" if ":" in host else f"{host}:{server.port}"
    (me,) = fields(ask(sock, "CLIENT INFO"))
    assert (me["addr"], me["laddr"], me["flags"]) == (name_of(sock), local, "N")
    listed = fields(ask(sock, "CLIENT LIST"))
    assert {name_of(sock), name_of(other)} <= {client["addr"] for client in listed}
    assert [client["id"] for client in fields(ask(sock, f"CLIENT LIST ADDR {name_of(sock)}"))] == [me["id"]]
    assert me["id"] in [client["id"] for client in fields(ask(sock, f"CLIENT LIST LADDR {local}"))]
    assert me["id"] in [client["id"] for client in fields(ask(sock, f"CLIENT LIST IP {host}"))]
    assert me["id"] not in [client["id"] for client in fields(ask(sock, f"CLIENT LIST NOT-IP {host}"))]
    assert me["id"] not in [client["id"] for client in fields(ask(sock, f"CLIENT LIST NOT-ADDR {name_of(sock)}"))]


def test_clients_of_the_unix_socket_are_listed_with_its_path(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "valkey.sock"
    start("--save", "", "--unixsocket", str(path))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        (me,) = fields(ask(sock, "CLIENT INFO"))
    assert (me["addr"], me["laddr"], me["flags"]) == (f"{path}:0", f"{path}:0", "U")


def test_flags_are_filtered_as_valkey_filters_them(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "valkey.sock"
    server = start("--save", "", "--unixsocket", str(path))
    asking, victim, subscriber, monitor = (connect(server) for _ in range(4))
    ids = {sock: ask(sock, "CLIENT ID").strip(b":\r\n").decode() for sock in (asking, victim, subscriber, monitor)}
    subscriber.sendall(b"SUBSCRIBE channel\r\n")
    receive(subscriber, b":1\r\n")
    monitor.sendall(b"MONITOR\r\n")
    receive(monitor, b"+OK\r\n")

    def listed(filters: str) -> set[str]:
        return {client["id"] for client in fields(ask(asking, f"CLIENT LIST {filters}"))} & set(ids.values())

    plain = {ids[asking], ids[victim]}
    assert listed("FLAGS N") == plain
    assert listed("FLAGS U") == set()
    assert listed("NOT-FLAGS N") == {ids[subscriber], ids[monitor]}
    assert listed("NOT-FLAGS U") == set(ids.values())
    assert listed("FLAGS PN") == set()
    assert listed("FLAGS P") == {ids[subscriber]}
    assert listed("FLAGS P FLAGS N") == plain  # the last one counts
    assert listed("FLAGS N FLAGS S") == {ids[monitor]}
    assert listed("NOT-FLAGS US FLAGS O") == {ids[monitor]}
    assert ask(asking, "CLIENT LIST FLAGS N?").startswith(b"-ERR Unknown flags")
    with socket.socket(socket.AF_UNIX) as local:
        local.connect(str(path))
        (me,) = fields(ask(local, f"CLIENT LIST FLAGS U ADDR {path}:0"))
        assert me["id"] == ask(local, "CLIENT ID").strip(b":\r\n").decode()
    assert ask(asking, "CLIENT KILL FLAGS N") == b":1\r\n"
    assert not is_open(victim)
    assert is_open(asking)


def test_filters_are_joined_as_valkey_joins_them(server: Server, bare: Server) -> None:
    one, two = connect(server), connect(server)
    ids = [ask(sock, "CLIENT ID").strip(b":\r\n").decode() for sock in (one, two)]
    ask(one, "CLIENT SETNAME first")
    for filters, expected in (
        (f"ID {ids[0]} {ids[1]} ADDR {name_of(one)}", [ids[0]]),
        (f"ADDR {name_of(one)} ID {ids[1]}", []),
        (f"TYPE normal ADDR {name_of(two)}", [ids[1]]),
        (f"TYPE pubsub ADDR {name_of(two)}", []),
        (f"NAME first LADDR 127.0.0.1:{server.port}", [ids[0]]),
        (f"addr {name_of(one)} addr {name_of(two)}", [ids[1]]),
        ("ADDR 192.0.2.77:1", []),
    ):
        assert [c["id"] for c in fields(ask(one, f"CLIENT LIST {filters}"))] == expected, filters
    for wrong in ("ADDR", "ID", "ID x", "ADDR x ID", "ADDR x ID 0", "ADDR x FOO", "FOO bar ADDR x", "ID 1 ADDR"):
        for command in ("LIST", "KILL SKIPME yes"):
            assert talk(server, f"CLIENT {command} {wrong}") == talk(bare, f"CLIENT {command} {wrong}"), wrong


def test_a_client_is_killed_by_its_true_address(server: Server) -> None:
    killer, victim, bystander = connect(server), connect(server), connect(server)
    assert all(is_open(sock) for sock in (killer, victim, bystander))
    assert ask(killer, "CLIENT KILL ADDR 192.0.2.77:1") == b":0\r\n"
    assert ask(killer, "CLIENT KILL 192.0.2.77:1") == b"-ERR No such client\r\n"
    assert ask(killer, f"CLIENT KILL ADDR {name_of(victim)}") == b":1\r\n"
    assert not is_open(victim)
    assert is_open(bystander)
    assert ask(killer, f"CLIENT KILL {name_of(bystander)}") == b"+OK\r\n"
    assert not is_open(bystander)
    assert is_open(killer)


def test_a_client_may_kill_itself_where_valkey_lets_it(server: Server) -> None:
    sock = connect(server)
    assert ask(sock, f"CLIENT KILL ADDR {name_of(sock)}") == b":0\r\n"  # SKIPME yes
    sock.sendall(f"CLIENT KILL ADDR {name_of(sock)} SKIPME no\r\n".encode())
    assert receive(sock) == b":1\r\n"
    sock = connect(server)
    sock.sendall(f"CLIENT KILL {name_of(sock)}\r\n".encode())
    assert receive(sock) == b"+OK\r\n"


def test_all_clients_of_an_address_of_ours_are_killed_but_the_asking_one(server: Server) -> None:
    killer, *victims = (connect(server) for _ in range(4))
    elsewhere = connect(server, "127.0.0.2")
    assert all(is_open(sock) for sock in (killer, elsewhere, *victims))
    assert ask(killer, f"CLIENT KILL LADDR 127.0.0.1:{server.port}") == b":3\r\n"
    assert not any(is_open(sock) for sock in victims)
    assert is_open(elsewhere)
    assert is_open(killer)


def test_killing_in_a_transaction_answers_with_it(server: Server) -> None:
    killer, victim = connect(server), connect(server)
    assert is_open(victim)
    killer.sendall(f"MULTI\r\nCLIENT KILL {name_of(victim)}\r\nCLIENT INFO\r\nEXEC\r\nECHO \x01\r\n".encode())
    answer = receive(killer, b"$1\r\n\x01\r\n")
    assert answer.startswith(b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n$")
    assert f"addr={name_of(killer)} laddr=127.0.0.1:{server.port}".encode() in answer
    assert not is_open(victim)


# ---- CONFIG SET of what is ours


def test_no_change_opens_a_port_around_us(start: Start, outer_address: str) -> None:
    server = start(*_OPEN)
    with server.client(single_connection_client=True) as client:
        for _ in range(2):
            server.port = free_port()
            client.config_set("port", server.port)
            assert_engine_has_no_port(server)
        client.config_set("bind", "127.0.0.1")
        with pytest.raises(ConnectionRefusedError):
            connect(server, outer_address).close()
        client.config_set("bind", f"127.0.0.1 {outer_address}")
        assert_engine_has_no_port(server)
        new = free_port()
        answer = talk(server, "MULTI", f"CONFIG SET port {new}", "CONFIG GET port", "EXEC")
        assert answer.endswith(b"*2\r\n+OK\r\n*2\r\n$4\r\nport\r\n$5\r\n%d\r\n" % new)
        server.port = new
        assert_engine_has_no_port(server)
    assert talk(server, "PING", host=outer_address) == b"+PONG\r\n"


def test_a_discarded_change_is_none(server: Server) -> None:
    answer = talk(server, "MULTI", f"CONFIG SET port {free_port()}", "DISCARD", "CONFIG GET port")
    assert answer.endswith(b"\r\n%d\r\n" % server.port)
    assert talk(server, "PING") == b"+PONG\r\n"


def _settings(server: Server) -> dict[str, str]:
    with server.client(decode_responses=True) as client:
        return dict(client.config_get("*"))


@pytest.mark.parametrize(
    "change",
    [
        "maxmemory-samples 9 timeout -5 maxclients 500",
        "timeout 5 maxmemory-samples none",
        "timeout 5 no-such-setting 1",
        "Timeout 5 tcp-keepalive x",
        "timeout 5 TIMEOUT 6",
        "maxclients 0 timeout 7",
        "timeout 5 tcp-backlog 9",
        "port 70000",
        "timeout",
        "port 1 timeout",
        "bind 1.2.3.4.5 maxmemory-samples 9",
        "protected-mode maybe timeout 9",
    ],
)
def test_several_settings_change_together_or_not_at_all(server: Server, bare: Server, change: str) -> None:
    before = _settings(server)
    answer = talk(server, f"CONFIG SET {change}")
    assert answer == talk(bare, f"CONFIG SET {change}")
    assert answer.startswith(b"-ERR")
    assert _settings(server) == before


def test_a_port_that_is_taken_takes_the_other_settings_back(start: Start) -> None:
    server = start("--save", "", "--maxclients", "100")
    before = _settings(server)
    with socket.create_server(("0.0.0.0", 0)) as taken:
        change = f"CONFIG SET maxmemory-samples 9 requirepass new port {taken.getsockname()[1]} maxclients 50 timeout 9"
        assert b"argument 'port') - Unable to listen on this port" in talk(server, change)
    assert _settings(server) == before
    assert talk(server, "CONFIG SET maxmemory-samples 9 timeout 9", "CONFIG GET timeout").endswith(b"$1\r\n9\r\n")


def test_a_client_limit_holds_from_now_on(start: Start, start_bare: Start) -> None:
    answers = []
    for server in (start("--save", ""), start_bare()):
        first = connect(server)
        assert is_open(first)
        wait_until(lambda server=server: _connected(server) == 1, "the others have left")
        first.sendall(b"CONFIG SET maxclients 1\r\n")
        assert receive(first, b"\r\n") == b"+OK\r\n"
        answers.append(receive(connect(server)))
    assert answers == [b"-ERR max number of clients reached\r\n"] * 2


def _connected(server: Server) -> int:
    match = re.search(rb"connected_clients:(\d+)", server_info(server))
    assert match is not None
    return int(match[1]) - (0 if server.sockets else 1)


def server_info(server: Server) -> bytes:
    sock = server.sockets[-1] if server.sockets else connect(server)
    sock.sendall(b"INFO everything\r\nECHO \x01\r\n")
    return receive(sock, b"$1\r\n\x01\r\n")


def test_idle_clients_are_closed_from_now_on(start: Start) -> None:
    server = start("--save", "")
    idle, listening = connect(server), connect(server)
    listening.sendall(b"SUBSCRIBE news\r\n")
    receive(listening, b":1\r\n")
    assert is_open(idle)
    talk(server, "CONFIG SET timeout 1")
    assert receive(idle) == b""
    with server.client() as client:
        assert client.publish("news", "x") == 1  # Valkey spares subscribers


def test_keepalive_probes_follow_the_setting(start: Start) -> None:
    server = start("--save", "")

    def timer() -> str:
        """What the kernel's table says of our side of a new connection: the kind of timer that runs."""
        sock = connect(server)
        assert is_open(sock)
        far = sock.getsockname()[1]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, remote, _, _, kind, *_ = line.split()
            if local.endswith(f":{server.port:04X}") and remote.endswith(f":{far:04X}"):
                return kind.partition(":")[0]
        raise AssertionError("the connection is not in the table")

    assert timer() == "02"  # keepalive
    talk(server, "CONFIG SET tcp-keepalive 0")
    assert timer() == "00"
    talk(server, "CONFIG SET tcp-keepalive 60")
    assert timer() == "02"


# ---- what CONFIG GET and INFO show


def test_settings_are_those_of_a_bare_server(start: Start, start_bare: Start, tmp_path: Path) -> None:
    socket_path = tmp_path / "valkey.sock"
    common = ("--save", "", "--maxclients", "777", "--timeout", "99", "--unixsocketperm", "700", "--tcp-backlog", "44")
    ours = start(*common, "--unixsocket", str(socket_path), "--logfile", "our.log", wait=False)
    wait_until(lambda: socket_path.exists(), "the socket is there")
    wait_until(lambda: _pings(ours), "the server answers")
    theirs = start_bare(*common, "--unixsocket", str(socket_path) + "2", "--logfile", "our.log")
    shown, expected = _settings(ours), _settings(theirs)
    assert shown["port"] == str(ours.port)
    assert shown["unixsocket"] == str(socket_path)
    different = {"port", "unixsocket", "dir"}
    assert {k: v for k, v in shown.items() if k not in different} == {
        k: v for k, v in expected.items() if k not in different
    }
    assert "valkey-sidecar-" not in "".join(shown.values())


def test_the_port_that_is_announced_is_the_one_we_listen_on(start: Start) -> None:
    server = start("--save", "")
    with server.client(decode_responses=True, single_connection_client=True) as client:
        assert client.config_get("[rs]*-announce-port") == {"replica-announce-port": "0", "slave-announce-port": "0"}
        client.config_set("replica-announce-port", 7000)
        assert client.config_get("slave-announce-port") == {"slave-announce-port": "7000"}
        client.config_set("port", free_port())
        assert client.config_get("replica-announce-port") == {"replica-announce-port": "7000"}
        client.config_set("slave-announce-port", 0)
        assert client.config_get("replica-announce-port") == {"replica-announce-port": "0"}


def _pings(server: Server) -> bool:
    try:
        return talk(server, "PING") == b"+PONG\r\n"
    except OSError:
        return False


@pytest.mark.parametrize("protocol", [2, 3])
def test_settings_have_the_same_form_in_both_protocols(server: Server, bare: Server, protocol: int) -> None:
    requests = [f"HELLO {protocol}", "CONFIG GET maxclients* *backlog", "CONFIG GET nothing", "CONFIG GET"]
    ours, theirs = (_comparable(talk(one, *requests)) for one in (server, bare))
    # The limit of open files may be too low for Valkey's default, and differs by what each of us needs for itself.
    limit = re.compile(rb"maxclients\r\n\$\d+\r\n\d+")
    assert limit.sub(b"", ours) == limit.sub(b"", theirs)


def test_info_names_us(start: Start, tmp_path: Path) -> None:
    conf = tmp_path / "my valkey.conf"
    socket_path = tmp_path / "s"
    conf.write_text(f'save ""\nunixsocket {socket_path}\nmaxclients 55\n')
    server = start(str(conf), "--bind", "127.0.0.1 -::1")
    shown = dict(line.split(":", 1) for line in server_info(server).decode().splitlines() if ":" in line)
    assert shown["tcp_port"] == str(server.port)
    assert shown["config_file"] == str(conf)
    assert shown["maxclients"] == "55"
    assert shown["listener0"] == f"name=tcp,bind=127.0.0.1,bind=-::1,port={server.port}"
    assert shown["listener1"] == f"name=unix,bind={socket_path}"
    assert "valkey-sidecar-" not in "".join(shown.values())


def test_our_own_connection_is_no_client_of_the_users(start: Start) -> None:
    server = start("--save", "")
    one = connect(server)
    wait_until(lambda: _connected(server) == 1, "the test's first connections have left")
    others = [connect(server) for _ in range(3)]
    assert all(is_open(sock) for sock in others)
    assert _connected(server) == 4
    assert len(fields(ask(one, "CLIENT LIST"))) == 4
    assert fields(ask(one, "CLIENT LIST NAME valkey-sidecar")) == []
    assert len(fields(ask(one, "CLIENT LIST NOT-IP 127.0.0.1"))) == 0
    assert ask(one, "CLIENT KILL NOT-IP 127.0.0.1") == b":0\r\n"
    assert server.metrics()['valkey_client_connections{network_transport="tcp",tls="false"}'] == 4


def test_info_lists_the_same_fields_as_a_bare_server(server: Server, bare: Server) -> None:
    ours, theirs = (
        [line.partition(b":")[0] for line in talk(one, "INFO everything").splitlines()[1:]] for one in (server, bare)
    )
    # A bare server's listener loses its line to a CONFIG SET bind that fails.
    volatile = re.compile(rb"cmdstat_|latency_|errorstat_|listener")
    assert [name for name in ours if not volatile.match(name)] == [name for name in theirs if not volatile.match(name)]


# ---- CONFIG REWRITE without a file


def test_without_a_file_there_is_nothing_to_rewrite(server: Server, bare: Server) -> None:
    for requests in (["CONFIG REWRITE"], ["MULTI", "CONFIG REWRITE", "PING", "EXEC"], ["CONFIG REWRITE x"]):
        assert talk(server, *requests) == talk(bare, *requests)


@pytest.mark.parametrize("prelude", ["", "MULTI\nSUBSCRIBE a\nEXEC\nUNSUBSCRIBE"], ids=["followed", "raw"])
@pytest.mark.parametrize("name", ["tls-port", "TLS-Port", "tls-cert-file", "rdma-port"])
def test_no_listener_can_be_opened_around_us_by_tls_or_rdma_settings(start: Start, name: str, prelude: str) -> None:
    server = start("--save", "")
    sock = server.connect()
    sock.sendall(lines(f"{prelude}\nCONFIG SET {name} 7777\nECHO end".strip()))
    text = receive(sock, b"end\r\n")
    assert b"-ERR CONFIG SET failed" in text
    if not prelude:
        assert f"argument '{name}') - not available yet in valkey-sidecar".encode() in text
    with server.client() as client:
        assert client.ping()
    assert server.metrics()["valkey_sidecar_engine_restarts_total"] == 0
