from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import valkey

Launch = Callable[..., Any]
Eventually = Callable[..., Any]


def test_sigterm_saves_and_leaves_nothing_behind(launch: Launch, tmp_path: Path) -> None:
    server = launch("--save", "3600 1", "--pidfile", "our.pid").wait_ready()
    server.client().set("kept", "yes")
    family, folder = server.process.children(recursive=True), server.private_folder
    assert (tmp_path / "our.pid").read_text() == f"{server.process.pid}\n"
    assert server.terminate() == 0
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    assert not folder.exists()
    assert server.stderr == ""
    left = {path.name for path in tmp_path.iterdir()} - {f"{server.port}.out", f"{server.port}.err"}
    assert left == {"dump.rdb"}
    assert launch().wait_ready().client().get("kept") == "yes"


def test_ctrl_c_ends_the_server_like_sigterm(launch: Launch) -> None:
    server = launch("--save", "3600 1").wait_ready()
    server.client().set("kept", "yes")
    server.process.send_signal(signal.SIGINT)
    assert server.wait_end() == 0
    assert (server.folder / "dump.rdb").exists()


def test_a_command_in_flight_gets_its_reply(launch: Launch, eventually: Eventually) -> None:
    server = launch("--save", "", "--enable-debug-command", "yes").wait_ready()
    replies: list[Any] = []

    def sleep() -> None:
        replies.append(server.client(retry=None).execute_command("DEBUG", "SLEEP", "1"))

    sleeper = threading.Thread(target=sleep)
    sleeper.start()
    # The engine stands still: what is asked behind its back does not come back.
    eventually("DEBUG SLEEP runs", lambda: _in_flight(server) >= 1)
    assert server.terminate() == 0
    sleeper.join()
    assert replies in ([b"OK"], ["OK"], [True])


def test_who_comes_while_the_server_ends_is_served_nothing(launch: Launch, eventually: Eventually) -> None:
    server = launch("--save", "", "--enable-debug-command", "yes").wait_ready()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as busy:
        busy.sendall(b"DEBUG SLEEP 1\r\n")
        eventually("DEBUG SLEEP runs", lambda: _in_flight(server) >= 1)
        server.process.send_signal(signal.SIGTERM)
        server.wait_said("server.stopping")
        eventually("it is not ready any more", lambda: server.http("readyz")[0] == 503)
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as late:
            late.sendall(b"SET late yes\r\n")
            assert busy.recv(100) == b"+OK\r\n"
            assert server.wait_end() == 0
            with contextlib.suppress(ConnectionResetError):  # it was never accepted
                assert late.recv(100) == b""


def _in_flight(server: Any) -> float:
    return float(server.metric("valkey_command_in_flight"))


def test_a_blocked_call_holds_nothing_up(launch: Launch) -> None:
    server = launch("--save", "", "--sidecar-drain-timeout", "20").wait_ready()

    def block() -> None:
        with pytest.raises(valkey.ConnectionError):
            server.client(retry=None).blpop("nothing", 0)

    blocked = threading.Thread(target=block)
    blocked.start()
    client = server.client()
    while client.info("clients")["blocked_clients"] != 1:
        time.sleep(0.01)
    began = time.monotonic()
    assert server.terminate() == 0
    assert time.monotonic() - began < 10
    blocked.join()


def test_a_replica_that_waits_for_its_copy_holds_nothing_up(launch: Launch, eventually: Eventually) -> None:
    delay = ("--repl-diskless-sync-delay", "60", "--shutdown-timeout", "0")
    server = launch("--save", "", *delay, "--sidecar-drain-timeout", "20").wait_ready()
    client = server.client()
    with socket.create_connection(("127.0.0.1", server.port)) as replica:
        replica.sendall(b"REPLCONF capa eof\r\n")
        assert replica.recv(100) == b"+OK\r\n"
        replica.sendall(b"PSYNC ? -1\r\n")
        eventually("it is a replica", lambda: client.info("replication")["connected_slaves"] == 1)
        began = time.monotonic()
        assert server.terminate() == 0
    assert time.monotonic() - began < 10


def test_a_saving_engine_is_never_killed(launch: Launch, tmp_path: Path) -> None:
    server = launch(
        "--save", "3600 1", "--rdb-key-save-delay", "100000", "--sidecar-drain-timeout", "0"
    ).wait_ready()  # fmt: skip
    client = server.client()
    for i in range(30):
        client.set(i, i)
    began = time.monotonic()
    assert server.terminate() == 0
    assert time.monotonic() - began > 2.5  # 30 keys, 0.1 s each
    assert not list(tmp_path.glob("temp-*.rdb"))
    assert launch().wait_ready().client().dbsize() == 30


@pytest.mark.parametrize("loglevel", ["notice", "nothing"])
def test_a_failed_save_refuses_the_end(launch: Launch, eventually: Eventually, tmp_path: Path, loglevel: str) -> None:
    server = launch("--save", "3600 1", "--loglevel", loglevel).wait_ready()
    client = server.client()
    client.set("kept", "yes")
    in_the_way = tmp_path / f"temp-{server.engine.pid}.rdb"
    in_the_way.mkdir()  # where the engine wants to write its file
    server.process.send_signal(signal.SIGTERM)
    if loglevel == "notice":
        server.wait_said("server.resumed")
    else:
        eventually("it is on its way down", lambda: server.http("readyz")[0] == 503)
    server.wait_ready()
    assert server.client().get("kept") == "yes"
    assert client.get("kept") == "yes"
    in_the_way.rmdir()
    assert server.terminate() == 0
    assert launch().wait_ready().client().get("kept") == "yes"


@pytest.mark.parametrize("loglevel", ["notice", "nothing"])
def test_who_waits_for_replicas_serves_on_and_may_be_stopped(
    launch: Launch, eventually: Eventually, loglevel: str
) -> None:
    server = launch("--save", "", "--shutdown-timeout", "60", "--loglevel", loglevel).wait_ready()
    client = server.client()
    with socket.create_connection(("127.0.0.1", server.port)) as replica:
        replica.sendall(b"PSYNC ? -1\r\n")  # and never a word of what it has got
        eventually("it is a replica", lambda: client.info("replication")["connected_slaves"] == 1)
        client.set("key", "value")
        server.process.send_signal(signal.SIGTERM)
        eventually("the shutdown has begun", lambda: "shutdown_in_milliseconds" in client.info("server"))
        assert client.get("key") == "value"
        newcomer = server.client()
        assert newcomer.get("key") == "value"
        assert newcomer.execute_command("SHUTDOWN", "ABORT") in (b"OK", "OK", True)
        server.wait_ready()
        assert client.set("key", "other")
    assert server.terminate() == 0


def test_a_second_ctrl_c_ends_at_once_and_unsaved(launch: Launch, tmp_path: Path) -> None:
    server = launch("--save", "3600 1", "--rdb-key-save-delay", "1000000").wait_ready()
    client = server.client()
    for i in range(60):
        client.set(i, i)
    server.process.send_signal(signal.SIGINT)
    server.wait_said("Saving the final RDB snapshot before exiting.")
    began = time.monotonic()
    server.process.send_signal(signal.SIGINT)
    assert server.wait_end() == 1  # as valkey-server's
    assert time.monotonic() - began < 10
    assert not (tmp_path / "dump.rdb").exists()


def test_who_starts_meanwhile_is_told_that_it_loads(launch: Launch, eventually: Eventually, tmp_path: Path) -> None:
    first = launch("--save", "3600 1", "--rdbcompression", "no").wait_ready()
    client = first.client()
    for i in range(100):
        client.set(i, "x" * 2000)
    assert first.terminate() == 0
    slow = ("--key-load-delay", "100000", "--loading-process-events-interval-bytes", "1024")
    server = launch(*slow)

    def loads() -> bool:
        try:
            server.client(retry=None).ping()
        except valkey.BusyLoadingError:
            return True
        except valkey.ConnectionError:
            return False
        return False

    eventually("a client is told LOADING", loads)
    status, reason = eventually("HTTP answers", lambda: _http(server))
    assert (status, reason) == (503, "the engine is loading its data\n")
    # As with Valkey: nothing was changed, so nothing is lost.
    assert server.terminate() == 0
    assert (tmp_path / "dump.rdb").exists()


def _http(server: Any) -> tuple[int, str] | None:
    try:
        return tuple(server.http("readyz"))  # type: ignore[return-value]
    except OSError:
        return None


def test_sighup_is_ignored_as_valkey_ignores_it(launch: Launch) -> None:
    server = launch("--save", "").wait_ready()
    server.process.send_signal(signal.SIGHUP)
    assert server.client().ping()
    assert server.process.is_running()


def test_daemonize_goes_to_the_background_with_a_pid_file(
    launch: Launch, eventually: Eventually, tmp_path: Path
) -> None:
    server = launch("--daemonize", "yes", "--pidfile", "our.pid", "--logfile", "our.log", "--save", "")
    assert server.wait_end() == 0
    pidfile = tmp_path / "our.pid"
    pid = int(eventually("there is a pid file", lambda: pidfile.exists() and pidfile.read_text()))
    daemon = psutil.Process(pid)
    try:
        eventually("it serves", lambda: _http(server) == (200, "ready\n"))
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


def test_systemd_is_told_when_we_are_ready_and_when_we_stop(launch: Launch, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.settimeout(30)
        path = tmp_path / "notify"
        systemd.bind(str(path))
        server = launch("--supervised", "auto", "--save", "", environment={"NOTIFY_SOCKET": str(path)})
        assert b"READY=1" in systemd.recv(1000)
        assert "NOTIFY_SOCKET" not in server.engine.environ()
        server.process.send_signal(signal.SIGTERM)
        assert b"STOPPING=1" in systemd.recv(1000)
    assert server.wait_end() == 0


def test_a_log_file_that_cannot_be_written_stops_the_start(launch: Launch) -> None:
    server = launch("--logfile", "missing/our.log")
    assert server.wait_end() == 1
    (line,) = server.stderr.splitlines()
    assert line.startswith("valkey-sidecar: logfile: ")


def test_the_exit_code_of_a_start_that_fails_is_the_engines(launch: Launch, tmp_path: Path) -> None:
    engine = tmp_path / "engine.sh"
    engine.write_text("#!/bin/sh\necho this is the end >&2\nexit 42\n")
    engine.chmod(0o755)
    server = launch("--sidecar-engine-binary", str(engine))
    assert server.wait_end() == 42
    assert "this is the end" in server.stderr


def test_an_engine_binary_that_cannot_run_is_one_line(launch: Launch, tmp_path: Path) -> None:
    engine = tmp_path / "engine.sh"
    engine.write_text("#!/no/such/interpreter\n")
    engine.chmod(0o755)
    server = launch("--sidecar-engine-binary", str(engine))
    assert server.wait_end() == 1
    (line,) = server.stderr.splitlines()
    assert "could not be started" in line
