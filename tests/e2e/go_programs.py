"""Programs that tests need and that exist as Go modules only: built once, kept in the user's cache folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.e2e.cache import call, kept

Go = Callable[..., str]
"""Runs `go` with these arguments in the build folder: what it says; AssertionError with its words if it fails."""


def built(name: str, made_from: bytes, make: Callable[[Path, Go], Path]) -> Path:
    """The program; made now if it is not in the cache. Raises AssertionError without Go.

    make: given an empty folder and a way to run Go in it, leaves a program there, or a folder of them, and says where.
    """
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    assert go, f"Go is missing: {name} is built from Go modules. Install Go 1.26 or later and put it on PATH."
    path = f"{Path(go).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {"PATH": path, "GOFLAGS": "-mod=mod -buildvcs=false"}

    def make_with_go(folder: Path) -> Path:
        return make(folder, lambda *arguments: call(name, [go, *arguments], folder, environment))

    return kept(name, made_from, make_with_go)
