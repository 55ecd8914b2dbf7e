"""Large values, deep pipelines and clients that do not read pass in bounded memory, and nothing is lost."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from pathlib import Path

import pytest

from tests.conftest import PATIENCE_S, Server, Start, receive, receive_exactly, wait_until
from tests.sidecar.relay.test_transparency import lines

_MIB = 1 << 20


def worker_memory(server: Server) -> int:
    """Resident bytes of all workers together."""
    return sum(p.memory_info().rss for p in server.children("worker"))


class Peak:
    """The most that the workers' memory rose above where it was, sampled while the block runs."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._stop = threading.Event()
        self.idle = worker_memory(server)
        self.above = 0

    def __enter__(self) -> Peak:
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.above = max(self.above, worker_memory(self._server) - self.idle)

    def __exit__(self, *_args: object) -> None:
        self._stop.set()
        self._thread.join()
        self.above = max(self.above, worker_memory(self._server) - self.idle)


def test_a_value_of_512_mb_streams_through(start: Start) -> None:
    server = start("--save", "", "--sidecar-workers", "1")
    size = 512 * _MIB
    sock = server.connect()
    sock.settimeout(120)
    block = b"0123456789abcdef" * (_MIB // 16)
    with Peak(server) as peak:
        sock.sendall(b"*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$%d\r\n" % size)
        for _ in range(512):
            sock.sendall(block)
        sock.sendall(b"\r\n")
        assert receive(sock, b"\r\n", timeout=120) == b"+OK\r\n"
        sock.sendall(lines("GET big"))
        head = b"$%d\r\n" % size
        assert receive_exactly(sock, len(head)) == head
        for _ in range(512):
            assert receive_exactly(sock, _MIB) == block
        assert receive_exactly(sock, 2) == b"\r\n"
    assert peak.above < 64 * _MIB
    assert server.calls()[("SET", "")] == 1
    assert server.calls()[("GET", "")] == 1
    assert server.metrics()['valkey_command_request_bytes_total{db_operation_name="SET"}'] > size


def test_a_million_gets_sent_before_anything_is_read_all_come_back(start: Start) -> None:
    server = start("--save", "", "--sidecar-workers", "1")
    count = 1_000_000
    value = b"v" * 1024
    with server.client() as client:
        client.set("key", value)
    sock = server.connect()
    sock.settimeout(180)
    batch = lines("GET key") * 1000
    reply = b"$1024\r\n" + value + b"\r\n"
    with Peak(server) as peak:
        for _ in range(count // 1000):
            sock.sendall(batch)
        assert server.metrics()["valkey_command_in_flight"] > 0
        expected = reply * 1000
        for _ in range(count // 1000):
            assert receive_exactly(sock, len(expected)) == expected
    assert peak.above < 64 * _MIB
    sock.sendall(lines("ECHO end"))
    assert receive(sock, b"end\r\n") == b"$3\r\nend\r\n"
    assert server.calls()[("GET", "")] == count
    wait_until(lambda: server.metrics()["valkey_command_in_flight"] == 0, "nothing is in flight")


def test_a_client_that_reads_nothing_disturbs_nobody(start: Start) -> None:
    server = start("--save", "", "--sidecar-workers", "1")
    with server.client() as client:
        client.set("big", b"x" * _MIB)
        lazy = server.connect()
        lazy.sendall(lines("GET big") * 200)
        with Peak(server) as peak:
            for i in range(2000):
                assert client.set(f"k{i}", i)
        assert peak.above < 16 * _MIB
        lazy.close()
        wait_until(lambda: server.metrics()["valkey_command_in_flight"] == 0, "the rest has been executed and dropped")


def test_the_engines_output_limit_closes_a_client_that_does_not_read(start: Start) -> None:
    server = start("--save", "", "--client-output-buffer-limit", "normal 8mb 8mb 1")
    with server.client() as client:
        client.set("big", b"x" * _MIB)
    lazy = server.connect()
    lazy.sendall(lines("GET big") * 100)
    received = 0
    lazy.settimeout(20)
    wait_until(lambda: "overcoming of output buffer limits" in server.log_text(), "the engine gives up")
    try:
        while chunk := lazy.recv(_MIB):
            received += len(chunk)
    except ConnectionResetError:
        pass
    assert received < 100 * _MIB


def test_a_client_is_not_read_while_the_engine_does_not_read(start: Start) -> None:
    server = start("--save", "", "--sidecar-workers", "1")
    request = lines("RPUSH list " + "x" * 1000)
    sock = server.connect()
    sock.sendall(b"PING\r\n")
    assert receive(sock, b"\r\n") == b"+PONG\r\n"
    server.engine.suspend()
    try:
        with Peak(server) as peak:
            sent = send_until_it_stops(sock, request * 1000)
    finally:
        server.engine.resume()
    assert sent < 100 * _MIB
    assert peak.above < 16 * _MIB
    sock.sendall(request[sent % len(request) :])
    count = sent // len(request) + 1
    assert receive(sock, b":%d\r\n" % count).count(b"\r\n") == count
    with server.client() as client:
        assert client.llen("list") == count


def send_until_it_stops(sock: socket.socket, block: bytes) -> int:
    """Send the block again and again until nothing goes out any more (or 100 MiB did); how many bytes went."""
    sent = 0
    sock.settimeout(1)
    with contextlib.suppress(TimeoutError):
        while sent < 100 * _MIB:
            sent += sock.send(block[sent % len(block) :])
    sock.settimeout(PATIENCE_S)
    return sent


def test_idle_clients_cost_little(start: Start) -> None:
    server = start("--save", "", "--sidecar-workers", "1")
    before = worker_memory(server)
    count = 1000
    for _ in range(count):
        sock = server.connect()
        sock.sendall(b"PING\r\n")
    for sock in server.sockets:
        assert receive(sock, b"+PONG\r\n") == b"+PONG\r\n"
    assert (worker_memory(server) - before) / count < 10_000


@pytest.mark.parametrize("gone", ["closed", "reset"])
def test_what_a_departing_client_sent_is_executed(server: Server, gone: str) -> None:
    for turn in range(1, 21):
        sock = server.connect()
        sock.sendall(lines("INCR departed") * 500)
        if gone == "reset":  # a reset discards what has not been read, so it waits until all was
            wait_until(lambda: _get(server, "departed") == b"%d" % (turn * 500), "all have been executed")  # noqa: B023
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    wait_until(lambda: _get(server, "departed") == b"10000", "every command was executed")
    wait_until(lambda: server.metrics()["valkey_command_in_flight"] == 0, "nothing is left behind")


def _get(server: Server, key: str) -> bytes | None:
    with server.client() as client:
        value = client.get(key)
        assert value is None or isinstance(value, bytes)
        return value


def test_a_blocked_call_of_a_departed_client_takes_nothing(server: Server) -> None:
    sock = server.connect()
    sock.sendall(lines("BLPOP list 0"))
    wait_until(lambda: server.metrics()["valkey_command_in_flight"] == 1, "the call waits")
    sock.close()
    with server.client() as client:
        wait_until(lambda: client.info("clients")["blocked_clients"] == 0, "the engine has dropped the call")
        client.rpush("list", "x")
        assert client.llen("list") == 1


def test_a_half_closed_client_gets_every_reply(server: Server) -> None:
    with server.client() as client:
        client.set("big", b"x" * _MIB)
    sock = server.connect()
    sock.sendall(lines("GET big") * 20)
    sock.shutdown(socket.SHUT_WR)
    data = receive(sock, timeout=30)
    assert data == (b"$%d\r\n" % _MIB + b"x" * _MIB + b"\r\n") * 20


@pytest.mark.parametrize(
    "sent",
    [
        b"*n\r\n",
        b"*1\r\n$999999999999\r\n",
        b"*1\r\n$4\r\nPINGxx",
        lines("PING\nCONFIG GET maxmemory\nPING") + b"*2\r\n$536870913\r\n",
        lines("SUBSCRIBE a\nGET a\nPING"),
        lines("MULTI\nSUBSCRIBE a\nEXEC\nPING"),
        lines("SYNC x\nPING"),
        b"PING\r\nGET 'a\r\n",
        b"PING\r\nGET \0\r\n",
    ],
)
def test_a_half_closed_client_gets_the_engines_last_word(server: Server, bare: Server, sent: bytes) -> None:
    def said(to: Server) -> bytes:
        sock = to.connect()
        sock.sendall(sent)
        sock.shutdown(socket.SHUT_WR)
        return receive(sock)

    assert said(server) == said(bare) != b""


def test_an_rdb_written_by_the_engine_holds_what_came_through(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    server = start("--save", "3600 1", folder=folder)
    with server.client() as client:
        client.mset({f"k{i}": i for i in range(1000)})
    assert server.stop() == 0
    again = start("--save", "3600 1", folder=folder)
    with again.client() as client:
        assert client.dbsize() == 1000
