"""What tests of export share: settings for a receiver, span packets, the log's records."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from telemetry import logs, spanpacket
from telemetry.otlp.settings import ExportSettings, Signal, SignalSettings, read
from telemetry.spanpacket import Span

KEY = "0123456789abcdef-secret"


def settings_for(endpoint: str, protocol: str = "grpc", **variables: str) -> ExportSettings:
    """Settings as the environment gives them; OTEL_ is put before the variables' names where they lack it."""
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
    environ |= {name if name.startswith("SSL_") else f"OTEL_{name}": value for name, value in variables.items()}
    settings, warnings = read(environ)
    assert warnings == []
    return settings


def signal_for(endpoint: str, protocol: str = "grpc", signal: Signal = "traces", **variables: str) -> SignalSettings:
    found = settings_for(endpoint, protocol, **variables).signal(signal)
    assert found is not None
    return found


def packet(count: int, name: str = "GET", **fields: Any) -> bytes:
    """A packet of so many spans, each with a span id of its own."""
    defaults: dict[str, Any] = {"start_ns": 1_000, "end_ns": 2_000, "trace_id": os.urandom(16)}
    return spanpacket.pack(Span(name, span_id=os.urandom(8), **defaults | fields) for _ in range(count))


class Log:
    """The records that were logged."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def text(self) -> str:
        logs._destinations.flush()
        return self._path.read_text() if self._path.exists() else ""

    def events(self, name: str) -> list[dict[str, Any]]:
        records = [json.loads(line) for line in self.text.splitlines()]
        return [record for record in records if record["event_name"] == name]
