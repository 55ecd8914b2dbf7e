"""Log records through the OpenTelemetry SDK's log pipeline.

Owns the way from a record of `telemetry.logs` to one of the SDK, the batches, and the requests. The sending is a
transport's. Never waits in `take`, never lets the pipeline log about itself into itself, and counts what it drops.

    pipeline = LogPipeline(OtlpLogExporter(transport), resource, stats)
    logs.add_exporter(pipeline.take)
    ...
    logs.remove_exporter(pipeline.take)
    pipeline.stop(2.0)

Batches follow OTEL_BLRP_SCHEDULE_DELAY, OTEL_BLRP_MAX_EXPORT_BATCH_SIZE and OTEL_BLRP_MAX_QUEUE_SIZE.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from opentelemetry import trace
from opentelemetry._logs import SeverityNumber
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.environment_variables import (
    OTEL_BLRP_MAX_EXPORT_BATCH_SIZE,
    OTEL_BLRP_MAX_QUEUE_SIZE,
    OTEL_BLRP_SCHEDULE_DELAY,
)
from opentelemetry.sdk.resources import Resource

from telemetry.librarylogs import is_of_exporter
from telemetry.otlp.stats import ExportStats
from telemetry.otlp.transport import ExportError

ENGINE_SCOPE = "valkey.engine"
SIDECAR_SCOPE = "valkey.sidecar"

_HEAD = frozenset({"timestamp", "level", "severity_number", "event_name", "message", "trace_id", "span_id"})
_ABOUT_EXPORT = frozenset({"export.failed", "export.recovered", "export.fault"})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_INT64 = 1 << 63


class Sends(Protocol):
    """What of a transport is needed here."""

    def send(self, request: bytes, items: int) -> None:
        """Send one request, or raise when it has finally failed. Counts and logs failures by itself."""

    def close(self) -> None: ...


class LogPipeline:
    """One way of records out of the process.

    resource: its attributes. signal: its name in the statistics. thread: the name of the thread that sends.
    """

    def __init__(
        self,
        exporter: LogRecordExporter,
        resource: Mapping[str, Any],
        stats: ExportStats,
        *,
        signal: str = "logs",
        thread: str = "otlp-logs",
    ) -> None:
        self._signal = signal
        self._stats = stats
        queue = _setting(OTEL_BLRP_MAX_QUEUE_SIZE, 2048)
        self._counter = _Counter(exporter, stats, signal, thread, queue)
        self._provider = LoggerProvider(Resource(dict(resource)), shutdown_on_exit=False)
        processor = BatchLogRecordProcessor(
            self._counter,
            schedule_delay_millis=_setting(OTEL_BLRP_SCHEDULE_DELAY, 1000),
            max_export_batch_size=min(_setting(OTEL_BLRP_MAX_EXPORT_BATCH_SIZE, 512), queue),
            max_queue_size=queue,
        )
        self._provider.add_log_record_processor(processor)
        self._loggers = {scope: self._provider.get_logger(scope) for scope in (ENGINE_SCOPE, SIDECAR_SCOPE)}

    def take(self, record: Mapping[str, Any]) -> None:
        """Send this record with the next batch. With a full queue it is dropped, and counted as `queue_full`."""
        if self._is_about_itself(record):
            return
        if not self._counter.admit():
            self._stats.fail(self._signal, "queue_full")
            return
        engine = record["event_name"] == "engine.log"
        attributes = {key: _value(value) for key, value in record.items() if key not in _HEAD and value is not None}
        context = _context(record)
        if context is None:  # they are no ids, whatever they are
            attributes |= {key: _value(record[key]) for key in ("trace_id", "span_id") if key in record}
        self._loggers[ENGINE_SCOPE if engine else SIDECAR_SCOPE].emit(
            timestamp=_nanoseconds(record["timestamp"]),
            context=Context() if context is None else context,
            severity_number=SeverityNumber(record["severity_number"]),
            severity_text=record["level"],
            body=_text(record["message"]),
            attributes=attributes,
            event_name=record["event_name"],
        )

    def stop(self, timeout_s: float) -> None:
        """Send what waits, and end; after so many seconds give it up."""
        # The SDK's own way would wait for 30 s.
        thread = threading.Thread(target=self._provider.shutdown, name=f"{self._signal}-end", daemon=True)
        thread.start()
        thread.join(timeout_s)

    def _is_about_itself(self, record: Mapping[str, Any]) -> bool:
        event = record["event_name"]
        if event in _ABOUT_EXPORT:
            return bool(record.get("signal") == self._signal)
        return bool(event == "library.log" and is_of_exporter(str(record.get("logger", ""))))


class OtlpLogExporter(LogRecordExporter):
    """Encodes batches and hands them to a transport."""

    def __init__(self, transport: Sends) -> None:
        self._transport = transport

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Send a batch; a failure is the transport's to count and to tell."""
        request = encode_logs(batch).SerializeToString()
        try:
            self._transport.send(request, len(batch))
        except ExportError:
            return LogRecordExportResult.FAILURE
        return LogRecordExportResult.SUCCESS

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Nothing waits here."""
        return True

    def shutdown(self) -> None:
        """Close the transport."""
        self._transport.close()


class _Counter(LogRecordExporter):
    """Knows how many records wait, because the SDK does not tell: a full queue would drop the oldest without a word."""

    def __init__(self, exporter: LogRecordExporter, stats: ExportStats, signal: str, thread: str, limit: int) -> None:
        self._exporter = exporter
        self._stats = stats
        self._signal = signal
        self._thread = thread
        self._limit = limit
        self._waiting = 0
        self._lock = threading.Lock()

    def admit(self) -> bool:
        """Whether one more record may wait."""
        with self._lock:
            if self._waiting >= self._limit:
                return False
            self._waiting += 1
            self._stats.set_queue(self._signal, self._waiting)
            return True

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        threading.current_thread().name = self._thread
        with self._lock:
            self._waiting -= len(batch)
            self._stats.set_queue(self._signal, self._waiting)
        try:
            return self._exporter.export(batch)
        except Exception as error:  # a fault of ours; the SDK would log it with every batch
            self._stats.fail(self._signal, type(error).__name__, len(batch))
            return LogRecordExportResult.FAILURE

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)

    def shutdown(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]


def _setting(name: str, default: int) -> int:
    """A positive number from the environment; the default for what is none, as the specification wants it."""
    with contextlib.suppress(ValueError):
        value = int(os.environ.get(name, default))
        return value if value > 0 else default
    return default


def _context(record: Mapping[str, Any]) -> Context | None:
    """The span that a record belongs to. None when it has ids that are none; without ids a context of no span."""
    if "trace_id" not in record and "span_id" not in record:
        return Context()
    try:
        trace_id, span_id = int(record["trace_id"], 16), int(record["span_id"], 16)
    except (KeyError, TypeError, ValueError):
        return None
    # Only spans that are sent, or may be, have records with their ids: the flag says nothing of the sampler.
    span = trace.SpanContext(trace_id, span_id, is_remote=True, trace_flags=trace.TraceFlags(1))
    return trace.set_span_in_context(trace.NonRecordingSpan(span), Context()) if span.is_valid else None


def _nanoseconds(timestamp: str) -> int:
    return (datetime.fromisoformat(timestamp) - _EPOCH) // _MICROSECOND * 1000


def _text(value: object) -> str:
    """As a string that can be UTF-8: what the engine or a client sent may hold half a surrogate."""
    return str(value).encode("utf-8", "replace").decode()


def _value(value: object) -> Any:
    """As an attribute's value: what is neither a number, nor a text, nor a list of those, shows as text."""
    if isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if -_INT64 <= value < _INT64 else str(value)
    if isinstance(value, list | tuple):
        return [_text(item) for item in value]
    return _text(value)
