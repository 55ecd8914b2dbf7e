"""What tests download and build once and keep in the user's cache folder.

Owns where it is kept: under a name that is the hash of what it was made from. How it is made is its owner's.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# One and a half minutes on two cores for the slowest, everything downloaded and compiled for the first time.
_MAKE_WITHIN_S = 900


def kept(name: str, made_from: bytes, make: Callable[[Path], Path]) -> Path:
    """The program or folder; made now if it is not in the cache.

    make: given an empty folder, leaves it there and says where.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "valkey-sidecar-tests"
    target = cache / f"{name}-{hashlib.sha256(made_from).hexdigest()[:16]}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run on this machine may be making it
        if not target.exists():
            folder = target.with_suffix(".build")
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder).rename(target)
            shutil.rmtree(folder, ignore_errors=True)  # it may have been the folder itself
    return target


def call(what: str, command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> str:
    """What the command says; AssertionError with its words if it fails."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_MAKE_WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, f"{what} could not be made with {command[0]}:\n{done.stdout}{done.stderr}"
    return done.stdout
