"""The real Aspire dashboard as a process of ours: started on free ports, asked by its API, ended by its process id.

Owns the process, its private files, and the environment that an AppHost would give to a container that reports to it.
Never reads telemetry: that is telemetry_api's.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final, Literal, Self

from samples.demo import aspire_cli
from samples.demo.aspire_cli import AspireError
from samples.demo.telemetry_api import TelemetryApi

Protocol = Literal["grpc", "http/protobuf"]

_START_LIMIT_S: Final = 90.0
_STOP_LIMIT_S: Final = 15.0
_POLL_S: Final = 0.05


class Dashboard:
    """A running dashboard. Any browser on this machine may look at it; programs need its key, to send and to ask.

    Use it as a context manager, or call stop(). Raises AspireError when it cannot be had or does not start.
    certificate: a file of it and one of its key (PEM); then telemetry over gRPC is taken by https.
    """

    def __init__(self, certificate: tuple[Path, Path] | None = None) -> None:
        program = aspire_cli.install()
        self.key = secrets.token_hex(16)
        ports = free_ports(3)
        self.url, self.grpc_endpoint, self.http_endpoint = (f"http://127.0.0.1:{port}" for port in ports)
        if certificate is not None:
            self.grpc_endpoint = self.grpc_endpoint.replace("http:", "https:")
        self.api = TelemetryApi(self.url, self.key)
        self._folder = Path(tempfile.mkdtemp(prefix="aspire-dashboard-"))
        self._log = self._folder / "log"
        command = [str(program), "dashboard", "run", "--nologo", "--non-interactive", "--frontend-url", self.url]
        command += ["--otlp-grpc-url", self.grpc_endpoint, "--otlp-http-url", self.http_endpoint]
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    command,
                    cwd=self._folder,
                    env=self._environment(certificate),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # A Ctrl-C is for who started it: that one ends it when everything has arrived.
                    start_new_session=True,
                )
        except OSError as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise AspireError(f"the Aspire dashboard does not start: {error}") from error
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def environment_for(self, name: str, instance_id: str, protocol: Protocol = "grpc") -> dict[str, str]:
        """What an AppHost sets for a container resource `WithOtlpExporter()`, as seen on a real one (Aspire 13.5)."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.grpc_endpoint if protocol == "grpc" else self.http_endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_HEADERS": f"x-otlp-api-key={self.key}",
            "OTEL_RESOURCE_ATTRIBUTES": f"service.instance.id={instance_id}",
            "OTEL_SERVICE_NAME": name,
            "OTEL_BLRP_SCHEDULE_DELAY": "1000",
            "OTEL_BSP_SCHEDULE_DELAY": "1000",
            "OTEL_METRIC_EXPORT_INTERVAL": "1000",
            "OTEL_TRACES_SAMPLER": "always_on",
            "OTEL_METRICS_EXEMPLAR_FILTER": "trace_based",
        }

    def stop(self) -> None:
        """End it, and remove what it wrote. Its telemetry was only ever in its memory."""
        logs = self._logs_in_home()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for path in logs:
            path.unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _environment(self, certificate: tuple[Path, Path] | None) -> dict[str, str]:
        # It leaves keys, caches and debugging sockets in the folders of its user: they get a private one.
        own = {name: str(self._folder) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_DATA_HOME")}
        inherited = {n: v for n, v in os.environ.items() if not n.startswith(("OTEL_", "DASHBOARD__", "ASPNETCORE_"))}
        if certificate is not None:
            own["Kestrel__Certificates__Default__Path"] = str(certificate[0])
            own["Kestrel__Certificates__Default__KeyPath"] = str(certificate[1])
        return {
            **inherited,
            **own,
            "ASPIRE_HOME": str(aspire_cli.home()),
            "ASPIRE_CLI_TELEMETRY_OPTOUT": "true",
            "DASHBOARD__OTLP__AUTHMODE": "ApiKey",
            "DASHBOARD__OTLP__PRIMARYAPIKEY": self.key,
            "DASHBOARD__FRONTEND__AUTHMODE": "Unsecured",
            "DASHBOARD__API__AUTHMODE": "ApiKey",
            "DASHBOARD__API__PRIMARYAPIKEY": self.key,
        }

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + _START_LIMIT_S
        while not self.api.answers():
            code = self._process.poll()
            if code is not None:
                hint = " (Debian: apt-get install libicu72)" if "ICU" in self._said() else ""
                raise AspireError(f"the Aspire dashboard ended with {code}{hint}:\n{self._said()}")
            if time.monotonic() > deadline:
                raise AspireError(f"the Aspire dashboard does not answer after {_START_LIMIT_S:.0f} s:\n{self._said()}")
            time.sleep(_POLL_S)

    def _said(self) -> str:
        return self._log.read_text(errors="replace").strip()

    def _logs_in_home(self) -> list[Path]:
        """Its log file: one a start, in the folder that all starts share."""
        home = aspire_cli.home()
        found = []
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{self._process.pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    path = link.readlink()
                    if path.suffix == ".log" and path.is_relative_to(home):
                        found.append(path)
        return found


def free_ports(count: int) -> list[int]:
    """Different loopback TCP ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
