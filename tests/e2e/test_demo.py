"""`make demo` as a person sees it: its one line, the dashboard's pages in a browser, and its end.

The pictures stay, in the folder CI_ARTIFACTS or in build/artifacts.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import PATIENCE_S, wait_until
from tests.e2e.browser import Browser

pytestmark = pytest.mark.e2e

_ROOT = Path(__file__).parents[2]
_LINE = re.compile(r"Aspire dashboard: (http://127\.0\.0\.1:\d+)   Valkey: 127\.0\.0\.1:(\d+)   Ctrl-C ends both\.\n")
_LIMIT_S = "300"

_LINES_DRAWN = "document.querySelectorAll('.js-plotly-plot .scatterlayer .trace path.js-line').length"
_ID_OF_TRACE = r"""
[...document.querySelectorAll('td[title^="Name: "]')].map(cell => cell.title)
    .filter(title => title.startsWith('Name: api: %s\n')).map(title => title.match(/Trace Id: (\w+)/)[1])[0] || ''
"""


class Demo:
    """`python -m samples.demo`, which is all that `make demo` runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.errors = folder / "errors"
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        environment = {**os.environ, "TMPDIR": str(self.temporary), "DEMO_SECONDS": _LIMIT_S}
        with self.errors.open("wb") as errors:
            self.process = psutil.Popen(
                [sys.executable, "-m", "samples.demo"],
                cwd=_ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.family: list[psutil.Process] = []
        line = self.process.stdout.readline()
        match = _LINE.fullmatch(line)
        if match is None:
            self.kill()
        assert match, f"{line!r}, {self.errors.read_text()}"
        self.url, self.port = match[1], int(match[2])
        self.family = self.process.children(recursive=True)

    def interrupt(self) -> int:
        """Ctrl-C; its exit code."""
        self.process.send_signal(signal.SIGINT)
        return int(self.process.wait(PATIENCE_S))

    def kill(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            self.family += self.process.children(recursive=True)
        for process in (self.process, *self.family):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(PATIENCE_S)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    demo = Demo(tmp_path_factory.mktemp("demo"))
    try:
        yield demo
        assert demo.interrupt() == 0, demo.errors.read_text()
    finally:
        demo.kill()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture(scope="module")
def pictures() -> Path:
    folder = Path(os.environ.get("CI_ARTIFACTS") or _ROOT / "build" / "artifacts")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_the_traces_page_lists_requests_and_the_caches_part_in_them(
    demo: Demo, browser: Browser, pictures: Path
) -> None:
    text = browser.show(f"{demo.url}/traces", "api: GET /products/{id}", "api: POST /orders", "api: POST /reviews")
    lines = text.splitlines()
    assert lines.count("cache") >= 3  # a resource to choose, and the chips of the traces
    browser.take_picture(pictures / "dashboard-traces.png")


@pytest.mark.parametrize(
    ("request_name", "texts", "picture"),
    [
        ("GET /products/{id}", ("GET",), "get"),
        ("GET /products", ("PIPELINE",), "pipeline"),
        ("POST /orders", ("MULTI", "INCRBY", "RPUSH", "DEL"), "multi"),
        ("POST /reviews", ("SET", "LPUSH"), "error"),
        ("GET /report", ("EVAL",), "slow"),
    ],
)
def test_a_trace_shows_the_caches_spans_under_the_request(
    demo: Demo, browser: Browser, pictures: Path, request_name: str, texts: tuple[str, ...], picture: str
) -> None:
    browser.show(f"{demo.url}/traces", f"api: {request_name}")
    trace_id = wait_until(lambda: browser.evaluate(_ID_OF_TRACE % request_name), f"the trace of {request_name!r}")
    browser.show(f"{demo.url}/traces/detail/{trace_id}", request_name, *(f"\n{text}\ncache\n" for text in texts))
    browser.take_picture(pictures / f"dashboard-trace-{picture}.png")


def test_the_metrics_page_draws_the_duration_of_commands(demo: Demo, browser: Browser, pictures: Path) -> None:
    address = f"{demo.url}/metrics/resource/cache?meter=valkey.commands&instrument=valkey.command.duration&duration=1"
    browser.show(address, "valkey.commands", "valkey.overview", "valkey.engine", "P50 Seconds", "P99 Seconds")
    wait_until(lambda: browser.evaluate(_LINES_DRAWN), "lines in the chart")
    browser.take_picture(pictures / "dashboard-duration.png")


@pytest.mark.parametrize(
    ("instrument", "unit"),
    [
        ("valkey.command.rate", "Command Per Second"),
        ("valkey.command.latency.p99", "Milliseconds"),
        ("valkey.cache.hit_ratio", "Value"),
        ("valkey.memory.used", "Bytes"),
    ],
)
def test_the_metrics_page_draws_the_overview(
    demo: Demo, browser: Browser, pictures: Path, instrument: str, unit: str
) -> None:
    address = f"{demo.url}/metrics/resource/cache?meter=valkey.overview&instrument={instrument}&duration=1"
    browser.show(address, instrument, unit)
    wait_until(lambda: browser.evaluate(_LINES_DRAWN), "a line in the chart")
    browser.take_picture(pictures / f"dashboard-{instrument}.png")


def test_the_logs_page_tells_of_the_start_and_of_slow_commands(demo: Demo, browser: Browser, pictures: Path) -> None:
    browser.show(f"{demo.url}/structuredlogs/resource/cache", "Warning", "EVAL", "structured log")
    browser.take_picture(pictures / "dashboard-logs.png")


def test_ctrl_c_ends_everything_and_nothing_stays(tmp_path: Path) -> None:
    demo = Demo(tmp_path)
    try:
        assert demo.interrupt() == 0, demo.errors.read_text()
        _, alive = psutil.wait_procs(demo.family, PATIENCE_S)
        assert alive == []
        assert list(demo.temporary.iterdir()) == []
    finally:
        demo.kill()
