"""What a stranger can do at the HTTP port: ask what is answered to all, and hold up nobody."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sidecar.secret import SecretStr
from tests.conftest import PATIENCE_S, Start, receive
from tests.sidecar.control.test_http import FakeState, Server

_TOKEN = "s3cret-token_of.the~test+/=="
_PROBE = b"GET /livez HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture
def server() -> Iterator[Server]:
    result = Server(FakeState())
    yield result
    result.stop()


@pytest.fixture
def guarded() -> Iterator[Server]:
    result = Server(FakeState(), SecretStr(_TOKEN))
    yield result
    result.stop()


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)


def say(server: Server, data: bytes) -> bytes:
    """Everything that is answered until the other side closes."""
    with closing(connect(server)) as sock:
        sock.sendall(data)
        return receive(sock)


def request(target: str, method: str = "GET", host: str = "x", more: str = "") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n".encode()


# ---- the token


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_who_has_the_token_gets_the_metrics(guarded: Server, scheme: str) -> None:
    answer = guarded.get("/metrics", {"Authorization": f"{scheme} {_TOKEN}"})
    assert (answer.status, answer.calls()) == (200, 0)


@pytest.mark.parametrize(
    "given",
    ["", "Bearer", "Bearer ", f"Basic {_TOKEN}", _TOKEN, f"Bearer {_TOKEN[:-1]}", f"Bearer {_TOKEN}x", "Bearer \xe4"],
)
@pytest.mark.parametrize("path", ["/metrics", "/", "/none", "//livez", "/livez/"])
def test_who_has_it_not_gets_nothing(guarded: Server, path: str, given: str) -> None:
    answer = guarded.get(path, {"Authorization": given} if given else {})
    assert (answer.status, answer.text) == (401, "Unauthorized")
    assert answer.headers["www-authenticate"] == 'Bearer realm="valkey-sidecar"'
    assert answer.headers["cache-control"] == "no-store"
    assert guarded.state.refreshes == 0


@pytest.mark.parametrize("method", ["HEAD", "POST", "OPTIONS"])
def test_no_method_goes_around_the_token(guarded: Server, method: str) -> None:
    assert guarded.ask(method, "/metrics").status == 401


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_probes_need_no_token(guarded: Server, path: str) -> None:
    assert guarded.get(path).status == 200


def test_a_server_asks_for_the_token_and_shows_it_to_nobody(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("s3cret\n")
    for arguments, environment in (
        (("--sidecar-http-token", "s3cret"), {}),
        (("--sidecar-http-token-file", str(path)), {}),
        ((), {"SIDECAR_HTTP_TOKEN": "s3cret"}),
    ):
        server = start("--save", "", *arguments, env=environment).wait_ready()
        assert server.get("/metrics")[0] == 401
        wanted = "GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer s3cret\r\nConnection: close\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.http_port), timeout=PATIENCE_S) as sock:
            sock.sendall(wanted.encode())
            assert b"valkey_command_calls" in receive(sock)
        assert server.client().config_get("sidecar-http-token*") == {}
        for process in (server.process, *server.process.children(recursive=True)):
            assert "s3cret" not in " ".join(process.cmdline())
            assert process is server.process or "s3cret" not in str(process.environ())
        assert server.stop() == 0
        assert "s3cret" not in server.log_text()


def test_nobody_from_elsewhere_reaches_the_port_unless_asked(start: Start, outer_address: str) -> None:
    server = start("--save", "").wait_ready()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((outer_address, server.http_port), timeout=PATIENCE_S)


# ---- paths and requests of every shape


@pytest.mark.parametrize(
    "target",
    [
        "/../../etc/passwd", "/livez/../../etc/passwd", "/..%2f..%2fetc/passwd", "/%2e%2e/%2e%2e/etc/passwd",
        "/metrics/..", "/./livez", "/livez/.", "//etc/passwd", "/etc/passwd", "/metrics%00.html", "/static/../metrics",
        "/LIVEZ", "*", "/..\\..\\etc\\passwd", "file:///etc/passwd", "http://example.org/metrics", "http://127.0.0.1/../etc/passwd",
    ],
)  # fmt: skip
def test_no_path_leads_out(server: Server, target: str) -> None:
    answer = say(server, request(target))
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"root:" not in answer
    assert server.state.refreshes == 0


@pytest.mark.parametrize("host", ["", "evil.example", "127.0.0.1:1", "a b", "x" * 300, "[::1]"])
def test_a_host_changes_nothing_and_is_never_repeated(server: Server, host: str) -> None:
    answer = say(server, request("/livez", host=host))
    assert answer.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 400 "))
    assert not host or host.encode() not in answer


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get"])
def test_nothing_but_get_and_head_is_done(server: Server, method: str) -> None:
    answer = say(server, request("/metrics", method, more="Content-Length: 3\r\n") + b"abc")
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert server.state.refreshes == 0


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        _PROBE + b"X: " + b"a" * 1_000_000 + b"\r\n\r\n",
        _PROBE + b"X: a\r\n" * 200_000 + b"\r\n",
    ],
    ids=["no host", "two hosts", "lengths", "NUL", "TLS", "long target", "long header", "many headers"],
)
def test_what_is_no_request_is_refused_and_the_connection_closed(server: Server, data: bytes) -> None:
    with closing(connect(server)) as sock:
        try:
            sock.sendall(data)
            answer = receive(sock)
        except ConnectionError:  # closed while we were still sending
            answer = b"HTTP/1.1 4"
    assert answer.startswith(b"HTTP/1.1 4")
    assert b" 200 " not in answer
    assert server.get("/livez").status == 200


def test_an_upgrade_is_not_made(server: Server) -> None:
    more = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    data = request("/livez", more=more).replace(b"Connection: close", b"Connection: Upgrade, close")
    assert say(server, data).startswith(b"HTTP/1.1 200 ")


# ---- time


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that gives an exchange half a second."""
    monkeypatch.setattr("sidecar.control.http._EXCHANGE_LIMIT_S", 0.5)
    result = Server(FakeState())
    yield result
    result.stop()


def _wait_cut(sock: socket.socket) -> None:
    with contextlib.suppress(ConnectionResetError):
        receive(sock)


@pytest.mark.parametrize("said", [b"", b"GET /li", _PROBE])
def test_who_says_too_little_is_cut_off(hurried: Server, said: bytes) -> None:
    began = time.monotonic()
    with closing(connect(hurried)) as sock:
        sock.sendall(said)
        _wait_cut(sock)
    assert time.monotonic() - began < PATIENCE_S / 2


def test_who_sends_a_byte_now_and_then_is_cut_off_too(hurried: Server) -> None:
    deadline = time.monotonic() + PATIENCE_S / 2
    with closing(connect(hurried)) as sock, contextlib.suppress(ConnectionError):
        while time.monotonic() < deadline:
            sock.sendall(b"a")
            time.sleep(0.02)
    assert time.monotonic() < deadline


def test_a_second_request_has_its_own_time(hurried: Server) -> None:
    with closing(connect(hurried)) as sock:
        for _ in range(4):
            sock.sendall(_PROBE + b"\r\n")
            receive(sock, b"ok\n")
            time.sleep(0.2)  # together more than the limit of one
        sock.sendall(b"GET /li")
        _wait_cut(sock)


def test_requests_in_one_packet_are_all_answered(hurried: Server) -> None:
    with closing(connect(hurried)) as sock:
        sock.sendall((_PROBE + b"\r\n") * 5)
        data = b""
        while data.count(b"ok\n") < 5:
            chunk = sock.recv(1 << 16)
            assert chunk
            data += chunk
    assert data.count(b"HTTP/1.1 200 ") == 5
