from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import PATIENCE_S, wait_until

_ROOT = Path(__file__).parents[2]


def _bench(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "bench", "--without", "sidecar", *arguments]


@pytest.mark.e2e
def test_a_short_run_leaves_its_report_the_json_and_the_picture(tmp_path: Path) -> None:
    argv = _bench("--seconds", "0.1", "--run-seconds", "0.01", "--into", str(tmp_path))
    done = subprocess.run(argv, cwd=_ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert "3 rounds in" in done.stdout
    document = json.loads((tmp_path / "result.json").read_text())
    assert document["loads"]["bare Valkey"]["GET c500 P16"]["by_round"]
    assert document["ratios"]["HAProxy"]["bare Valkey"]["GET c50 P1"]["rate"]["median"] > 0
    assert (tmp_path / "throughput.svg").read_text().startswith("<svg ")


@pytest.mark.e2e
def test_a_bench_that_is_told_to_stop_stops_what_it_started(tmp_path: Path) -> None:
    with subprocess.Popen(_bench("--into", str(tmp_path)), cwd=_ROOT, stderr=subprocess.DEVNULL) as bench:
        process = psutil.Process(bench.pid)
        servers = wait_until(
            lambda: [child for child in process.children(recursive=True) if "--save" in child.cmdline()],
            "a server has been started",
        )
        bench.send_signal(signal.SIGTERM)
        assert bench.wait(PATIENCE_S) == 128 + signal.SIGTERM
        assert not [server for server in servers if server.is_running()]
