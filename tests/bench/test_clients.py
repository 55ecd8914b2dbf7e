from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]


@pytest.mark.e2e
def test_a_short_run_prints_a_table_for_every_number_of_clients() -> None:
    argv = [sys.executable, "-m", "bench.clients", "--clients", "5", "20", "--seconds", "0.05"]
    done = subprocess.run(argv, cwd=_ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    for count in (5, 20):
        assert f"{count} idle clients, " in done.stdout
    rows = [line for line in done.stdout.splitlines() if line.startswith(("CLIENT LIST", "CLIENT INFO"))]
    assert len(rows) == 4
    assert all("( 1.00x)" in row for row in rows)
