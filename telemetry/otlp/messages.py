"""The messages of the three OTLP services: what is asked and answered. Owns nothing but their names; never sends.

Imports protobuf: only for who exports.
"""

from __future__ import annotations

import base64
import json
from typing import Any, Final, NamedTuple

from google.protobuf import json_format  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from telemetry.otlp.settings import Signal


class Service(NamedTuple):
    """One signal's service."""

    method: str
    request: Any
    response: Any
    rejected: str


SERVICES: Final[dict[Signal, Service]] = {
    "traces": Service(
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        trace_service_pb2.ExportTraceServiceRequest,
        trace_service_pb2.ExportTraceServiceResponse,
        "rejected_spans",
    ),
    "metrics": Service(
        "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        metrics_service_pb2.ExportMetricsServiceRequest,
        metrics_service_pb2.ExportMetricsServiceResponse,
        "rejected_data_points",
    ),
    "logs": Service(
        "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        logs_service_pb2.ExportLogsServiceRequest,
        logs_service_pb2.ExportLogsServiceResponse,
        "rejected_log_records",
    ),
}
_IDS: Final = ("traceId", "spanId", "parentSpanId")


class BadAnswerError(ValueError):
    """An answer that is no OTLP response."""


def rejected(signal: Signal, answer: bytes, *, as_json: bool = False) -> int:
    """How many items the receiver did not take. Raises BadAnswerError."""
    service = SERVICES[signal]
    try:
        if as_json:
            response = json_format.Parse(answer or b"{}", service.response(), ignore_unknown_fields=True)
        else:
            response = service.response.FromString(answer)
    except (DecodeError, json_format.ParseError, UnicodeDecodeError, RecursionError):
        raise BadAnswerError("the answer cannot be read") from None
    return max(0, int(getattr(response.partial_success, service.rejected)))


def to_json(signal: Signal, request: bytes) -> bytes:
    """The same request in OTLP's JSON: enums are numbers and ids hexadecimal, which protobuf's own JSON has not."""
    message = SERVICES[signal].request.FromString(request)
    tree = json_format.MessageToDict(message, use_integers_for_enums=True)
    _hexadecimal(tree)
    return json.dumps(tree, separators=(",", ":")).encode()


def _hexadecimal(node: Any) -> None:
    if isinstance(node, list):
        for item in node:
            _hexadecimal(item)
    elif isinstance(node, dict):
        for name, value in node.items():
            if name in _IDS and isinstance(value, str):
                node[name] = base64.b64decode(value).hex()
            else:
                _hexadecimal(value)
