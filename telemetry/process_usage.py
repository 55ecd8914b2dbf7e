"""CPU time and memory of our processes by role, from /proc.

Owns the CPU time of processes that ended, so that no sum goes down. Never knows which processes there are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class ProcessUsage:
    """What the processes of each role have used. CPU time of those that ended stays in the sums."""

    def __init__(self) -> None:
        self.resident_bytes: dict[str, int] = {}
        self._cpu_ticks: dict[str, int] = {}
        self._seen: dict[tuple[str, int, int], int] = {}

    @property
    def cpu_s(self) -> dict[str, float]:
        """User and system CPU time in seconds, by role."""
        return {role: ticks / _TICKS_PER_SECOND for role, ticks in self._cpu_ticks.items()}

    def read(self, processes: Mapping[str, Sequence[int]]) -> None:
        """Take a new reading. A process that is no more, or is a zombie without memory, counts no memory."""
        seen: dict[tuple[str, int, int], int] = {}
        for role, pids in processes.items():
            self._cpu_ticks.setdefault(role, 0)
            self.resident_bytes[role] = 0
            for pid in pids:
                reading = _read_stat(pid)
                if reading is None:
                    continue
                started, ticks, resident_bytes = reading
                key = (role, pid, started)  # the start time tells apart two processes that had the same id
                self._cpu_ticks[role] += ticks - self._seen.get(key, 0)
                self.resident_bytes[role] += resident_bytes
                seen[key] = ticks
        for role in self.resident_bytes.keys() - processes.keys():
            self.resident_bytes[role] = 0
        self._seen = seen


def _read_stat(pid: int) -> tuple[int, int, int] | None:
    """Start time (ticks), CPU time (ticks) and resident memory (bytes) of a process; None when it is gone.

    Fields are those of proc_pid_stat(5); the name in the second may hold anything, so they are counted after its end.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()
    return int(fields[19]), int(fields[11]) + int(fields[12]), int(fields[21]) * _PAGE_BYTES
