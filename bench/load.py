"""One run of redis-benchmark.

Owns its command line and the reading of its answer. Never starts or stops a server.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
from dataclasses import dataclass

_LIMIT_S = 60.0


class LoadError(Exception):
    """redis-benchmark is missing, failed, or answered something else than a measurement."""


@dataclass(frozen=True)
class Cell:
    """A kind of load: a command, how many connections send it, and how many requests each sends before it reads."""

    command: str
    connections: int
    pipeline: int

    @property
    def name(self) -> str:
        return f"{self.command} c{self.connections} P{self.pipeline}"


@dataclass(frozen=True)
class Measured:
    """What redis-benchmark saw: requests, requests a second, and the median latency in seconds (in steps of 8 µs)."""

    requests: int
    rate: float
    p50_s: float


CELLS = [Cell(name, connections, depth) for connections in (1, 50) for depth in (1, 16) for name in ("SET", "GET")]


def program() -> str:
    """The load generator. Raises LoadError where there is none."""
    found = shutil.which("redis-benchmark") or shutil.which("valkey-benchmark")
    if found is None:
        raise LoadError("redis-benchmark is not installed; make bench needs it (Debian: apt-get install redis-tools)")
    return found


def run(cell: Cell, port: int, requests: int) -> Measured:
    """Sends `requests` requests to a loopback port. Raises LoadError when they were not all answered."""
    argv = [program(), "-h", "127.0.0.1", "-p", str(port), "--csv", "-t", cell.command.lower()]
    argv += ["-n", str(requests), "-c", str(cell.connections), "-P", str(cell.pipeline)]
    try:
        answer = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise LoadError(f"{cell.name} on port {port}: {requests} requests took more than {_LIMIT_S:.0f} s") from None
    for row in csv.DictReader(answer.stdout.splitlines()):
        if row.get("test") == cell.command:
            return Measured(requests, float(row["rps"]), float(row["p50_latency_ms"]) / 1000)
    raise LoadError(f"{cell.name} on port {port}: {(answer.stderr or answer.stdout).strip()[-300:]}")
