"""A log that keeps what it is told."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from telemetry.logs import Log


class Told(NamedTuple):
    level: str
    event_name: str
    message: str
    attributes: dict[str, Any]
    timestamp: datetime | None


class Recorder(Log):
    def __init__(self) -> None:
        super().__init__(None, [], {})
        self.records: list[Told] = []

    def record(
        self,
        level: str,
        event_name: str,
        message: str,
        attributes: Mapping[str, Any] | None = None,
        *,
        timestamp: datetime | None = None,
    ) -> None:
        self.records.append(Told(level, event_name, message, dict(attributes or {}), timestamp))

    def _emit(self, level: str, event_name: str, message: str, attributes: dict[str, Any], **_more: Any) -> None:
        self.records.append(Told(level, event_name, message, attributes, None))
