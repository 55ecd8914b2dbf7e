"""What export has lost: spans that were not sent, requests that failed, and how much waits.

Owns figures that exporters' threads write and that every format reads. Never logs and never retries anything.
"""

from __future__ import annotations

import threading
from collections import Counter


class ExportStats:
    """Safe to use from every thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._dropped: Counter[str] = Counter()
        self._failures: Counter[tuple[str, str]] = Counter()
        self._queues: dict[str, int] = {}

    def drop(self, reason: str, n: int = 1) -> None:
        """`n` spans will not be sent: `queue_full`, `export_failed`, `rejected`, ..."""
        with self._lock:
            self._dropped[reason] += n

    def fail(self, signal: str, reason: str, n: int = 1) -> None:
        """A request of `traces`, `metrics` or `logs` has finally failed; or n items of one were rejected."""
        with self._lock:
            self._failures[signal, reason] += n

    def set_queue(self, signal: str, size: int) -> None:
        """So many items of this signal wait to be sent."""
        self._queues[signal] = size

    def dropped(self) -> dict[str, int]:
        """Spans by reason."""
        with self._lock:
            return dict(self._dropped)

    def failures(self) -> dict[tuple[str, str], int]:
        """By (signal, reason)."""
        with self._lock:
            return dict(self._failures)

    def queue_sizes(self) -> dict[str, int]:
        """Items by signal."""
        return dict(self._queues)
