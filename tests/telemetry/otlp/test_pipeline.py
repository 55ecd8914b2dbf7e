"""The whole pipeline against real receivers: spans, metrics and logs, well and ill, to the flush at the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from telemetry import spanpacket
from telemetry.otlp.encoded import Observed
from telemetry.otlp.envelope import Envelope
from telemetry.otlp.pipeline import Pipeline
from telemetry.otlp.resource import Attributes
from telemetry.otlp.settings import ExportSettings
from telemetry.otlp.spans import INBOX_BYTES_MAX, Spans
from telemetry.otlp.stats import ExportStats
from telemetry.otlp.transport import REQUEST_BYTES_MAX, Transport
from tests.conftest import PATIENCE_S, free_port, wait_until
from tests.telemetry.otlp.conftest import Receive
from tests.telemetry.otlp.helpers import KEY, Log, packet, settings_for
from tests.telemetry.otlp.receivers import Answer

RESOURCE: Attributes = {"service.name": "cache", "server.port": 6379}
FAST = {"BSP_SCHEDULE_DELAY": "20"}
BINARY = ("grpc", "http/protobuf")

Begin = Callable[..., Pipeline]


@pytest.fixture
def stats() -> ExportStats:
    return ExportStats()


@pytest.fixture
def begin(stats: ExportStats) -> Iterator[Begin]:
    pipelines: list[Pipeline] = []
    before = set(threading.enumerate())  # another test's may not have ended yet

    def make(settings: ExportSettings, **options: Any) -> Pipeline:
        pipelines.append(Pipeline(settings, stats, RESOURCE, version="1.0", **options))
        return pipelines[-1]

    yield make
    for pipeline in pipelines:
        pipeline.stop(0)
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("otlp-"):
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), f"{thread.name} has not ended"


class Figures:
    """A source of metrics: one sum per name, one more at every collection. It fails when told to."""

    def __init__(self, names: tuple[str, ...] = ("valkey.command.calls",), fails: int = 0) -> None:
        self.names, self.fails, self.collections = names, fails, 0

    def collect(self) -> MetricsData:
        self.collections += 1
        if self.collections <= self.fails:
            raise RuntimeError("secret")
        point = NumberDataPoint({"db.operation.name": "GET"}, 1, 2, self.collections, [])
        data = Sum([point], AggregationTemporality.CUMULATIVE, True)
        metrics = [Metric(name, "", "{call}", data) for name in self.names]
        scope = ScopeMetrics(InstrumentationScope("valkey.commands"), metrics, "")
        return MetricsData([ResourceMetrics(Resource(RESOURCE), [scope], "")])


@pytest.mark.parametrize("protocol", BINARY)
def test_spans_arrive_under_resource_and_scope_in_batches(
    protocol: str, receive: Receive, begin: Begin, stats: ExportStats
) -> None:
    receiver = receive(protocol, key=KEY)
    headers = f"x-otlp-api-key={KEY}"
    pipeline = begin(settings_for(receiver.endpoint, protocol, EXPORTER_OTLP_HEADERS=headers, **FAST))
    for _ in range(10):
        pipeline.take(packet(130))  # some of them before it has started
    receiver.wait_for(lambda: len(receiver.spans) == 1300, "all spans arrived")
    assert len({span.span_id for span in receiver.spans}) == 1300
    for request in receiver.requests:
        (resource,) = request.message.resource_spans
        (scope,) = resource.scope_spans
        assert {a.key: a.value.string_value or a.value.int_value for a in resource.resource.attributes} == RESOURCE
        assert (scope.scope.name, scope.scope.version) == ("valkey.commands", "1.0")
        assert 0 < len(scope.spans) <= 512
    pipeline.stop(5)
    assert (stats.dropped(), stats.failures()) == ({}, {})
    assert stats.queue_sizes() == {"traces": 0}


@pytest.mark.parametrize("protocol", BINARY)
def test_a_full_batch_does_not_wait_and_the_rest_goes_at_the_end(
    protocol: str, receive: Receive, begin: Begin, stats: ExportStats
) -> None:
    receiver = receive(protocol)
    pipeline = begin(
        settings_for(receiver.endpoint, protocol, BSP_SCHEDULE_DELAY="3600000", BSP_MAX_EXPORT_BATCH_SIZE="100")
    )
    pipeline.take(packet(250))
    receiver.wait_for(lambda: len(receiver.spans) == 200, "two full batches arrived")
    pipeline.take(packet(10))
    pipeline.stop(PATIENCE_S)
    assert len(receiver.spans) == 260
    pipeline.take(packet(3))
    assert stats.dropped() == {"shutdown": 3}


def test_requests_stay_below_four_megabytes(receive: Receive, begin: Begin, stats: ExportStats) -> None:
    receiver = receive("grpc")
    pipeline = begin(settings_for(receiver.endpoint, **FAST))
    for _ in range(3):  # all at once: 6 MB, when keys have become hexadecimal digits
        pipeline.take(packet(15, key=b"\xff" * 65_000))
    receiver.wait_for(lambda: len(receiver.spans) == 45, "everything arrived")
    pipeline.take(packet(40, key=b"k" * 65_000))
    receiver.wait_for(lambda: len(receiver.spans) == 85, "a packet larger than half a request arrived")
    assert max(request.size for request in receiver.requests) < REQUEST_BYTES_MAX
    assert (stats.dropped(), stats.failures()) == ({}, {})


def test_a_hanging_collector_costs_bounded_memory_and_counted_spans_and_is_found_again(
    receive: Receive, begin: Begin, stats: ExportStats, log: Log
) -> None:
    receiver = receive("grpc")
    receiver.answer = Answer(hang=True)
    slow: list[Observed] = []
    pipeline = begin(
        settings_for(receiver.endpoint, BSP_MAX_QUEUE_SIZE="1000", EXPORTER_OTLP_TIMEOUT="1500", **FAST),
        on_slow=slow.append,
    )
    pipeline.take(packet(100))
    receiver.wait_for(lambda: receiver.requests, "a request")
    taken, longest = 100, 0.0
    for _ in range(60):
        began = time.perf_counter()
        pipeline.take(packet(100, flags=spanpacket.SLOW))
        longest = max(longest, time.perf_counter() - began)
        taken += 100
    wait_until(lambda: len(slow) == 6000, "slow spans are seen while the collector hangs")
    assert stats.queue_sizes()["traces"] <= 1000
    assert stats.dropped()["queue_full"] >= taken - 100 - 1000 - 512
    assert longest < 0.5
    receiver.answer = Answer()
    receiver.release.set()
    wait_until(lambda: stats.queue_sizes()["traces"] == 0, "the queue is empty again")
    pipeline.stop(PATIENCE_S)
    lost = sum(stats.dropped().values())
    in_time = len(receiver.spans) - stats.dropped().get("export_failed", 0)
    assert in_time + lost == taken  # the receiver has also kept what it did not answer in time
    assert len(log.events("export.failed")) == len(log.events("export.recovered")) <= 1


@pytest.mark.parametrize("protocol", BINARY)
def test_an_absent_collector_is_logged_once_and_every_span_is_counted(
    protocol: str, begin: Begin, stats: ExportStats, log: Log
) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    pipeline = begin(settings_for(endpoint, protocol, EXPORTER_OTLP_TIMEOUT="200", **FAST))
    for number in range(1, 4):
        pipeline.take(packet(7))
        wait_until(lambda n=number: stats.dropped().get("export_failed") == 7 * n, "the spans are given up")
    assert len(log.events("export.failed")) == 1
    pipeline.stop(5)
    assert stats.dropped() == {"export_failed": 21}
    assert stats.failures() == {("traces", "unavailable"): 3}


@pytest.mark.parametrize("protocol", BINARY)
def test_the_flush_at_the_end_is_bounded_and_counts_what_it_leaves(
    protocol: str, receive: Receive, begin: Begin, stats: ExportStats, log: Log
) -> None:
    receiver = receive(protocol)
    receiver.answer = Answer(hang=True)
    settings = settings_for(receiver.endpoint, protocol, METRIC_EXPORT_INTERVAL="3600000", **FAST)
    pipeline = begin(settings, metrics=Figures)
    for _ in range(5):
        pipeline.take(packet(400))
    receiver.wait_for(lambda: receiver.requests, "a request")
    began = time.monotonic()
    pipeline.stop(0.5)
    assert time.monotonic() - began < 4
    assert stats.dropped() == {"shutdown": 2000}
    assert log.events("export.fault") == []


def test_nothing_is_kept_without_bounds_before_the_start(begin: Begin, stats: ExportStats, monkeypatch: Any) -> None:
    monkeypatch.setattr("telemetry.otlp.spans.Spans._encode_all", lambda self: None)
    pipeline = begin(settings_for("http://127.0.0.1:1"))
    one = packet(500)
    fits = INBOX_BYTES_MAX // len(one)
    for _ in range(fits + 10):
        pipeline.take(one)
    assert stats.dropped() == {"queue_full": 5000}
    pipeline.stop(0)
    assert stats.dropped() == {"queue_full": 5000, "shutdown": fits * 500}


def test_an_end_in_the_middle_of_the_beginning_closes_what_was_opened(stats: ExportStats) -> None:
    """The transport is made by a thread of its own: it may be ready when the server has ended already."""
    spans = Spans(settings_for("http://127.0.0.1:1").spans, stats, export=True)
    spans.stop(0)
    closed: list[bool] = []

    class LateTransport:
        def close(self) -> None:
            closed.append(True)

    spans.send_with(LateTransport(), Envelope({}, "scope", "1"))  # type: ignore[arg-type]
    assert closed == [True]
    assert "otlp-traces" not in {thread.name for thread in threading.enumerate()}


def test_slow_spans_and_exemplars_are_handed_out_without_a_traces_exporter(
    receive: Receive, begin: Begin, stats: ExportStats
) -> None:
    receiver = receive("grpc")
    offered: list[tuple[Any, ...]] = []
    slow: list[Observed] = []

    class Exemplars:
        def offer(self, *what: Any) -> None:
            offered.append(what)

    pipeline = begin(
        settings_for(receiver.endpoint, TRACES_EXPORTER="none"), on_slow=slow.append, exemplars=Exemplars()
    )
    trace_id = b"t" * 16
    pipeline.take(packet(1, "KEYS", trace_id=trace_id, flags=spanpacket.SLOW | spanpacket.SAMPLED))
    pipeline.take(packet(1, "GET"))
    pipeline.stop(PATIENCE_S)
    assert [(o.command, o.trace_id, o.duration_ns) for o in slow] == [("KEYS", trace_id, 1000)]
    assert [o[:5] for o in offered] == [("KEYS", "", 1000, 2000, trace_id)]
    assert receiver.requests == []
    assert stats.dropped() == {}


def test_a_fault_in_a_hook_or_a_broken_packet_stops_nothing(
    receive: Receive, begin: Begin, stats: ExportStats, log: Log
) -> None:
    receiver = receive("grpc")

    def fails(_: Observed) -> None:
        raise RuntimeError("secret")

    pipeline = begin(settings_for(receiver.endpoint, **FAST), on_slow=fails)
    for _ in range(3):
        pipeline.take(packet(2, flags=spanpacket.SLOW))
        pipeline.take(packet(4)[:-1])
    pipeline.take(b"")
    receiver.wait_for(lambda: len(receiver.spans) == 6, "the good spans arrived")
    pipeline.stop(PATIENCE_S)
    assert stats.dropped() == {"bad_packet": 12}
    assert len(log.events("export.fault")) <= 3  # one for each place
    assert log.events("export.fault")[0]["level"] == "error"
    assert "secret" not in log.text


@pytest.mark.parametrize("protocol", BINARY)
def test_metrics_go_out_at_every_interval_and_once_at_the_end(
    protocol: str, receive: Receive, begin: Begin, stats: ExportStats, log: Log
) -> None:
    receiver = receive(protocol)
    figures = Figures(fails=1)
    settings = settings_for(receiver.endpoint, protocol, METRIC_EXPORT_INTERVAL="50")
    pipeline = begin(settings, metrics=lambda: figures)
    receiver.wait_for(lambda: len(receiver.metrics) >= 3, "three collections arrived")
    pipeline.stop(PATIENCE_S)
    values = [metric.sum.data_points[0].as_int for metric in receiver.metrics]
    assert values == list(range(2, figures.collections + 1))
    assert stats.failures() == {("metrics", "fault"): 1}
    assert len(log.events("export.fault")) == 1
    assert "secret" not in log.text


def test_metrics_too_many_for_one_request_are_sent_in_several(receive: Receive, begin: Begin) -> None:
    receiver = receive("grpc")
    names = tuple(f"{number}{'x' * 400_000}" for number in range(25))
    settings = settings_for(receiver.endpoint, METRIC_EXPORT_INTERVAL="3600000")
    pipeline = begin(settings, metrics=lambda: Figures(names))
    wait_until(lambda: [t for t in threading.enumerate() if t.name == "otlp-metrics"], "the exporter runs")
    pipeline.stop(PATIENCE_S)
    assert [metric.name for metric in receiver.metrics] == list(names)
    assert len(receiver.requests) > 2
    assert max(request.size for request in receiver.requests) < REQUEST_BYTES_MAX


def test_logs_are_pluggable_and_signals_are_flushed_side_by_side(receive: Receive, begin: Begin) -> None:
    receiver = receive("http")
    receiver.answer = Answer(hang=True)

    class LogSender:
        def __init__(self, transport: Transport) -> None:
            self.transport, self.given_s = transport, -1.0

        def stop(self, timeout_s: float) -> None:
            self.given_s = timeout_s
            self.transport.close()

    senders: list[LogSender] = []

    def make(transport: Transport) -> LogSender:
        senders.append(LogSender(transport))
        return senders[-1]

    pipeline = begin(settings_for(receiver.endpoint, "http/protobuf", **FAST), logs=make, metrics=Figures)
    pipeline.take(packet(1))
    receiver.wait_for(lambda: receiver.requests, "the spans hang")
    pipeline.stop(1.0)
    assert senders[0].given_s > 0.5  # it has not waited for the spans
    assert {request.signal for request in receiver.requests} == {"traces", "metrics"}


def test_a_certificate_that_is_not_there_is_said_and_counted(begin: Begin, stats: ExportStats, log: Log) -> None:
    settings = settings_for("https://127.0.0.1:1", EXPORTER_OTLP_CERTIFICATE="/nonexistent.pem", **FAST)
    pipeline = begin(settings)
    pipeline.take(packet(5))
    wait_until(lambda: stats.dropped() == {"export_failed": 5}, "the spans are given up")
    assert stats.failures() == {("traces", "tls"): 1}
    messages = [event["message"] for event in log.events("export.failed")]
    assert "No traces are exported: OTEL_EXPORTER_OTLP_CERTIFICATE: No such file or directory." in messages


def test_a_fault_while_a_signal_starts_leaves_the_others_alone(
    receive: Receive, begin: Begin, stats: ExportStats, log: Log, tmp_path: Path
) -> None:
    receiver = receive("grpc")

    def broken() -> Figures:
        raise RuntimeError("secret")

    pipeline = begin(settings_for(receiver.endpoint, **FAST), metrics=broken)
    pipeline.take(packet(1))
    receiver.wait_for(lambda: receiver.spans, "the span arrived")
    pipeline.stop(PATIENCE_S)
    assert stats.failures() == {("metrics", "fault"): 1}
    assert "secret" not in log.text
