"""OTLP metrics: the figures as the OpenTelemetry SDK's MetricsData, ready for any of its exporters and encoders.

Owns temporality (what was sent last, and since when a sum counts) and the overview. Never sends anything, and never
measures anything itself. A collection has two halves, for figures change on the supervisor's event loop while
exporters run in threads of their own:

    source = MetricsSource(figures, exemplars, engine_points, start_unix_ns=started)
    taken = source.take()                   # on the event loop, after the workers' snapshots came: a cheap copy
    data = source.build(taken, resource)    # in the exporter's thread, once per `take`, in the same order

Each exporter has a source of its own: with delta temporality every reader has its own idea of "since last time".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal, NamedTuple

from opentelemetry.sdk.metrics import Exemplar as SdkExemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import Histogram as HistogramData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from telemetry import names
from telemetry.enginepoint import EnginePoint
from telemetry.exemplars import Exemplar, Exemplars
from telemetry.figures import Figures, Reading, Values
from telemetry.names import NANOSECONDS, Instrument
from telemetry.overview import Overview
from telemetry.totals import Histogram

Preference = Literal["cumulative", "delta", "lowmemory"]
"""OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE. It concerns counters and histograms: what goes up and down is
always cumulative. `lowmemory` leaves counters cumulative that are read from elsewhere (CPU time, the engine's)."""

ENGINE_MEMORY: Final = "redis.memory.used"
"""The engine figure that valkey.memory.used repeats."""

_CUMULATIVE, _DELTA = AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA
# What the specification calls asynchronous instruments.
_OBSERVED = frozenset({names.PROCESS_CPU_TIME})


class Taken(NamedTuple):
    """Everything of one moment. Times are nanoseconds; `interval_ns` is the time since the last one."""

    time_unix_ns: int
    interval_ns: int
    reading: Reading
    engine: tuple[EnginePoint, ...]
    exemplars: list[Exemplar]


class MetricsSource:
    """Makes MetricsData for one exporter."""

    def __init__(
        self,
        figures: Figures,
        exemplars: Exemplars,
        engine_points: Callable[[], Iterable[EnginePoint]],
        start_unix_ns: int,
        temporality: Preference = "cumulative",
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """
        engine_points: the engine's figures as they were last read; called by `take`.
        start_unix_ns: when the server started, since when every sum counts.
        """
        self._figures = figures
        self._exemplars = exemplars.reader()
        self._engine_points = engine_points
        self._clock_ns = clock_ns
        self._start_unix_ns = start_unix_ns
        self._taken_unix_ns = start_unix_ns
        self._built_unix_ns = start_unix_ns
        self._engine_read_unix_ns = start_unix_ns
        self._delta = temporality != "cumulative"
        self._observed_delta = temporality == "delta"
        self._overview = Overview()
        self._numbers: dict[tuple[Instrument, Values], float] = {}
        self._histograms: dict[tuple[Instrument, Values], Histogram] = {}
        self._engine: dict[tuple[str, tuple[tuple[str, str | bool | int], ...]], _Counted] = {}

    def take(self) -> Taken:
        """Copy the figures of now. On the event loop where frames are merged."""
        now = self._clock_ns()
        taken = Taken(
            time_unix_ns=now,
            interval_ns=now - self._taken_unix_ns,
            reading=self._figures.take(),
            engine=tuple(self._engine_points()),
            exemplars=self._exemplars.take(),
        )
        self._taken_unix_ns = now
        return taken

    def build(self, taken: Taken, resource: Resource) -> MetricsData:
        """The figures as the SDK's types. In any thread, but one at a time and in the order of `take`."""
        metrics: dict[str, list[Metric]] = {}
        marks = _by_series(taken.exemplars)
        for instrument, histograms in taken.reading.histograms.items():
            own_marks = marks if instrument is names.COMMAND_DURATION else {}
            if points := self._histogram_points(instrument, histograms, taken.time_unix_ns, own_marks):
                data = HistogramData(points, _DELTA if self._delta else _CUMULATIVE)
                metrics.setdefault(instrument.scope, []).append(_metric(instrument, data))
        for instrument, numbers in taken.reading.numbers.items():
            if instrument.kind != "info" and (
                number_data := self._number_data(instrument, numbers, taken.time_unix_ns)
            ):
                metrics.setdefault(instrument.scope, []).append(_metric(instrument, number_data))
        memory = next((point.value for point in taken.engine if point.name == ENGINE_MEMORY), None)
        metrics[names.OVERVIEW] = [
            _metric(instrument, Gauge([_point(instrument, (), value, None, taken.time_unix_ns)]))
            for instrument, value in self._overview.update(taken.reading, taken.interval_ns, memory).items()
        ]
        if taken.engine:
            metrics[names.ENGINE] = self._engine_metrics(taken)
            self._engine_read_unix_ns = taken.time_unix_ns
        self._built_unix_ns = taken.time_unix_ns
        scopes = [
            ScopeMetrics(InstrumentationScope(scope, self._figures.version), of_scope, "")
            for scope, of_scope in metrics.items()
            if of_scope
        ]
        return MetricsData([ResourceMetrics(resource, scopes, resource.schema_url)])

    def _histogram_points(
        self,
        instrument: Instrument,
        series: list[tuple[Values, Histogram]],
        now: int,
        marks: Mapping[Values, list[SdkExemplar]],
    ) -> list[HistogramDataPoint]:
        start = self._built_unix_ns if self._delta else self._start_unix_ns
        points = []
        for values, histogram in series:
            if self._delta:
                key = (instrument, values)
                before = self._histograms.get(key)
                self._histograms[key] = histogram
                if before is not None:
                    histogram = _difference(histogram, before)
            count = sum(histogram.buckets)
            if not count:
                continue
            # Neither the least nor the greatest duration is known: absent on the wire.
            unknown: Any = None
            points.append(
                HistogramDataPoint(
                    attributes=_attributes(instrument, values),
                    start_time_unix_nano=start,
                    time_unix_nano=now,
                    count=count,
                    sum=histogram.sum_ns / NANOSECONDS,
                    bucket_counts=histogram.buckets,
                    explicit_bounds=names.DURATION_BOUNDS_S,
                    min=unknown,
                    max=unknown,
                    exemplars=marks.get(values, ()),
                )
            )
        return points

    def _number_data(self, instrument: Instrument, series: list[tuple[Values, float]], now: int) -> Sum | Gauge | None:
        if instrument.kind == "info":
            return None
        if instrument.kind == "gauge":
            points = [_point(instrument, values, value, None, now) for values, value in series]
            return Gauge(points) if points else None
        monotonic = instrument.kind == "counter"
        delta = monotonic and (self._observed_delta if instrument in _OBSERVED else self._delta)
        start = self._built_unix_ns if delta else self._start_unix_ns
        if delta:
            series = [
                (values, changed) for values, value in series if (changed := self._change(instrument, values, value))
            ]
        points = [_point(instrument, values, value, start, now) for values, value in series]
        return Sum(points, _DELTA if delta else _CUMULATIVE, monotonic) if points else None

    def _change(self, instrument: Instrument, values: Values, value: float) -> float:
        key = (instrument, values)
        before = self._numbers.get(key, 0)
        self._numbers[key] = value
        return value - before

    def _engine_metrics(self, taken: Taken) -> list[Metric]:
        heads: dict[str, EnginePoint] = {}
        points: dict[str, list[NumberDataPoint]] = {}
        for point in taken.engine:
            heads.setdefault(point.name, point)
            value, start = point.value, None
            if point.kind == "counter":
                counted = self._count(point, taken.time_unix_ns)
                start = counted.start_unix_ns
                if self._observed_delta:
                    value, start = counted.change, counted.changed_since_unix_ns
                    if not value:
                        continue
            elif point.kind == "updowncounter":
                start = self._start_unix_ns
            attributes: Any = point.attributes
            points.setdefault(point.name, []).append(
                NumberDataPoint(attributes, start, taken.time_unix_ns, value)  # type: ignore[arg-type]
            )
        result = []
        for name, of_name in points.items():
            head = heads[name]
            data: Sum | Gauge = Gauge(of_name)
            if head.kind != "gauge":
                monotonic = head.kind == "counter"
                data = Sum(of_name, _DELTA if monotonic and self._observed_delta else _CUMULATIVE, monotonic)
            result.append(Metric(name, head.description, head.unit, data))
        return result

    def _count(self, point: EnginePoint, now: int) -> _Counted:
        """Tell an engine's counter that started over from one that went on."""
        key = (point.name, tuple(sorted(point.attributes.items())))
        before = self._engine.get(key)
        since = self._start_unix_ns if point.since_unix_ns is None else point.since_unix_ns
        if before is None or since != before.since_unix_ns:
            # One that is new was zero at the last reading: its first change is of the time since then.
            changed_since = max(since, self._engine_read_unix_ns)
            counted = _Counted(point.value, point.value, since, changed_since, now, since)
        elif point.value < before.value:  # only this one, as those of a module that was loaded anew
            counted = _Counted(point.value, point.value, before.read_unix_ns, before.read_unix_ns, now, since)
        else:
            change = point.value - before.value
            counted = _Counted(point.value, change, before.start_unix_ns, before.read_unix_ns, now, since)
        self._engine[key] = counted
        return counted


class _Counted(NamedTuple):
    """A counter of the engine: its value, what was added since the last reading, and since when each counts.

    since_unix_ns: what the engine's reading says about its start; another one means that it has started over.
    """

    value: float
    change: float
    start_unix_ns: int
    changed_since_unix_ns: int
    read_unix_ns: int
    since_unix_ns: int


def _attributes(instrument: Instrument, values: Values) -> dict[str, str | bool]:
    return {name: value for name, value in zip(instrument.attributes, values, strict=True) if value != ""}


def _point(instrument: Instrument, values: Values, value: float, start: int | None, now: int) -> NumberDataPoint:
    """start: None for a gauge, which has none."""
    return NumberDataPoint(_attributes(instrument, values), start, now, value)  # type: ignore[arg-type]


def _metric(instrument: Instrument, data: Any) -> Metric:
    return Metric(instrument.name, instrument.description, instrument.unit, data)


def _difference(now: Histogram, before: Histogram) -> Histogram:
    return Histogram(now.sum_ns - before.sum_ns, [n - o for n, o in zip(now.buckets, before.buckets, strict=True)])


def _by_series(exemplars: Iterable[Exemplar]) -> dict[Values, list[SdkExemplar]]:
    """Exemplars of valkey.command.duration by the attributes of their series. OTLP finds the bucket by the value."""
    result: dict[Values, list[SdkExemplar]] = {}
    for exemplar in exemplars:
        result.setdefault((exemplar.command, exemplar.error_type), []).append(
            SdkExemplar(
                filtered_attributes={},
                value=exemplar.duration_ns / NANOSECONDS,
                time_unix_nano=exemplar.end_unix_ns,
                span_id=int.from_bytes(exemplar.span_id),
                trace_id=int.from_bytes(exemplar.trace_id),
            )
        )
    return result
