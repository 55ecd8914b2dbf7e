"""An engine that comes back after a crash has the data, the role and the doors that it should have."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest
import valkey

from sidecar.relay.listener import PROTECTED_ERROR
from tests.conftest import PATIENCE_S, Server, Start, receive, wait_until

_FAST = ("--repl-diskless-sync-delay", "0")


def _replica_of(server: Server, start_bare: Start) -> valkey.Valkey:
    replica = start_bare("--replicaof", "127.0.0.1", str(server.port))
    client = replica.client()
    wait_until(lambda: client.info("replication")["master_link_status"] == "up", "the replica is in sync")
    return client


def _crash(server: Server) -> None:
    engine = server.engine
    engine.kill()
    engine.wait(PATIENCE_S)


def _restarted(server: Server) -> Server:
    times = len(server.said("engine.restarted")) + 1
    _crash(server)
    server.wait_said("engine.restarted", times)
    return server.wait_ready()


def _ends_for_its_replica(server: Server, follower: valkey.Valkey, because: str) -> None:
    before = follower.dbsize()
    _crash(server)
    assert server.wait_end() == 128 + signal.SIGKILL
    assert because in server.said("server.failed")[0]["message"]
    assert not server.said("engine.restarted")
    assert follower.dbsize() == before > 0


def _poll_seen(server: Server) -> None:
    """Wait until the supervisor has looked at the engine once more."""
    client = server.client()

    def looks() -> int:
        """What INFO was called by others than us."""
        calls = client.info("commandstats")["cmdstat_info"]["calls"]
        return int(calls - server.calls()["INFO", ""])

    before = looks()
    wait_until(lambda: looks() >= before + 2, "it has looked")


def test_persistence_of_the_moment_does_not_bring_an_empty_primary_back(start_here: Start, start_bare: Start) -> None:
    server = start_here("--save", "", *_FAST).wait_ready()
    follower = _replica_of(server, start_bare)
    client = server.client()
    client.config_set("appendonly", "yes")
    client.mset({f"k{i}": i for i in range(20)})
    client.wait(1, 10_000)
    _ends_for_its_replica(server, follower, "persistence is off")


def test_save_points_that_were_not_reached_do_not_bring_an_empty_primary_back(
    start_here: Start, start_bare: Start
) -> None:
    server = start_here("--save", "3600 1", *_FAST).wait_ready()
    follower = _replica_of(server, start_bare)
    server.client().set("k", "v")
    server.client().wait(1, 10_000)
    _ends_for_its_replica(server, follower, "nothing has been saved yet")


def test_an_old_snapshot_does_not_take_newer_data_from_a_replica(start_here: Start, start_bare: Start) -> None:
    server = start_here("--save", "3600 1", *_FAST).wait_ready()
    client = server.client()
    client.set("old", "1")
    client.save()
    follower = _replica_of(server, start_bare)
    client.mset({f"k{i}": i for i in range(30)})
    client.wait(1, 10_000)
    _poll_seen(server)
    _ends_for_its_replica(server, follower, "the last snapshot lacks 30 changes")


@pytest.mark.parametrize(
    "persistence",
    [("--appendonly", "yes"), ("--save", "3600 1"), ("--appendonly", "yes", "--dir", "data")],
    ids=["append only", "snapshots", "in a folder of its own"],
)
def test_a_primary_with_all_its_data_comes_back_to_its_replica(
    start_here: Start, start_bare: Start, tmp_path: Path, persistence: tuple[str, ...]
) -> None:
    (tmp_path / "data").mkdir()
    server = start_here(*persistence, "--appendfsync", "always", *_FAST).wait_ready()
    follower = _replica_of(server, start_bare)
    client = server.client()
    client.mset({f"k{i}": i for i in range(30)})
    client.save()
    client.wait(1, 10_000)
    _poll_seen(server)
    _restarted(server)
    assert client.dbsize() == 30
    wait_until(lambda: follower.info("replication")["master_link_status"] == "up", "the replica follows again")
    assert follower.dbsize() == 30


def test_a_server_that_a_password_protected_is_not_open_without_it(start_here: Start, outer_address: str) -> None:
    server = start_here("--save", "").wait_ready()
    client = server.client()
    client.config_set("requirepass", "secret")
    client.execute_command("AUTH", "secret")
    client.config_set("protected-mode", "no")
    client.config_set("timeout", "77")
    _restarted(server)
    assert client.config_get("protected-mode", "timeout") == {"protected-mode": "yes", "timeout": "0"}
    with socket.create_connection((outer_address, server.port), timeout=PATIENCE_S) as stranger:
        assert receive(stranger) == PROTECTED_ERROR


def test_a_stranger_that_waits_for_the_engine_is_judged_again(start_here: Start, outer_address: str) -> None:
    server = start_here("--save", "", "--sidecar-engine-timeout", "60").wait_ready()
    client = server.client()
    client.config_set("requirepass", "secret")
    wait_until(lambda: _answers(outer_address, server).startswith(b"-NOAUTH"), "a stranger is asked for the password")
    socket_of_engine = server.private_folder / "engine.sock"
    socket_of_engine.rename(socket_of_engine.with_name("moved"))
    with socket.create_connection((outer_address, server.port), timeout=PATIENCE_S) as waiting:
        wait_until(lambda: server.metrics()['valkey_client_connections{network_transport="tcp",tls="false"}'] >= 2, "")
        _crash(server)
        server.wait_said("engine.restarted")
        assert waiting.recv(1) == b""
    server.wait_ready()
    assert _answers(outer_address, server) == PROTECTED_ERROR


def test_who_was_idle_must_authenticate_to_the_new_engine(start_here: Start) -> None:
    server = start_here("--save", "", "--sidecar-home-timeout", "1").wait_ready()
    homes = 'valkey_sidecar_upstream_connections{route="home"}'
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "ann", "on", ">old", "~*", "+@all")
    with server.connect() as idle, server.connect() as silent:
        idle.sendall(b"AUTH ann old\r\n")
        assert receive(idle, b"\r\n") == b"+OK\r\n"
        wait_until(lambda: server.metrics()[homes] == 0, "its own connection is closed")
        _crash(server)
        server.wait_said("engine.restarted")
        assert idle.recv(1) == b""  # by lane it would be who it was
        server.wait_ready()
        silent.sendall(b"PING\r\n")
        assert receive(silent, b"\r\n") == b"+PONG\r\n"


def _answers(host: str, server: Server) -> bytes:
    with socket.create_connection((host, server.port), timeout=PATIENCE_S) as sock:
        sock.sendall(b"GET a\r\n")
        return receive(sock, b"\r\n")


@pytest.mark.parametrize(
    "forged",
    [
        "PRIMARY MODE enabled (user request)",
        "REPLICAOF 127.0.0.1:7 enabled (user request)",
        "Replica 127.0.0.1:7 asks for synchronization",
    ],
)
def test_what_a_script_writes_into_the_log_decides_nothing(start_here: Start, forged: str) -> None:
    server = start_here("--save", "").wait_ready()
    line = f"x\n1:M 24 Nov 2026 15:15:05.877 * {forged}\n1:M 24 Nov 2026 15:15:05.877 * y"
    server.client().eval("server.log(server.LOG_WARNING, ARGV[1])", 0, line)
    server.wait_said(forged)
    _restarted(server)
    assert server.client().role()[0] == b"master"


def test_append_only_that_was_switched_off_does_not_roll_a_replica_back(start_here: Start, start_bare: Start) -> None:
    server = start_here("--save", "", "--appendonly", "yes", *_FAST).wait_ready()
    follower = _replica_of(server, start_bare)
    client = server.client()
    client.config_set("appendonly", "no")
    client.mset({f"k{i}": i for i in range(30)})
    client.wait(1, 10_000)
    _poll_seen(server)
    _ends_for_its_replica(server, follower, "the append-only file lacks changes")


def test_a_snapshot_elsewhere_rolls_no_replica_back(start_here: Start, start_bare: Start, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    server = start_here("--save", "3600 1", "--enable-protected-configs", "yes", *_FAST).wait_ready()
    client = server.client()
    client.set("old", "1")
    client.save()
    follower = _replica_of(server, start_bare)
    client.config_set("dir", str(tmp_path / "other"))
    client.mset({f"k{i}": i for i in range(30)})
    client.save()
    client.wait(1, 10_000)
    _poll_seen(server)
    _ends_for_its_replica(server, follower, "its files were moved by CONFIG SET")


def test_a_rewritten_setting_lasts(start_here: Start, tmp_path: Path) -> None:
    conf = tmp_path / "valkey.conf"
    conf.write_text("# mine\nsave ''\n")
    server = start_here(str(conf), "--tcp-keepalive", "60").wait_ready()
    client = server.client()
    client.config_set("timeout", "77")
    client.config_set("tcp-keepalive", "61")
    client.config_rewrite()
    client.config_set("timeout", "78")
    _restarted(server)
    # An argument counts more than the file, at every start.
    assert client.config_get("timeout", "tcp-keepalive") == {"timeout": "77", "tcp-keepalive": "60"}


def test_a_promoted_replica_stays_a_primary(start_here: Start, start_bare: Start) -> None:
    primary = start_bare()
    server = start_here("--appendonly", "yes", "--replicaof", "127.0.0.1", str(primary.port)).wait_ready()
    client = server.client()
    wait_until(lambda: client.info("replication")["master_link_status"] == "up", "it is in sync")
    client.replicaof("NO", "ONE")
    client.set("mine", "1")
    _poll_seen(server)
    _restarted(server)
    assert client.role()[0] == b"master"
    assert client.get("mine") == b"1"


def test_who_became_a_replica_stays_one(start_here: Start, start_bare: Start) -> None:
    primary = start_bare()
    primary.client().set("theirs", "1")
    server = start_here("--save", "").wait_ready()
    client = server.client()
    client.replicaof("127.0.0.1", primary.port)
    wait_until(lambda: client.info("replication").get("master_link_status") == "up", "it is in sync")
    _poll_seen(server)
    _restarted(server)
    wait_until(lambda: client.info("replication").get("master_link_status") == "up", "it follows again")
    assert client.get("theirs") == b"1"


def test_a_new_password_lets_our_own_connection_in_again(start_here: Start) -> None:
    server = start_here("--save", "").wait_ready()
    client = server.client()
    client.config_set("requirepass", "rotated")
    client.execute_command("AUTH", "rotated")
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert client.config_set("maxclients", "500")
    assert not server.said("engine.no_rights")
    assert "rotated" not in server.log_text()
