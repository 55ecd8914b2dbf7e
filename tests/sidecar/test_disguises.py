"""Names that the engine takes for others (it compares C strings, in any case) do not get around what is ours."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path

import pytest

from tests.conftest import Server, Start, free_port, receive, receive_exactly
from tests.sidecar.relay.test_transparency import bulk, lines
from tests.sidecar.test_identity import assert_engine_has_no_port

_STRANGERS = ("--save", "", "--protected-mode", "no", "--sidecar-workers", "1")
_LOCAL = ("--enable-debug-command", "local", "--enable-module-command", "local", "--enable-protected-configs", "local")
_RAW = "valkey_sidecar_sessions_raw_total"
_END = (bulk("ECHO", "end-of-test"), b"$11\r\nend-of-test\r\n")


def _said(server: Server, host: str, data: bytes) -> bytes:
    sock = socket.create_connection((host, server.port), timeout=10)
    server.sockets.append(sock)
    sock.sendall(data + _END[0])
    return receive(sock, _END[1]).removesuffix(_END[1])


@pytest.mark.parametrize("sub", [b"SET\0", b"set\0x", b"SET\0" + b"x" * 1000], ids=["bare", "with more", "long"])
def test_a_subcommand_ends_at_a_nul_byte(start: Start, start_bare: Start, outer_address: str, sub: bytes) -> None:
    server, bare = start(*_STRANGERS, *_LOCAL), start_bare("--protected-mode", "no", *_LOCAL)
    for request in (
        bulk(b"CONFIG", sub, b"dbfilename", b"stolen.rdb"),
        bulk(b"CONFIG", sub, b"maxmemory-samples", b"7") + lines("CONFIG GET maxmemory-samples"),
        bulk(b"MODULE", b"LOAD\0", b"/nowhere.so"),
        bulk(b"CONFIG", b"GET\0" + sub, b"dbfilename"),
    ):
        assert _said(server, outer_address, request) == _said(bare, outer_address, request) != b""
    assert _said(server, outer_address, bulk(b"CONFIG", sub, b"port", b"0")) == b"+OK\r\n"
    assert_engine_has_no_port(server)
    with pytest.raises(ConnectionRefusedError):  # port 0, as was asked for: it is ours that was closed
        server.connect()


@pytest.mark.parametrize("words", ["CONFIG SET maxmemory-samples 7", "CONFIG GET maxmemory", "CLIENT REPLY OFF"])
def test_an_inspected_command_with_a_wrong_line_end_is_refused_by_the_engine(
    server: Server, bare: Server, words: str
) -> None:
    request = bulk(*words.split())
    for at in [place for place, byte in enumerate(request) if byte == ord("\n")]:
        data = lines("PING") + request[:at] + b"x" + request[at + 1 :] + lines("PING")
        answers = []
        for one in (server, bare):
            sock = one.connect()
            sock.sendall(data)
            answers.append(receive(sock))
        assert answers == [b"+PONG\r\n-ERR Protocol error: invalid CRLF in request\r\n"] * 2
    with server.client() as client:
        assert client.config_get("maxmemory-samples") == {"maxmemory-samples": "5"}


def test_the_mode_of_replies_ends_at_a_nul_byte(server: Server, bare: Server) -> None:
    before = server.metric(_RAW)
    for request in (
        bulk(b"CLIENT", b"REPLY\0", b"OFF") + lines("GET a\nCLIENT REPLY ON\nCONFIG GET maxmemory\nGET a"),
        bulk(b"CLIENT", b"REPLY", b"OFF\0x") + lines("GET a") + bulk(b"CLIENT", b"REPLY\0y", b"ON\0") + lines("GET a"),
        bulk(b"CLIENT", b"REPLY", b"SKIP\0") + lines("GET a\nCONFIG GET maxmemory\nGET a"),
    ):
        assert _said(server, "127.0.0.1", request) == _said(bare, "127.0.0.1", request)
    assert server.metric(_RAW) == before


def test_a_first_word_with_a_nul_byte_is_never_taken_for_a_command(server: Server) -> None:
    """The engine takes one in some thousand, by the hash of all its bytes."""
    count = 100_000
    before = server.calls().get(("_OTHER", "ERR"), 0)
    sock = server.connect()
    error = b"-ERR unknown command 'PING', with args beginning with: \r\n"
    for at in range(0, count, 1000):
        sock.sendall(b"".join(bulk(b"PING\0%d" % number) for number in range(at, at + 1000)))
        assert receive_exactly(sock, 1000 * len(error)) == error * 1000
    assert server.calls()["_OTHER", "ERR"] == before + count


@pytest.mark.parametrize("name", [b"DEBUG\0", b"debug\0" + b"x" * 500, b"MULTI\0", b"config\0", b"GET\0\0\0\0\0"])
def test_a_first_word_with_a_nul_byte_gets_the_engines_error(server: Server, bare: Server, name: bytes) -> None:
    for request in (bulk(name, b"a", b"b\0c"), lines("MULTI\nGET a") + bulk(name) + lines("EXEC\nGET a")):
        for data in (request, lines("HELLO 3") + request):
            cut = len(data) - 9
            assert _in_two(server, data, cut) == _in_two(bare, data, cut)


def _in_two(server: Server, data: bytes, cut: int) -> bytes:
    sock = server.connect()
    sock.sendall(data[:cut])
    sock.sendall(data[cut:] + _END[0])
    answer = receive(sock, _END[1])
    before, hello, after = answer.partition(b"$7\r\nmodules\r\n")
    return after if hello else before


def test_a_name_with_a_nul_byte_that_cannot_be_seen_whole_is_refused(server: Server) -> None:
    sock = server.connect()
    size = 2 << 20
    sock.sendall(b"*1\r\n$%d\r\nDEBUG\0" % size)
    answer = receive(sock)
    assert answer == b"-ERR Protocol error: too large a request for a command that is inspected\r\n"


def test_a_setting_with_a_nul_byte_is_the_setting(start: Start, outer_address: str) -> None:
    """The engine takes one in a few hundred, by the hash of all its bytes."""
    server = start(*_STRANGERS, *_LOCAL)
    new = free_port()
    names = [name + b"\0%d" % number for number in range(3000) for name in (b"port", b"dbfilename", b"tls-port")]
    answer = _said(server, outer_address, b"".join(bulk(b"CONFIG", b"SET", name, b"%d" % new) for name in names))
    assert answer.count(b"\r\n") == len(names)
    assert_engine_has_no_port(server)
    server.port = new if b"+OK" in answer else server.port
    with server.client() as client:
        assert client.config_get("dbfilename") == {"dbfilename": "dump.rdb"}


_LONG = hashlib.sha512(b"config").hexdigest()


@pytest.mark.parametrize(
    ("written", "spelt"),
    [
        (_LONG[:64], _LONG[:64].encode()),
        (_LONG, _LONG.encode()),
        ("café-Ü", "café-Ü".encode()),
        ('"gr\\xfcn"', b"Gr\xfcN"),
    ],
    ids=["sha256", "sha512", "umlaut", "latin-1"],
)
def test_a_renamed_command_is_inspected_whatever_its_name(
    start: Start, outer_address: str, tmp_path: Path, written: str, spelt: bytes
) -> None:
    conf = tmp_path / "valkey.conf"
    conf.write_text(f"rename-command CONFIG {written}\n")
    server = start(str(conf), *_STRANGERS, *_LOCAL).wait_ready()
    answer = _said(server, outer_address, bulk(spelt, b"SET", b"dbfilename", b"stolen.rdb"))
    assert b"can't set protected config" in answer
    assert b"%d" % server.port in _said(server, outer_address, bulk(spelt, b"GET", b"port"))
    assert b"+OK" in _said(server, outer_address, bulk(spelt, b"SET", b"maxclients", b"77"))
    assert_engine_has_no_port(server)
    assert server.calls()["CONFIG SET", ""] == 1


def test_a_command_under_the_name_of_another_is_still_itself(start: Start, outer_address: str) -> None:
    renames = [("get", "xget"), ("config", "get"), ("debug", "config")]
    server = start(*_STRANGERS, *_LOCAL, *(word for pair in renames for word in ("--rename-command", *pair)))
    answer = _said(server, outer_address, lines("GET SET dbfilename x.rdb\nCONFIG SLEEP 0\nXGET a"))
    assert b"can't set protected config" in answer
    assert b"DEBUG command not allowed" in answer
    assert answer.endswith(b"$-1\r\n")


def test_a_subcommand_has_no_spelling_of_one_word(server: Server, bare: Server) -> None:
    requests = [("CONFIG|GET", "x"), ("ACL\0CAT",), ("CLIENT|REPLY", "x", "OFF"), ("config\0get", "port"), ("GET", "a")]
    data = b"".join(bulk(*words) for words in requests)
    before, raw = server.calls(), server.metric(_RAW)
    assert _said(server, "127.0.0.1", data) == _said(bare, "127.0.0.1", data)
    after = server.calls()
    counted = {key: after[key] - before.get(key, 0) for key in after if after[key] != before.get(key, 0)}
    assert counted == {("_OTHER", "ERR"): 4, ("GET", ""): 1, ("ECHO", ""): 1}
    assert server.metric(_RAW) == raw
