"""What the engine refuses at a header is refused at that header, with its bytes, also in requests that we look at before they pass."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sidecar.relay.lane_rules import HELD_FOR_LANES
from sidecar.relay.special import HELD
from tests.conftest import PATIENCE_S, Server, Start, launch, launch_bare, receive, receive_exactly, wait_until
from tests.sidecar.relay.test_transparency import bulk, lines

_PROMPT_S = 0.2
"""So long may an answer take that the engine gives at once."""

_SILENT_S = 0.5
"""Who is silent for so long waits for more."""

_ENOUGH = 20
"""Mistakes that say what is wrong."""

_AT_A_TIME = 500

_PASSWORD = "secret"
_LOGIN = bulk("AUTH", _PASSWORD)

_COMMANDS = sorted(
    HELD
    | HELD_FOR_LANES
    | {"AUTH", "HELLO", "SELECT", "CLIENT SETNAME", "CLIENT SETINFO", "TRACEPARENT", "XREAD", "XREADGROUP"}
    | {"GET", "CONFIG", "CONFIG NOSUCH", "NOSUCH"}
)

_HEADERS = {
    "too long": b"$99999999999\r\n",
    "longer than proto-max-bulk-len": b"$600000000\r\n",
    "longer than a number": b"$99999999999999999999\r\n",
    "negative": b"$-1\r\n",
    "no number": b"$x\r\n",
    "empty": b"$\r\n",
    "a sign": b"$+5\r\n",
    "a leading zero": b"$05\r\n",
    "an integer": b":1\r\n",
    "an array": b"*1\r\n",
    "a wrong line end": b"$3\rx",
    "a length without its end": b"$3\r",
    "20,000 bytes": b"$20000\r\n",
    "16,385 bytes": b"$16385\r\n",
    "16,384 bytes": b"$16384\r\n",
}

_COUNTS = [
    *(
        b"*-1\r\n",
        b"*-2\r\n",
        b"*0\r\n",
        b"*-0\r\n",
        b"*x\r\n",
        b"*\r\n",
        b"*10\r\n",
        b"*11\r\n",
        b"*100\r\n",
        b"*2147483647\r\n",
    ),
    *(
        b"*2147483648\r\n",
        b"*99999999999999999999\r\n",
        b"*2\rx",
        b"*11\rx",
        b"*11\r",
        b"*-1\r\n*11\r\n",
        b"*0\r\n*100\r\n",
    ),
    *(
        b"*2\r\n$-1\r\n",
        b"*2\r\n:1\r\n",
        b"*2\r\n$99999999999\r\n",
        b"*2\r\n$20000\r\n",
        b"*2\r\n$3\rx",
        b"*2\r\n$6\r\nCONFIGxx$3",
    ),
]


def _begun() -> list[bytes]:
    """Requests that end with a header."""
    found = list(_COUNTS)
    for command in _COMMANDS:
        for header in _HEADERS.values():
            found += [b"*7\r\n" + _words(command) + header, b"*7\r\n" + _words(command) + b"$1\r\na\r\n" + header]
        found += [b"*11\r\n" + _words(command), b"*5\r\n" + _words(command) + b"$3\r\nabcde$1\r\n"]
    return found


def _whole() -> list[bytes]:
    """Requests of which a client that has not logged in may not send so much."""
    large = [bulk(*command.split(), b"x" * 20_000) for command in _COMMANDS]
    return large + [bulk(*command.split(), *["x"] * 12) for command in _COMMANDS] + [bulk(b"DEBUG\0x" + b"x" * 20_000)]


def _words(command: str) -> bytes:
    return b"".join(b"$%d\r\n%b\r\n" % (len(word), word.encode()) for word in command.split())


def _fresh(server: Server) -> socket.socket:
    return server.connect()


def _told(server: Server, request: bytes, answer: bytes) -> socket.socket:
    sock = server.connect()
    sock.sendall(request)
    assert receive_exactly(sock, len(answer)) == answer
    return sock


def _home(server: Server) -> socket.socket:
    """Its commands go by its own connection for good."""
    return _told(server, lines("CLIENT NO-EVICT OFF"), b"+OK\r\n")


def _riding(server: Server) -> socket.socket:
    sock = _told(server, lines("PING"), b"+PONG\r\n")
    for _ in range(2):
        sock.sendall(lines("PING"))
        assert receive_exactly(sock, 7) == b"+PONG\r\n"
    return sock


def _logged_in(server: Server) -> socket.socket:
    return _told(server, _LOGIN, b"+OK\r\n")


def _logged_in_in_resp3(server: Server) -> socket.socket:
    sock = _logged_in(server)
    sock.sendall(lines("HELLO 3\nPING"))
    while not sock.recv(4096).endswith(b"+PONG\r\n"):
        pass
    return sock


def _logged_out(server: Server) -> socket.socket:
    return _told(server, _LOGIN + lines("RESET"), b"+OK\r\n+RESET\r\n")


def _turned_away(server: Server) -> socket.socket:
    return _told(
        server,
        lines("AUTH wrong\nPING"),
        b"-WRONGPASS invalid username-password pair or user is disabled.\r\n-NOAUTH Authentication required.\r\n",
    )


Connect = Callable[[Server], socket.socket]
Pair = tuple[Server, Server]
Record = Callable[[str, object], None]


def _send(sock: socket.socket, request: bytes) -> None:
    with contextlib.suppress(ConnectionError):  # it refuses while more is on its way
        sock.sendall(request)


def _answer(sock: socket.socket, timeout: float) -> bytes:
    """What comes until the end, or until nothing does for so long."""
    found = bytearray()
    sock.settimeout(timeout)
    try:
        while piece := sock.recv(65536):
            found += piece
    except TimeoutError:
        return bytes(found)
    except ConnectionResetError:  # Valkey does not read what it has refused
        pass
    return bytes(found) + b"(closed)"


def _answers(server: Server, connect: Connect, requests: list[bytes]) -> list[bytes]:
    """To each, after the same while for as many as a process may have sockets."""
    found: list[bytes] = []
    for first in range(0, len(requests), _AT_A_TIME):
        some = requests[first : first + _AT_A_TIME]
        socks = [connect(server) for _ in some]
        for sock, request in zip(socks, some, strict=True):
            _send(sock, request)
        time.sleep(_SILENT_S)  # nothing tells that nothing will come
        found += [_answer(sock, 0.001) for sock in socks]
        server.close_sockets()
    return found


def _prompt_answer(server: Server, connect: Connect, request: bytes) -> tuple[bytes, float]:
    """And how long it took, at best of three: a busy machine is no fault."""
    best = 0.0, b""
    for attempt in range(3):
        sock = connect(server)
        _send(sock, request)
        began = time.monotonic()
        answer = _answer(sock, 2 * _PROMPT_S)
        took = time.monotonic() - began
        sock.close()
        if not attempt or took < best[0]:
            best = took, answer
        if took < _PROMPT_S:
            break
    return best[1], best[0]


def _compare(server: Server, bare: Server, connect: Connect, requests: list[bytes]) -> dict[str, float]:
    """Ours answers what the bare engine answers, and as soon; and is silent where it is."""
    expected = _answers(bare, connect, requests)
    refused = [i for i, answer in enumerate(expected) if answer.startswith(b"-ERR Protocol error")]
    silent = [i for i, answer in enumerate(expected) if not answer]
    wrong, slowest = {}, 0.0
    for i in refused:
        answer, took = _prompt_answer(server, connect, requests[i])
        slowest = max(slowest, took)
        if answer != expected[i] or took > _PROMPT_S:
            wrong[requests[i][:80]] = (answer, expected[i], took)
        if len(wrong) == _ENOUGH:
            break
    for i, answer in zip(silent, _answers(server, connect, [requests[i] for i in silent]), strict=True):
        if answer:
            wrong[requests[i][:80]] = (answer, b"", 0.0)
    assert len(refused) > len(requests) // 3
    assert not wrong, f"{len(wrong)} of {len(requests)}"
    return {"refused": len(refused), "silent": len(silent), "slowest, ms": round(slowest * 1e3, 1)}


@pytest.mark.parametrize("connect", [_fresh, _home, _riding])
def test_a_bad_header_of_who_needs_no_password(server: Server, bare: Server, connect: Connect, record: Record) -> None:
    record("headers", _compare(server, bare, connect, _begun()))


@pytest.mark.parametrize("connect", [_logged_in, _logged_in_in_resp3])
def test_a_bad_header_of_who_has_logged_in(guarded: Pair, connect: Connect, record: Record) -> None:
    record("headers", _compare(*guarded, connect, _begun()))


@pytest.mark.parametrize("connect", [_fresh, _logged_out, _turned_away])
def test_a_header_of_who_has_yet_to_log_in(guarded: Pair, connect: Connect, record: Record) -> None:
    record("headers", _compare(*guarded, connect, _begun() + _whole()))


@pytest.mark.parametrize("rule", ["off", "resetpass", ">secret"])
def test_a_password_that_the_default_user_got_at_run_time(start: Start, start_bare: Start, rule: str) -> None:
    both = start("--save", "", "--sidecar-workers", "1"), start_bare()
    for one in both:
        with one.client() as client:
            client.execute_command("ACL", "SETUSER", "admin", "on", "nopass", "+@all", "~*")
            client.execute_command("ACL", "SETUSER", "default", "nopass" if rule == "off" else "reset", rule, "+@all")
    _compare(*both, _fresh, _begun()[: len(_COUNTS) + 60] + _whole())


_LARGE = bulk("CONFIG", "SET", "maxmemory", b"x" * 20_000)
_MANY = bulk("CONFIG", "GET", *["maxmemory"] * 12)
_PIPELINES = {
    "a login and a large one": _LOGIN + _LARGE,
    "a login and one of many arguments": _LOGIN + _MANY,
    "a HELLO and a large one": bulk("HELLO", "2", "AUTH", "default", _PASSWORD, "SETNAME", "me") + _MANY,
    "a wrong login and a large one": lines("AUTH wrong") + _LARGE,
    "a wrong login and one of many arguments": lines("AUTH wrong") + _MANY,
    "a transaction": _LOGIN + lines("MULTI") + _LARGE + _MANY + lines("EXEC"),
    "a transaction of nobody": lines("MULTI\nPING") + _MANY + lines("EXEC"),
    "nothing before it": _MANY,
    "a login twice": _LOGIN + lines("RESET") + _LOGIN + _MANY,
    "a silent one": _LOGIN + lines("CLIENT REPLY SKIP\nPING") + _MANY,
    "after TRACEPARENT": _LOGIN + lines("TRACEPARENT a") + _MANY,
}
_ID = b"$2\r\nid\r\n:"


@pytest.mark.parametrize("pipeline", _PIPELINES.values(), ids=_PIPELINES.keys())
def test_a_login_counts_for_what_follows_it_wherever_it_is_cut(guarded: Pair, pipeline: bytes) -> None:
    """At every byte but those deep inside of the large value."""
    server, bare = guarded
    end = bulk("ECHO", "end-of-test")
    cuts = [cut for cut in range(len(pipeline) + 1) if pipeline[cut - 20 : cut + 20] != b"x" * 40]

    def talk(one: Server, cut: int) -> bytes:
        with one.connect() as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _send(sock, pipeline[:cut])
            if cut % 4 == 0:  # what came has been seen, or not
                time.sleep(0.002)
            _send(sock, pipeline[cut:] + end)
            found = bytearray()
            sock.settimeout(20)
            with contextlib.suppress(ConnectionResetError):
                while not found.endswith(b"end-of-test\r\n") and (piece := sock.recv(65536)):
                    found += piece
        return _without_id(bytes(found)).replace(
            b"-ERR invalid traceparent", b"-ERR unknown command 'TRACEPARENT', with args beginning with: 'a' "
        )

    expected = {talk(bare, len(pipeline)), talk(bare, 0)}
    assert len(expected) == 1
    assert {cut: answer for cut in cuts if (answer := talk(server, cut)) not in expected} == {}


def _without_id(answer: bytes) -> bytes:
    head, found, tail = answer.partition(_ID)
    return head + found + tail.lstrip(b"0123456789")


@pytest.fixture
def record(record_property: Record) -> Record:
    return record_property


def _without_password(one: Server) -> socket.socket:
    """A new client, which the engine has told nothing yet."""
    sock = one.connect()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


@pytest.mark.parametrize(
    "pipeline", [_LARGE, _MANY, lines("MULTI") + _MANY + lines("EXEC"), lines("SELECT 1") + _LARGE]
)
def test_who_needs_no_password_may_begin_with_it_however_it_is_cut(
    server: Server, bare: Server, pipeline: bytes
) -> None:
    end = bulk("ECHO", "end-of-test")
    cuts = [cut for cut in range(len(pipeline) + 1) if pipeline[cut - 20 : cut + 20] != b"x" * 40]
    with _without_password(bare) as sock:
        sock.sendall(pipeline + end)
        expected = receive(sock, b"end-of-test\r\n")
    for cut in cuts:
        with _without_password(server) as sock:
            sock.sendall(pipeline[:cut])
            if cut % 4 == 0:
                time.sleep(0.002)  # what came has been seen, or not
            sock.sendall(pipeline[cut:] + end)
            assert receive(sock, b"end-of-test\r\n") == expected, cut


def test_who_leaves_while_a_call_waits_is_noticed(server: Server) -> None:
    """Whether it may send so much cannot be asked meanwhile; a blocked call of who has left takes nothing."""
    sock = _without_password(server)
    sock.sendall(lines("BLPOP list 0") + _MANY[:-3])
    with server.client() as client:
        wait_until(lambda: client.info("clients")["blocked_clients"] == 1, "it waits")
        sock.close()
        wait_until(lambda: client.info("clients")["blocked_clients"] == 0, "it waits no more")
        client.rpush("list", "x")
        assert client.lrange("list", 0, -1) == [b"x"]


def test_a_call_that_waits_delays_what_is_behind_it(server: Server) -> None:
    sock = _without_password(server)
    sock.sendall(lines("BLPOP list 0") + _MANY[:-3])
    with server.client() as client:
        wait_until(lambda: client.info("clients")["blocked_clients"] == 1, "it waits")
        client.rpush("list", "x")
    expected = b"*2\r\n$4\r\nlist\r\n$1\r\nx\r\n"
    assert receive_exactly(sock, len(expected)) == expected
    sock.sendall(_MANY[-3:])
    assert receive(sock, b"$1\r\n0\r\n") == b"*2\r\n$9\r\nmaxmemory\r\n$1\r\n0\r\n"


def test_who_was_refused_a_silent_command_may_log_in(guarded: Pair) -> None:
    """Its session is not measured any more, and nobody can ask the engine about it."""
    for one in guarded:
        sock = _without_password(one)
        sock.sendall(lines("CLIENT REPLY OFF"))
        assert receive(sock, b"\n") == b"-NOAUTH Authentication required.\r\n"
        sock.sendall(_LOGIN)
        assert receive(sock, b"\n") == b"+OK\r\n"
        sock.sendall(_LARGE[:60])
        sock.sendall(_LARGE[60:])
        assert receive(sock, b"\n").startswith(b"-ERR CONFIG SET failed (possibly related to argument 'maxmemory')")


@pytest.mark.parametrize("request_", [b"*100\r\n", _MANY, _LARGE[:60], b"*2\r\n$4\r\nAUTH\r\n$99999999999\r\n"])
def test_who_sends_nothing_more_is_refused_all_the_same(guarded: Pair, request_: bytes) -> None:
    answers = []
    for one in guarded:
        sock = one.connect()
        _send(sock, request_)
        sock.shutdown(socket.SHUT_WR)
        answers.append(_answer(sock, PATIENCE_S))
    assert answers[0] == answers[1]
    assert answers[0].startswith(b"-ERR Protocol error")


def test_a_refusal_at_a_header_leaves_the_session_measured(guarded: Pair) -> None:
    server, _bare = guarded
    before = server.metric("valkey_sidecar_sessions_raw_total")
    for request in (b"*100\r\n", _LARGE[:60], b"*2\r\n$4\r\nINFO\r\n$99999999999\r\n", b"*2\r\n$4\r\nINFO\r\n$3\rx"):
        sock = server.connect()
        _send(sock, request)
        assert receive(sock).startswith(b"-ERR Protocol error")
    assert server.metric("valkey_sidecar_sessions_raw_total") == before


def test_nobody_is_refused_where_ping_has_another_name(start: Start) -> None:
    server = start("--save", "", "--sidecar-workers", "1", "--rename-command", "PING", "GNIP", wait=False).wait_ready()
    sock = _without_password(server)
    sock.sendall(_MANY[:40])
    sock.sendall(_MANY[40:])
    assert receive(sock, b"$1\r\n0\r\n") == b"*2\r\n$9\r\nmaxmemory\r\n$1\r\n0\r\n"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, engine_binary: Path) -> Iterator[Pair]:
    """Ours and a bare engine, both with a password; ours with what it has by itself for everything else."""
    options = ("--requirepass", _PASSWORD)
    server = launch(tmp_path_factory.mktemp("ours"), "--save", "", "--sidecar-workers", "1", *options)
    bare = launch_bare(engine_binary, tmp_path_factory.mktemp("bare"), *options)
    yield server, bare
    server.stop()
    bare.stop()


@pytest.fixture(autouse=True)
def _part(server: Server, bare: Server, guarded: Pair) -> Iterator[None]:
    yield
    for one in (server, bare, *guarded):
        one.close_sockets()
