from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from telemetry import names
from telemetry.engine.table import ROWS
from telemetry.housekeeping import HOUSEKEEPING
from telemetry.otlp import settings
from telemetry.proxies import IGNORED
from telemetry.reference import telemetry_page
from telemetry.reference_variables import VARIABLES


class Recorder(Mapping[str, str]):
    """An environment that remembers which variables were asked for."""

    def __init__(self, **variables: str) -> None:
        self._variables = variables
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.asked.add(name)
        return self._variables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)


def test_the_telemetry_page_is_the_one_made_from_the_tables() -> None:
    page = Path(__file__).parents[2] / "docs" / "telemetry.md"
    assert page.read_text() == telemetry_page(), "run: python -m telemetry.reference > docs/telemetry.md"


def test_the_page_names_everything() -> None:
    page = telemetry_page()
    for instrument in names.INSTRUMENTS:
        assert instrument.prometheus or f"`{instrument.name}`" in page
        assert f"`{instrument.prometheus}" in page
    expected = [attribute.name for attribute in names.SPAN_ATTRIBUTES]
    expected += [row.point.name for row in ROWS if row.point is not None]
    expected += [f"redis_{row.family.name}" for row in ROWS if row.family is not None]
    expected += [variable.name for variables in VARIABLES.values() for variable in variables]
    expected += [*HOUSEKEEPING, *names.DROP_REASONS]
    assert [name for name in expected if f"`{name}`" not in page] == []
    assert "Upper bounds of durations: 10 µs, 20 µs, 30 µs" in page
    assert "750 µs, 1 ms, 1.5 ms, 2 ms" in page
    assert "7.5 ms, 10 ms, 15 ms, 20 ms, 30 ms, 50 ms, 75 ms, 100 ms, 150 ms" in page
    assert "500 ms, 750 ms, 1 s, 1.5 s, 2.5 s, 5 s.\n" in page


def test_the_page_describes_the_variables_that_are_read_and_no_others() -> None:
    asked: set[str] = set()
    for variables in (
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "host:1", "OTEL_TRACES_SAMPLER": "traceidratio"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://host:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
    ):
        recorder = Recorder(**variables)
        settings.read(recorder)
        asked |= recorder.asked
    described = [name for variables in VARIABLES.values() for variable in variables for name in variable.names]
    assert set(described) == asked - set(IGNORED)
    assert len(described) == len(set(described))


def test_the_page_tells_the_defaults_that_count() -> None:
    told = {variable.name: variable.default.strip("`") for about in VARIABLES.values() for variable in about}
    defaults, _ = settings.read({})
    assert told["OTEL_BSP_SCHEDULE_DELAY"] == f"{defaults.spans.delay_s * 1000:.0f}"
    assert told["OTEL_BSP_MAX_QUEUE_SIZE"] == str(defaults.spans.max_queue_size)
    assert told["OTEL_BSP_MAX_EXPORT_BATCH_SIZE"] == str(defaults.spans.max_batch_size)
    assert told["OTEL_BLRP_SCHEDULE_DELAY"] == f"{defaults.log_records.delay_s * 1000:.0f}"
    assert told["OTEL_BLRP_MAX_QUEUE_SIZE"] == str(defaults.log_records.max_queue_size)
    assert told["OTEL_BLRP_MAX_EXPORT_BATCH_SIZE"] == str(defaults.log_records.max_batch_size)
    assert told["OTEL_METRIC_EXPORT_INTERVAL"] == f"{defaults.metric_interval_s * 1000:.0f}"
    assert told["OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"] == defaults.temporality
    assert told["OTEL_METRICS_EXEMPLAR_FILTER"] == defaults.exemplar_filter
    endpoint = settings.read({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://host:1"})[0].traces
    assert endpoint is not None
    assert told["OTEL_EXPORTER_OTLP_PROTOCOL"] == endpoint.protocol
    assert told["OTEL_EXPORTER_OTLP_TIMEOUT"] == f"{endpoint.timeout_s * 1000:.0f}"
