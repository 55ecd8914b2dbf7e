"""A program that the bench started, and what the kernel knows about it.

Owns one child process from its start to its end, and the reading of /proc. Never looks at processes of others.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_POLL_S = 0.001
_STOP_LIMIT_S = 15.0


class ProcessError(Exception):
    """A program did not start, or ended while it was measured; the text says which."""


@dataclass(frozen=True)
class Cpu:
    """Processor time in seconds, spent in the program and in the kernel on its behalf."""

    user: float
    system: float

    def __add__(self, other: Cpu) -> Cpu:
        return Cpu(self.user + other.user, self.system + other.system)

    def __sub__(self, other: Cpu) -> Cpu:
        return Cpu(self.user - other.user, self.system - other.system)


@dataclass(frozen=True)
class Memory:
    """Resident bytes; `pss` splits pages that several processes share among them."""

    rss: int
    pss: int

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.rss + other.rss, self.pss + other.pss)


def free_port() -> int:
    """A loopback TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def cpu(pid: int) -> Cpu:
    """Processor time of all threads of a process so far (proc(5), /proc/[pid]/stat fields 14 and 15)."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        raise ProcessError(f"process {pid} ended while it was measured") from None
    return Cpu(int(after_name[11]) / _TICKS_PER_S, int(after_name[12]) / _TICKS_PER_S)


def busy_s(stat: str | None = None) -> float:
    """Processor time of everything on this machine so far, in seconds (proc(5), /proc/stat: all but idle and guests).

    stat: the text of that file, for a test.
    """
    first = (stat or Path("/proc/stat").read_text()).split("\n", 1)[0].split()
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, first[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_S


def spent_here_s() -> float:
    """Processor time of this program and of the children it has waited for, in seconds."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def spent_by_children() -> Cpu:
    """Processor time of the children that this program has waited for."""
    times = os.times()
    return Cpu(times.children_user, times.children_system)


def memory(pid: int) -> Memory:
    """Resident memory of a process now (proc(5), /proc/[pid]/smaps_rollup)."""
    sizes = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("Rss", "Pss"):
            sizes[name] = int(value.split()[0]) * 1024
    return Memory(sizes["Rss"], sizes["Pss"])


def command_line(pid: int) -> str:
    """What a process was started with, arguments joined by spaces."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()


def children(pid: int) -> list[int]:
    """The processes that this one started, and theirs."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *children(child)]
    return found


def _without_export() -> dict[str, str]:
    """Our environment less what would make a server under test export anything."""
    told = ("OTEL_", "APPLICATIONINSIGHTS_", "SIDECAR_")
    return {name: value for name, value in os.environ.items() if not name.startswith(told)}


class Process:
    """A server under test. Use it as a context manager: leaving it ends the program.

    environment: more variables for it, besides ours without those that are about telemetry.
    """

    def __init__(self, argv: list[str], port: int, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.port = port
        self._argv = argv
        self._environment = _without_export() | dict(environment or {})
        self._log = folder / f"{Path(argv[0]).name}-{port}.log"
        self._folder = folder
        self._popen: subprocess.Popen[bytes] | None = None
        self.first_pong_s = 0.0

    @property
    def pid(self) -> int:
        assert self._popen is not None
        return self._popen.pid

    def start(self, limit_s: float = 20.0) -> None:
        """Starts the program and waits until it answers PING; `first_pong_s` tells how long that took.

        Raises ProcessError with the end of its output when it exits first or takes longer than `limit_s`.
        """
        begin = time.perf_counter()
        with self._log.open("wb") as log:
            self._popen = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env=self._environment,
            )
        try:
            while not self._answers():
                if self._popen.poll() is not None or time.perf_counter() - begin > limit_s:
                    tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-10:])
                    raise ProcessError(f"{Path(self._argv[0]).name} did not answer PING on port {self.port}:\n{tail}")
                time.sleep(_POLL_S)
        except BaseException:
            # Nobody has entered the context that would stop it.
            self.stop()
            raise
        self.first_pong_s = time.perf_counter() - begin

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for one that does not end."""
        if self._popen is None or self._popen.poll() is not None:
            return
        self._popen.terminate()
        try:
            self._popen.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
                connection.sendall(b"*1\r\n$4\r\nPING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
