"""INFO's figures as redis_exporter shows them.

Owns the way from INFO to prometheus-client's families, and the collector over the latest INFO. Never reads INFO itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from telemetry.engine.info import Info, number
from telemetry.engine.table import BY_SOURCE, ROWS, FamilyKind, labels
from telemetry.prometheus import ForeignFamily

_PREFIX = "redis_"
_COUNT = re.compile(r"0|[1-9][0-9]{0,9}")
# Databases without keys are shown as well, as redis_exporter does, unless somebody has set `databases` to thousands.
_MOST_EMPTY_DATABASES = 256


class EngineCollector(Collector):
    """The engine's families. latest: what the engine told last, None while it is away."""

    def __init__(self, latest: Callable[[], Info | None]) -> None:
        self._latest = latest

    def collect(self) -> Iterable[Metric]:
        """redis_up, and everything else while that is 1."""
        info = self._latest()
        up = _family("up", "gauge", "Whether the engine tells its figures.")
        up.samples.append(Sample(up.name, {}, 0 if info is None else 1))
        yield up
        if info is not None:
            yield from families(info)


def families(info: Info) -> Iterable[Metric]:
    """Every figure that redis_exporter has a name for, in the order of the table."""
    found: dict[str, Metric] = {}
    for cell in _with_empty_databases(info).cells():
        for row in BY_SOURCE.get(cell.source, ()):
            if (family := row.family) is None:
                continue
            value = number(cell.value) if family.constant is None else family.constant
            if value is None:
                continue
            if family.name not in found:
                found[family.name] = _family(family.name, family.kind, row.description)
            found[family.name].samples.append(
                Sample(
                    f"{_PREFIX}{family.name}",
                    labels(family.labels, cell, info),
                    value if family.per == 1 else value / family.per,
                )
            )
    names = dict.fromkeys(row.family.name for row in ROWS if row.family is not None)
    return [found[name] for name in names if name in found]


def _with_empty_databases(info: Info) -> Info:
    known = info.records.get("db*", {})
    count = info.fields.get("config:databases", "")
    if not _COUNT.fullmatch(count) or int(count) > _MOST_EMPTY_DATABASES:
        return info
    databases = {str(i): known.get(str(i), {"keys": "0", "expires": "0"}) for i in range(int(count))}
    return Info(info.fields, {**info.records, "db*": {**databases, **known}})


def _family(name: str, kind: FamilyKind, description: str) -> Metric:
    """An empty family. Both formats have redis_exporter's types, as far as OpenMetrics allows them for its names."""
    shown = _PREFIX + name
    if kind == "counter" and name.endswith("_total"):
        return Metric(shown.removesuffix("_total"), description, "counter")
    if kind == "counter":  # OpenMetrics' end in _total
        is_part = name.removesuffix("_sum").removesuffix("_count") in _SUMMARIES
        return ForeignFamily(shown, description, "unknown", "" if is_part else "counter")
    if kind == "summary":  # OpenMetrics' quantiles are shares, not percentages
        return ForeignFamily(shown, description, "gauge", "summary")
    return Metric(shown, description, kind)


_SUMMARIES = {row.family.name for row in ROWS if row.family is not None and row.family.kind == "summary"}
