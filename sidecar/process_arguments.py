"""Owns what other processes see of our own command line (`ps`, /proc/PID/cmdline). Never touches sys.argv.

A program's arguments are ordinary memory of its own, so a password in them can be overwritten; this is what
PostgreSQL, nginx and setproctitle do. Between the start of the process and this call the password is visible.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sidecar.conf import encode

# Fields of /proc/PID/stat, numbered from 1 in proc(5); the second ends with the last ")" of the line.
_ARG_START: Final = 48
_ARG_END: Final = 49
_FIELDS_BEFORE_STATE: Final = 2


def replace_arguments(arguments: Sequence[str]) -> bool:
    """Show `arguments` instead of our last ones, as many as there are; what comes before (Python, script) stays.

    False where the system offers no way: the caller goes on without.
    """
    try:
        stat = Path("/proc/self/stat").read_text(errors="replace")
        before = Path("/proc/self/cmdline").read_bytes()
    except OSError:
        return False
    fields = stat[stat.rindex(")") + 1 :].split()
    start, end = (int(fields[number - _FIELDS_BEFORE_STATE - 1]) for number in (_ARG_START, _ARG_END))
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
