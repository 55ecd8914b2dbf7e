"""Peers that several tests talk to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.collector.peer import Collector, build
from tests.e2e.compose_files import files as compose_files
from tests.e2e.compose_files.files import Files

StartCollector = Callable[..., Collector]


@pytest.fixture(scope="session")
def collector_program() -> Path:
    return build()


@pytest.fixture
def start_collector(collector_program: Path, tmp_path: Path) -> Iterator[StartCollector]:
    """Starts Collectors that take OTLP and, given its settings, read a server with the redis receiver."""
    collectors: list[Collector] = []

    def start_one(redis: dict[str, Any] | None = None) -> Collector:
        folder = tmp_path / f"collector{len(collectors)}"
        folder.mkdir()
        collectors.append(Collector(folder))
        collectors[-1].start(collector_program, redis)
        return collectors[-1]

    yield start_one
    for collector in collectors:
        collector.stop()


@pytest.fixture
def collector(start_collector: StartCollector) -> Collector:
    """An OpenTelemetry Collector that takes OTLP over gRPC and HTTP and writes what comes to a file."""
    return start_collector()


@pytest.fixture(scope="session")
def compose_reader() -> Path:
    return compose_files.build()


@pytest.fixture
def files(compose_reader: Path, tmp_path: Path) -> Files:
    """A copy of samples/compose and of what it refers to."""
    return Files(compose_reader, tmp_path / "copy")


@pytest.fixture(scope="module")
def ready(compose_reader: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The same with passwords; not to be written to."""
    files = Files(compose_reader, tmp_path_factory.mktemp("compose") / "copy")
    assert files.new_env().returncode == 0
    return files
