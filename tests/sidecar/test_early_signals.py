"""SIGTERM and Ctrl-C at a server that has hardly begun to start."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import PATIENCE_S, wait_until

CODES = [(signal.SIGTERM, 0), (signal.SIGINT, 130)]
MODULE = [sys.executable, "-m", "sidecar"]
SCRIPT = [str(Path(sys.executable).with_name("valkey-sidecar"))]
AS_PID_1 = ["unshare", "--pid", "--fork", "--mount-proc"]

# The signal comes with the first import that the entry makes of ours.
IMPORTS = """
import os, runpy, sys
class Signals:
    def find_spec(self, name, path=None, target=None):
        if name == "sidecar.cli":
            os.kill(os.getpid(), int(sys.argv[1]))
sys.meta_path.insert(0, Signals())
runpy.run_module("sidecar", run_name="__main__", alter_sys=True)
"""

Start = Callable[[list[str]], "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a program in the test's folder; it is gone after the test, and so are its children."""
    started: list[subprocess.Popen[bytes]] = []

    def start_one(command: list[str]) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE)
        started.append(process)
        return process

    yield start_one
    for process in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
        process.kill()
        process.communicate()


@contextlib.contextmanager
def reading_its_configuration(start: Start, program: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The program, at the point where it reads a configuration file that does not end."""
    os.mkfifo(folder / "endless.conf")
    process = start([*program, "endless.conf"])
    with open(folder / "endless.conf", "wb"):  # returns once the program opens it
        yield process


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_signal_during_the_first_imports_ends_us_as_a_server_ends(
    start: Start, number: signal.Signals, code: int
) -> None:
    process = start([sys.executable, "-c", IMPORTS, str(int(number))])
    assert process.communicate(timeout=PATIENCE_S)[1] == b""
    assert process.returncode == code


@pytest.mark.parametrize(("number", "code"), CODES)
@pytest.mark.parametrize("program", [MODULE, SCRIPT], ids=["module", "script"])
def test_a_signal_before_there_is_a_supervisor_ends_us_as_a_server_ends(
    start: Start, tmp_path: Path, program: list[str], number: signal.Signals, code: int
) -> None:
    with reading_its_configuration(start, program, tmp_path) as process:
        process.send_signal(number)
        assert process.communicate(timeout=PATIENCE_S)[1] == b""
    assert process.returncode == code


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_signal_reaches_us_as_pid_1(start: Start, tmp_path: Path, number: signal.Signals, code: int) -> None:
    try:
        subprocess.run([*AS_PID_1, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no pid namespace of our own may be made here")
    with reading_its_configuration(start, [*AS_PID_1, *MODULE], tmp_path) as process:
        (first,) = psutil.Process(process.pid).children()
        first.send_signal(number)
        assert process.communicate(timeout=PATIENCE_S)[1] == b""
    assert process.returncode == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_program_that_takes_our_place_has_its_own_signals(
    start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    engine = tmp_path / "engine"
    engine.write_text("#!/bin/sh\nexec sleep 60\n")
    engine.chmod(0o755)
    process = start(["env", f"SIDECAR_ENGINE_BINARY={engine}", *MODULE, "--sentinel"])
    wait_until(lambda: psutil.Process(process.pid).name() == "sleep", "the engine runs in our place")
    process.send_signal(number)
    process.wait(PATIENCE_S)
    assert process.returncode == -number
