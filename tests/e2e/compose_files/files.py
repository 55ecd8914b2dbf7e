"""The files of samples/compose, as the programs read them that they are for.

Owns the build of the reader (main.go) and the copy of the folder that a test may write into. It judges nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.conftest import PATIENCE_S
from tests.e2e.go_programs import Go, built

ROOT = Path(__file__).parents[3]
_FOLDER = Path(__file__).parent
_SOURCES = ("main.go", "go.mod", "go.sum")


def build() -> Path:
    """The reader; made now if it is not in the cache. Raises AssertionError without Go."""
    return built("compose-files", b"".join((_FOLDER / name).read_bytes() for name in _SOURCES), _make)


def _make(folder: Path, go: Go) -> Path:
    for name in _SOURCES:
        shutil.copy(_FOLDER / name, folder)
    go("build", "-o", "compose-files", ".")
    return folder / "compose-files"


class Files:
    """A copy of what the Compose file refers to, at the same relative places, with nobody's .env."""

    def __init__(self, reader: Path, folder: Path) -> None:
        self._reader = reader
        self.top = folder
        self.compose = folder / "samples" / "compose"
        ignored = shutil.ignore_patterns(".env", ".venv", "__pycache__", "*.so", "*.c")
        for name in ("samples/compose", "samples/python-service", "telemetry"):
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)

    def new_env(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.compose / "new-env"], capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )

    def environment(self) -> dict[str, str]:
        """What new-env wrote."""
        return dict(line.split("=") for line in (self.compose / ".env").read_text().splitlines())

    def read(self, kind: str, path: Path) -> subprocess.CompletedProcess[str]:
        """kind: `compose`, `board` or `yaml`. The answer's standard output is JSON if its code is 0."""
        inherited = {name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ}
        command = [self._reader, kind, path]
        return subprocess.run(command, env=inherited, capture_output=True, text=True, timeout=PATIENCE_S, check=False)

    def content(self, kind: str, path: Path) -> Any:
        done = self.read(kind, path)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def services(self) -> dict[str, Any]:
        """Those of the Compose file, by name, with the passwords of .env in their places."""
        services: dict[str, Any] = self.content("compose", self.compose / "compose.yaml")["services"]
        return services
