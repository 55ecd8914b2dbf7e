"""What the Aspire dashboard has received, read through its telemetry API (`/api/telemetry/...`).

Owns the requests and the shapes of the answers. The API has no values of metrics: only whether there are any.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

KIND_INTERNAL: Final = 1
KIND_SERVER: Final = 2
KIND_CLIENT: Final = 3

_STATUS_ERROR: Final = 2
_REQUEST_LIMIT_S: Final = 30.0
_EVERYTHING: Final = 10_000
"""What the dashboard keeps of spans' traces, and of logs."""


@dataclass(frozen=True)
class Resource:
    """One instance of one service."""

    name: str
    instance_id: str | None
    has_traces: bool
    has_logs: bool
    has_metrics: bool


@dataclass(frozen=True)
class Span:
    """A span as it arrived. Ids are lower-case hex, times are Unix nanoseconds, all values of attributes are text."""

    resource: str
    scope: str
    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: int
    start_ns: int
    end_ns: int
    is_error: bool
    status_message: str
    attributes: dict[str, str]
    resource_attributes: dict[str, str]


@dataclass(frozen=True)
class Log:
    """A log record as it arrived; without ids, those are empty."""

    resource: str
    scope: str
    body: str
    severity: int
    event_name: str
    trace_id: str
    span_id: str
    attributes: dict[str, str]


class TelemetryApi:
    """The API of the dashboard at this address, with its key."""

    def __init__(self, url: str, key: str) -> None:
        self._base = f"{url}/api/telemetry/"
        self._headers = {"X-API-Key": key}

    def answers(self) -> bool:
        """Whether the dashboard is there."""
        try:
            self.resources()
        except (OSError, ValueError):
            return False
        return True

    def resources(self) -> list[Resource]:
        found = self._get("resources") or []
        return [Resource(r["name"], r.get("instanceId"), r["hasTraces"], r["hasLogs"], r["hasMetrics"]) for r in found]

    def spans(self, resource: str | None = None, trace_id: str | None = None) -> list[Span]:
        """The spans of a resource, all its instances together; none if the dashboard does not know it."""
        answer = self._get("spans", resource=resource, traceId=trace_id, limit=_EVERYTHING)
        # It answers with others' spans of the same traces, too.
        return [span for span in _spans(answer["data"]) if resource in (None, span.resource)] if answer else []

    def logs(self, resource: str | None = None, trace_id: str | None = None) -> list[Log]:
        """The log records of a resource, all its instances together; none if the dashboard does not know it."""
        answer = self._get("logs", resource=resource, traceId=trace_id, limit=_EVERYTHING)
        return list(_logs(answer["data"])) if answer else []

    def trace(self, trace_id: str) -> list[Span]:
        """Everybody's spans of one trace; none if the dashboard does not know it."""
        answer = self._get(f"traces/{trace_id}")
        return list(_spans(answer["data"])) if answer else []

    def _get(self, path: str, **query: str | int | None) -> Any:
        given = urllib.parse.urlencode({name: value for name, value in query.items() if value is not None})
        request = urllib.request.Request(f"{self._base}{path}?{given}", headers=self._headers)
        try:
            with urllib.request.urlopen(request, timeout=_REQUEST_LIMIT_S) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 404:
                    return None
                raise


def _spans(data: dict[str, Any]) -> Iterator[Span]:
    for group in data.get("resourceSpans") or ():
        resource = _attributes(group["resource"])
        for scope_spans in group["scopeSpans"]:
            for span in scope_spans["spans"]:
                status = span.get("status") or {}
                yield Span(
                    resource.get("service.name", ""),
                    (scope_spans.get("scope") or {}).get("name", ""),
                    span["traceId"],
                    span["spanId"],
                    span.get("parentSpanId") or "",
                    span["name"],
                    span.get("kind", 0),
                    int(span["startTimeUnixNano"]),
                    int(span["endTimeUnixNano"]),
                    status.get("code") == _STATUS_ERROR,
                    status.get("message") or "",
                    _attributes(span),
                    resource,
                )


def _logs(data: dict[str, Any]) -> Iterator[Log]:
    for group in data.get("resourceLogs") or ():
        resource = _attributes(group["resource"])
        for scope_logs in group["scopeLogs"]:
            for record in scope_logs["logRecords"]:
                attributes = _attributes(record)
                yield Log(
                    resource.get("service.name", ""),
                    (scope_logs.get("scope") or {}).get("name", ""),
                    (record.get("body") or {}).get("stringValue", ""),
                    record.get("severityNumber", 0),
                    record.get("eventName") or attributes.get("event.name", ""),
                    record.get("traceId") or "",
                    record.get("spanId") or "",
                    attributes,
                )


def _attributes(holder: dict[str, Any]) -> dict[str, str]:
    return {a["key"]: a["value"].get("stringValue", "") for a in holder.get("attributes") or ()}
