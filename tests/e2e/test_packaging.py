"""What is built and installed is all that runs, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sidecar import __version__

pytestmark = pytest.mark.e2e

_ROOT = Path(__file__).parents[2]


def run(*command: str, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from what git has, as it is now, and from nothing else that lies about."""
    copy = tmp_path_factory.mktemp("source")
    for name in run("git", "ls-files", "-z", cwd=_ROOT).split("\0"):
        if name and (_ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(_ROOT / name, copy / name)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", cwd=copy)
    (built,) = (copy / "dist").iterdir()
    return built


def test_a_wheel_holds_the_compiled_modules_and_their_contracts_and_no_source_of_theirs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tracked = run("git", "ls-files", "sidecar", "telemetry", cwd=_ROOT).split()
    compiled = {Path(name).with_suffix("") for name in tracked if name.endswith(".pyx")}
    assert {Path(name.partition(".")[0]) for name in names if name.endswith(".so")} == compiled
    plain = {name for name in tracked if not name.endswith(".pyx")}
    assert {name for name in names if not name.endswith(".so") and ".dist-info/" not in name} == plain


def test_what_is_installed_from_a_wheel_runs(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--no-index")
    run(*pip, "--target", str(target), str(wheel), cwd=tmp_path)
    environment = {"PYTHONPATH": str(target)}
    imported = run(
        sys.executable, "-c", "import sidecar.relay.session as s; print(s.__file__)", cwd=tmp_path, env=environment
    )
    assert Path(imported.strip()).is_relative_to(target)
    version = run(sys.executable, "-m", "sidecar", "--version", cwd=tmp_path, env=environment)
    assert version.startswith(f"valkey-sidecar {__version__}\n")
    assert "v=" in version.splitlines()[1]


def test_the_command_of_the_environment_is_ours(tmp_path: Path) -> None:
    command = str(Path(sys.executable).with_name("valkey-sidecar"))
    assert run(command, "--version", cwd=tmp_path).startswith(f"valkey-sidecar {__version__}\n")
