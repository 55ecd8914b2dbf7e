from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from telemetry import logs
from telemetry.names import SEVERITIES
from telemetry.otlp.logs import LogPipeline, OtlpLogExporter
from telemetry.otlp.stats import ExportStats
from telemetry.otlp.transport import ExportError
from tests.conftest import PATIENCE_S, wait_until


class CollectingTransport:
    """In the place of a transport: keeps the requests, and sends them slowly if told."""

    def __init__(self) -> None:
        self.requests: list[tuple[ExportLogsServiceRequest, int, str]] = []
        self.open = threading.Event()
        self.open.set()
        self.sending = threading.Event()
        self.error: Exception | None = None
        self.closed = False

    def send(self, request: bytes, items: int) -> None:
        self.sending.set()
        self.open.wait(PATIENCE_S)
        if self.error is not None:
            raise self.error
        self.requests.append((ExportLogsServiceRequest.FromString(request), items, threading.current_thread().name))

    def close(self) -> None:
        self.closed = True

    def records(self) -> list[tuple[str, LogRecord]]:
        return [
            (scope.scope.name, record)
            for request, _, _ in self.requests
            for resource in request.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]


Make = Callable[[], LogPipeline]


@pytest.fixture
def transport() -> CollectingTransport:
    return CollectingTransport()


@pytest.fixture
def stats() -> ExportStats:
    return ExportStats()


@pytest.fixture
def make(transport: CollectingTransport, stats: ExportStats, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    made: list[LogPipeline] = []
    monkeypatch.setenv("OTEL_BLRP_SCHEDULE_DELAY", "20")

    def make() -> LogPipeline:
        made.append(LogPipeline(OtlpLogExporter(transport), {"service.name": "cache"}, stats))
        return made[-1]

    yield make
    transport.open.set()
    for pipeline in made:
        pipeline.stop(PATIENCE_S)


def record(message: str = "Ready.", level: str = "notice", event_name: str = "test.event", **attributes: Any) -> Any:
    return {
        "timestamp": "2026-02-28T23:02:03.456001Z",
        "level": level,
        "severity_number": SEVERITIES[level],
        "event_name": event_name,
        "message": message,
        **attributes,
    }


def attributes_of(sent: LogRecord) -> dict[str, Any]:
    found = {}
    for pair in sent.attributes:
        kind = pair.value.WhichOneof("value")
        value = getattr(pair.value, str(kind))
        found[pair.key] = [item.string_value for item in value.values] if kind == "array_value" else value
    return found


def test_a_record_arrives_with_event_severity_sentence_and_attributes(
    make: Make, transport: CollectingTransport
) -> None:
    make().take(record("Ready.", pid=7, ratio=0.5, tls=True, gone=None, addresses=["::1", "127.0.0.1"]))
    wait_until(transport.records, "the record arrives")
    ((scope, sent),) = transport.records()
    assert scope == "valkey.sidecar"
    assert (sent.event_name, sent.severity_number, sent.severity_text) == ("test.event", 9, "notice")
    assert sent.body.string_value == "Ready."
    assert sent.time_unix_nano == 1_772_319_723_456_001_000
    assert attributes_of(sent) == {"pid": 7, "ratio": 0.5, "tls": True, "addresses": ["::1", "127.0.0.1"]}
    assert (sent.trace_id, sent.span_id) == (b"", b"")
    request, items, thread = transport.requests[0]
    assert items == 1
    assert thread == "otlp-logs"
    (attribute,) = request.resource_logs[0].resource.attributes
    assert (attribute.key, attribute.value.string_value) == ("service.name", "cache")


def test_every_level_has_its_severity_number(make: Make, transport: CollectingTransport) -> None:
    pipeline = make()
    for level in SEVERITIES:
        pipeline.take(record(level=level))
    wait_until(lambda: len(transport.records()) == 5, "all arrive")
    assert [sent.severity_number for _, sent in transport.records()] == [5, 7, 9, 13, 17]


def test_the_engines_lines_have_a_scope_of_their_own(make: Make, transport: CollectingTransport) -> None:
    make().take(record("* Ready", event_name="engine.log", role="primary"))
    wait_until(transport.records, "the record arrives")
    assert transport.records()[0][0] == "valkey.engine"


def test_ids_of_a_span_are_the_records_own(make: Make, transport: CollectingTransport) -> None:
    make().take(record(trace_id="0af7651916cd43dd8448eb211c80319c", span_id="b7ad6b7169203331", duration=0.02))
    wait_until(transport.records, "the record arrives")
    ((_, sent),) = transport.records()
    assert sent.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert sent.span_id.hex() == "b7ad6b7169203331"
    assert attributes_of(sent) == {"duration": 0.02}


@pytest.mark.parametrize("trace_id", ["no hex", "0" * 32, 7])
def test_what_is_no_id_stays_an_attribute(make: Make, transport: CollectingTransport, trace_id: Any) -> None:
    make().take(record(trace_id=trace_id, span_id="b7ad6b7169203331"))
    wait_until(transport.records, "the record arrives")
    ((_, sent),) = transport.records()
    assert sent.trace_id == b""
    assert attributes_of(sent) == {"trace_id": trace_id, "span_id": "b7ad6b7169203331"}


def test_what_protobuf_cannot_hold_is_shown_as_well_as_it_can_be(make: Make, transport: CollectingTransport) -> None:
    make().take(record("half a \udc80 surrogate", name="\udcff", big=1 << 70, other={"a": 1}))
    wait_until(transport.records, "the record arrives")
    ((_, sent),) = transport.records()
    assert sent.body.string_value == "half a ? surrogate"
    assert attributes_of(sent) == {"name": "?", "big": str(1 << 70), "other": "{'a': 1}"}


def test_what_is_logged_about_the_sending_of_logs_is_not_sent(make: Make, transport: CollectingTransport) -> None:
    pipeline = make()
    pipeline.take(record("Logs cannot be sent.", event_name="export.failed", signal="logs"))
    pipeline.take(record("Logs are sent again.", event_name="export.recovered", signal="logs"))
    for logger in ("grpc._channel", "urllib3.connectionpool", "opentelemetry.sdk", "azure.core"):
        pipeline.take(record("Hm.", event_name="library.log", logger=logger))
    pipeline.take(record("Spans cannot be sent.", event_name="export.failed", signal="traces"))
    pipeline.take(record("No HTTP.", event_name="library.log", logger="uvicorn.error"))
    wait_until(lambda: len(transport.records()) == 2, "the others arrive")
    pipeline.stop(PATIENCE_S)
    assert [sent.body.string_value for _, sent in transport.records()] == ["Spans cannot be sent.", "No HTTP."]


def test_a_collector_that_hangs_costs_records_and_no_time(
    make: Make, transport: CollectingTransport, stats: ExportStats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BLRP_MAX_QUEUE_SIZE", "10")
    monkeypatch.setenv("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "5")
    pipeline = make()
    transport.open.clear()
    pipeline.take(record("first"))
    assert transport.sending.wait(PATIENCE_S)
    began = time.monotonic()
    for number in range(110):
        pipeline.take(record(str(number)))
    assert time.monotonic() - began < PATIENCE_S / 3
    assert stats.failures() == {("logs", "queue_full"): 100}
    assert stats.queue_sizes() == {"logs": 10}
    transport.open.set()
    wait_until(lambda: len(transport.records()) == 11, "what waited arrives")
    wait_until(lambda: stats.queue_sizes() == {"logs": 0}, "nothing waits")
    assert max(items for _, items, _ in transport.requests) <= 5


def test_what_waits_is_sent_at_the_end(make: Make, transport: CollectingTransport, stats: ExportStats) -> None:
    pipeline = make()
    for number in range(600):
        pipeline.take(record(str(number)))
    pipeline.stop(PATIENCE_S)
    assert [sent.body.string_value for _, sent in transport.records()] == [str(number) for number in range(600)]
    assert transport.closed
    pipeline.take(record("too late"))


def test_the_end_does_not_wait_for_a_collector_that_hangs(make: Make, transport: CollectingTransport) -> None:
    pipeline = make()
    transport.open.clear()
    pipeline.take(record())
    assert transport.sending.wait(PATIENCE_S)
    began = time.monotonic()
    pipeline.stop(0.05)
    assert time.monotonic() - began < PATIENCE_S / 3


def test_a_failure_of_the_transport_is_its_own_to_count(
    make: Make, transport: CollectingTransport, stats: ExportStats
) -> None:
    transport.error = ExportError("unavailable")
    pipeline = make()
    pipeline.take(record())
    assert transport.sending.wait(PATIENCE_S)
    wait_until(lambda: stats.queue_sizes() == {"logs": 0}, "nothing waits")
    transport.error = None
    pipeline.take(record("later"))
    wait_until(transport.records, "the next arrives")
    assert stats.failures() == {}


def test_the_log_itself_feeds_it(make: Make, transport: CollectingTransport) -> None:
    logs.exporters_complete()
    pipeline = make()
    logs.add_exporter(pipeline.take)
    try:
        logs.get_logger().warning("test.fed", "Look.", role="supervisor")
        wait_until(transport.records, "the record arrives")
    finally:
        logs.remove_exporter(pipeline.take)
    (sent,) = [sent for _, sent in transport.records() if sent.event_name == "test.fed"]
    assert (sent.body.string_value, attributes_of(sent)) == ("Look.", {"role": "supervisor"})


@pytest.mark.parametrize("size", ["10", "0", "-1", "many", ""])
def test_a_small_or_senseless_queue_size_costs_no_record_of_a_quiet_server(
    make: Make, transport: CollectingTransport, monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    monkeypatch.setenv("OTEL_BLRP_MAX_QUEUE_SIZE", size)
    make().take(record())
    wait_until(transport.records, "the record arrives")
