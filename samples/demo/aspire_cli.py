"""The Aspire command line, which has the dashboard in it: one program of one exact version, brought by npm.

Owns where it is kept and how it gets there. Never starts it, and knows of no registry: npm does.
"""

from __future__ import annotations

import fcntl
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

VERSION: Final = "13.5.4"

_ROOT: Final = Path(__file__).parents[2]
_PACKAGES: Final = {"x86_64": "@microsoft/aspire-cli-linux-x64", "aarch64": "@microsoft/aspire-cli-linux-arm64"}
_NPM_LIMIT_S: Final = 600


class AspireError(Exception):
    """The dashboard cannot be had or does not run; the text says what to do."""


def home() -> Path:
    """The folder that `make clean` removes: the program, and what it unpacks at its first start (0.5 GB in all)."""
    return _ROOT / "build" / f"aspire-{VERSION}"


def install() -> Path:
    """The program's path; downloaded if it is not there yet (60 MB). Raises AspireError."""
    package = _PACKAGES.get(platform.machine())
    if package is None or sys.platform != "linux":
        raise AspireError(f"there is no Aspire dashboard for {sys.platform} on {platform.machine()}")
    folder = home()
    program = folder / "node_modules" / package / "bin" / "aspire"
    if program.exists():
        return program
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        # Somebody else may be at it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            _download(f"{package}@{VERSION}", folder)
    if not program.exists():
        raise AspireError(f"npm installed {package} {VERSION}, but {program.relative_to(folder)} is not in it")
    return program


def _download(package: str, folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise AspireError("the Aspire dashboard comes by npm, which is not on PATH (Debian: apt-get install npm)")
    partial = folder / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    command = [npm, "install", "--no-save", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
    try:
        done = subprocess.run(
            [*command, "--prefix", str(partial), package],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_NPM_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise AspireError(f"npm install {package} took more than {_NPM_LIMIT_S} s") from None
    if done.returncode:
        raise AspireError(f"npm install {package} failed:\n{done.stdout.strip()}")
    (partial / "node_modules").rename(folder / "node_modules")
    shutil.rmtree(partial, ignore_errors=True)
