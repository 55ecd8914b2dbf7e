"""Metrics as Application Insights adds them up: what came since the last time.

Owns the last sums of every series, and the difference to the next ones. Never sends: a series in which nothing happened
is left out, because every point is paid for. Minimum and maximum are not known of a time between two sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    Sum,
)

_Key = tuple[str, str, frozenset[tuple[str, Any]]]


class Deltas:
    """For one reader of cumulative MetricsData; gauges and sums that go down as well as up pass as they are."""

    def __init__(self) -> None:
        self._sums: dict[_Key, tuple[int | None, float]] = {}
        self._histograms: dict[_Key, tuple[int, float]] = {}
        self._before = self._sums, self._histograms

    def undo(self) -> None:
        """The last difference was not sent: the next one includes it."""
        self._sums, self._histograms = self._before

    def since_last(self, data: MetricsData) -> MetricsData:
        """The same without what was in the data before."""
        self._before = self._sums, self._histograms
        self._sums, self._histograms = dict(self._sums), dict(self._histograms)
        resources = []
        for resource in data.resource_metrics:
            scopes = []
            for scope in resource.scope_metrics:
                metrics = [self._metric(scope.scope.name, metric) for metric in scope.metrics]
                scopes.append(replace(scope, metrics=[metric for metric in metrics if metric.data.data_points]))
            resources.append(replace(resource, scope_metrics=scopes))
        return MetricsData(resources)

    def _metric(self, scope: str, metric: Metric) -> Metric:
        data: Any = metric.data
        points: Iterable[Any] = data.data_points
        if isinstance(data, Histogram):
            if data.aggregation_temporality is AggregationTemporality.CUMULATIVE:
                points = [self._histogram(_key(scope, metric, point), point) for point in points]
            points = [point for point in points if point.count]
        elif isinstance(data, Sum) and data.is_monotonic:
            if data.aggregation_temporality is AggregationTemporality.CUMULATIVE:
                points = [self._sum(_key(scope, metric, point), point) for point in points]
            points = [point for point in points if point.value]
        else:
            points = [point for point in points if math.isfinite(point.value)]
        return replace(metric, data=replace(data, data_points=list(points)))

    def _sum(self, key: _Key, point: NumberDataPoint) -> NumberDataPoint:
        start, last = self._sums.get(key, (None, 0))
        self._sums[key] = point.start_time_unix_nano, point.value
        # A sum that started over has another start; its value may have grown past the old one since.
        if start != point.start_time_unix_nano or point.value < last:
            last = 0
        return replace(point, value=point.value - last)

    def _histogram(self, key: _Key, point: HistogramDataPoint) -> HistogramDataPoint:
        count, total = self._histograms.get(key, (0, 0.0))
        self._histograms[key] = point.count, point.sum
        if point.count < count:
            count, total = 0, 0.0
        nothing: Any = None  # the library leaves out what is None
        return replace(point, count=point.count - count, sum=point.sum - total, min=nothing, max=nothing)


def _key(scope: str, metric: Metric, point: Any) -> _Key:
    return scope, metric.name, frozenset((point.attributes or {}).items())
