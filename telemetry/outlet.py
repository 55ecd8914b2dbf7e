"""Where log lines leave the process: a descriptor or a file, whose reader may have stopped reading.

Owns the writing, and the backlog of what could not be written yet. Never waits for a reader and never raises: a full
disk or a reader that went away loses lines.

    outlet = Outlet(1, lambda lost: b"%d lines were lost\\n" % lost)
    outlet.write(b"a line\\n")
    outlet.flush(1.0)

A line is written at once as long as the reader reads. Else it goes to the backlog, which a thread empties in order.
When that is full, lines are lost until the reader has caught up; one line in their place says how many.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

_BACKLOG_BYTES = 1 << 20
_RETRY_S = 0.05


class Outlet:
    """target: a descriptor, or a file that is opened for every line. tell: the line that says how many were lost."""

    def __init__(self, target: int | Path, tell: Callable[[int], bytes]) -> None:
        self._target = target
        self._tell = tell
        self._backlog: deque[bytes] = deque()
        self._backlog_bytes = 0
        self._lost = 0
        self._behind = False  # a thread writes: nobody else may
        self._changed = threading.Condition()

    def write(self, line: bytes) -> None:
        """Write a line, or keep it for later, or lose it. May be called by any thread."""
        # RuntimeError: no thread starts any more, because the interpreter ends.
        with self._changed, contextlib.suppress(OSError, RuntimeError):
            if not self._behind:
                line = _write(self._target, line, wait=False)
                if not line:
                    return
                threading.Thread(target=self._catch_up, name="log", daemon=True).start()
                self._behind = True
            # A line that is partly written is kept whatever its size: it comes first.
            if self._lost or (self._backlog_bytes and self._backlog_bytes + len(line) > _BACKLOG_BYTES):
                self._lost += 1
            else:
                self._keep(line)

    def flush(self, within_s: float) -> bool:
        """Wait until everything is written, for so many seconds at most. Whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._behind, within_s)

    def close(self, within_s: float) -> None:
        """The same, and give up what is left then, but for the line that is being written."""
        self.flush(within_s)
        with self._changed:
            self._backlog.clear()
            self._lost = 0

    def _keep(self, line: bytes) -> None:
        self._backlog.append(line)
        self._backlog_bytes += len(line)

    def _catch_up(self) -> None:
        line = b""
        while True:
            with self._changed:
                self._backlog_bytes -= len(line)  # it counted as long as it was being written
                if not self._backlog and self._lost:
                    self._keep(self._tell(self._lost))
                    self._lost = 0
                if not self._backlog:
                    self._behind = False
                    self._changed.notify_all()
                    return
                line = self._backlog.popleft()
            with contextlib.suppress(OSError):
                _write(self._target, line, wait=True)


def _write(target: int | Path, line: bytes, *, wait: bool) -> bytes:
    """Write a line and return what of it would have to wait; nothing with `wait`. Raises OSError."""
    # Not through sys.stdout: its buffer would keep what could not be written and fail again at the exit.
    with _opened(target) as descriptor:
        # A pipe that is ready takes PIPE_BUF bytes without blocking (pipe(7)). A file is always ready.
        step = len(line) if stat.S_ISREG(os.fstat(descriptor).st_mode) else select.PIPE_BUF
        ready = select.poll()
        ready.register(descriptor, select.POLLOUT)
        left = memoryview(line)
        while left and ready.poll(None if wait else 0):
            try:
                left = left[os.write(descriptor, left[:step]) :]
            except BlockingIOError:  # whoever shares the descriptor has made it non-blocking
                if not wait:
                    break
                time.sleep(_RETRY_S)
        return bytes(left)


@contextlib.contextmanager
def _opened(target: int | Path) -> Iterator[int]:
    if isinstance(target, int):
        yield target
        return
    # Opened for every line, as Valkey does it: whoever renames or deletes the file gets a new one.
    descriptor = open_log(target)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_log(file: Path) -> int:
    """A descriptor for appending to the file, which is made when there is none. Raises OSError."""
    return os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
