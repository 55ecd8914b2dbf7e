"""Exporters that cannot be started: the server ends in time, and says what was lost."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

from sidecar.exports import Exports
from telemetry import spanpacket
from telemetry.otlp import settings
from telemetry.otlp.stats import ExportStats
from telemetry.spanpacket import Span


class Faulty(Exports):
    """A start with a fault of ours in it."""

    def _make(self, address: str, port: int) -> Any:
        raise RuntimeError("a fault")


def test_a_fault_at_the_start_is_no_fault_of_the_server_and_spans_are_counted() -> None:
    async def run() -> tuple[dict[str, int], float]:
        stats = ExportStats()
        wanted, _ = settings.read({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
        exports = Faulty(wanted, SimpleNamespace(stats=stats), SimpleNamespace())  # type: ignore[arg-type]
        exports.take(spanpacket.pack([Span("GET", 1, 2, b"t" * 16, b"s" * 8)] * 3))
        ready = asyncio.Event()
        ready.set()
        await exports.start(ready, "127.0.0.1", 6379)
        began = time.monotonic()
        await exports.stop()
        return stats.dropped(), time.monotonic() - began

    dropped, took_s = asyncio.run(run())
    assert dropped == {"shutdown": 3}
    assert took_s < 1
