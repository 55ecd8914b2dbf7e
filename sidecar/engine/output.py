"""What the engine prints: its log, its last words.

Owns the reading of the engine's standard output and error, and tells what of it matters to us. Lines go to the journal
with the engine's own level and role. It never waits for the engine, and never lets anyone else wait while the engine
has much to say.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
from collections import deque
from collections.abc import Callable

from sidecar.engine.logparse import LogLine, LogParser
from sidecar.journal import Journal
from sidecar.processes import Child

# What one turn of the loop takes: some 300 lines, 10 ms. Health checks come between two turns.
_CHUNK = 16 * 1024
_LAST_WORDS = 20

# Valkey's words when SIGTERM or SIGINT came and it will not end.
_REFUSALS = (
    "Errors trying to shut down the server",
    "SIGTERM received but errors trying to shut down the server",
    "Shutdown manually aborted",
)


class Output:
    """One engine's pipe, from its start to its end."""

    def __init__(self, child: Child, journal: Journal, on_line: Callable[[LogLine], None]) -> None:
        assert child.stdout is not None
        self._stream = child.stdout
        self._fd = child.stdout.fileno()
        self._pid = child.pid
        self._journal = journal
        self._on_line = on_line
        self._parser = LogParser()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._words: deque[LogLine] = deque(maxlen=_LAST_WORDS)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.accepts = asyncio.Event()
        self.spoke = False
        os.set_blocking(self._fd, False)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read from now on whenever there is something."""
        self._loop = loop
        loop.add_reader(self._fd, self._read)

    def finish(self) -> None:
        """Read what the ended engine left. A save that outlives it may hold the pipe: there may be no end of file."""
        if self._loop is not None:
            self._loop.remove_reader(self._fd)
            self._loop = None
        while self._read():
            pass
        if self._rest:
            self._take(self._rest)
            self._rest = ""
        with contextlib.suppress(OSError):
            self._stream.close()

    def last_words(self) -> list[str]:
        """What it said about its end: warnings and what was no log line (a fatal configuration error); else all."""
        important = [line.message for line in self._words if line.raw or line.level == "warning"]
        # "WARNING Memory overcommit must be enabled!" and its like stand at every start.
        return [text for text in important if not text.startswith("WARNING ")] or [line.message for line in self._words]

    def _read(self) -> bool:
        """Take one chunk. False when there was none, or no more will come."""
        try:
            data = os.read(self._fd, _CHUNK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if not data:
            if self._loop is not None:
                self._loop.remove_reader(self._fd)
            return False
        lines = (self._rest + self._decoder.decode(data)).split("\n")
        self._rest = lines.pop()
        for line in lines:
            self._take(line)
        return True

    def _take(self, text: str) -> None:
        line = self._parser.parse(text)
        if line is None:
            return
        self._words.append(line)
        if not line.raw and line.level in ("notice", "verbose", "debug"):
            self.spoke = True
        if line.message.startswith("Ready to accept connections"):
            self.accepts.set()
        # A raw line has no role: it is the main process that crashes or refuses its configuration.
        role = {"role": line.role} if line.role is not None else {}
        self._journal.log(line.level, "engine.log", line.message, **role, pid=line.pid or self._pid)
        self._on_line(line)


def refuses_to_end(line: LogLine) -> bool:
    """The engine was asked to end and goes on."""
    return line.message.startswith(_REFUSALS)


def waits_for_replicas(line: LogLine) -> bool:
    """The engine was asked to end, and does so when its replicas have everything."""
    return line.message.startswith("Waiting for replicas before shutting down")
