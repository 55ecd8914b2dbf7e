"""Faults of ours in an exporter's thread: logged once each, with type and place, and never more than that.

An exception's message is not logged: libraries repeat what they were given in it, headers included.
"""

from __future__ import annotations

import traceback
from pathlib import Path

from telemetry.logs import get_logger


class Faults:
    """The faults of one signal (or of `spans`, before they are a signal)."""

    def __init__(self, signal: str) -> None:
        self._signal = signal
        self._seen: set[str] = set()

    def log(self, error: BaseException) -> None:
        """Log it, unless one of this type from this place was logged before."""
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "unknown"
        what = f"{type(error).__qualname__} at {place}"
        if what in self._seen:
            return
        self._seen.add(what)
        get_logger().error(
            "export.fault", f"Exporting {self._signal} has a fault of ours: {what}.", signal=self._signal, fault=what
        )
