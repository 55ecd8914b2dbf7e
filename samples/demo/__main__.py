"""`make demo`: one line with the dashboard's address, then traffic until Ctrl-C, or for DEMO_SECONDS.

Owns the order in which the three begin and end. Nothing of them stays: no process, no file but the dashboard's program.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final

import valkey

from samples.demo.application import Shop, Tracing
from samples.demo.aspire_cli import AspireError
from samples.demo.dashboard import Dashboard, free_ports

_ROOT: Final = Path(__file__).parents[2]
_REQUEST_EVERY_S: Final = 0.25
_START_LIMIT_S: Final = 60.0
_STOP_LIMIT_S: Final = 30.0
_POLL_S: Final = 0.05


class ServerError(Exception):
    """The server does not start, or ended by itself; the text has its log."""


class Server:
    """valkey-sidecar as the AppHost would start it, with its files in a folder of its own."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.port, http_port = free_ports(2)
        self._ready = f"http://127.0.0.1:{http_port}/readyz"
        self._log = folder / "log"
        own = ("SIDECAR_", "OTEL_", "VALKEY_")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        command = [sys.executable, "-m", "sidecar", "--port", str(self.port), "--sidecar-http-port", str(http_port)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--save", ""],
                cwd=folder,
                env={**inherited, "PYTHONPATH": str(_ROOT), **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A Ctrl-C is for us; it ends when we say so.
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_LIMIT_S
        while not self._is_ready():
            self.must_run()
            if time.monotonic() > deadline:
                raise ServerError(f"valkey-sidecar is not ready after {_START_LIMIT_S:.0f} s:\n{self._said()}")
            time.sleep(_POLL_S)

    def must_run(self) -> None:
        code = self._process.poll()
        if code is not None:
            raise ServerError(f"valkey-sidecar ended with {code}:\n{self._said()}")

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(self._ready, timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def _said(self) -> str:
        return self._log.read_text(errors="replace").strip()


@contextlib.contextmanager
def started(environment: dict[str, str]) -> Iterator[Server]:
    """A running server; ended and its folder removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="valkey-sidecar-demo-") as folder:
        server = Server(environment, Path(folder))
        try:
            server.wait_until_ready()
            yield server
        finally:
            server.stop()


def run(seconds: float) -> None:
    """Everything, for so many seconds after the line is out. Raises AspireError, ServerError."""
    with Dashboard() as dashboard, started(dashboard.environment_for("cache", "demo1234")) as server:
        say(f"Aspire dashboard: {dashboard.url}   Valkey: 127.0.0.1:{server.port}   Ctrl-C ends both.")
        tracing = Tracing(dashboard.grpc_endpoint, dashboard.key)
        with tracing, valkey.Valkey(port=server.port) as cache:
            shop = Shop(tracing.trace(cache), tracing.tracer)
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0:
                server.must_run()
                shop.serve_one()
                time.sleep(min(left, _REQUEST_EVERY_S))


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    # Once is enough: what follows is the end, which has limits of its own.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        run(float(os.environ.get("DEMO_SECONDS") or "inf"))
    except KeyboardInterrupt:
        return 0
    except (AspireError, ServerError, valkey.ValkeyError) as error:
        sys.stderr.write(f"make demo: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
