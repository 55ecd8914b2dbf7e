"""Why a start failed is said where the person who started the server looks."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PATIENCE_S, Start, free_port, wait_until

# A machine that has no process left for the first argument: a child by its name, or the daemon.
_NO_PROCESS_FOR = """
import errno, os, sys
from sidecar.processes import Children
spawn = Children.spawn
what = sys.argv.pop(1)
def refuse(*_):
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
def spawn_or_refuse(self, name, *args, **options):
    return refuse() if name.startswith(what) else spawn(self, name, *args, **options)
Children.spawn = spawn_or_refuse
if what == "daemon":
    os.fork = refuse
from sidecar.cli import main
sys.exit(main())
"""


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock.getsockname()[1]


def failures(log: Path) -> list[str]:
    """What a log file says about the start that failed."""
    events = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return [event["message"] for event in events if event["event_name"] == "server.failed"]


def lines_about(port: int) -> list[str]:
    return [
        f"Warning: Could not create server TCP listening socket 127.0.0.1:{port}: bind: Address already in use",
        f"Failed listening on port {port} (tcp), aborting.",
    ]


def test_a_log_file_has_valkeys_lines_about_a_port_that_is_taken(start_here: Start, tmp_path: Path, taken: int) -> None:
    server = start_here("--logfile", "our.log", "--bind", "127.0.0.1", port=taken)
    assert server.wait_end() == 1
    assert failures(tmp_path / "our.log") == lines_about(taken)
    assert server.stderr.splitlines() == [f"valkey-sidecar: {line}" for line in lines_about(taken)]
    assert server.log.read_text() == ""


def test_a_daemons_log_file_has_them_too(start_here: Start, tmp_path: Path, taken: int) -> None:
    server = start_here(
        "--daemonize", "yes", "--pidfile", "our.pid", "--logfile", "our.log", "--bind", "127.0.0.1", port=taken
    )
    assert server.wait_end() == 0
    wait_until(lambda: failures(tmp_path / "our.log") == lines_about(taken), "the log has the lines")


def test_without_a_log_file_nothing_is_said_twice(start_here: Start, taken: int) -> None:
    server = start_here("--bind", "127.0.0.1", port=taken)
    assert server.wait_end() == 1
    assert server.stderr.splitlines() == [f"valkey-sidecar: {line}" for line in lines_about(taken)]
    assert not server.said("server.failed")


def test_a_log_file_says_that_there_is_no_engine(start_here: Start, tmp_path: Path) -> None:
    server = start_here("--logfile", "our.log", "--sidecar-engine-binary", "/none")
    assert server.wait_end() == 1
    (line,) = failures(tmp_path / "our.log")
    assert "/none" in line
    assert server.stderr == f"valkey-sidecar: {line}\n"


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("worker", "a worker could not be started: "),
        ("engine", "the engine could not be started: "),
        ("daemon", "daemonize: no process for the background: "),
    ],
)
def test_a_machine_without_processes_is_told_with_what_it_lacks_them_for(tmp_path: Path, what: str, told: str) -> None:
    daemonize = "yes" if what == "daemon" else "no"
    done = subprocess.run(
        [sys.executable, "-c", _NO_PROCESS_FOR, what, "--port", str(free_port()), "--daemonize", daemonize],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.stderr == f"valkey-sidecar: {told}Resource temporarily unavailable\n"
    assert done.returncode == 1
