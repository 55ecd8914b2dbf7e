"""What this process has to say, from its first moment on.

Owns the queue between the start, when nothing that can format a log line is imported yet (that is how the first PONG
comes within 0.6 s), and the logging that comes later. It never formats and never filters.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

Level = Literal["debug", "verbose", "notice", "warning", "error"]
Sink = Callable[[float, Level, str, str, dict[str, Any]], None]
"""Takes the time (seconds since the epoch), level, event name, sentence and attributes."""

# A crash report is some 500 lines; what comes before the logging does is a few dozen.
_QUEUE_LIMIT = 2000


class Journal:
    """Events in order. `event` is a stable name; `message` is one sentence; attributes never hold a secret."""

    def __init__(self) -> None:
        self._sink: Sink | None = None
        self._queue: list[tuple[float, Level, str, str, dict[str, Any]]] = []

    def log(self, level: Level, event: str, message: str, **attributes: Any) -> None:
        """Say one sentence."""
        self.log_at(time.time(), level, event, message, **attributes)

    def log_at(self, when: float, level: Level, event: str, message: str, **attributes: Any) -> None:
        """Say what happened earlier: `when` is in seconds since the epoch."""
        if self._sink is not None:
            self._sink(when, level, event, message, attributes)
        elif len(self._queue) < _QUEUE_LIMIT:
            self._queue.append((when, level, event, message, attributes))

    def debug(self, event: str, message: str, **attributes: Any) -> None:
        self.log("debug", event, message, **attributes)

    def notice(self, event: str, message: str, **attributes: Any) -> None:
        self.log("notice", event, message, **attributes)

    def warning(self, event: str, message: str, **attributes: Any) -> None:
        self.log("warning", event, message, **attributes)

    def error(self, event: str, message: str, **attributes: Any) -> None:
        """For our own faults only."""
        self.log("error", event, message, **attributes)

    def attach(self, sink: Sink) -> None:
        """Hand over what was said so far, and from now on everything at once."""
        self._sink = sink
        for entry in self._queue:
            sink(*entry)
        self._queue.clear()
