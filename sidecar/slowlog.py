"""The engine's own log of slow and large commands, as records of ours.

Owns reading its new entries every few seconds over our connection: COMMANDLOG since Valkey 8.1, SLOWLOG before. Never
shows an argument or an address (to the engine every client is behind one Unix socket), and never says twice that it may
not read them.

    task = asyncio.create_task(SlowLog(engine, journal).run())
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any, Protocol

from sidecar.engine.commandtable import Table
from sidecar.engine.connection import NAME, Connection, EngineError, UnreachableError
from sidecar.journal import Journal
from sidecar.processes import Child

POLL_S = 5.0

# Few at first: an entry has up to 32 arguments of 128 bytes, and a reply of more than `client-output-buffer-limit` may
# allow costs us the connection. Everything else waits for the second question.
_ENTRIES_AT_FIRST = 8
_ENTRIES = 128
# More of one kind in one look are summed up in one line.
_RECORDS_AT_ONCE = 20

# What passes: the engine will answer later.
_LATER = ("LOADING", "BUSY", "MASTERDOWN")

_OTHER = "_OTHER"
# The engine's last word of a command with more than 32 arguments.
_MORE_ARGUMENTS = re.compile(r"\.\.\. \((\d+) more arguments\)")


class _Engine(Protocol):
    """What of the engine is needed here."""

    connection: Connection | None
    table: Table | None
    child: Child | None


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry. `when` is in seconds since the epoch; `figure` in microseconds or bytes."""

    number: int
    when: int
    figure: int
    command: str
    arguments: int
    client: str


@dataclass(frozen=True)
class _Kind:
    """One of the engine's lists. `unit` is what its third field counts."""

    name: str
    event: str
    attribute: str
    said: str

    def sentence(self, entry: _Entry) -> str:
        shown = f"{entry.figure / 1000:,.1f} ms" if self.attribute == "duration" else f"{entry.figure:,} bytes"
        noun = "argument" if entry.arguments == 1 else "arguments"
        return f"{entry.command} with {entry.arguments} {noun} {self.said.format(shown)}"

    def summary(self, more: int) -> str:
        return f"The engine has logged {more} more commands of this kind (COMMANDLOG GET {_ENTRIES} {self.name})."

    def value(self, figure: int) -> float:
        """In seconds or bytes."""
        return figure / 1e6 if self.attribute == "duration" else figure


_SLOW = _Kind("slow", "engine.slow_command", "duration", "took {} in the engine.")
_KINDS = (
    _SLOW,
    _Kind("large-request", "engine.large_request", "valkey.request.size", "came as a request of {}."),
    _Kind("large-reply", "engine.large_reply", "valkey.response.size", "had a reply of {}."),
)


class SlowLog:
    """Follows the log of one engine over all its restarts."""

    def __init__(self, engine: _Engine, journal: Journal, poll_s: float = POLL_S) -> None:
        self._engine = engine
        self._journal = journal
        self._poll_s = poll_s
        self._child: Child | None = None
        self._command = "COMMANDLOG"
        self._kinds: tuple[_Kind, ...] = _KINDS
        self._last: dict[_Kind, int] = {}
        self._told_refusal = False
        self._entries_at_most = _ENTRIES

    async def run(self) -> None:
        """Look every few seconds, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._poll_s)

    async def look(self) -> None:
        """Log what is new; nothing while the engine does not answer."""
        connection = self._engine.connection
        if connection is None or self._engine.table is None:
            return
        if self._engine.child is not self._child:  # another life: its numbers begin anew
            self._child = self._engine.child
            self._command, self._kinds, self._last = "COMMANDLOG", _KINDS, {}
        at = 0
        while at < len(self._kinds):
            try:
                entries = await self._new_entries(connection, self._kinds[at])
            except EngineError as error:
                if error.code in _LATER:
                    return
                self._refused(error)
                at = 0
            except UnreachableError:
                return
            else:
                self._tell(self._kinds[at], entries)
                at += 1

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

    async def _new_entries(self, connection: Connection, kind: _Kind) -> list[_Entry]:
        """In the order in which they came. Raises EngineError, UnreachableError."""
        last = self._last.get(kind, -1)
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
        if entries:
            self._last[kind] = entries[0].number
        return [entry for entry in reversed(entries) if entry.number > last and entry.client != NAME]

    async def _read(self, connection: Connection, kind: _Kind, count: int) -> list[_Entry]:
        words = ["GET", str(count)]
        if self._command == "COMMANDLOG":
            words.append(kind.name)
        return [self._parse(connection, entry) for entry in await connection.call(self._command, *words)]

    def _parse(self, connection: Connection, entry: list[Any]) -> _Entry:
        number, when, figure, words = entry[:4]
        client = str(entry[5]) if len(entry) > 5 else ""
        if len(entry) > 4 and not entry[4]:
            client = NAME  # without an address: the engine itself, at its start
        arguments = len(words) - 1
        if words and (more := _MORE_ARGUMENTS.fullmatch(str(words[-1]))):
            arguments += int(more[1]) - 1
        command, is_two_words = self._name(connection, [str(word) for word in words[:2]])
        return _Entry(int(number), int(when), int(figure), command, arguments - is_two_words, client)

    def _name(self, connection: Connection, words: list[str]) -> tuple[str, bool]:
        """The command by its own name, with its subcommand where the table knows it; whatever else it is called."""
        table = {name for name, _flags in self._engine.table or ()}
        name = connection.original(words[0]).lower() if words else ""
        if len(words) > 1 and (full := f"{name}|{words[1].lower()}") in table:
            return full.upper().replace("|", " "), True
        return (name.upper(), False) if name in table else (_OTHER, False)

    def _tell(self, kind: _Kind, entries: list[_Entry]) -> None:
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
