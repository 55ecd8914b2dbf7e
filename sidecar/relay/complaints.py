"""What clients do wrong, for the log: few lines, however often it happens.

Owns how often a line may be repeated. What is wrong, and how it is said, its callers know.
"""

from __future__ import annotations

import asyncio

from sidecar.link import Link

_INTERVAL_S = 5.0


class Complaints:
    """Those of one worker: at most one line every few seconds for each event, and each thing that it is about."""

    def __init__(self, link: Link, loop: asyncio.AbstractEventLoop) -> None:
        self._link = link
        self._loop = loop
        self._said_at: dict[tuple[str, str], float] = {}
        self._unsaid: dict[tuple[str, str], int] = {}

    def say(self, event: str, message: str, *, about: str = "", level: str = "warning") -> None:
        """One sentence, or one more that is only counted: the next line of its kind tells how many were."""
        key = event, about
        now = self._loop.time()
        if now - self._said_at.get(key, -_INTERVAL_S) < _INTERVAL_S:
            self._unsaid[key] = self._unsaid.get(key, 0) + 1
            return
        self._said_at[key] = now
        unsaid = self._unsaid.pop(key, 0)
        more = f" This happened {unsaid} more times since the last such line." if unsaid else ""
        self._link.send("log", {"level": level, "event": event, "message": message + more})
