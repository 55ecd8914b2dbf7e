"""The framers built once more, with gcc's sanitizers, for programs that run with them.

Owns build/campaign/sanitized, made of the C that `make setup` has left in build/cython: the product's own code. Modules
in place are not touched: only `use()` puts these before them, in its own process.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
BUILT: Final = ROOT / "build" / "campaign" / "sanitized"
_GENERATED: Final = ROOT / "build" / "cython" / "sidecar" / "relay"
_MODULES: Final = ("commands", "reply_framer", "request_framer")
_PROBE: Final = Path(__file__).with_name("framer_probe.pyx")
_COVERAGE: Final = Path(__file__).with_name("coverage.c")
# Without optimisation: no access is optimised away, and it takes seconds to build. All of -fsanitize=undefined would
# take four times as long, mostly for what the interpreter's headers do.
_SANITIZE: Final = (
    "-O0 -g1 -fsanitize=address,signed-integer-overflow,shift -fno-sanitize-recover=all -fsanitize-coverage=trace-pc"
)
_STOPPED: Final = 86
"""The exit code where a sanitizer has found something."""


class BuildError(Exception):
    """The framers could not be built with sanitizers; the text says why."""


def _run(command: Sequence[str | Path]) -> None:
    try:
        subprocess.run([*map(str, command)], cwd=ROOT, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildError(f"{error}\n{getattr(error, 'stderr', '') or ''}".strip()) from error


def _is_older(built: Path, *sources: Path) -> bool:
    return not built.exists() or built.stat().st_mtime < max(source.stat().st_mtime for source in sources)


def build() -> None:
    """Build what is older than its sources; BuildError where that does not work."""
    compiler = os.environ.get("CC", "gcc")
    if shutil.which(compiler) is None:
        raise BuildError(f"no {compiler}: the sanitizers are the compiler's (Debian: apt-get install gcc)")
    BUILT.mkdir(parents=True, exist_ok=True)
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    library = BUILT / "coverage.so"
    if _is_older(library, _COVERAGE):
        _run([compiler, "-shared", "-fPIC", "-O2", _COVERAGE, "-o", library])
    generated = [_GENERATED / f"{name}.c" for name in _MODULES]
    missing = [source for source in generated if not source.exists()]
    if missing:
        raise BuildError(f"{missing[0].relative_to(ROOT)} is not there: make setup")
    probe = BUILT / "framer_probe.c"
    if _is_older(probe, _PROBE, *generated):
        _run([sys.executable, "-m", "cython", "-3", "-X", "boundscheck=False", "-I", ROOT, _PROBE, "-o", probe])
    includes = ["-I", sysconfig.get_path("include")]
    old = [
        (source, module)
        for source in (*generated, probe)
        if _is_older(module := BUILT / f"{source.stem}{suffix}", source)
    ]
    with ThreadPoolExecutor(2) as pool:
        options = ["-shared", "-fPIC", *_SANITIZE.split(), *includes]
        list(pool.map(lambda pair: _run([compiler, *options, pair[0], "-o", pair[1]]), old))


def environment() -> dict[str, str]:
    """What a Python needs that loads them: the sanitizer's library, and ours, before anything else's."""
    compiler = os.environ.get("CC", "gcc")
    asan = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    return os.environ | {
        "LD_PRELOAD": f"{asan.stdout.strip()} {BUILT / 'coverage.so'}",
        # Leaks at the end are the interpreter's: memory is measured instead, and a quarantine is part of it.
        "ASAN_OPTIONS": f"detect_leaks=0:quarantine_size_mb=8:exitcode={_STOPPED}",
        "UBSAN_OPTIONS": f"print_stacktrace=1:exitcode={_STOPPED}",
    }


def use() -> ctypes.CDLL:
    """From here on, this process imports the sanitized modules; the library that knows the coverage."""
    import sidecar.relay

    sidecar.relay.__path__.insert(0, str(BUILT))
    sys.path.insert(0, str(BUILT))
    return ctypes.CDLL(str(BUILT / "coverage.so"))
