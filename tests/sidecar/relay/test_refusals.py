"""What a client gets that goes too far: everything before it is answered, then comes the refusal, then the end."""

from __future__ import annotations

import socket

import pytest

from tests.conftest import Server, receive
from tests.sidecar.relay.test_transparency import lines

_TOO_LARGE = b"-ERR Protocol error: too large a request for a command that is inspected\r\n"
_MIB = 1 << 20

# Larger than what is seen whole: by an argument, by many, and with a name that nobody knows the end of.
_LARGE = {
    "argument": b"*4\r\n$6\r\nCONFIG\r\n$3\r\nSET\r\n$%d\r\n%b" % (3 * _MIB, b"x" * (2 * _MIB)),
    "arguments": b"*100000\r\n$6\r\nCONFIG\r\n$3\r\nGET\r\n" + b"$11\r\nmaxmemory-x\r\n" * 99_000,
    "name": b"*1\r\n$%d\r\nDEBUG\0%b" % (2 * _MIB, b"x" * 1000),
}


@pytest.mark.parametrize("large", _LARGE.values(), ids=_LARGE.keys())
@pytest.mark.parametrize("pause", [False, True], ids=["at once", "in two"])
def test_what_came_before_a_request_that_is_too_large_is_answered_first(
    server: Server, large: bytes, pause: bool
) -> None:
    sock = server.connect()
    before = lines("SET a 1\nGET a\nMULTI\nINCR a\nEXEC")
    answers = b"+OK\r\n$1\r\n1\r\n+OK\r\n+QUEUED\r\n*1\r\n:2\r\n"
    if pause:
        sock.sendall(before)
        assert receive(sock, answers) == answers
        _send(sock, large)
        assert receive(sock) == _TOO_LARGE
    else:
        _send(sock, before + large + lines("SET a 3"))
        assert receive(sock) == answers + _TOO_LARGE
    with server.client() as client:
        assert client.get("a") == b"2"


def test_a_blocked_command_is_answered_before_the_refusal(server: Server) -> None:
    sock = server.connect()
    _send(sock, lines("BLPOP list 0") + _LARGE["argument"])
    with server.client() as client:
        client.rpush("list", "x")
    assert receive(sock) == b"*2\r\n$4\r\nlist\r\n$1\r\nx\r\n" + _TOO_LARGE


def test_who_wants_no_replies_gets_no_refusal_either(server: Server) -> None:
    sock = server.connect()
    _send(sock, lines("SET a 1\nCLIENT REPLY OFF\nSET a 2") + _LARGE["argument"])
    assert receive(sock) == b"+OK\r\n"
    with server.client() as client:
        assert client.get("a") == b"2"


def test_much_behind_a_protocol_error_without_replies_is_read_to_its_end(server: Server, bare: Server) -> None:
    """Valkey answers nothing then, and closes when its client does."""
    for one in (server, bare):
        sock = one.connect()
        sock.sendall(lines("CLIENT REPLY OFF") + b"*1\r\n$x\r\n" + b"x" * (4 * _MIB))
        sock.shutdown(socket.SHUT_WR)
        assert receive(sock) == b""


def _send(sock: socket.socket, data: bytes) -> None:
    """As much of it as the server takes: it may refuse while more is on its way."""
    try:
        sock.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        return
