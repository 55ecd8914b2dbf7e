from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import valkey

from tests.conftest import Server, Start, wait_until


def test_sigterm_saves_and_leaves_nothing_behind(start_here: Start, tmp_path: Path) -> None:
    server = start_here("--save", "3600 1", "--pidfile", "our.pid").wait_ready()
    server.client().set("kept", "yes")
    family, folder = server.process.children(recursive=True), server.private_folder
    assert (tmp_path / "our.pid").read_text() == f"{server.process.pid}\n"
    assert server.terminate() == 0
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    assert not folder.exists()
    assert server.stderr == ""
    left = {path.name for path in tmp_path.iterdir()} - {server.log.name, server.errors.name}
    assert left == {"dump.rdb"}
    assert start_here().wait_ready().client().get("kept") == b"yes"


def test_ctrl_c_ends_the_server_like_sigterm(start_here: Start, tmp_path: Path) -> None:
    server = start_here("--save", "3600 1").wait_ready()
    server.client().set("kept", "yes")
    server.process.send_signal(signal.SIGINT)
    assert server.wait_end() == 0
    assert (tmp_path / "dump.rdb").exists()


def test_ctrl_c_means_what_shutdown_on_sigint_says(start_here: Start, tmp_path: Path) -> None:
    server = start_here("--save", "3600 1", "--shutdown-on-sigint", "nosave").wait_ready()
    server.client().set("lost", "yes")
    server.process.send_signal(signal.SIGINT)
    assert server.wait_end() == 0
    assert not (tmp_path / "dump.rdb").exists()


def test_a_command_in_flight_gets_its_reply(start_here: Start) -> None:
    server = start_here("--save", "", "--enable-debug-command", "yes").wait_ready()
    replies: list[Any] = []

    def sleep() -> None:
        replies.append(server.client(retry=None).execute_command("DEBUG", "SLEEP", "1"))

    sleeper = threading.Thread(target=sleep)
    sleeper.start()
    # The engine stands still: what is asked behind its back does not come back.
    wait_until(lambda: _in_flight(server) >= 1, "DEBUG SLEEP runs")
    assert server.terminate() == 0
    sleeper.join()
    assert replies in ([b"OK"], [True])


def test_what_the_engine_has_answered_before_its_end_arrives(start_here: Start) -> None:
    """More clients than a worker serves in one turn of its loop."""
    server = start_here("--save", "").wait_ready()
    engine, worker, path = server.engine, server.worker, str(server.private_folder / "engine.sock")
    clients = [server.connect() for _ in range(600)]
    for client in clients:
        client.sendall(b"PING\r\n")
    assert {client.recv(100) for client in clients} == {b"+PONG\r\n"}
    engine.suspend()
    for client in clients:
        client.sendall(b"GET nothing\r\n")
    wait_until(lambda: _in_flight(server) == 600, "all wait for the engine")
    worker.suspend()
    engine.resume()
    with socket.socket(socket.AF_UNIX) as last:
        last.connect(path)
        last.sendall(b"PING\r\n")
        assert last.recv(100) == b"+PONG\r\n"  # behind all the others
    engine.terminate()
    wait_until(lambda: "shutting down" in server.get("/readyz")[1], "the worker is told to end")
    worker.resume()
    assert {client.recv(100) for client in clients} == {b"$-1\r\n"}
    assert server.wait_end() == 0


def test_who_comes_while_the_server_ends_is_served_nothing(start_here: Start) -> None:
    server = start_here("--save", "", "--enable-debug-command", "yes").wait_ready()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as busy:
        busy.sendall(b"DEBUG SLEEP 1\r\n")
        wait_until(lambda: _in_flight(server) >= 1, "DEBUG SLEEP runs")
        server.process.send_signal(signal.SIGTERM)
        server.wait_said("server.stopping")
        wait_until(lambda: server.get("/readyz")[0] == 503, "it is not ready any more")
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as late:
            late.sendall(b"SET late yes\r\n")
            assert busy.recv(100) == b"+OK\r\n"
            assert server.wait_end() == 0
            with contextlib.suppress(ConnectionResetError):  # it was never accepted
                assert late.recv(100) == b""


def _in_flight(server: Server) -> float:
    return float(server.metric("valkey_command_in_flight"))


def test_a_blocked_call_holds_nothing_up(start_here: Start) -> None:
    server = start_here("--save", "", "--sidecar-drain-timeout", "600").wait_ready()

    def block() -> None:
        with pytest.raises(valkey.ConnectionError):
            server.client(retry=None).blpop("nothing", 0)

    blocked = threading.Thread(target=block)
    blocked.start()
    client = server.client()
    wait_until(lambda: client.info("clients")["blocked_clients"] == 1, "the call waits")
    assert server.terminate() == 0  # long before the timeout
    blocked.join()


@pytest.mark.parametrize(
    "behind",
    [b"MULTI\r\nGET a\r\n", b"BLPOP nothing 0\r\n", b"CLIENT REPLY OFF\r\nGET a\r\n", b"CONFIG GET port\r\n"],
    ids=["a transaction", "a blocked call", "no replies", "an inspected command"],
)
def test_the_drain_ends_with_the_last_command_that_does_not_wait(start_here: Start, behind: bytes) -> None:
    debug = ("--enable-debug-command", "yes")
    server = start_here("--save", "", *debug, "--sidecar-drain-timeout", "600").wait_ready()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as busy:
        busy.sendall(b"DEBUG SLEEP 1\r\n" + behind)
        wait_until(lambda: _in_flight(server) >= 1, "DEBUG SLEEP runs")
        assert server.terminate() == 0  # long before the timeout
        assert busy.recv(100).startswith(b"+OK\r\n")


def test_a_client_that_takes_no_reply_holds_nothing_up(start_here: Start, tmp_path: Path) -> None:
    server = start_here("--save", "3600 1", "--sidecar-drain-timeout", "600").wait_ready()
    server.client().set("big", b"x" * (30 << 20))
    with socket.create_connection(("127.0.0.1", server.port)) as lazy:
        lazy.sendall(b"GET big\r\n")
        wait_until(lambda: _in_flight(server) >= 1, "the reply is on its way")
        assert server.terminate() == 0  # long before the timeout
    assert (tmp_path / "dump.rdb").exists()


def test_a_script_that_never_ends_can_be_killed_while_the_server_ends(start_here: Start) -> None:
    server = start_here("--save", "", "--lua-time-limit", "100", "--sidecar-drain-timeout", "0").wait_ready()
    with socket.create_connection(("127.0.0.1", server.port)) as endless:
        endless.sendall(b"EVAL 'while true do end' 0\r\n")
        wait_until(lambda: _in_flight(server) >= 1, "the script runs")
        server.process.send_signal(signal.SIGTERM)

        def killed() -> bool:
            with contextlib.suppress(valkey.ConnectionError, valkey.TimeoutError):
                server.client(socket_timeout=1, retry=None).script_kill()
            return server.process.poll() is not None  # a busy engine may end before it has written its OK

        wait_until(killed, "the script is killed, and so the server ends")
        assert server.wait_end() == 0


def test_a_replica_that_waits_for_its_copy_holds_nothing_up(start_here: Start) -> None:
    delay = ("--repl-diskless-sync-delay", "60", "--shutdown-timeout", "0")
    server = start_here("--save", "", *delay, "--sidecar-drain-timeout", "600").wait_ready()
    client = server.client()
    with socket.create_connection(("127.0.0.1", server.port)) as replica:
        replica.sendall(b"REPLCONF capa eof\r\n")
        assert replica.recv(100) == b"+OK\r\n"
        replica.sendall(b"PSYNC ? -1\r\n")
        wait_until(lambda: client.info("replication")["connected_slaves"] == 1, "it is a replica")
        assert server.terminate() == 0  # long before the timeout


def test_a_saving_engine_is_never_killed(start_here: Start, tmp_path: Path) -> None:
    server = start_here(
        "--save", "3600 1", "--rdb-key-save-delay", "100000", "--sidecar-drain-timeout", "0"
    ).wait_ready()  # fmt: skip
    client = server.client()
    for i in range(30):
        client.set(i, i)
    began = time.monotonic()
    assert server.terminate() == 0
    assert time.monotonic() - began > 2.5  # 30 keys, 0.1 s each
    assert not list(tmp_path.glob("temp-*.rdb"))
    assert start_here().wait_ready().client().dbsize() == 30


@pytest.mark.parametrize("loglevel", ["notice", "nothing"])
def test_a_failed_save_refuses_the_end(start_here: Start, tmp_path: Path, loglevel: str) -> None:
    server = start_here("--save", "3600 1", "--loglevel", loglevel).wait_ready()
    client = server.client()
    client.set("kept", "yes")
    in_the_way = tmp_path / f"temp-{server.engine.pid}.rdb"
    in_the_way.mkdir()  # where the engine wants to write its file
    server.process.send_signal(signal.SIGTERM)
    if loglevel == "notice":
        server.wait_said("server.resumed")
    else:
        wait_until(lambda: server.get("/readyz")[0] == 503, "it is on its way down")
    server.wait_ready()
    assert server.client().get("kept") == b"yes"
    assert client.get("kept") == b"yes"
    in_the_way.rmdir()
    assert server.terminate() == 0
    assert start_here().wait_ready().client().get("kept") == b"yes"


@pytest.mark.parametrize("loglevel", ["notice", "nothing"])
def test_who_waits_for_replicas_serves_on_and_may_be_stopped(start_here: Start, loglevel: str) -> None:
    server = start_here("--save", "", "--shutdown-timeout", "60", "--loglevel", loglevel).wait_ready()
    client = server.client()
    with socket.create_connection(("127.0.0.1", server.port)) as replica:
        replica.sendall(b"PSYNC ? -1\r\n")  # and never a word of what it has got
        wait_until(lambda: client.info("replication")["connected_slaves"] == 1, "it is a replica")
        client.set("key", "value")
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "shutdown_in_milliseconds" in client.info("server"), "the shutdown has begun")
        assert client.get("key") == b"value"
        newcomer = server.client()
        assert newcomer.get("key") == b"value"
        assert newcomer.execute_command("SHUTDOWN", "ABORT") in (b"OK", True)
        server.wait_ready()
        assert client.set("key", "other")
    assert server.terminate() == 0


def test_a_second_ctrl_c_ends_at_once_and_unsaved(start_here: Start, tmp_path: Path) -> None:
    server = start_here("--save", "3600 1", "--rdb-key-save-delay", "1000000").wait_ready()
    client = server.client()
    for i in range(60):
        client.set(i, i)
    server.process.send_signal(signal.SIGINT)
    server.wait_said("Saving the final RDB snapshot before exiting.")
    server.process.send_signal(signal.SIGINT)
    assert server.wait_end() == 1  # as valkey-server's, and long before 60 keys are saved
    assert not (tmp_path / "dump.rdb").exists()


def test_who_starts_meanwhile_is_told_that_it_loads(start_here: Start, tmp_path: Path) -> None:
    first = start_here("--save", "3600 1", "--rdbcompression", "no").wait_ready()
    client = first.client()
    for i in range(100):
        client.set(i, "x" * 2000)
    assert first.terminate() == 0
    slow = ("--key-load-delay", "100000", "--loading-process-events-interval-bytes", "1024")
    server = start_here(*slow)

    def loads() -> bool:
        try:
            server.client(retry=None).ping()
        except valkey.BusyLoadingError:
            return True
        except valkey.ConnectionError:
            return False
        return False

    wait_until(loads, "a client is told LOADING")
    status, reason = wait_until(lambda: _http(server), "HTTP answers")
    assert (status, reason) == (503, "the engine is loading its data\n")
    # As with Valkey: nothing was changed, so nothing is lost.
    assert server.terminate() == 0
    assert (tmp_path / "dump.rdb").exists()


def _http(server: Server) -> tuple[int, str] | None:
    try:
        return server.get("/readyz")
    except OSError:
        return None


def test_sighup_is_ignored_as_valkey_ignores_it(start_here: Start) -> None:
    server = start_here("--save", "").wait_ready()
    server.process.send_signal(signal.SIGHUP)
    assert server.client().ping()
    assert server.process.is_running()


def test_daemonize_goes_to_the_background_with_a_pid_file(start_here: Start, tmp_path: Path) -> None:
    server = start_here("--daemonize", "yes", "--pidfile", "our.pid", "--logfile", "our.log", "--save", "")
    assert server.wait_end() == 0
    pidfile = tmp_path / "our.pid"
    pid = int(wait_until(lambda: pidfile.exists() and pidfile.read_text(), "there is a pid file"))
    daemon = psutil.Process(pid)
    try:
        wait_until(lambda: _http(server) == (200, "ready\n"), "it serves")
        assert server.client().ping()
        assert daemon.terminal() is None
        assert os.getsid(pid) != os.getsid(0)
        assert {Path(f"/proc/{pid}/fd/{n}").readlink() for n in (0, 1, 2)} == {Path("/dev/null")}
        assert "Ready to accept connections" in (tmp_path / "our.log").read_text()
        daemon.terminate()
        psutil.wait_procs([daemon], timeout=20)
        assert not daemon.is_running()
        assert not pidfile.exists()
    finally:
        if daemon.is_running():
            daemon.kill()


def test_systemd_is_told_when_we_are_ready_and_when_we_stop(start_here: Start, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.settimeout(30)
        path = tmp_path / "notify"
        systemd.bind(str(path))
        server = start_here("--supervised", "auto", "--save", "", env={"NOTIFY_SOCKET": str(path)})
        assert b"READY=1" in systemd.recv(1000)
        assert "NOTIFY_SOCKET" not in server.engine.environ()
        server.process.send_signal(signal.SIGTERM)
        assert b"STOPPING=1" in systemd.recv(1000)
    assert server.wait_end() == 0


def test_a_log_file_that_cannot_be_written_stops_the_start(start_here: Start) -> None:
    server = start_here("--logfile", "missing/our.log")
    assert server.wait_end() == 1
    (line,) = server.stderr.splitlines()
    assert line.startswith("valkey-sidecar: logfile: ")


def test_the_exit_code_of_a_start_that_fails_is_the_engines(start_here: Start, tmp_path: Path) -> None:
    engine = tmp_path / "engine.sh"
    engine.write_text("#!/bin/sh\necho this is the end >&2\nexit 42\n")
    engine.chmod(0o755)
    server = start_here("--sidecar-engine-binary", str(engine))
    assert server.wait_end() == 42
    assert "this is the end" in server.stderr


def test_an_engine_binary_that_cannot_run_is_one_line(start_here: Start, tmp_path: Path) -> None:
    engine = tmp_path / "engine.sh"
    engine.write_text("#!/no/such/interpreter\n")
    engine.chmod(0o755)
    server = start_here("--sidecar-engine-binary", str(engine))
    assert server.wait_end() == 1
    (line,) = server.stderr.splitlines()
    assert "could not be started" in line
