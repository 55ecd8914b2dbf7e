"""A pytest plugin for the runs of other projects' suites: how each test ended, as JSON in the file $SUITE_OUTCOMES.

Owns the recording only. It is loaded by name (`-p suite_outcomes`) inside those runs, so it imports nothing of ours.
"""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import pytest

_outcomes: dict[str, list[str]] = {}

# redis-py's conftest starts it for its own debugging; it more than doubles the CPU time of the suite.
tracemalloc.start = lambda *_: None


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when != "call" and report.passed:
        return
    expectation = "x" if hasattr(report, "wasxfail") else ""
    entry = _outcomes.setdefault(report.nodeid, ["", ""])
    entry[0] = f"{entry[0]} {report.when}:{expectation}{report.outcome}".strip()
    if report.failed:
        entry[1] += report.longreprtext[-4000:]


def pytest_sessionfinish() -> None:
    Path(os.environ["SUITE_OUTCOMES"]).write_text(json.dumps(_outcomes))
