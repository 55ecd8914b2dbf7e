"""Owns what other processes see of our own command line (`ps`, /proc/PID/cmdline). Never touches sys.argv.

A program's arguments are ordinary memory of its own, so a password in them can be overwritten, and a title can stand in
their place; this is what PostgreSQL, nginx and setproctitle do. Between the start of the process and this call the
password is visible.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sidecar.conf import encode

# Fields of /proc/PID/stat, numbered from 1 in proc(5); the second ends with the last ")" of the line.
_ARG_START: Final = 48
_ARG_END: Final = 49
_ENV_START: Final = 50
_ENV_END: Final = 51
_FIELDS_BEFORE_STATE: Final = 2

# Valkey's (setproctitle.c).
_TITLE_BYTES: Final = 1024


def replace_arguments(arguments: Sequence[str]) -> bool:
    """Show `arguments` instead of our last ones, as many as there are; what comes before (Python, script) stays.

    False where the system offers no way: the caller goes on without.
    """
    try:
        start, end, *_ = _places()
        before = Path("/proc/self/cmdline").read_bytes()
    except OSError:
        return False
    words = before.split(b"\0")[:-1]
    if not start or end - start != len(before) or len(words) < len(arguments):
        return False
    shown = [*words[: len(words) - len(arguments)], *(encode(argument) for argument in arguments)]
    # Never longer than it was, and NUL to the end: what follows in memory is the environment.
    text = (b"\0".join(shown) + b"\0")[: len(before) - 1].ljust(len(before), b"\0")
    import ctypes  # 10 ms, which a start without secrets does not pay

    if ctypes.string_at(start, len(before)) != before:
        return False
    ctypes.memmove(start, text, len(before))
    return True


class TitleMemory:
    """Where a title stands instead of all our arguments.

    There is as much room as the arguments took. grow: the environment behind them gives up its place, too, which
    /proc/PID/environ shows; programs that we start have it as it was. Only while we have one thread.
    """

    def __init__(self, *, grow: bool) -> None:
        self._start = self._arguments = self._room = 0
        with contextlib.suppress(OSError):
            self._start, end, env_start, env_end = _places()
            self._arguments = self._room = end - self._start
            if grow and env_start == end and self._start and _environment_moved(env_start, env_end):
                self._room = env_end - self._start

    def show(self, title: str) -> bool:
        """Show it, or as much of it as there is room for. False where the system offers no way."""
        if not self._start or self._arguments <= 0:
            return False
        text = encode(title)[: min(_TITLE_BYTES, self._room - 1)]
        import ctypes

        # Where the last byte of the arguments is no NUL, the kernel reads on to the first that is one.
        ctypes.memmove(self._start, text.ljust(self._arguments, b"\0") + b"\0", max(self._arguments, len(text) + 1))
        return True


def _places() -> tuple[int, int, int, int]:
    """Where our arguments and our environment begin and end, in memory; zeros where we may not know. Raises OSError."""
    stat = Path("/proc/self/stat").read_text(errors="replace")
    fields = stat[stat.rindex(")") + 1 :].split()
    found = [int(fields[n - _FIELDS_BEFORE_STATE - 1]) for n in (_ARG_START, _ARG_END, _ENV_START, _ENV_END)]
    return found[0], found[1], found[2], found[3]


def _environment_moved(start: int, end: int) -> bool:
    """Have the C library keep every variable elsewhere than between these addresses. Whether nothing is left there."""
    import ctypes

    for name, value in os.environb.items():
        os.putenv(name, value)
    variables = ctypes.POINTER(ctypes.c_void_p).in_dll(ctypes.CDLL(None), "environ")
    at = 0
    while variables and (address := variables[at]):
        if start <= address < end:
            return False
        at += 1
    return True
