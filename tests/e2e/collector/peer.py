"""The OpenTelemetry Collector as a peer of tests: built once with its own builder, started on free ports.

Owns the build (kept in the user's cache folder under a name that is the hash of what it was made from) and a running
Collector with what it wrote. It judges nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import PATIENCE_S, free_port, wait_until

_FOLDER = Path(__file__).parent
_MANIFEST = _FOLDER / "builder.yaml"
_BUILDER = "go.opentelemetry.io/collector/cmd/builder@v0.161.0"
# One and a half minutes on two cores, everything downloaded and compiled for the first time.
_BUILD_WITHIN_S = 900


def build() -> Path:
    """The Collector's program; made now if it is not in the cache. Raises AssertionError without Go."""
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    assert go, "Go is missing: the Collector is built from its Go modules. Install Go 1.25 or later and put it on PATH."
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "valkey-sidecar-tests"
    made_from = hashlib.sha256(_MANIFEST.read_bytes() + _BUILDER.encode()).hexdigest()[:16]
    program = cache / f"collector-{made_from}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "collector.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run on this machine may be building it
        if not program.exists():
            _build(go, program)
    return program


def _build(go: str, program: Path) -> None:
    folder = program.with_suffix(".build")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copy(_MANIFEST, folder)
    path = f"{Path(go).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    env = {**os.environ, "PATH": path, "GOFLAGS": "-mod=mod -buildvcs=false"}
    command = [go, "run", _BUILDER, "--config", _MANIFEST.name]
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=_BUILD_WITHIN_S, check=False
    )
    assert done.returncode == 0, f"the Collector could not be built with {go}:\n{done.stdout}{done.stderr}"
    (folder / "out" / "collector").rename(program)
    shutil.rmtree(folder)


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
