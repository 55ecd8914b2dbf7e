"""Whole servers, started as people start them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import valkey

from tests.conftest import free_port

ROOT = Path(__file__).resolve().parents[2]

# Generous: the machine that runs the tests may run several at once.
PATIENCE_S = 30.0


def wait_until(what: str, condition: Callable[[], Any]) -> Any:
    """The condition's first true value; fails with `what` when there is none in time."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.01)


class Server:
    """A running `python -m sidecar`, its log and its processes."""

    def __init__(self, folder: Path, arguments: tuple[str, ...], **options: Any) -> None:
        self.port = free_port()
        self.http_port = free_port()
        self.folder = folder
        self._out = folder / f"{self.port}.out"
        self._err = folder / f"{self.port}.err"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SIDECAR_")}
        environment |= {"PYTHONPATH": str(ROOT), **options.pop("environment", {})}
        given = " ".join(arguments)
        command = [sys.executable, "-m", "sidecar", *arguments]
        if "--port" not in given and not options.pop("port_in_file", False):
            command += ["--port", str(self.port)]
        if "--sidecar-http-port" not in given and not options.pop("default_http", False):
            command += ["--sidecar-http-port", str(self.http_port)]
        # What a test starts must be able to end: one worker, whatever the machine has.
        command += ["--sidecar-workers", "1"] if "--sidecar-workers" not in given else []
        if arguments[-1:] == ("-",):  # standard input is asked for at one end or the other
            command.remove("-")
            command.append("-")
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = psutil.Popen(
                command, cwd=folder, env=environment, stdout=out, stderr=err, **{"stdin": subprocess.DEVNULL, **options}
            )
        self._all: set[psutil.Process] = set()

    # ---- talking to it

    def client(self, **options: Any) -> valkey.Valkey:
        return valkey.Valkey(port=self.port, decode_responses=True, socket_timeout=PATIENCE_S, **options)

    def wait_ready(self) -> Server:
        def answers() -> bool:
            assert self.process.poll() is None, f"ended with {self.process.poll()}: {self.stderr}"
            try:
                return self.http("readyz")[0] == 200
            except OSError:
                return False

        wait_until("the server is ready", answers)
        self._all.update(self.process.children(recursive=True))
        return self

    def http(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/{path}", timeout=PATIENCE_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metric(self, name: str) -> float:
        """The sum of a metric's samples whose name and labels begin with `name`."""
        lines = self.http("metrics")[1].splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    # ---- watching it

    @property
    def stderr(self) -> str:
        return self._err.read_text()

    @property
    def events(self) -> list[dict[str, Any]]:
        """The log so far; the last line may be only half written."""
        found = []
        for line in self._out.read_text().splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    def said(self, text: str) -> list[dict[str, Any]]:
        """The events whose name or message holds `text`."""
        return [event for event in self.events if text in event["message"] or text == event["event_name"]]

    def wait_said(self, text: str, times: int = 1) -> dict[str, Any]:
        wait_until(f"the log says {text!r}", lambda: len(self.said(text)) >= times)
        return self.said(text)[times - 1]

    def children(self, kind: str) -> list[psutil.Process]:
        """Our "engine" or "worker" processes."""
        found = []
        for child in self.process.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                is_worker = "sidecar.relay.worker" in child.cmdline()
                if child.status() != psutil.STATUS_ZOMBIE and is_worker == (kind == "worker"):
                    found.append(child)
        return found

    @property
    def engine(self) -> psutil.Process:
        (engine,) = self.children("engine")
        return engine

    @property
    def worker(self) -> psutil.Process:
        (worker,) = self.children("worker")
        return worker

    @property
    def private_folder(self) -> Path:
        """Where the engine's socket is."""
        (path,) = [c.laddr for c in self.engine.net_connections("unix") if c.laddr.endswith("/engine.sock")][:1]
        return Path(path).parent

    # ---- ending it

    def wait_end(self) -> int:
        return int(self.process.wait(PATIENCE_S))

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.wait_end()

    def kill(self) -> None:
        """The last resort of a fixture: nothing of it stays, whatever the test did."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._all.update(self.process.children(recursive=True))
        for process in (self.process, *self._all):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(PATIENCE_S)


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts a server in the test's folder with these arguments; it may be up, or ended, only later."""
    servers: list[Server] = []

    def start(*arguments: str, **options: Any) -> Server:
        server = Server(tmp_path, arguments, **options)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def eventually() -> Callable[[str, Callable[[], Any]], Any]:
    """Waits for a condition."""
    return wait_until
