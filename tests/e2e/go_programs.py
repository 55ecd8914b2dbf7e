"""Programs that tests need and that exist as Go modules only: built once, kept in the user's cache folder.

Owns where they are kept: under a name that is the hash of what they were made from. How one is made is its owner's.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

# One and a half minutes on two cores for the slowest, everything downloaded and compiled for the first time.
_BUILD_WITHIN_S = 900

Go = Callable[..., None]
"""Runs `go` with these arguments in the build folder; AssertionError with its words if it fails."""


def built(name: str, made_from: bytes, make: Callable[[Path, Go], Path]) -> Path:
    """The program; made now if it is not in the cache. Raises AssertionError without Go.

    make: given an empty folder and a way to run Go in it, leaves a program there and says where.
    """
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    assert go, f"Go is missing: {name} is built from Go modules. Install Go 1.25 or later and put it on PATH."
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "valkey-sidecar-tests"
    program = cache / f"{name}-{hashlib.sha256(made_from).hexdigest()[:16]}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run on this machine may be building it
        if not program.exists():
            folder = program.with_suffix(".build")
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder, _runs(name, go, folder)).rename(program)
            shutil.rmtree(folder)
    return program


def _runs(name: str, go: str, folder: Path) -> Go:
    path = f"{Path(go).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    env = {**os.environ, "PATH": path, "GOFLAGS": "-mod=mod -buildvcs=false"}

    def run(*arguments: str) -> None:
        command = [go, *arguments]
        done = subprocess.run(
            command, cwd=folder, env=env, capture_output=True, text=True, timeout=_BUILD_WITHIN_S, check=False
        )
        assert done.returncode == 0, f"{name} could not be built with {go}:\n{done.stdout}{done.stderr}"

    return run
