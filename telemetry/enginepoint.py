"""One figure of the engine's, as OTLP shows it.

Owns the form in which engine metrics go from `telemetry.engine` to whoever sends them. Never knows where a figure comes
from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple


class EnginePoint(NamedTuple):
    """One data point: a name of the OpenTelemetry Collector's redis receiver, its unit (UCUM) and its value now.

    Counters are cumulative since `since_unix_ns`, or since the server's start where that is None: another value than
    before says that the counter has started over.
    """

    name: str
    kind: Literal["counter", "updowncounter", "gauge"]
    unit: str
    description: str
    attributes: Mapping[str, str]
    value: float
    since_unix_ns: int | None = None
