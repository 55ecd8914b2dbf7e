from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from telemetry.librarylogs import LibraryLogs, is_of_exporter
from tests.telemetry.recorder import Recorder


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log() -> Recorder:
    return Recorder()


@pytest.fixture
def handler(log: Recorder, clock: Clock) -> LibraryLogs:
    return LibraryLogs(lambda: log, clock)


@pytest.fixture
def library(handler: LibraryLogs) -> Iterator[logging.Logger]:
    """A logger of a library that sends telemetry."""
    logger = logging.getLogger("opentelemetry.tests.librarylogs")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield logger
    logger.removeHandler(handler)


def messages(log: Recorder) -> list[str]:
    return [record.message for record in log.records]


def test_a_library_that_sends_telemetry_repeats_itself_once_a_minute(
    library: logging.Logger, log: Recorder, clock: Clock
) -> None:
    for number in range(1_000):
        library.warning("Cannot reach the collector, batch %d.", number)
    library.error("Something else.")
    assert messages(log) == ["Cannot reach the collector, batch 0.", "Something else."]
    clock.now = 60.0
    library.warning("Cannot reach the collector, batch %d.", 1_000)
    assert messages(log)[2:] == ["Cannot reach the collector, batch 1000."]


def test_its_news_are_left_out_and_its_complaints_are_no_fault_of_ours(library: logging.Logger, log: Recorder) -> None:
    library.debug("Detail.")
    library.info("News.")
    try:
        raise ValueError("x-otlp-api-key: secret")
    except ValueError:
        library.exception("It broke.")
    (record,) = log.records
    assert (record.level, record.event_name, record.message) == ("warning", "library.log", "It broke.")
    assert record.attributes == {
        "logger": "opentelemetry.tests.librarylogs",
        "exception.type": "builtins.ValueError",
    }


def test_what_it_remembers_is_bounded(library: logging.Logger, log: Recorder, handler: LibraryLogs) -> None:
    for number in range(2_000):
        library.warning(f"Complaint {number}.")  # a template of its own each time
    assert len(log.records) == 2_000
    assert len(handler._said_at) <= 500


@pytest.mark.parametrize(
    ("logger", "whether"),
    [("grpc._channel", True), ("azure", True), ("urllib3.connectionpool", True), ("uvicorn.error", False), ("", False)],
)
def test_who_sends_telemetry_is_known_by_the_first_word(logger: str, whether: bool) -> None:
    assert is_of_exporter(logger) is whether


def test_pythons_warnings_are_lines_of_the_log() -> None:
    script = """
import warnings
from telemetry import logs
logs.configure(format="json")
for _ in range(3):
    warnings.warn("old ways", stacklevel=1)
"""
    done: Any = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    assert done.stdout.count("old ways") == 1
    assert '"event_name": "library.log"' in done.stdout
