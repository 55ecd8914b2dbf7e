"""The program's entry: `python -m sidecar`, and the console script `valkey-sidecar`.

Owns what SIGTERM and Ctrl-C mean before the server takes them itself: the end at once, with the codes that the server
ends with. Nothing needs cleaning up by then, and a worker that runs already ends with us.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

_ENDED = 0
_INTERRUPTED = 130


def _end(number: int, _frame: FrameType | None) -> None:
    os._exit(_INTERRUPTED if number == signal.SIGINT else _ENDED)


# Before anything else is imported: as PID 1 we would never hear of a signal that has no handler yet.
signal.signal(signal.SIGINT, _end)
signal.signal(signal.SIGTERM, _end)

from sidecar.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
