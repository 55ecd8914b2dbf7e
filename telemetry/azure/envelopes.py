"""Spans and log records as Application Insights shows them.

Owns what the library's exporters leave out or round off, and nothing else of their envelopes:

- durations: they round to milliseconds, and a command takes microseconds;
- `resultCode` of a request: only HTTP has one there; here it is the error's code;
- attributes of the contract: what begins with db., network. or enduser. is not in their properties;
- `event_name` of a log record; ids of zeros of one without a span.

Where a later version of the library does not ask these methods any more, its own envelopes are sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from azure.monitor.opentelemetry.exporter import AzureMonitorLogExporter, AzureMonitorTraceExporter
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from telemetry import spanattributes, spanpacket
from telemetry.spanpacket import Span

_SCOPE = InstrumentationScope("valkey.commands")
_KINDS = {spanpacket.SERVER: SpanKind.SERVER, spanpacket.INTERNAL: SpanKind.INTERNAL}
_SHOWN = ("db.", "network.", "error.", "enduser.")
_OPERATION = ("ai.operation.id", "ai.operation.parentId")


def spans_of(packet: bytes, resource: Resource) -> Iterator[ReadableSpan]:
    """The spans of a packet as the SDK has them. Raises PacketError."""
    for span in spanpacket.unpack(packet):
        yield _readable(span, resource)


def _readable(span: Span, resource: Resource) -> ReadableSpan:
    trace_id = int.from_bytes(span.trace_id, "big")
    flags = TraceFlags(span.trace_flags)
    state = TraceState.from_header([span.tracestate.decode("ascii", "replace")]) if span.tracestate else None
    parent = None
    if span.flags & spanpacket.HAS_PARENT:
        remote = bool(span.flags & spanpacket.REMOTE_PARENT)
        parent = SpanContext(trace_id, int.from_bytes(span.parent_id, "big"), is_remote=remote, trace_flags=flags)
    failure = spanattributes.failure(span)
    return ReadableSpan(
        span.name,
        SpanContext(trace_id, int.from_bytes(span.span_id, "big"), False, flags, state),
        parent,
        resource,
        spanattributes.attributes(span),
        kind=_KINDS.get(span.kind, SpanKind.INTERNAL),
        status=Status(StatusCode.UNSET) if failure is None else Status(StatusCode.ERROR, failure or None),
        start_time=span.start_ns,
        end_time=span.end_ns,
        instrumentation_scope=_SCOPE,
    )


class SpanExporter(AzureMonitorTraceExporter):
    """SERVER spans become requests, INTERNAL ones dependencies of type InProc."""

    def _span_to_envelope(self, span: ReadableSpan) -> Any:
        envelope: Any = super()._span_to_envelope(span)
        data, attributes = envelope.data.base_data, span.attributes or {}
        data.duration = _duration((span.end_time or 0) - (span.start_time or 0))
        if "error.type" in attributes:
            code = str(attributes["error.type"])
            if span.kind is SpanKind.SERVER:
                data.response_code = code
            else:
                data.result_code = code
        properties = {key: str(value) for key, value in attributes.items() if key.startswith(_SHOWN)}
        if span.status.description:
            properties["otel.status_description"] = span.status.description
        data.properties = {**(data.properties or {}), **properties}
        return envelope


class LogExporter(AzureMonitorLogExporter):
    """Records become traces; those with an exception, exceptions."""

    def _log_to_envelope(self, readable_log_record: ReadableLogRecord) -> Any:
        envelope: Any = super()._log_to_envelope(readable_log_record)
        record, data = readable_log_record.log_record, envelope.data.base_data
        if record.event_name:
            data.properties = {**(data.properties or {}), "event_name": record.event_name}
        if not record.trace_id:
            envelope.tags = {key: value for key, value in (envelope.tags or {}).items() if key not in _OPERATION}
        return envelope


def _duration(nanoseconds: int) -> str:
    """Days, hours, minutes, seconds and microseconds, as RequestData.duration wants them: `0.00:00:00.000123`."""
    seconds, microseconds = divmod((nanoseconds + 500) // 1000, 1_000_000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}.{hours:02}:{minutes:02}:{seconds:02}.{microseconds:06}"
