"""Spans that stand for a histogram's buckets: from a slow bar in a chart to a trace.

Owns which spans are kept as exemplars of `valkey.command.duration`: in each second the slowest that was offered, for
five minutes. Never samples anything itself and never knows a format.

    exemplars = Exemplars("trace_based")
    exemplars.offer("GET", "", duration_ns, end_unix_ns, trace_id, span_id)   # from any thread
    reader = exemplars.reader()
    reader.take()           # what this reader has not had yet, for an export interval
    exemplars.recent()      # all that are kept, for a scrape
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from telemetry.names import NANOSECONDS

_KEPT_S: Final = 300
OFF: Final = "always_off"


class Exemplar(NamedTuple):
    """One command that was traced. `error_type` is empty on success; the ids are 16 and 8 bytes."""

    command: str
    error_type: str
    duration_ns: int
    end_unix_ns: int
    trace_id: bytes
    span_id: bytes


class Exemplars:
    """Safe to use from every thread: spans come from one, each reader and the scrapes from others.

    filter_: OTEL_METRICS_EXEMPLAR_FILTER. `always_off` keeps none. `trace_based` and `always_on` are one here: only
    spans are offered, for an exemplar without a trace leads nowhere.
    """

    def __init__(self, filter_: str = "trace_based", clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._off = filter_ == OFF
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        # By the second in which it was offered: (that second, the slowest).
        self._kept: deque[tuple[int, Exemplar]] = deque()

    def offer(
        self, command: str, error_type: str, duration_ns: int, end_unix_ns: int, trace_id: bytes, span_id: bytes
    ) -> None:
        """A sampled span of one command has ended. It is kept if it is the slowest of this second."""
        if self._off:
            return
        second = self._clock_ns() // NANOSECONDS
        new = Exemplar(command, error_type, duration_ns, end_unix_ns, trace_id, span_id)
        with self._lock:
            if not self._kept or self._kept[-1][0] < second:
                self._forget(second)
                self._kept.append((second, new))
            elif self._kept[-1][1].duration_ns < duration_ns:
                self._kept[-1] = (self._kept[-1][0], new)

    def recent(self) -> list[Exemplar]:
        """Those of the last five minutes, oldest first. Takes them from nobody."""
        with self._lock:
            self._forget(self._clock_ns() // NANOSECONDS)
            return [exemplar for _, exemplar in self._kept]

    def reader(self) -> Reader:
        """A view that yields each exemplar once. Every exporter has its own."""
        return Reader(self)

    def after(self, second: int) -> tuple[int, list[Exemplar]]:
        """Those offered later than in this second, and the second of the last one."""
        with self._lock:
            found = [(when, exemplar) for when, exemplar in self._kept if when > second]
        return (found[-1][0] if found else second), [exemplar for _, exemplar in found]

    def _forget(self, now: int) -> None:
        while self._kept and self._kept[0][0] <= now - _KEPT_S:
            self._kept.popleft()


class Reader:
    """Yields each second's exemplar once. One thread at a time."""

    def __init__(self, exemplars: Exemplars) -> None:
        self._exemplars = exemplars
        self._last = -1

    def take(self) -> list[Exemplar]:
        """What was offered since the last call, at most one a second, oldest first."""
        self._last, found = self._exemplars.after(self._last)
        return found
