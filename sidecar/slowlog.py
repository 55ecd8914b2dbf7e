"""The engine's own log of slow and large commands, as records of ours.

Owns reading its new entries over our connection (COMMANDLOG since Valkey 8.1, SLOWLOG before): every few seconds, and
at once when a worker asks what it says about late replies. Never shows an argument or an address (to the engine every
client is behind one Unix socket), never logs a command that a record of ours is about, and never says twice that it may
not read them.

    task = asyncio.create_task(SlowLog(engine, journal).run())
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sidecar.engine.commandtable import Table
from sidecar.engine.connection import NAME, Connection, EngineError, UnreachableError
from sidecar.journal import Journal
from sidecar.processes import Child
from sidecar.witness import Entry, Question, answer, arguments, request_size

POLL_S = 5.0
# A worker asks about a slow command as soon as it has the reply, so no question about an older one can still come.
_HOLD_S = 1.0
# Between two looks that workers ask for.
_ASKED_APART_S = 0.05
_HELD_MOST = 1024

# Few at first: an entry has up to 32 arguments of 128 bytes, and a reply of more than `client-output-buffer-limit` may
# allow costs us the connection. Everything else waits for the second question.
_ENTRIES_AT_FIRST = 8
_ENTRIES = 128
# More of one kind in one look are summed up in one line.
_RECORDS_AT_ONCE = 20

# What passes: the engine will answer later.
_LATER = ("LOADING", "BUSY", "MASTERDOWN")

_OTHER = "_OTHER"
# By the name that all engines know it by. Microseconds; below 0 nothing is logged.
_THRESHOLD = "slowlog-log-slower-than"


class _Engine(Protocol):
    """What of the engine is needed here."""

    connection: Connection | None
    table: Table | None
    child: Child | None


@dataclass(frozen=True)
class _Kind:
    """One of the engine's lists. `unit` is what its third field counts."""

    name: str
    event: str
    attribute: str
    said: str

    def sentence(self, entry: Entry) -> str:
        shown = f"{entry.figure / 1000:,.1f} ms" if self.attribute == "duration" else f"{entry.figure:,} bytes"
        noun = "argument" if entry.arguments == 1 else "arguments"
        return f"{entry.command} with {entry.arguments} {noun} {self.said.format(shown)}"

    def summary(self, more: int) -> str:
        return f"The engine has logged {more} more commands of this kind (COMMANDLOG GET {_ENTRIES} {self.name})."

    def value(self, figure: int) -> float:
        """In seconds or bytes."""
        return figure / 1e6 if self.attribute == "duration" else figure


_SLOW = _Kind("slow", "engine.slow_command", "duration", "took {} in the engine.")
_LARGE_REPLY = _Kind("large-reply", "engine.large_reply", "valkey.response.size", "had a reply of {}.")
_KINDS = (
    _SLOW,
    _Kind("large-request", "engine.large_request", "valkey.request.size", "came as a request of {}."),
    _LARGE_REPLY,
)


async def _nothing_booked() -> list[tuple[str, int]]:
    return []


class SlowLog:
    """Follows the log of one engine over all its restarts.

    booked: replies that the engine takes for large ones because of what it had pushed to their client before.
    """

    def __init__(
        self,
        engine: _Engine,
        journal: Journal,
        booked: Callable[[], Awaitable[list[tuple[str, int]]]] = _nothing_booked,
        poll_s: float = POLL_S,
    ) -> None:
        self._engine = engine
        self._booked = booked
        self._journal = journal
        self._poll_s = poll_s
        self._child: Child | None = None
        self._command = "COMMANDLOG"
        self._kinds: tuple[_Kind, ...] = _KINDS
        self._last: dict[_Kind, int] = {}
        self._told_refusal = False
        self._entries_at_most = _ENTRIES
        # Slow commands that no record of ours has told so far, and those that one has.
        self._held: deque[Entry] = deque(maxlen=_HELD_MOST)
        self._large: deque[Entry] = deque(maxlen=_HELD_MOST)
        self._missed_any = False
        self._one_at_a_time = asyncio.Lock()
        self._asked: asyncio.Task[bool] | None = None

    async def run(self) -> None:
        """Look every few seconds, until cancelled."""
        while True:
            await self._look(self._kinds_of(None))
            await asyncio.sleep(min(_HOLD_S, self._poll_s))
            await self._tell_held(time.monotonic() - _HOLD_S)
            await asyncio.sleep(max(0.0, self._poll_s - _HOLD_S))

    async def look(self) -> None:
        """Log what is new; nothing while the engine does not answer."""
        await self._look(self._kinds_of(None))
        await self._tell_held(time.monotonic())

    async def witness(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """What the log says about late replies of a worker's (sidecar.relay.suspects has both messages)."""
        if self._asked is None:
            self._asked = asyncio.create_task(self._look_soon())
        known = await asyncio.shield(self._asked)
        question = Question.read(body, time.time_ns() - time.monotonic_ns())
        took = answer(question, list(self._held))
        return {"known": known and await self._logs_from(question.slow_ns), "took": took}

    async def _look_soon(self) -> bool:
        """Whether the engine's log of slow commands was read whole."""
        await asyncio.sleep(_ASKED_APART_S)
        self._asked = None  # a question from now on needs another look
        return await self._look(self._kinds_of(_SLOW))

    async def _logs_from(self, slow_ns: int) -> bool:
        """Whether it has all that took so long."""
        connection = self._engine.connection
        if connection is None:
            return False
        try:
            found = await connection.call("CONFIG", "GET", _THRESHOLD)
            return 0 <= int(found[1]) * 1000 <= slow_ns
        except (EngineError, UnreachableError, ValueError, IndexError):
            return False

    def _kinds_of(self, only: _Kind | None) -> tuple[_Kind, ...]:
        if self._engine.child is not self._child:  # another life: its numbers begin anew
            self._child = self._engine.child
            self._command, self._kinds, self._last = "COMMANDLOG", _KINDS, {}
        return tuple(kind for kind in self._kinds if only in (None, kind))

    async def _look(self, kinds: tuple[_Kind, ...]) -> bool:
        """Read what is new. Whether all of it could be read."""
        async with self._one_at_a_time:
            connection = self._engine.connection
            if connection is None or self._engine.table is None:
                return False
            whole = bool(kinds)
            at = 0
            while at < len(kinds):
                try:
                    entries = await self._new_entries(connection, kinds[at])
                except EngineError as error:
                    if error.code in _LATER:
                        return False
                    self._refused(error)
                    kinds, at = tuple(kind for kind in kinds if kind in self._kinds), 0
                    whole = bool(kinds)
                except UnreachableError:
                    return False
                else:
                    whole = whole and not self._missed_any
                    if kinds[at] is _SLOW:
                        self._held.extend(entries)
                    elif kinds[at] is _LARGE_REPLY:
                        self._large.extend(entries)
                    else:
                        self._tell(kinds[at], entries)
                    at += 1
            return whole

    async def _tell_held(self, seen_before: float) -> None:
        """Log the slow commands that no record of ours is about, and replies that are as large as they seem."""
        alone = [entry for entry in self._held if entry.seen_at <= seen_before]
        self._held = deque((entry for entry in self._held if entry.seen_at > seen_before), maxlen=_HELD_MOST)
        self._tell(_SLOW, [entry for entry in alone if not entry.told])
        if self._large:
            large = list(self._large)
            self._large.clear()
            for command, size in await self._booked():
                if entry := next((e for e in large if (e.command, e.figure) == (command, size)), None):
                    large.remove(entry)
            self._tell(_LARGE_REPLY, large)

    def _refused(self, error: EngineError) -> None:
        """COMMANDLOG may be unknown, renamed or forbidden, and SLOWLOG not; without either nothing is read."""
        if self._command == "COMMANDLOG":
            self._command, self._kinds = "SLOWLOG", (_SLOW,)
            return
        self._kinds = ()
        if not self._told_refusal:
            self._told_refusal = True
            self._journal.log(
                "verbose",
                "engine.slow_log_unreadable",
                f"The engine's log of slow commands cannot be read ({error.code}): only our own threshold counts.",
            )

    async def _new_entries(self, connection: Connection, kind: _Kind) -> list[Entry]:
        """In the order in which they came. Raises EngineError, UnreachableError."""
        last = self._last.get(kind, -1)
        self._missed_any = False
        entries = await self._read(connection, kind, _ENTRIES_AT_FIRST)
        if entries and entries[0].number < last:
            last = -1
        if len(entries) == _ENTRIES_AT_FIRST and entries[-1].number > last + 1:
            try:
                entries = await self._read(connection, kind, self._entries_at_most)
            except UnreachableError:
                if connection.closed:  # it was too much for client-output-buffer-limit
                    self._entries_at_most = _ENTRIES_AT_FIRST
                raise
            self._missed_any = last >= 0 and bool(entries) and entries[-1].number > last + 1
        if entries:
            self._last[kind] = entries[0].number
        return [entry for entry in reversed(entries) if entry.number > last and entry.client != NAME]

    async def _read(self, connection: Connection, kind: _Kind, count: int) -> list[Entry]:
        words = ["GET", str(count)]
        if self._command == "COMMANDLOG":
            words.append(kind.name)
        return [self._parse(connection, entry) for entry in await connection.call(self._command, *words)]

    def _parse(self, connection: Connection, entry: list[Any]) -> Entry:
        number, when, figure, told = entry[:4]
        words = [str(word).encode("utf-8", "surrogateescape") for word in told]
        client = str(entry[5]) if len(entry) > 5 else ""
        if len(entry) > 4 and not entry[4]:
            client = NAME  # without an address: the engine itself, at its start
        command, is_two_words = self._name(connection, [str(word) for word in told[:2]])
        return Entry(
            int(number),
            int(when),
            int(figure),
            command,
            arguments(words) - is_two_words,
            client,
            request_size(words),
            seen_at=time.monotonic(),
        )

    def _name(self, connection: Connection, words: list[str]) -> tuple[str, bool]:
        """The command by its own name, with its subcommand where the table knows it; whatever else it is called."""
        table = {name for name, _flags in self._engine.table or ()}
        name = connection.original(words[0]).lower() if words else ""
        if len(words) > 1 and (full := f"{name}|{words[1].lower()}") in table:
            return full.upper().replace("|", " "), True
        return (name.upper(), False) if name in table else (_OTHER, False)

    def _tell(self, kind: _Kind, entries: list[Entry]) -> None:
        for entry in entries[:_RECORDS_AT_ONCE]:
            details = {
                "db.operation.name": entry.command,
                kind.attribute: kind.value(entry.figure),
                "valkey.command.arguments": entry.arguments,
            }
            if entry.client:
                details["valkey.client.name"] = entry.client
            self._journal.log_at(entry.when, "warning", kind.event, kind.sentence(entry), **details)
        if (more := len(entries) - _RECORDS_AT_ONCE) > 0:
            self._journal.log("warning", kind.event, kind.summary(more), left_out=more)
