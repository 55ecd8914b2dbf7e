"""One run of redis-benchmark.

Owns its command line and the reading of its answer. Never starts or stops a server.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.data import COMMANDS

_LIMIT_S = 60.0

# inf: one request that took no millisecond.
_THROUGHPUT = re.compile(r"throughput summary: ([\d.]+|inf) requests per second")
# avg, min, p50, p95, p99, max
_SUMMARY = re.compile(r"avg +min +p50 +p95 +p99 +max\s+([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)")
_PERCENTILES = re.compile(r"Latency by percentile distribution:\n((?:[\d.]+% .*\n)+)")
_PERCENTILE = re.compile(r"([\d.]+)% <= ([\d.]+) milliseconds")


class LoadError(Exception):
    """redis-benchmark is missing, failed, or answered something else than a measurement."""


@dataclass(frozen=True)
class Cell:
    """A kind of load: a command, how many connections send it, and how many requests each sends before it reads."""

    command: str
    connections: int
    pipeline: int
    tls: bool = False

    @property
    def name(self) -> str:
        return f"{self.command} c{self.connections} P{self.pipeline}" + (" TLS" if self.tls else "")

    @property
    def in_flight_bytes(self) -> int:
        """Bytes of requests and replies that may be under way at a time, about."""
        return self.connections * self.pipeline * COMMANDS[self.command].wire_bytes


@dataclass(frozen=True)
class Measured:
    """What redis-benchmark saw: requests, requests a second, and latencies in seconds (in steps of 8 µs and more)."""

    requests: int
    rate: float
    p50_s: float
    p99_s: float
    p999_s: float


def cells(
    commands: Sequence[str], connections: Sequence[int], pipelines: Sequence[int], tls: bool = False
) -> list[Cell]:
    """Every combination."""
    return [Cell(name, count, depth, tls) for count in connections for depth in pipelines for name in commands]


def program() -> str:
    """The load generator. Raises LoadError where there is none."""
    found = shutil.which("redis-benchmark") or shutil.which("valkey-benchmark")
    if found is None:
        raise LoadError("redis-benchmark is not installed; make bench needs it (Debian: apt-get install redis-tools)")
    return found


def arguments(cell: Cell, port: int, requests: int, certificate: Path | None) -> list[str]:
    """What redis-benchmark is told. certificate: the server's, for a cell with TLS."""
    command = COMMANDS[cell.command]
    told = ["-h", "127.0.0.1", "-p", str(port), "-n", str(requests), "-c", str(cell.connections)]
    told += ["-P", str(cell.pipeline)]
    if command.random:
        told += ["-r", str(command.random)]
    if cell.tls:
        told += ["--tls", "--cacert", str(certificate)]
    return [*told, *command.arguments]


def run(cell: Cell, port: int, requests: int, certificate: Path | None = None) -> Measured:
    """Sends `requests` requests to a loopback port. Raises LoadError when they were not all answered."""
    argv = [program(), *arguments(cell, port, requests, certificate)]
    try:
        answer = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise LoadError(f"{cell.name} on port {port}: {requests} requests took more than {_LIMIT_S:.0f} s") from None
    measured = read(answer.stdout, requests) if answer.returncode == 0 else None
    if measured is None:
        raise LoadError(f"{cell.name} on port {port}: {(answer.stderr or answer.stdout).strip()[-300:]}")
    return measured


def read(output: str, requests: int) -> Measured | None:
    """The figures in what redis-benchmark printed for people; None where they are not all there.

    Only this form has more percentiles than the 99th; p99.9 is the first step at or above it (99.902 %).
    """
    throughput, summary, listed = _THROUGHPUT.search(output), _SUMMARY.search(output), _PERCENTILES.search(output)
    if throughput is None or summary is None or listed is None:
        return None
    steps = [(float(share), float(value)) for share, value in _PERCENTILE.findall(listed[1])]
    p999_ms = next((value for share, value in steps if share >= 99.9), None)
    if p999_ms is None:
        return None
    p50_ms, p99_ms = float(summary[3]), float(summary[5])
    return Measured(requests, float(throughput[1]), p50_ms / 1e3, p99_ms / 1e3, p999_ms / 1e3)
