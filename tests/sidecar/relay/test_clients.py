"""Who may connect, how long they may stay, and what they are told when the engine is away."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path

import pytest
import valkey

from sidecar.processes import raise_open_files
from tests.conftest import Server, Start, receive, wait_until
from tests.sidecar.relay.test_transparency import lines


@pytest.mark.parametrize("count", ["1", "3"])
def test_maxclients_is_counted_over_all_workers(start: Start, count: str) -> None:
    server = start("--save", "", "--maxclients", "10", "--sidecar-workers", count)
    held = [server.connect() for _ in range(10)]
    for sock in held:
        sock.sendall(b"PING\r\n")
        assert receive(sock, b"+PONG\r\n") == b"+PONG\r\n"
    refused = server.connect()
    assert receive(refused) == b"-ERR max number of clients reached\r\n"
    assert server.metrics()['valkey_client_connections_rejected_total{reason="maxclients"}'] == 1
    held[0].close()

    def admitted() -> bool:
        sock = server.connect()
        with contextlib.suppress(ConnectionError):
            sock.sendall(b"PING\r\n")
            return receive(sock, b"\r\n") == b"+PONG\r\n"
        return False

    wait_until(admitted, "a place is free again")


def test_maxclients_survives_a_dead_worker(start: Start) -> None:
    server = start("--save", "", "--maxclients", "5", "--sidecar-workers", "1")
    for _ in range(5):
        sock = server.connect()
        sock.sendall(b"PING\r\n")
        receive(sock, b"+PONG\r\n")
    server.children("worker")[0].kill()

    def all_places_free() -> bool:
        socks = [server.connect() for _ in range(5)]
        try:
            for sock in socks:
                sock.sendall(b"PING\r\n")
            return all(receive(sock, b"\r\n") == b"+PONG\r\n" for sock in socks)
        except OSError:
            return False
        finally:
            server.close_sockets()

    wait_until(all_places_free, "five new clients are served")


def test_idle_clients_are_closed_and_waiting_ones_are_not(start: Start) -> None:
    server = start("--save", "", "--timeout", "1", "--sidecar-workers", "1")
    blocked, subscribed, monitor = (server.connect() for _ in range(3))
    blocked.sendall(lines("BLPOP nosuch 0"))
    subscribed.sendall(lines("SUBSCRIBE a"))
    monitor.sendall(lines("MONITOR"))
    assert receive(subscribed, b":1\r\n")
    assert receive(monitor, b"+OK\r\n")
    wait_until(lambda: server.metrics()["valkey_command_in_flight"] == 1, "one waits")
    idle = server.connect()  # the last to say a word: when it is closed, the others have been judged
    idle.sendall(b"PING\r\n")
    assert receive(idle, timeout=10) == b"+PONG\r\n"
    with server.client() as client:
        client.rpush("nosuch", "x")
        assert client.publish("a", "hello") == 1
    assert receive(blocked, b"x\r\n") == b"*2\r\n$6\r\nnosuch\r\n$1\r\nx\r\n"
    assert receive(subscribed, b"hello\r\n")
    assert receive(monitor, b'"PUBLISH" "a" "hello"\r\n')


def test_clients_have_keepalive(start: Start) -> None:
    server = start("--save", "", "--tcp-keepalive", "77")
    server.connect().sendall(b"PING\r\n")
    receive(server.sockets[0], b"+PONG\r\n")
    text = subprocess.run(["cat", "/proc/net/tcp"], capture_output=True, text=True, check=True).stdout
    port = f"{server.port:04X}"
    rows = [row.split() for row in text.splitlines()[1:]]
    # Column 6 is `timer:when`: 02 is the keep-alive timer.
    timers = [row[5].split(":") for row in rows if row[1].endswith(":" + port) and row[3] == "01"]
    assert timers
    assert all(timer == "02" and int(when, 16) <= 78 * os.sysconf("SC_CLK_TCK") for timer, when in timers)


def test_a_unix_socket_serves_clients(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "valkey.sock"
    server = start("--save", "", "--unixsocket", str(path), "--unixsocketperm", "700")
    assert path.stat().st_mode & 0o777 == 0o700
    with valkey.Valkey(unix_socket_path=str(path)) as client:
        client.set("a", "1")
        assert client.get("a") == b"1"
        assert server.metrics()['valkey_client_connections{network_transport="unix",tls="false"}'] == 1
    server.stop()
    assert not path.exists()


def test_the_port_may_be_off(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "only.sock"
    server = start("--save", "", "--unixsocket", str(path), "--port", "0", wait=False)
    # the last --port wins: the fixture's
    wait_until(path.exists, "the socket is there")
    with valkey.Valkey(unix_socket_path=str(path)) as client:
        wait_until(lambda: _pings(client), "the server answers")
    server.stop()


def _pings(client: valkey.Valkey) -> bool:
    try:
        return bool(client.ping())
    except valkey.ConnectionError:
        return False


def test_a_client_waits_for_an_engine_that_comes_back(start: Start) -> None:
    server = start("--save", "", "--sidecar-engine-timeout", "10")
    child = server.engine
    child.kill()
    child.wait(10)  # whom a dying engine still accepts goes with it
    sock = server.connect()
    sock.sendall(b"PING\r\n")
    assert receive(sock, b"\r\n", timeout=15) == b"+PONG\r\n"


def test_without_an_engine_a_client_gets_an_error_and_not_silence(start: Start) -> None:
    server = start("--save", "", "--sidecar-engine-timeout", "0.3")
    path = Path(re.search(r"unixsocket:(\S+)", " ".join(server.engine.cmdline()))[1])  # type: ignore[index]
    moved = path.rename(path.with_name("moved"))
    try:
        sock = server.connect()
        sock.sendall(b"PING\r\n")
        assert receive(sock) == b"-LOADING valkey-sidecar: the engine does not answer, try again later\r\n"
    finally:
        moved.rename(path)


def test_a_crashed_engine_closes_its_clients_and_counts_what_was_in_flight(start: Start) -> None:
    server = start("--save", "", "--enable-debug-command", "yes")
    sock = server.connect()
    sock.sendall(lines("DEBUG SLEEP 30"))
    wait_until(lambda: server.metrics()["valkey_command_in_flight"] == 1, "the engine is busy")
    server.engine.kill()
    assert receive(sock) == b""
    wait_until(lambda: server.calls().get(("DEBUG", "connection_lost")) == 1, "the lost command is counted")
    with server.client() as client:
        wait_until(lambda: _pings(client), "the engine is back")


def test_counts_survive_a_worker_crash(start: Start) -> None:
    server = start("--save", "", "--sidecar-workers", "1")
    with server.client() as client:
        for i in range(100):
            client.set("a", i)
        assert server.calls()[("SET", "")] == 100
        server.children("worker")[0].kill()
        wait_until(lambda: _pings(client), "a new worker serves")
        for i in range(50):
            client.set("a", i)
    assert server.calls()[("SET", "")] == 150
    assert server.metrics()["valkey_sidecar_worker_restarts_total"] == 1


def test_client_kill_closes_the_client(server: Server) -> None:
    sock = server.connect()
    sock.sendall(lines("CLIENT ID"))
    identifier = int(receive(sock, b"\r\n")[1:])
    with server.client() as client:
        assert client.client_kill_filter(_id=str(identifier)) == 1
    assert receive(sock) == b""


def test_client_pause_delays_writes_only(server: Server) -> None:
    with server.client() as client, server.client() as other:
        client.client_pause(timeout=60_000, all=False)
        assert other.get("a") is None
        sock = server.connect()
        sock.sendall(lines("SET a 1"))
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            sock.recv(10)
        client.client_unpause()
        assert receive(sock, b"\r\n") == b"+OK\r\n"


def test_a_rush_of_connections_is_served(start: Start) -> None:
    server = start("--save", "", "--sidecar-workers", "2")
    # A user's shell begins with 1024 descriptors.
    socks = [socket.socket() for _ in range(min(1500, raise_open_files(2000) - 200))]
    try:
        for sock in socks:
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect(("127.0.0.1", server.port))
        for sock in socks:
            sock.settimeout(20)
            deadline = time.monotonic() + 20
            while True:
                try:
                    sock.sendall(b"PING\r\n")
                    break
                except OSError:
                    assert time.monotonic() < deadline
        for sock in socks:
            assert receive(sock, b"+PONG\r\n", timeout=20) == b"+PONG\r\n"
        used = [p.num_fds() for p in server.children("worker")]
    finally:
        for sock in socks:
            sock.close()
    wait_until(
        lambda: sum(p.num_fds() for p in server.children("worker")) < sum(used) / 2, "the descriptors are free again"
    )


def test_a_reset_connection_frees_everything(server: Server) -> None:
    for _ in range(50):
        sock = server.connect()
        sock.sendall(lines("SUBSCRIBE a b c"))
        receive(sock, b":3\r\n")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    metric = 'valkey_client_connections{network_transport="tcp",tls="false"}'
    wait_until(lambda: server.metrics()[metric] == 0, "no client is left")
    with server.client() as client:
        wait_until(lambda: client.info("clients")["pubsub_clients"] == 0, "no subscription is left")


def test_a_client_that_leaves_while_its_reply_is_prepared_leaves_nothing(server: Server) -> None:
    for _ in range(50):
        sock = server.connect()
        sock.sendall(lines("CLIENT LIST"))
        sock.close()
    metric = 'valkey_client_connections{network_transport="tcp",tls="false"}'
    wait_until(lambda: server.metrics()[metric] == 0, "no client is left")


def test_workers_ignore_the_terminals_signals(start: Start) -> None:
    server = start("--save", "")
    for worker in server.children("worker"):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            worker.send_signal(number)
    with server.client() as client:
        assert client.ping()
    assert server.metrics()["valkey_sidecar_worker_restarts_total"] == 0
