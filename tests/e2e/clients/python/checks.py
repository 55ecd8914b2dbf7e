"""Says what a client could do, a line a check, and waits for the crash that the harness makes."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

# Where the server is and who may come in; without a TLS port it has no TLS.
HOST = "127.0.0.1"
PORT = int(os.environ["PORT"])
TLS_PORT = int(os.environ.get("TLS_PORT", "0"))
CA_FILE = os.environ.get("CA_FILE", "")
PASSWORD = os.environ["PASSWORD"]
USER = os.environ["CLIENT_USER"]
USER_PASSWORD = os.environ["CLIENT_PASSWORD"]
PREFIX = os.environ["PREFIX"]

PATIENCE_S = 15.0


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@contextmanager
def check(name: str) -> Iterator[None]:
    """The block is the check."""
    try:
        yield
    except Exception:
        say(f"FAILED {name}: {' '.join(traceback.format_exc().split())[-500:]}")
    else:
        say(f"ok {name}")


def not_offered(name: str) -> None:
    say(f"not offered {name}")


def eventually(run: Callable[[], Any]) -> None:
    """Repeat it until it raises nothing."""
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            run()
            return
        except Exception:
            if time.monotonic() > end:
                raise
        time.sleep(0.02)


def crash() -> None:
    """Let the harness kill the engine; this returns when that has happened."""
    say("ready")
    sys.stdin.readline()


def same(found: Any, wanted: Any) -> None:
    if found != wanted:
        raise AssertionError(f"found {found!r}, wanted {wanted!r}")


def counts(found: Sequence[int], size: int) -> None:
    """A pipeline of INCR answered each in its place."""
    same(list(found), list(range(1, size + 1)))
