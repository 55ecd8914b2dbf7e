"""A server that speaks TLS to its clients, started as people and Aspire start one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import signal
import socket
import ssl
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import valkey

from tests.authority import Authority
from tests.conftest import PATIENCE_S, receive, receive_exactly, wait_until
from tests.sidecar.tls_server import StartTls


def closed(sock: socket.socket) -> bool:
    """Whether the other side ends the connection, by a word or without one."""
    sock.settimeout(PATIENCE_S)
    try:
        return sock.recv(1) == b""
    except (ConnectionError, ssl.SSLError):
        return True


# ---- both listeners


def test_one_server_speaks_tls_on_one_port_and_none_on_the_other(start_tls: StartTls) -> None:
    tls = start_tls()
    assert tls.client().set("key", "by TLS")
    with tls.server.client() as plain:
        assert plain.get("key") == b"by TLS"
    shown = tls.client().info("server")
    assert shown["tcp_port"] == tls.server.port
    assert shown["listener0"]["port"] == tls.server.port
    assert shown["listener1"] == {"name": "tls", "bind": "-::*", "port": tls.port}
    tls.server.wait_said(f"0.0.0.0:{tls.port}")
    with tls.connect():
        samples = tls.server.metrics()
        assert samples['valkey_client_connections{network_transport="tcp",tls="true"}'] >= 1
        assert samples['valkey_client_connections{network_transport="tcp",tls="false"}'] == 0


def test_the_plain_port_can_be_left_out(start_tls: StartTls) -> None:
    tls = start_tls("--port", "0", port_in_file=True, wait=False)
    tls.server.wait_ready()
    assert tls.client().ping()
    assert tls.client().info("server")["tcp_port"] == tls.port
    assert [key for key in tls.client().info("server") if key.startswith("listener")] == ["listener0"]
    assert tls.client().config_get("replica-announce-port") == {"replica-announce-port": "0"}


def test_a_client_over_tls_has_its_true_address_and_can_be_killed_by_it(start_tls: StartTls) -> None:
    tls = start_tls()
    sock = tls.connect()
    address = "{}:{}".format(*sock.getsockname())
    sock.sendall(b"CLIENT INFO\r\n")
    assert f"addr={address} laddr=127.0.0.1:{tls.port} ".encode() in receive(sock, b"\r\n\r\n"[:2])
    assert tls.client().execute_command("CLIENT", "KILL", "ADDR", address) == 1
    assert closed(sock)


# ---- bytes


def test_the_replies_are_those_of_the_plain_port(start_tls: StartTls) -> None:
    requests = (
        b"HELLO 3\r\nSET key value\r\nGET key\r\nGET none\r\nLPUSH key 1\r\nMULTI\r\nINCR n\r\nGET key\r\nEXEC\r\n"
        b"*2\r\n$4\r\nECHO\r\n$12\r\nline\r\n\0\xff end\r\nSUBSCRIBE a b\r\nPING\r\nUNSUBSCRIBE\r\nINCR n\r\n"
        b"NONSENSE x\r\nBLPOP none 0.01\r\nHELLO 2\r\nEVAL 'return {1,2,{3}}' 0\r\nFLUSHALL\r\nQUIT\r\n"
    )
    tls = start_tls()

    def replies(sock: socket.socket) -> bytes:
        sock.sendall(requests)
        return receive(sock)

    by_tls, plain = replies(tls.connect()), replies(tls.server.connect())
    by_tls, plain = (re.sub(rb"(?<=\$2\r\nid\r\n:)\d+", b"ID", one) for one in (by_tls, plain))
    assert by_tls == plain
    assert by_tls.endswith(b"+OK\r\n+OK\r\n")


def test_large_values_in_both_directions_and_records_cut_anywhere(start_tls: StartTls) -> None:
    tls = start_tls()
    value = random.Random(1).randbytes(20_000_000)
    client = tls.client()
    assert client.set("large", value)
    assert hashlib.sha256(client.get("large")).digest() == hashlib.sha256(value).digest()
    # The records of one request, in pieces that end anywhere: through a socket pair, so that we see the bytes.
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = tls.context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with socket.create_connection(("127.0.0.1", tls.port), timeout=PATIENCE_S) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def pump(step: Callable[[], Any], sizes: list[int]) -> Any:
            while True:
                try:
                    result, wants = step(), False
                except ssl.SSLWantReadError:
                    result, wants = None, True
                data = outgoing.read()
                while data:
                    size = sizes[len(data) % len(sizes)]
                    sock.sendall(data[:size])
                    data = data[size:]
                if not wants:
                    return result
                incoming.write(sock.recv(1 << 16))

        pump(ours.do_handshake, [1, 2, 5, 7])
        text = b"*3\r\n$3\r\nSET\r\n$3\r\ncut\r\n$40000\r\n" + value[:40000] + b"\r\n*2\r\n$3\r\nGET\r\n$3\r\ncut\r\n"
        for at in range(0, len(text), 16384):
            pump(lambda at=at: ours.write(text[at : at + 16384]), [1, 3, 1000, 5])  # type: ignore[misc]
        got = bytearray()
        wanted = b"+OK\r\n$40000\r\n" + value[:40000] + b"\r\n"
        while len(got) < len(wanted):
            got += pump(lambda: ours.read(1 << 16), [1])
        assert got == wanted


def test_a_client_that_writes_a_whole_pipeline_before_it_reads_gets_every_reply(start_tls: StartTls) -> None:
    tls = start_tls()
    tls.client().set("value", b"x" * 10_000)
    sock = tls.connect()
    count = 3000  # 30 MB of replies: far more than the buffers of the kernel hold
    sock.sendall(b"GET value\r\n" * count)
    assert receive_exactly(sock, count * len(b"$10000\r\n\r\n") + count * 10_000).count(b"$10000\r\n") == count


def test_what_was_sent_before_the_end_is_answered(start_tls: StartTls) -> None:
    """close_notify behind the requests, and the connection stays open: nothing but TLS says that this is the end."""
    tls = start_tls()
    sock = tls.connect()
    sock.sendall(b"INCR n\r\n" * 100)
    sock.setblocking(False)
    with contextlib.suppress(ssl.SSLError):  # it does not wait for ours, or replies are there before it
        sock.unwrap()
    with tls.server.client() as plain:
        wait_until(lambda: plain.get("n") == b"100", "all requests are executed")
    gauge = 'valkey_client_connections{network_transport="tcp",tls="true"}'
    wait_until(lambda: tls.server.metrics()[gauge] == 0, "the session is over")


def test_the_server_ends_its_stream_as_tls_does(start_tls: StartTls) -> None:
    tls = start_tls()
    context = tls.context()
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    plain = socket.create_connection(("127.0.0.1", tls.port), timeout=PATIENCE_S)
    with context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as sock:
        sock.sendall(b"PING\r\nQUIT\r\n")
        assert receive(sock) == b"+PONG\r\n+OK\r\n"  # an end without close_notify would be an SSLEOFError


def test_bytes_that_are_no_tls_end_a_session(start_tls: StartTls) -> None:
    tls = start_tls()
    sock = tls.connect()
    sock.sendall(b"PING\r\n")
    assert receive(sock, b"\n") == b"+PONG\r\n"
    raw = socket.socket(fileno=os.dup(sock.fileno()))
    with raw:
        raw.sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        assert closed(sock)
    assert tls.client().ping()


def test_drained_sessions_get_their_replies_before_the_server_ends(start_tls: StartTls) -> None:
    tls = start_tls()
    waiting = [tls.connect() for _ in range(20)]
    engine = tls.server.engine
    engine.suspend()
    for sock in waiting:
        sock.sendall(b"ECHO last\r\n")
    wait_until(lambda: tls.server.metric("valkey_command_in_flight") == 20, "the commands are on their way")
    tls.server.process.send_signal(signal.SIGTERM)
    tls.server.wait_said("server.stopping")
    engine.resume()
    assert {receive(sock) for sock in waiting} == {b"$4\r\nlast\r\n"}
    assert tls.server.wait_end() == 0


# ---- who may come in


@pytest.mark.parametrize(
    "words", [b"PING\r\n", b"*1\r\n$4\r\nPING\r\n", b"P", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x16GARBAGE"]
)
def test_plain_text_on_the_tls_port_is_cut_off_and_told(start_tls: StartTls, words: bytes) -> None:
    tls = start_tls()
    with socket.create_connection(("127.0.0.1", tls.port), timeout=PATIENCE_S) as sock:
        sock.sendall(words)
        assert closed(sock)
        port = sock.getsockname()[1]
    said = tls.server.wait_said("client.tls_failed")
    assert said["message"] == (
        f"The client 127.0.0.1:{port} is cut off from port {tls.port}, which speaks TLS: it does not speak TLS. "
        f"Have it use TLS (rediss://, ssl=true), or use port {tls.server.port}, which is without TLS."
    )
    assert tls.server.metrics()['valkey_client_connections_rejected_total{reason="tls"}'] == 1
    assert tls.client().ping()


def test_many_such_clients_do_not_fill_the_log(start_tls: StartTls) -> None:
    tls = start_tls(env={"SIDECAR_WORKERS": "1"})
    for _ in range(200):
        with socket.create_connection(("127.0.0.1", tls.port), timeout=PATIENCE_S) as sock:
            sock.sendall(b"PING\r\n")
            assert closed(sock)
    assert len(tls.server.said("client.tls_failed")) < 10
    assert tls.server.metrics()['valkey_client_connections_rejected_total{reason="tls"}'] == 200


def test_a_health_check_that_only_connects_is_nothing_to_tell(start_tls: StartTls) -> None:
    tls = start_tls()
    for reset in (False, True):
        with socket.create_connection(("127.0.0.1", tls.port), timeout=PATIENCE_S) as sock:
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert tls.client().ping()
    assert tls.server.said("client.tls_failed") == []
    assert tls.server.metric("valkey_client_connections_rejected_total") == 0


def test_clients_without_the_wanted_certificate_stay_out(start_tls: StartTls, tmp_path: Path) -> None:
    tls = start_tls(auth="yes")
    mine = tls.authority.issue("client", name="a client")
    theirs = Authority(tmp_path / "stranger", "a stranger").issue("client")
    with tls.connect(tls.context(mine)) as sock:
        sock.sendall(b"PING\r\n")
        assert receive(sock, b"\n") == b"+PONG\r\n"
    for context, why in (
        (tls.context(), "peer did not return a certificate"),
        (tls.context(theirs), "certificate verify failed: "),
    ):
        before = len(tls.server.said("client.tls_failed"))
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            sock = tls.connect(context)  # with TLS 1.3 it hears of its refusal later
            sock.sendall(b"SET in yes\r\n")
            assert closed(sock)
        if not before:  # the second line within five seconds is only counted
            assert why in tls.server.wait_said("client.tls_failed")["message"]
    with tls.server.client() as plain:
        assert not plain.exists("in")


def test_a_client_that_does_not_trust_us_is_told_of_in_the_log(start_tls: StartTls, tmp_path: Path) -> None:
    tls = start_tls()
    with pytest.raises(ssl.SSLCertVerificationError):
        tls.connect(ssl.create_default_context(cafile=str(Authority(tmp_path / "other").file)))
    message = tls.server.wait_said("client.tls_failed")["message"]
    assert "which speaks TLS: it refuses our certificate or what we offer (" in message


def test_a_slow_handshake_holds_up_nobody_and_takes_a_place(start_tls: StartTls) -> None:
    tls = start_tls("--maxclients", "3", env={"SIDECAR_WORKERS": "1"})
    slow = [socket.create_connection(("127.0.0.1", tls.port), timeout=PATIENCE_S) for _ in range(2)]
    for sock in slow:
        sock.sendall(b"\x16\x03\x01\x02\x00")  # the beginning of a ClientHello
    with tls.client(single_connection_client=True) as client:
        assert client.ping()
        with pytest.raises((valkey.ConnectionError, ssl.SSLError, ConnectionError)):
            tls.client().ping()
        with tls.server.client() as plain, pytest.raises(valkey.ConnectionError, match="max number of clients"):
            plain.ping()
    for sock in slow:
        sock.close()
    wait_until(lambda: tls.pings(), "there is room again")


def test_the_server_ends_while_handshakes_are_under_way(start_tls: StartTls) -> None:
    tls = start_tls()
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", tls.port), timeout=PATIENCE_S))
            sock.sendall(b"\x16\x03\x01")
        assert tls.client().ping()
        assert tls.server.terminate() == 0


def test_protected_mode_speaks_tls_too(start_tls: StartTls, outer_address: str) -> None:
    tls = start_tls()
    context = tls.context()
    sock = tls.connect(context, host=outer_address)
    assert receive(sock).startswith(b"-DENIED Running in protected mode")
    tls.client().config_set("protected-mode", "no")
    sock = tls.connect(context, host=outer_address)
    sock.sendall(b"PING\r\n")
    assert receive(sock, b"\n") == b"+PONG\r\n"
