"""Two servers that save and one data folder: the second waits for the first, as the next container on a volume must."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import PATIENCE_S, Server, Start, free_port, wait_until

SAVES = ("--appendonly", "yes", "--save", "")
OWN_PIDS = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
"""In a pid namespace of its own, as in a container."""


def served(server: Server) -> tuple[int, str]:
    """Status and text of /readyz, once HTTP answers."""

    def answers() -> bool:
        try:
            return server.get("/livez")[0] == 200
        except OSError:
            return False

    wait_until(answers, "/livez answers")
    return server.get("/readyz")


def test_a_server_waits_for_the_one_before_it_and_has_its_data(start: Start, tmp_path: Path) -> None:
    first = start(*SAVES, folder=tmp_path)
    first.client().set("k", "v")
    second = start(*SAVES, folder=tmp_path, wait=False)
    said = second.wait_said("data.waiting")["message"]
    assert f"The data folder {tmp_path} is in use by another valkey-sidecar (pid {first.process.pid}, " in said
    assert said.endswith("waiting up to 15 s for it.")
    status, text = served(second)
    assert status == 503
    assert "another server still holds the data folder" in text
    assert second.children("engine") == []
    assert first.client().get("k") == b"v"
    assert first.stop() == 0
    second.wait_ready()
    assert second.client().get("k") == b"v"
    assert len(second.said("data.waiting")) == 1
    assert second.stop() == 0
    assert not (tmp_path / ".valkey-sidecar.lock").exists()


def test_a_client_that_connects_during_the_wait_is_served_after_it(start: Start, tmp_path: Path) -> None:
    first = start(*SAVES, folder=tmp_path)
    second = start(*SAVES, folder=tmp_path, wait=False)
    second.wait_said("data.waiting")
    early = second.connect()
    early.sendall(b"PING\r\n")
    first.stop()
    assert early.recv(100) == b"+PONG\r\n"


def test_who_holds_the_folder_too_long_is_named_with_the_time(start: Start, tmp_path: Path) -> None:
    first = start(*SAVES, folder=tmp_path)
    began = time.monotonic()
    second = start(*SAVES, "--sidecar-lock-timeout", "1.5", folder=tmp_path, wait=False)
    assert second.wait_end() == 1
    assert time.monotonic() - began >= 1.5
    (line,) = second.stderr.splitlines()
    assert line.startswith(f"valkey-sidecar: the data folder {tmp_path} is in use by another valkey-sidecar")
    assert "which did not release it within 1.5 s; give this one a folder of its own with `dir`" in line
    assert first.client().ping()


def test_a_server_that_shall_not_wait_fails_at_once(start: Start, tmp_path: Path) -> None:
    start(*SAVES, folder=tmp_path)
    second = start(*SAVES, "--sidecar-lock-timeout", "0", folder=tmp_path, wait=False)
    assert second.wait_end() == 1
    assert "is in use by another valkey-sidecar" in second.stderr
    assert "within" not in second.stderr
    assert not second.said("data.waiting")


def test_a_port_that_is_taken_is_not_waited_for(start: Start, tmp_path: Path) -> None:
    first = start(*SAVES, folder=tmp_path)
    second = start(*SAVES, folder=tmp_path, wait=False, port=first.port)
    assert second.wait_end() == 1
    assert "Address already in use" in second.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_the_wait_at_once(start: Start, tmp_path: Path, number: int, code: int) -> None:
    start(*SAVES, folder=tmp_path)
    second = start(*SAVES, "--sidecar-lock-timeout", "3600", folder=tmp_path, wait=False)
    second.wait_said("data.waiting")
    second.remember_family()
    second.process.send_signal(number)
    assert second.wait_end() == code
    assert second.stderr == ""
    assert (tmp_path / ".valkey-sidecar.lock").exists()


def test_what_the_two_share_by_name_stays_the_second_ones(start: Start, tmp_path: Path) -> None:
    common = (*SAVES, "--unixsocket", str(tmp_path / "v.sock"), "--pidfile", "our.pid")
    first = start(*common, folder=tmp_path)
    second = start(*common, folder=tmp_path, wait=False)
    second.wait_said("data.waiting")
    assert (tmp_path / "our.pid").read_text() == f"{first.process.pid}\n"
    first.stop()
    second.wait_ready()
    assert (tmp_path / "our.pid").read_text() == f"{second.process.pid}\n"
    with second.client(unix_socket_path=str(tmp_path / "v.sock")) as client:
        assert client.ping()
    second.stop()
    assert not (tmp_path / "v.sock").exists()


def test_a_server_in_another_container_is_waited_for_whatever_its_pid_says(start: Start, tmp_path: Path) -> None:
    try:
        subprocess.run([*OWN_PIDS, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no pid namespace of our own may be made here")
    command = [*OWN_PIDS, sys.executable, "-m", "sidecar", *SAVES, "--port", str(free_port())]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command += ["--sidecar-http-port", str(free_port())]
    first = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    try:
        lock = tmp_path / ".valkey-sidecar.lock"
        wait_until(lambda: lock.exists() and lock.read_text(), "the first server holds the folder")
        assert lock.read_text() == "1\n"  # here that is somebody else, who never ends
        second = start(*SAVES, folder=tmp_path, wait=False)
        second.wait_said("data.waiting")
        (supervisor,) = psutil.Process(first.pid).children()
        supervisor.send_signal(signal.SIGTERM)
        first.wait(PATIENCE_S)
        second.wait_ready()
        assert len(second.said("data.waiting")) == 1
    finally:
        first.kill()
        first.wait()
