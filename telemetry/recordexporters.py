"""Further readers of log records, beside standard output, the log file and syslog.

Owns who gets every record, and the records from before the first of them was there. An exporter is a callable that
takes a record and returns at once; one that raises costs nobody else the record. Never formats and never sends.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

Record = Mapping[str, Any]
Exporter = Callable[[Record], None]

_KEPT_RECORDS = 1000


class RecordExporters:
    """Safe to use from every thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._exporters: tuple[Exporter, ...] = ()
        self._kept: deque[Record] | None = deque(maxlen=_KEPT_RECORDS)

    def add(self, exporter: Exporter) -> None:
        """From now on it gets every record, and at once those that are kept."""
        with self._lock:
            kept = tuple(self._kept or ())
            self._exporters += (exporter,)
        for record in kept:
            _give(exporter, record)

    def remove(self, exporter: Exporter) -> None:
        """It gets no more records. One that was never added is no error."""
        with self._lock:
            self._exporters = tuple(other for other in self._exporters if other != exporter)

    def forget_kept(self) -> None:
        """All exporters are there, or there will be none: nothing is kept any more."""
        with self._lock:
            self._kept = None

    def deliver(self, record: Record) -> None:
        """Give the record to everybody who wants it."""
        with self._lock:
            if self._kept is not None:
                self._kept.append(record)
            exporters = self._exporters
        for exporter in exporters:
            _give(exporter, record)


def _give(exporter: Exporter, record: Record) -> None:
    with contextlib.suppress(Exception):
        exporter(record)
