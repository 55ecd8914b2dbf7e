from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Metric
from opentelemetry.sdk.resources import Resource

from telemetry import names
from telemetry.enginepoint import EnginePoint
from telemetry.exemplars import Exemplars
from telemetry.figures import Figures
from telemetry.metricsdata import MetricsSource, Preference, Taken
from telemetry.otlp.stats import ExportStats
from telemetry.prometheus import registry
from telemetry.totals import Totals
from tests.telemetry.frames import command, counter, frame, outcome
from tests.telemetry.test_prometheus import FakeFacts, busy_totals

CUMULATIVE = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
DELTA = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
STARTED = 1_700_000_000_000_000_000
SECOND = 1_000_000_000
RESOURCE = Resource({"service.name": "valkey"})

Key = frozenset[tuple[str, str | bool | int]]


class Server:
    """A source with all it reads, whose clock goes on by ten seconds with each collection."""

    def __init__(self, totals: Totals | None = None, temporality: Preference = "cumulative") -> None:
        self.totals = Totals() if totals is None else totals
        self.facts = FakeFacts()
        self.stats = ExportStats()
        self.engine: list[EnginePoint] = []
        self.exemplars = Exemplars()
        self.figures = Figures(self.totals, self.facts, self.stats)
        self.now = STARTED
        self.source = MetricsSource(
            self.figures, self.exemplars, lambda: self.engine, STARTED, temporality, clock_ns=lambda: self.now
        )

    def take(self) -> Taken:
        self.now += 10 * SECOND
        return self.source.take()

    def collect(self, taken: Taken | None = None) -> dict[str, Metric]:
        """The metrics by name, after the SDK's own encoder."""
        request = encode_metrics(self.source.build(taken or self.take(), RESOURCE))
        found = [
            (scope.scope.name, metric)
            for scope in request.resource_metrics[0].scope_metrics
            for metric in scope.metrics
        ]
        for scope, metric in found:
            assert scope == SCOPES.get(metric.name, names.ENGINE)
        result = {metric.name: metric for _, metric in found}
        assert len(result) == len(found), "a metric was written twice"
        return result


SCOPES = {instrument.name: instrument.scope for instrument in names.INSTRUMENTS}


def points(metric: Metric) -> Sequence[Any]:
    kind = metric.WhichOneof("data")
    assert kind is not None
    return getattr(metric, kind).data_points  # type: ignore[no-any-return]


def attributes(point: Any) -> Key:
    return frozenset((pair.key, getattr(pair.value, pair.value.WhichOneof("value"))) for pair in point.attributes)


def value(point: Any) -> float:
    return getattr(point, point.WhichOneof("value"))  # type: ignore[no-any-return]


def values(metric: Metric) -> dict[Key, float]:
    result = {attributes(point): value(point) for point in points(metric)}
    assert len(result) == len(points(metric)), "a series was written twice"
    return result


def key(**pairs: str | bool) -> Key:
    return frozenset((name.replace("__", "."), value) for name, value in pairs.items())


def as_prometheus(metrics: dict[str, Metric]) -> Iterator[tuple[str, frozenset[tuple[str, str]], float]]:
    """Every figure under the name and the labels that Prometheus has for it; an absent attribute is an empty label."""
    for instrument in names.INSTRUMENTS:
        if not instrument.prometheus or instrument.name not in metrics:
            continue
        for point in points(metrics[instrument.name]):
            present = {
                name: str(value).lower() if isinstance(value, bool) else value for name, value in attributes(point)
            }
            labels = {
                label: str(present.pop(name, ""))
                for label, name in zip(instrument.labels, instrument.attributes, strict=True)
            }
            assert not present, "an attribute that the table does not have"
            pairs = frozenset(labels.items())
            if instrument.kind != "histogram":
                yield instrument.prometheus + ("_total" if instrument.kind == "counter" else ""), pairs, value(point)
                continue
            yield f"{instrument.prometheus}_count", pairs, point.count
            yield f"{instrument.prometheus}_sum", pairs, point.sum
            running = 0
            for bound, count in zip([*map(repr, point.explicit_bounds), "+Inf"], point.bucket_counts, strict=True):
                running += count
                yield f"{instrument.prometheus}_bucket", pairs | {("le", bound)}, running


def test_otlp_and_prometheus_show_the_same_figures() -> None:
    server = Server(busy_totals())
    server.totals.apply(2, frame(outcome("GET", calls=3), counter("spans.dropped", 5, "budget_roots")))
    server.facts.worker_restarts = 3
    server.stats.drop("budget_roots", 2)
    server.stats.fail("metrics", "timeout")
    server.stats.set_queue("traces", 9)
    shown = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in registry(server.figures).collect()
        for sample in family.samples
        if family.name != names.BUILD_INFO.prometheus
    }
    exported = {(name, labels): number for name, labels, number in as_prometheus(server.collect())}
    assert exported == shown
    assert exported["valkey_sidecar_spans_dropped_total", frozenset({("reason", "budget_roots")})] == 7


def test_every_instrument_has_the_units_and_kinds_of_the_table() -> None:
    server = Server(busy_totals())
    server.facts.pids = {"supervisor": [os.getpid()]}
    server.facts.engine_limits = {"maxmemory-clients": 2}
    server.stats.drop("queue_full", 2)
    server.stats.fail("metrics", "timeout")
    server.stats.set_queue("traces", 9)
    server.engine = [EnginePoint("redis.memory.used", "gauge", "By", "", {}, 5)]
    metrics = server.collect()
    assert metrics.keys() - {"redis.memory.used"} == {i.name for i in names.INSTRUMENTS if i.kind != "info"}
    for instrument in names.INSTRUMENTS:
        if instrument.kind == "info":
            continue
        metric = metrics[instrument.name]
        assert (metric.unit, metric.description) == (instrument.unit, instrument.description)
        expected = {"counter": "sum", "updowncounter": "sum", "gauge": "gauge", "histogram": "histogram"}[
            instrument.kind
        ]
        assert metric.WhichOneof("data") == expected
        if expected == "sum":
            assert metric.sum.is_monotonic == (instrument.kind == "counter")
            assert metric.sum.aggregation_temporality == CUMULATIVE
        for point in points(metric):
            assert point.time_unix_nano == STARTED + 10 * SECOND
            assert point.start_time_unix_nano == (0 if expected == "gauge" else STARTED)
            assert all(value != "" for _, value in attributes(point))
    (resource,) = encode_metrics(server.source.build(server.take(), RESOURCE)).resource_metrics
    assert [(pair.key, pair.value.string_value) for pair in resource.resource.attributes] == [
        ("service.name", "valkey")
    ]
    assert {scope.scope.version for scope in resource.scope_metrics} == {"1.2.3"}


def test_success_has_no_error_type_and_a_histogram_no_least_and_greatest() -> None:
    (success, failure) = points(Server(busy_totals()).collect()["valkey.command.duration"])
    assert attributes(success) == key(db__operation__name="GET")
    assert attributes(failure) == key(db__operation__name="GET", error__type="WRONGTYPE")
    assert (success.count, success.sum, list(success.explicit_bounds)) == (10, 1.5, list(names.DURATION_BOUNDS_S))
    assert list(success.bucket_counts) == [1, 2, *[0] * 30, 3, 4]
    assert not success.HasField("min")
    assert not success.HasField("max")


def test_a_series_seen_later_counts_since_the_servers_start() -> None:
    server = Server(busy_totals())
    server.collect()
    server.totals.apply(1, frame(outcome("DEL", calls=1, sum_ns=1, buckets={0: 1})))
    metrics = server.collect()
    for name in ("valkey.command.calls", "valkey.command.duration"):
        (point,) = (p for p in points(metrics[name]) if attributes(p) == key(db__operation__name="DEL"))
        assert (point.start_time_unix_nano, point.time_unix_nano) == (STARTED, STARTED + 20 * SECOND)


def test_delta_shows_what_was_added_since_the_last_collection() -> None:
    server = Server(busy_totals(), "delta")
    first = server.collect()
    assert values(first["valkey.command.calls"])[key(db__operation__name="SET")] == 7
    server.totals.apply(1, frame(outcome("GET", calls=15, sum_ns=2_500_000_000, buckets={0: 1, 1: 4, 32: 3, 33: 4})))
    second = server.collect()
    (calls,), (duration,) = points(second["valkey.command.calls"]), points(second["valkey.command.duration"])
    assert (attributes(calls), calls.as_int) == (key(db__operation__name="GET"), 3)
    assert (duration.count, duration.sum, list(duration.bucket_counts)) == (2, 1, [0, 2, *[0] * 32])
    for metric, point in (
        (first["valkey.command.calls"].sum, calls),
        (first["valkey.command.duration"].histogram, duration),
    ):
        assert metric.aggregation_temporality == DELTA
        assert metric.data_points[0].start_time_unix_nano == STARTED
        assert (point.start_time_unix_nano, point.time_unix_nano) == (STARTED + 10 * SECOND, STARTED + 20 * SECOND)
    connections = second["valkey.client.connections"].sum
    assert connections.aggregation_temporality == CUMULATIVE
    assert connections.data_points[0].start_time_unix_nano == STARTED
    assert server.collect().keys() == {
        "valkey.command.in_flight",
        "valkey.client.connections",
        "valkey.sidecar.upstream.connections",
        "valkey.command.rate",
    }


@pytest.mark.parametrize(
    ("temporality", "own", "observed"),
    [("cumulative", CUMULATIVE, CUMULATIVE), ("delta", DELTA, DELTA), ("lowmemory", DELTA, CUMULATIVE)],
)
def test_the_preference_decides_as_the_specification_says(temporality: Preference, own: int, observed: int) -> None:
    server = Server(busy_totals(), temporality)
    server.facts.pids = {"supervisor": [os.getpid()]}
    server.engine = [
        EnginePoint("redis.commands.processed", "counter", "{command}", "", {}, 5),
        EnginePoint("redis.slaves.connected", "updowncounter", "{replica}", "", {}, 5),
    ]
    metrics = server.collect()
    assert metrics["valkey.command.calls"].sum.aggregation_temporality == own
    assert metrics["valkey.command.duration"].histogram.aggregation_temporality == own
    assert metrics["process.cpu.time"].sum.aggregation_temporality == observed
    assert metrics["redis.commands.processed"].sum.aggregation_temporality == observed
    for name in ("valkey.command.in_flight", "valkey.client.connections", "redis.slaves.connected"):
        assert metrics[name].sum.aggregation_temporality == CUMULATIVE
        assert not metrics[name].sum.is_monotonic


def test_the_engines_figures_come_in_a_scope_of_their_own() -> None:
    server = Server()
    server.engine = [
        EnginePoint("redis.cpu.time", "counter", "s", "CPU time", {"state": "sys"}, 1.5),
        EnginePoint("redis.uptime", "gauge", "s", "Uptime", {}, 3),
        EnginePoint("redis.cpu.time", "counter", "s", "CPU time", {"state": "user"}, 2.5),
    ]
    metrics = server.collect()
    cpu = metrics["redis.cpu.time"]
    assert (cpu.unit, cpu.description, cpu.sum.is_monotonic) == ("s", "CPU time", True)
    assert values(cpu) == {key(state="sys"): 1.5, key(state="user"): 2.5}
    assert values(metrics["redis.uptime"]) == {key(): 3}
    assert metrics["redis.uptime"].gauge.data_points[0].as_int == 3


@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
def test_a_counter_of_the_engine_that_began_anew_has_a_new_start(temporality: Preference) -> None:
    server = Server(temporality=temporality)

    def read(value: int) -> tuple[int, int]:
        server.engine = [EnginePoint("redis.commands.processed", "counter", "{command}", "", {}, value)]
        (point,) = points(server.collect()["redis.commands.processed"])
        return point.as_int, (point.start_time_unix_nano - STARTED) // SECOND

    delta = temporality == "delta"
    assert read(100) == (100, 0)
    assert read(130) == ((30, 10) if delta else (130, 0))
    assert read(7) == (7, 20)
    assert read(9) == ((2, 30) if delta else (9, 20))


def test_an_exemplar_stands_at_its_series_in_one_collection() -> None:
    server = Server(busy_totals())
    server.exemplars.offer("GET", "WRONGTYPE", 1_200_000, STARTED + 5, bytes(range(16)), b"\xff" * 8)
    success, failure = points(server.collect()["valkey.command.duration"])
    assert len(success.exemplars) == 0
    (exemplar,) = failure.exemplars
    assert (exemplar.as_double, exemplar.time_unix_nano) == (0.0012, STARTED + 5)
    assert (exemplar.trace_id, exemplar.span_id) == (bytes(range(16)), b"\xff" * 8)
    assert [len(point.exemplars) for point in points(server.collect()["valkey.command.duration"])] == [0, 0]


def test_what_was_taken_does_not_change_while_it_is_built() -> None:
    server = Server(busy_totals())
    taken = server.take()
    server.totals.apply(1, frame(outcome("GET", calls=99, sum_ns=9, buckets={0: 99}), command("GET", sent=9_999)))
    server.totals.worker_gone(1)
    metrics = server.collect(taken)
    assert values(metrics["valkey.command.calls"])[key(db__operation__name="GET")] == 12
    assert values(metrics["valkey.command.request.size"])[key(db__operation__name="GET")] == 100
    assert values(metrics["valkey.command.in_flight"]) == {key(): 1}


def test_each_exporter_has_its_own_idea_of_what_came_since_last_time() -> None:
    server = Server(busy_totals(), "delta")
    other = MetricsSource(server.figures, server.exemplars, lambda: (), STARTED, "delta")
    server.collect()
    (resource,) = encode_metrics(other.build(other.take(), RESOURCE)).resource_metrics
    calls = next(m for scope in resource.scope_metrics for m in scope.metrics if m.name == "valkey.command.calls")
    assert values(calls)[key(db__operation__name="SET")] == 7
