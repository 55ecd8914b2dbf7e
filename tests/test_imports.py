"""Imports go one way, and a worker loads nothing that it does not need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_EVERY_MODULE_OF_TELEMETRY = """
import importlib, pkgutil, telemetry
for module in pkgutil.walk_packages(telemetry.__path__, "telemetry."):
    importlib.import_module(module.name)
"""


def loaded_by(code: str) -> set[str]:
    """The modules that a fresh Python has after this."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def packages(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def test_telemetry_knows_nothing_of_the_sidecar() -> None:
    modules = loaded_by(_EVERY_MODULE_OF_TELEMETRY)
    assert {"telemetry.ledger", "telemetry.logs", "telemetry.prometheus", "telemetry.totals"} <= modules
    assert "sidecar" not in packages(modules)


def test_a_worker_loads_nothing_of_what_only_the_supervisor_does() -> None:
    modules = loaded_by("import sidecar.relay.worker")
    assert {"sidecar.relay.session", "telemetry.ledger"} <= modules
    assert not {"prometheus_client", "structlog", "uvicorn", "starlette", "opentelemetry"} & packages(modules)
    assert not {"sidecar.supervisor", "sidecar.control", "sidecar.configuration"} & modules
