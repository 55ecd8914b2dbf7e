"""What tests of export share: settings for a receiver, spans, and the log's records."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from telemetry import logs, spanpacket
from telemetry.otlp.settings import ExportSettings, SignalSettings, read
from telemetry.spanpacket import Span

Make = Callable[..., SignalSettings]


def settings_for(endpoint: str, protocol: str = "grpc", **variables: str) -> ExportSettings:
    """Settings as the environment gives them. variables: without `OTEL_`."""
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
    environ |= {f"OTEL_{name}" if not name.startswith("SSL_") else name: value for name, value in variables.items()}
    settings, warnings = read(environ)
    assert warnings == []
    return settings


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


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    path = tmp_path / "log.json"
    logs.configure(format="json", level="debug", logfile=str(path))
    yield Log(path)
    logs.configure()
