"""The stand-in endpoint, and exports to it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from telemetry import logs
from telemetry.azure.delivery import Pace
from telemetry.azure.export import AzureExport
from telemetry.otlp.stats import ExportStats
from tests.conftest import PATIENCE_S
from tests.telemetry.azure.stand_in_ingestion import StandInIngestion

RESOURCE = {"service.name": "cache", "service.instance.id": "cache-abc", "service.version": "1.2.3"}
QUICK = Pace(delay_s=0.02, first_wait_s=0.01, longest_wait_s=0.02, attempts=3)

Make = Callable[..., AzureExport]


@pytest.fixture
def stand_in() -> Iterator[StandInIngestion]:
    endpoint = StandInIngestion()
    yield endpoint
    endpoint.close()


@pytest.fixture
def stats() -> ExportStats:
    return ExportStats()


@pytest.fixture
def records() -> Iterator[list[dict[str, Any]]]:
    """Everything that is logged meanwhile, at its most talkative."""
    got: list[dict[str, Any]] = []
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def take(record: Any) -> None:
        got.append(dict(record))

    logs.configure(logfile="/dev/null", level="debug")
    logs.exporters_complete()
    logs.add_exporter(take)
    yield got
    logs.remove_exporter(take)
    logs.configure()
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def make(
    stand_in: StandInIngestion, stats: ExportStats, monkeypatch: pytest.MonkeyPatch, records: list[dict[str, Any]]
) -> Iterator[Make]:
    """Starts exports to the stand-in; they are stopped after the test."""
    made: list[AzureExport] = []
    for name in (
        "APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL",
        "APPLICATIONINSIGHTS_SDKSTATS_DISABLED",
        "APPLICATIONINSIGHTS_CONTROLPLANE_DISABLED",
        "APPLICATIONINSIGHTS_OPENTELEMETRY_RESOURCE_METRIC_DISABLED",
    ):
        monkeypatch.setenv(name, "")  # restored after the test
    monkeypatch.setenv("OTEL_BLRP_SCHEDULE_DELAY", "20")

    def make(connection_string: str | None = None, **options: Any) -> AzureExport:
        export = AzureExport(
            connection_string or stand_in.connection_string, RESOURCE, stats, **{"pace": QUICK, **options}
        )
        export.start()
        made.append(export)
        return export

    yield make
    stand_in.open.set()
    for export in made:
        export.stop(PATIENCE_S)
