"""The OpenTelemetry Collector as a peer of tests: built once with its own builder, started on free ports.

Owns how it is built, and a running Collector with what it wrote. It judges nothing.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import PATIENCE_S, free_port, wait_until
from tests.e2e.go_programs import Go, built

_FOLDER = Path(__file__).parent
_MANIFEST = _FOLDER / "builder.yaml"
_BUILDER = "go.opentelemetry.io/collector/cmd/builder@v0.161.0"


def build() -> Path:
    """The Collector's program; made now if it is not in the cache. Raises AssertionError without Go."""
    return built("collector", _MANIFEST.read_bytes() + _BUILDER.encode(), _make)


def _make(folder: Path, go: Go) -> Path:
    shutil.copy(_MANIFEST, folder)
    go("run", _BUILDER, "--config", _MANIFEST.name)
    return folder / "out" / "collector"


@dataclass
class Collector:
    """A running Collector. `grpc_port` and `http_port` take OTLP, `path` is what its file exporter writes."""

    folder: Path
    grpc_port: int = field(default_factory=free_port)
    http_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def path(self) -> Path:
        """What came by OTLP: one request a line, in OTLP's JSON."""
        return self.folder / "otlp.json"

    @property
    def redis_path(self) -> Path:
        """What the redis receiver read: one request a line, in OTLP's JSON."""
        return self.folder / "redis.json"

    @property
    def log(self) -> Path:
        return self.folder / "collector.log"

    def start(self, program: Path, redis: Mapping[str, Any] | None) -> None:
        """redis: settings of the redis receiver; None: it does not run."""
        configuration = self.folder / "collector.yaml"
        configuration.write_text(json.dumps(self._configuration(redis)))  # JSON is YAML
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [program, "--config", configuration], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_until(self._listens, "the Collector listens")

    def stop(self) -> None:
        """End it as people do: it writes what it has first."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE_S)
            finally:
                self.process.kill()
                self.process.wait()

    def received(self, signal: str) -> list[dict[str, Any]]:
        """What came so far of "traces", "metrics" or "logs": the resource entries of every request."""
        return list(_entries(self.path, {"traces": "Spans", "metrics": "Metrics", "logs": "Logs"}[signal]))

    def readings(self) -> list[dict[str, Any]]:
        """What the redis receiver has read so far, one resource entry for each time."""
        return list(_entries(self.redis_path, "Metrics"))

    def _listens(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the Collector ended:\n{self.log.read_text()}"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.grpc_port)) == 0

    def _configuration(self, redis: Mapping[str, Any] | None) -> dict[str, Any]:
        otlp = {"receivers": ["otlp"], "exporters": ["debug", "file"]}
        pipelines: dict[str, Any] = {"traces": otlp, "metrics": otlp, "logs": otlp}
        receivers: dict[str, Any] = {
            "otlp": {
                "protocols": {
                    "grpc": {"endpoint": f"127.0.0.1:{self.grpc_port}"},
                    "http": {"endpoint": f"127.0.0.1:{self.http_port}"},
                }
            }
        }
        if redis is not None:
            receivers["redis"] = dict(redis)
            pipelines["metrics/redis"] = {"receivers": ["redis"], "exporters": ["file/redis"]}
        return {
            "receivers": receivers,
            "exporters": {
                "debug": {},
                "file": {"path": str(self.path), "flush_interval": "100ms"},
                "file/redis": {"path": str(self.redis_path), "flush_interval": "100ms"},
            },
            "service": {"telemetry": {"metrics": {"level": "none"}}, "pipelines": pipelines},
        }


def _entries(path: Path, kind: str) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n"):  # else it is only half written
            yield from json.loads(line).get(f"resource{kind}", [])
