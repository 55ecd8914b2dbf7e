"""CLIENT LIST, INFO and KILL know clients by their true addresses, as if the engine listened itself."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from sidecar.relay.clients import text_of
from sidecar.relay.plan import encode
from tests.conftest import PATIENCE_S, Server, Start, receive, receive_exactly
from tests.sidecar.test_identity import OPEN, connect, talk


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
    server = start(*OPEN)
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


_UNIX_PATHS = ["valkey.sock", "a b.sock", "[x]:7.sock", "a:0", "/whole"]
_QUESTIONS = (
    "CLIENT INFO",
    "CLIENT LIST",
    *(f"CLIENT LIST {name} %s" for name in ("ADDR", "NOT-ADDR", "LADDR", "NOT-LADDR", "IP", "NOT-IP")),
)
_KILLS = ("CLIENT KILL %s", "CLIENT KILL ADDR %s SKIPME no", "CLIENT KILL LADDR %s SKIPME no", "CLIENT KILL IP %s")


def _unix_client(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(PATIENCE_S)
    sock.connect(str(path))
    return sock


def _seen_on_the_unix_socket(path: Path, given: str) -> list[object]:
    """What a server says of clients of its Unix socket, which `given` names, whatever it is asked with."""
    seen: list[object] = []
    names = [given, f"{given}:0", f"[{given}]:0", f"[{given}:0]", f"[{given}:0]:0", ":"]
    with _unix_client(path) as sock:
        for question in _QUESTIONS:
            for name in names:
                words = [word if word != "%s" else name for word in question.split(" ")]
                reply = text_of(raw(sock, *words))
                assert reply is not None
                seen.append((words, re.findall(r"addr=(.*?) laddr=(.*?) fd=.* flags=(\w+) ", reply.decode())))
                if "%s" not in question:
                    break
        for question in _KILLS:
            for name in names:
                words = [word if word != "%s" else name for word in question.split(" ")]
                with _unix_client(path) as victim:
                    assert raw(victim, "PING") == b"+PONG\r\n"
                    seen.append((words, raw(victim, *words)))
    return seen


def raw(sock: socket.socket, *words: str) -> bytes:
    """A reply as it came: a line, or a bulk string."""
    sock.sendall(encode([word.encode() for word in words]))
    reply = receive(sock, b"\r\n")
    if reply[:1] == b"$" and not reply.startswith(b"$-1"):
        head, _, rest = reply.partition(b"\r\n")
        reply += receive_exactly(sock, int(head[1:]) + 2 - len(rest))
    return reply


@pytest.mark.parametrize("given", _UNIX_PATHS)
def test_clients_of_the_unix_socket_are_named_as_valkey_names_them(
    start: Start, start_bare: Start, tmp_path: Path, given: str
) -> None:
    seen = []
    for n, begin in enumerate((start, start_bare)):
        server = begin("--save", "", "--unixsocket", str(tmp_path / str(n)) if given == "/whole" else given)
        path = tmp_path / str(n) if given == "/whole" else Path(server.process.cwd()) / given
        text = repr(_seen_on_the_unix_socket(path, str(path) if given == "/whole" else given))
        seen.append(text.replace(str(path), given))
    assert seen[0] == seen[1]
    assert f"'[{given}:0]:0', '[{given}:0]:0', 'U'" in seen[0]


def test_logs_name_the_unix_socket_and_no_port(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "a b.sock"
    server = start("--save", "", "--unixsocket", str(path), "--maxclients", "1", "--sidecar-slow-threshold", "1us")
    with _unix_client(path) as sock:
        assert raw(sock, "GET", "k") == b"$-1\r\n"
        slow = server.wait_said("command.slow")
        assert slow["network.peer.address"] == str(path)
        assert "network.peer.port" not in slow
        with _unix_client(path) as refused:
            assert receive(refused).startswith(b"-ERR max number of clients")
    said = server.wait_said("client.limit")["message"]
    assert said == "A client of the Unix socket was refused: there are maxclients (1) clients already."


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
        (me,) = fields(ask(local, f"CLIENT LIST FLAGS U ADDR [{path}:0]:0"))
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
