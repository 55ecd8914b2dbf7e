"""INFO's figures as OTLP shows them.

Owns the way from INFO to points under the names of the OpenTelemetry Collector's redis receiver. Never sends them.
"""

from __future__ import annotations

from telemetry.engine.info import Info, number
from telemetry.engine.starts import Since
from telemetry.engine.table import BY_SOURCE, labels
from telemetry.enginepoint import EnginePoint

_SERVERS_START = Since(None, None, None)


def points(info: Info, since: Since = _SERVERS_START) -> list[EnginePoint]:
    """Every figure that the receiver has a name for; those that INFO does not tell, or not as a figure, are missing.

    since: when its counters were zero last.
    """
    found: list[EnginePoint] = []
    for cell in info.cells():
        for row in BY_SOURCE.get(cell.source, ()):
            if (point := row.point) is None:
                continue
            if point.words:
                value: float | None = 1 if cell.value in point.words else None
                attributes = {name: point.words.get(cell.value, "") for name in point.labels}
            else:
                value, attributes = number(cell.value), labels(point.labels, cell, info)
            if value is not None:
                found.append(
                    EnginePoint(
                        point.name,
                        point.kind,
                        point.unit,
                        row.description,
                        attributes,
                        value if point.per == 1 else value / point.per,
                        since.of(cell.source) if point.kind == "counter" else None,
                    )
                )
    return found
