"""Every limit on clients: what happens at it, and that the metrics and the log say so."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import valkey

from sidecar.engine.limits import EngineLimits, limits_memory
from tests.conftest import Server, Start, receive, receive_exactly, wait_until
from tests.sidecar.relay.test_transparency import lines

_KB = 1 << 10
_MB = 1 << 20
_ONE = ("--save", "", "--sidecar-workers", "1")


def reached(server: Server, limit: str) -> int:
    return int(server.metric(f'valkey_sidecar_limit_reached_total{{limit="{limit}"}}'))


def lanes(server: Server) -> int:
    return int(server.metric('valkey_sidecar_upstream_connections{route="lane"}'))


def ask(sock: socket.socket, request: bytes, answer: bytes) -> None:
    sock.sendall(request)
    assert receive_exactly(sock, len(answer)) == answer


def have_lane(server: Server, socks: Sequence[socket.socket]) -> bool:
    """Whether there is one, when each of these clients has sent a command."""
    for sock in socks:
        ask(sock, lines("PING"), b"+PONG\r\n")
    return lanes(server) == 1


def never_have_lane(server: Server, socks: Sequence[socket.socket], rounds: int = 20) -> None:
    """Though they send so much: known when the worker has told that these were answered."""
    for _ in range(rounds):
        for sock in socks:
            ask(sock, lines("ECHO x"), b"$1\r\nx\r\n")
    wait_until(lambda: server.calls().get(("ECHO", "")) == rounds * len(socks), "all are counted")
    assert lanes(server) == 0


def riders(server: Server, count: int = 2) -> list[socket.socket]:
    """Clients whose commands go by lane."""
    socks = [server.connect() for _ in range(count)]
    wait_until(lambda: have_lane(server, socks), "there is a lane")
    return socks


@contextlib.contextmanager
def said(server: Server, limit: str, words: str, times: int = 1) -> Iterator[None]:
    """What happens in here reaches the limit so often, and the log says it with these words."""
    before = reached(server, limit)
    yield
    wait_until(lambda: reached(server, limit) == before + times, f"{limit} was reached {times} times")
    assert words in server.wait_said("client.limit")["message"]


def test_maxclients(start: Start) -> None:
    server = start(*_ONE, "--maxclients", "3")
    wait_until(lambda: server.metric("valkey_client_connections{") == 0, "nobody is there")
    for _ in range(3):
        ask(server.connect(), lines("PING"), b"+PONG\r\n")
    with said(server, "maxclients", "was refused: there are maxclients (3) clients already"):
        assert receive(server.connect()) == b"-ERR max number of clients reached\r\n"


def test_timeout(start: Start) -> None:
    server = start(*_ONE, "--timeout", "1", "--loglevel", "verbose")
    sock = server.connect()
    with said(server, "timeout", "is cut off: it was idle for more than timeout (1) seconds"):
        assert receive(sock) == b""


def test_a_request_that_must_be_seen_whole(start: Start) -> None:
    server = start(*_ONE, "--sidecar-client-query-buffer-limit", "64kb")
    value = b"$%d\r\n%b\r\n" % (100 * _KB, b"x" * (100 * _KB))
    sock = server.connect()
    ask(sock, b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n" + value, b"+OK\r\n")
    name = "sidecar-client-query-buffer-limit"
    with said(server, name, f"is cut off: a request that must be seen whole has more than {name} (65536) bytes"):
        sock.sendall(b"*4\r\n$6\r\nCONFIG\r\n$3\r\nSET\r\n$5\r\ndummy\r\n" + value)
        assert receive(sock) == b"-ERR Protocol error: too large a request for a command that is inspected\r\n"


def test_replies_by_lane_that_nobody_reads(start: Start) -> None:
    server = start(*_ONE, "--sidecar-client-output-buffer-limit", "1mb")
    with server.client() as client:
        client.set("large", b"x" * (64 * _MB))
    first, second = riders(server)
    name = "sidecar-client-output-buffer-limit"
    with said(server, name, f"is cut off: it has left more than {name} (1048576) bytes of replies unread"):
        first.sendall(lines("GET large"))
    ask(second, lines("PING"), b"+PONG\r\n")


def test_what_all_clients_have_kept_for_them(start: Start) -> None:
    """Who has most kept for it makes room for the others."""
    server = start(*_ONE, "--sidecar-maxmemory-clients", "1mb")
    large, small, other = server.connect(), server.connect(), server.connect()
    begun = b"*3\r\n$6\r\nCONFIG\r\n$3\r\nSET\r\n$%d\r\n"
    name = "sidecar-maxmemory-clients"
    with said(server, name, f"is cut off: more than {name} (1048576) bytes are kept for clients, most of them for it"):
        for sock, size in ((large, 700 * _KB), (small, 500 * _KB)):
            sock.sendall(begun % (900 * _KB) + b"x" * size)
            ask(other, lines("PING"), b"+PONG\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert receive(large) == b""
    small.sendall(b"x" * 400 * _KB + b"\r\n")
    assert receive(small, b"\r\n").startswith(b"-ERR wrong number of arguments for 'config|set' command")


@pytest.mark.parametrize("limit", ["client-in-flight-limit", "in-flight-limit"])
def test_commands_in_flight(start: Start, limit: str) -> None:
    """All are executed; what is beyond the limit is not measured."""
    server = start(*_ONE, f"--sidecar-{limit}", "1000")
    sock = server.connect()
    with said(server, f"sidecar-{limit}", f"sidecar-{limit} (1000) commands in flight"):
        sock.sendall(lines("BLPOP list 0") + lines("INCR n") * 1500)
        wait_until(lambda: reached(server, f"sidecar-{limit}") == 1, "the limit is reached")
        with server.client() as client:
            client.rpush("list", "x")
        expected = b"*2\r\n$4\r\nlist\r\n$1\r\nx\r\n" + b"".join(b":%d\r\n" % n for n in range(1, 1501))
        assert receive_exactly(sock, len(expected)) == expected
    assert server.metric('valkey_sidecar_sessions_raw_total{reason="too_many_in_flight"}') == 1
    assert server.calls()["INCR", ""] < 1000


def test_a_transaction_is_no_way_around_it(start: Start) -> None:
    server = start(*_ONE, "--sidecar-client-in-flight-limit", "1000")
    sock = server.connect()
    with said(server, "sidecar-client-in-flight-limit", "commands in flight"):
        ask(sock, lines("MULTI") + lines("INCR n") * 1500, b"+OK\r\n" + b"+QUEUED\r\n" * 1500)
    sock.sendall(lines("EXEC"))
    assert receive(sock, b":1500\r\n").startswith(b"*1500\r\n:1\r\n")


# ---- the engine's own limits


def unread(server: Server, size: int) -> socket.socket:
    """A client that has asked for so many bytes, and reads none."""
    sock = server.connect()
    with server.client() as client:
        client.set("large", b"x" * size)
    sock.sendall(lines("GET large\nGET large"))
    return sock


@pytest.mark.parametrize("how", ["argument", "CONFIG SET", "transaction"])
def test_a_client_that_the_engine_cuts_off_for_its_output_costs_nobody_a_lane(start: Start, how: str) -> None:
    limit = "normal 1mb 0 0"
    server = start(*_ONE, *(("--client-output-buffer-limit", *limit.split()) if how == "argument" else ()))
    if how == "argument":
        others = [server.connect() for _ in range(4)]
    else:
        others = riders(server, 4)
        request = (
            b"*4\r\n$6\r\nCONFIG\r\n$3\r\nSET\r\n$26\r\nclient-output-buffer-limit\r\n$14\r\n%b\r\n" % limit.encode()
        )
        if how == "CONFIG SET":
            ask(others[0], request, b"+OK\r\n")
        else:
            ask(others[0], lines("MULTI") + request + lines("EXEC"), b"+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n")
    before = reached(server, "client-output-buffer-limit")
    bad = unread(server, 32 * _MB)
    for _ in range(100):
        for sock in others:
            ask(sock, lines("PING"), b"+PONG\r\n")
    wait_until(lambda: reached(server, "client-output-buffer-limit") == before + 1, "the engine has cut it off")
    with contextlib.suppress(ConnectionResetError):
        assert len(receive(bad)) < 64 * _MB
    assert server.metric("valkey_sidecar_lane_broken_total") == 0
    server.wait_said("output buffer limits")


def test_without_such_a_limit_there_are_lanes_again(start: Start) -> None:
    server = start(*_ONE, "--maxmemory-clients", "100mb")
    socks = [server.connect() for _ in range(4)]
    never_have_lane(server, socks)
    ask(socks[0], lines("CONFIG SET maxmemory-clients 0"), b"+OK\r\n")
    wait_until(lambda: have_lane(server, socks), "there is a lane")


def test_a_limit_that_the_engine_has_from_its_last_life_is_known(start: Start, tmp_path: Path) -> None:
    conf = tmp_path / "valkey.conf"
    conf.write_text("")
    server = start(str(conf), *_ONE)
    with valkey.Valkey(unix_socket_path=str(server.private_folder / "engine.sock")) as behind_our_back:
        behind_our_back.config_set("client-output-buffer-limit", "normal 100mb 0 0")
    with server.client() as client:
        client.config_rewrite()
    server.engine.kill()
    wait_until(server.answers, "another engine serves")
    server.wait_ready()
    socks = [server.connect() for _ in range(4)]
    never_have_lane(server, socks)
    with server.client() as client:
        client.config_set("client-output-buffer-limit", "normal 0 0 0")
    wait_until(lambda: have_lane(server, socks), "there is a lane")


def test_a_query_that_is_too_long_for_the_engine(start: Start, start_bare: Start) -> None:
    limit = ("--client-query-buffer-limit", "1mb")
    server, bare = start(*_ONE, *limit), start_bare(*limit)
    for one in (server, bare):
        sock = one.connect()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(lines("MULTI") + lines(f"SET a {'x' * 200 * _KB}") * 20)
            assert set(receive(sock).split(b"\r\n")) <= {b"+OK", b"+QUEUED", b""}
    wait_until(lambda: reached(server, "client-query-buffer-limit") == 1, "the engine has cut it off")
    server.wait_said("max query buffer length")


# ---- the words


@pytest.mark.parametrize(
    ("name", "values", "limited"),
    [
        ("maxmemory-clients", "0", False),
        ("maxmemory-clients", "0%", False),
        ("maxmemory-clients", "5%", True),
        ("maxmemory-clients", "10mb", True),
        ("maxmemory-clients", "", None),
        ("client-output-buffer-limit", "normal 0 0 0", False),
        ("client-output-buffer-limit", "normal 0mb 0kb 60", False),
        ("client-output-buffer-limit", "NORMAL 1mb 0 0", True),
        ("client-output-buffer-limit", "normal 0 1mb 60", True),
        ("client-output-buffer-limit", "pubsub 32mb 8mb 60", None),
        ("client-output-buffer-limit", "pubsub 32mb 8mb 60 normal 1 0 0", True),
        ("client-output-buffer-limit", "normal 1mb 0 0 normal 0 0 0", False),
        ("client-output-buffer-limit", "normal 1mb", None),
    ],
)
def test_whether_a_setting_limits_a_normal_client(name: str, values: str, limited: bool | None) -> None:
    assert limits_memory(name, values.split()) is limited


def test_the_engines_counts_go_on_when_it_begins_anew() -> None:
    limits = EngineLimits()
    for count in ("0", "2", "2", "5", "1", "1", "x", "3"):
        limits.saw_info({"evicted_clients": count})
    limits.saw_info({})
    assert limits.reached == {"maxmemory-clients": 5 + 1 + 3}
    limits.saw_info({"evicted_clients": "4"})
    limits.new_life()
    limits.saw_info({"evicted_clients": "4"})
    assert limits.reached == {"maxmemory-clients": 5 + 1 + 3 + 4 + 4}
