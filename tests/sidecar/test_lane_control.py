"""Clients that share connections to the engine see what they would see if each had its own."""

from __future__ import annotations

import signal
import socket
import time

import pytest

from tests.conftest import Server, Start, receive, receive_exactly, wait_until
from tests.sidecar.relay.test_transparency import lines
from tests.sidecar.test_client_identity import fields, is_open
from tests.sidecar.test_identity import connect
from tests.sidecar.test_replication import follow

ARGUMENTS = ("--save", "", "--sidecar-workers", "1", "--enable-debug-command", "yes")


def ask(sock: socket.socket, request: str) -> bytes:
    """One reply: a line, or a bulk string's text. Nothing else is said: what does not go by lane delays what does."""
    say(sock, request)
    line = receive(sock, b"\r\n")
    if not line.startswith(b"$"):
        return line
    size = int(line[1 : line.index(b"\r")])
    rest = line.partition(b"\r\n")[2]
    return (rest + receive_exactly(sock, max(0, size + 2 - len(rest))))[:-2] if size >= 0 else b""


class Engine:
    """The engine itself, around the server: it knows the lanes."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.connect(str(server.private_folder / "engine.sock"))
        server.sockets.append(self._sock)
        self.ask("CLIENT SETNAME valkey-sidecar-test")

    def lanes(self) -> list[dict[str, str]]:
        return [client for client in fields(ask(self._sock, "CLIENT LIST")) if client["name"] == "valkey-sidecar-lane"]

    def homes(self) -> int:
        """Connections to it that are clients' own."""
        names = [client["name"] for client in fields(ask(self._sock, "CLIENT LIST"))]
        return sum(not name.startswith("valkey-sidecar") for name in names)

    def carried(self) -> int:
        """Commands on all lanes so far."""
        return sum(int(lane["tot-cmds"]) for lane in self.lanes())

    def close(self) -> None:
        self._sock.close()

    def ask(self, request: str) -> bytes:
        return ask(self._sock, request)


def riders(server: Server, count: int, *first: str) -> list[socket.socket]:
    """Clients that go by lane. first: what each says first."""
    socks = [connect(server) for _ in range(count)]
    engine = Engine(server)
    for sock in socks:
        for request in first:
            assert ask(sock, request) == b"+OK\r\n"

    def all_ride() -> bool:
        before = engine.carried()
        for sock in socks:
            assert ask(sock, "SET rider 1") == b"+OK\r\n"
        return engine.carried() - before >= count

    wait_until(all_ride, "all go by lane", 10)
    engine.close()
    return socks


def say(sock: socket.socket, *requests: str) -> None:
    """Each as RESP: inline requests do not go by lane."""
    sock.sendall(b"".join(lines(request) for request in requests))


def listed_by(sock: socket.socket, filters: str = "") -> list[dict[str, str]]:
    """CLIENT LIST, without the test's own connection to the engine."""
    found = fields(ask(sock, f"CLIENT LIST {filters}"))
    return [client for client in found if client["name"] != "valkey-sidecar-test"]


def says_nothing(sock: socket.socket) -> bool:
    sock.settimeout(0.2)
    try:
        sock.recv(1)
    except TimeoutError:
        return True
    return False


@pytest.mark.parametrize("how", ["alone", "in a transaction"])
def test_a_read_does_not_wait_behind_a_paused_write_of_another(start: Start, how: str) -> None:
    server = start(*ARGUMENTS)
    writer, *readers = riders(server, 4)
    engine = Engine(server)
    pausing = connect(server)
    if how == "alone":
        assert ask(pausing, "CLIENT PAUSE 60000 WRITE") == b"+OK\r\n"
    else:
        say(pausing, "MULTI", "CLIENT PAUSE 60000 WRITE", "EXEC")
        assert receive(pausing, b"*1\r\n+OK\r\n")

        def stays_at_home() -> bool:
            before = engine.carried()
            ask(readers[0], "GET a")
            return engine.carried() == before

        wait_until(stays_at_home, "the pause was noticed")
    say(writer, "SET a 1")
    assert says_nothing(writer)
    before = engine.carried()
    for reader in readers:
        assert ask(reader, "GET rider") == b"1"
    assert engine.carried() == before
    assert ask(pausing, "CLIENT UNPAUSE") == b"+OK\r\n"
    assert receive(writer, b"\r\n") == b"+OK\r\n"

    def ride_again() -> bool:
        before = engine.carried()
        assert ask(readers[0], "GET a") == b"1"
        return engine.carried() > before

    wait_until(ride_again, "they go by lane again")


@pytest.mark.parametrize("request_", ["CLIENT PAUSE", "CLIENT PAUSE x", "CLIENT PAUSE 10 WRITE", "FAILOVER ABORT"])
def test_what_pauses_nobody_for_long_suspends_nothing_for_long(start: Start, request_: str) -> None:
    server = start(*ARGUMENTS)
    socks = riders(server, 3)
    engine = Engine(server)
    ask(socks[0], request_)

    def ride_again() -> bool:
        before = engine.carried()
        ask(socks[1], "GET a")
        return engine.carried() > before

    wait_until(ride_again, "they go by lane again", 5)


def test_a_worker_that_starts_during_a_pause_uses_no_lane(start: Start) -> None:
    server = start(*ARGUMENTS)
    riders(server, 3)
    pausing = connect(server)
    assert ask(pausing, "CLIENT PAUSE 60000 WRITE") == b"+OK\r\n"
    server.close_sockets()
    worker = server.worker
    worker.kill()
    worker.wait(10)
    wait_until(server.answers, "another serves")
    engine = Engine(server)
    socks = [connect(server) for _ in range(3)]
    for _ in range(5):
        for sock in socks:
            assert ask(sock, "GET a") == b""
    assert engine.lanes() == []


def test_every_client_is_listed_and_no_lane(start: Start) -> None:
    server = start(*ARGUMENTS, "--sidecar-home-timeout", "1")
    socks = riders(server, 4)
    engine = Engine(server)
    wait_until(lambda: engine.homes() == 0, "no client needs a connection of its own")
    time.sleep(1.1)
    assert ask(socks[0], "CONFIG GET port")
    asking = connect(server)
    listed = {client["addr"]: client for client in listed_by(asking)}
    assert listed.keys() == {f"127.0.0.1:{sock.getsockname()[1]}" for sock in (*socks, asking)}
    busy, idle, own = (listed[f"127.0.0.1:{sock.getsockname()[1]}"] for sock in (socks[0], socks[1], asking))
    assert int(idle["age"]) >= int(idle["idle"]) >= 1
    assert int(busy["age"]) >= 1
    assert busy["idle"] == own["idle"] == own["age"] == "0"
    assert (busy["cmd"], idle["cmd"], own["cmd"]) == ("config|get", "set", "client|list")


def test_clients_are_judged_by_their_own_age_and_idle_time(start: Start) -> None:
    server = start(*ARGUMENTS, "--sidecar-home-timeout", "1")
    socks = riders(server, 3)
    engine = Engine(server)
    wait_until(lambda: engine.homes() == 0, "no client needs a connection of its own")
    time.sleep(1.1)
    assert is_open(socks[0])
    asking = connect(server)
    assert len(listed_by(asking, "MAXAGE 1")) == 3
    assert len(listed_by(asking, "IDLE 1")) == 2
    assert ask(asking, "CLIENT LIST IDLE 0") == b"-ERR idle should be greater than 0\r\n"
    assert ask(asking, "CLIENT KILL MAXAGE 1000") == b":0\r\n"
    engine.close()
    assert ask(asking, "CLIENT KILL MAXAGE 1") == b":3\r\n"
    assert not any(is_open(sock) for sock in socks)


@pytest.mark.parametrize("filters", ["TYPE normal", "USER default", "MAXAGE 1 SKIPME yes", "DB 0", "NOT-ID 1"])
def test_kills_by_filter_count_and_cut_clients_only(start: Start, filters: str) -> None:
    server = start(*ARGUMENTS)
    socks = riders(server, 4)
    engine = Engine(server)
    ours = {lane["id"] for lane in engine.lanes()}
    assert ours
    engine_id = engine.ask("CLIENT ID").strip(b":\r\n").decode()
    killer = connect(server)
    assert is_open(killer)
    time.sleep(1.1)
    assert ask(killer, f"CLIENT KILL {filters} NOT-ID {engine_id}") == b":4\r\n"
    assert not any(is_open(sock) for sock in socks)
    assert is_open(killer)
    assert {lane["id"] for lane in engine.lanes()} == ours
    assert server.metric("valkey_sidecar_lane_broken_total") == 0


def test_our_own_connection_is_no_client_to_kill(start: Start) -> None:
    server = start(*ARGUMENTS, "--sidecar-lanes", "off")
    killer, victim = connect(server), connect(server)
    assert is_open(killer)
    assert is_open(victim)
    engine = Engine(server)
    engine_id = engine.ask("CLIENT ID").strip(b":\r\n").decode()

    def ours() -> list[str]:
        listed = fields(engine.ask("CLIENT LIST"))
        return [client["id"] for client in listed if client["name"] == "valkey-sidecar"]

    before = ours()
    assert len(before) == 1
    assert ask(killer, f"CLIENT KILL TYPE normal NOT-ID {engine_id}") == b":1\r\n"
    assert not is_open(victim)
    assert ours() == before


def test_clients_are_counted_whatever_connections_they_have(start: Start) -> None:
    server = start("--save", "", "--sidecar-workers", "2", "--sidecar-home-timeout", "1")
    with server.client() as client:
        client.config_resetstat()

    def clients() -> tuple[int, int]:
        info = {**client.info("clients"), **client.info("stats")}
        return info["connected_clients"], info["total_connections_received"]

    with server.client() as client:
        client.ping()
        wait_until(lambda: clients()[0] == 1, "the first one is gone")
        begin = clients()[1]
        socks = [connect(server) for _ in range(8)]
        for _ in range(3):
            for sock in socks:
                assert ask(sock, "SET a 1") == b"+OK\r\n"
        assert clients() == (9, begin + 8)
        engine = Engine(server)
        # The client that asks keeps its own.
        wait_until(lambda: engine.homes() <= 1, "no other client needs a connection of its own")
        assert clients() == (10, begin + 8)  # with the engine's own client: this test
        assert server.metrics()["redis_connected_clients"] == 10
        for sock in socks[:3]:
            sock.close()
        wait_until(lambda: clients() == (7, begin + 8), "three are gone")


def test_a_dead_worker_takes_its_clients_from_the_count(start: Start) -> None:
    server = start(*ARGUMENTS, "--sidecar-home-timeout", "1")
    riders(server, 4)
    engine = Engine(server)
    wait_until(lambda: engine.homes() == 0, "no client needs a connection of its own")
    server.worker.kill()
    wait_until(server.answers, "another serves")
    with server.client() as client:
        wait_until(
            lambda: client.info("clients")["connected_clients"] == 2, "this one, and the test's own to the engine"
        )


def test_the_gauge_says_how_connections_are_used(start: Start) -> None:
    server = start(*ARGUMENTS, "--sidecar-home-timeout", "1")
    riders(server, 4)

    def upstreams(route: str) -> float:
        return server.metrics()[f'valkey_sidecar_upstream_connections{{route="{route}"}}']

    wait_until(lambda: upstreams("lane") == 1, "there is a lane")
    wait_until(lambda: upstreams("home") == 0, "no client needs a connection of its own")


@pytest.mark.parametrize("change", ["ACL SETUSER bob resetpass >another", "CONFIG SET requirepass another"])
def test_who_is_in_stays_in_when_the_password_changes(start: Start, change: str) -> None:
    server = start(*ARGUMENTS, "--sidecar-home-timeout", "1")
    admin = connect(server)
    assert ask(admin, "ACL SETUSER bob on >secret ~* +@all") == b"+OK\r\n"
    assert ask(admin, "ACL SETUSER default on") == b"+OK\r\n"
    login = "AUTH bob secret" if "bob" in change else "SELECT 0"
    socks = riders(server, 3, login)
    engine = Engine(server)
    wait_until(lambda: engine.homes() <= 1, "no client needs a connection of its own but the first")
    assert ask(admin, change) == b"+OK\r\n"
    wait_until(lambda: engine.homes() >= 3, "all have one")
    for sock in socks:
        # Over its own connection: that is what needs the password.
        assert ask(sock, "CLIENT GETNAME") == b""
        assert ask(sock, "SET a 1") == b"+OK\r\n"


def test_wait_means_the_write_that_went_by_lane(start: Start, start_bare: Start) -> None:
    server = start(*ARGUMENTS, "--repl-diskless-sync-delay", "0")
    replica = start_bare()
    follow(replica, server)
    socks = riders(server, 3)
    assert ask(socks[0], "WAIT 1 5000") == b":1\r\n"
    replica.process.send_signal(signal.SIGSTOP)
    try:
        for sock in socks[1:]:
            assert ask(sock, "SET a 2") == b"+OK\r\n"
        began = time.monotonic()
        for sock in socks[1:]:
            assert ask(sock, "WAIT 1 300") == b":0\r\n"
        assert time.monotonic() - began >= 0.5
        say(socks[1], "SET a 3", "MULTI", "WAIT 1 0", "EXEC")
        assert receive(socks[1], b"*1\r\n:0\r\n")
        say(socks[2], "WAIT 1 20000")
        assert says_nothing(socks[2])
    finally:
        replica.process.send_signal(signal.SIGCONT)
    assert receive(socks[2], b"\r\n") == b":1\r\n"
    waited = server.metric('valkey_command_blocked_duration_seconds_sum{db_operation_name="WAIT"}')
    assert waited >= 0.5
