"""What the engine's slow log says about late replies.

Owns the match between a worker's question (commands of one connection to the engine, in reply order) and entries of the
log, by operation, time and the length of the arguments. It asks nobody, and keeps no argument.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sidecar.relay.attributes import LANE_NAME

_LANE = LANE_NAME.decode()

# What the engine writes in place of the rest of a long argument, of the rest of many, and of a secret.
_ARGUMENT_MOST = 128
_MORE_BYTES = re.compile(rb"\.\.\. \((\d+) more bytes\)\Z")
_MORE_ARGUMENTS = re.compile(rb"\.\.\. \((\d+) more arguments\)")
_REDACTED = b"(redacted)"

_SECOND_NS = 1_000_000_000
# The engine reads a clock that may be some milliseconds behind.
_SLACK_NS = 20_000_000
_ROUNDED_NS = 1_000_000


@dataclass(slots=True, eq=False)
class Entry:
    """One entry of a log of the engine's. `when` is in seconds since the epoch; `figure` in microseconds or bytes.

    size: bytes of the request as clients send it, None where the log doesn't show it all. told: one of our own records
    is about it.
    """

    number: int
    when: int
    figure: int
    command: str
    arguments: int
    client: str
    size: int | None = None
    told: bool = False
    seen_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Row:
    """One late reply, sizes in bytes. owner: the row of the command it belongs to (its EXEC), below 0 without one."""

    command: str
    request: int
    response: int
    owner: int


@dataclass(frozen=True, slots=True)
class Question:
    """Late replies of one connection. Times are nanoseconds since the epoch; slow_ns: our own threshold."""

    since_ns: int
    until_ns: int
    shared: bool
    slow_ns: int
    rows: Sequence[Row]

    @classmethod
    def read(cls, body: Mapping[str, Any], offset_ns: int) -> Question:
        """A worker's message. offset_ns: from its monotonic clock to the wall clock."""
        rows = [Row(*row) for row in body["rows"]]
        return cls(body["since"] + offset_ns, body["until"] + offset_ns, body["shared"], body["slow"], rows)


def answer(question: Question, entries: Sequence[Entry]) -> dict[int, int]:
    """The rows that took the time, with their nanoseconds in the engine; their entries are marked as told.

    entries: in the engine's order. A row took the time if it was slow by our own threshold, took at least half of the
    whole wait, or is the only one.
    """
    matches = _matches(question, [entry for entry in entries if not entry.told and _fits(question, entry)])
    took: dict[int, int] = {}
    for row, entry in matches:
        took[row] = took.get(row, 0) + entry.figure * 1000
    candidates = {row for row, known in enumerate(question.rows) if known.owner == row}
    least = min(question.slow_ns, (question.until_ns - question.since_ns) // 2)
    culprits = {row: ns for row, ns in took.items() if ns >= least or len(candidates) == 1}
    for row, entry in matches:
        entry.told = row in culprits and row in candidates
    return culprits


def _matches(question: Question, entries: Sequence[Entry]) -> list[tuple[int, Entry]]:
    found = []
    at = 0
    for number, entry in enumerate(entries):
        fitting = [row for row in range(at, len(question.rows)) if _is(question.rows[row], entry)]
        if not fitting:
            continue
        # Of several that look alike, take the one with the largest reply, but leave a row for each later entry.
        alike = sum(other.command == entry.command and other.size == entry.size for other in entries[number + 1 :])
        fitting = fitting[: max(1, len(fitting) - alike)]
        row = max(fitting, key=lambda row: (question.rows[row].response, -row))
        at = row + 1
        owner = question.rows[row].owner
        found.append((row if owner < 0 else owner, entry))
    return found


def _is(row: Row, entry: Entry) -> bool:
    return row.command == entry.command and entry.size in (None, row.request)


def _fits(question: Question, entry: Entry) -> bool:
    """Whether a command of this connection can have run then: the log has whole seconds of its end."""
    took_ns = entry.figure * 1000
    waited_ns = question.until_ns - question.since_ns
    if (entry.client == _LANE) != question.shared or took_ns > waited_ns + _ROUNDED_NS:
        return False
    earliest = max(entry.when * _SECOND_NS, question.since_ns + took_ns - _SLACK_NS)
    latest = min((entry.when + 1) * _SECOND_NS, question.until_ns + _SLACK_NS)
    return earliest <= latest


def request_size(words: Sequence[bytes]) -> int | None:
    """Bytes of the request whose words an entry shows, as clients send it; None where it does not show them all."""
    size = len(b"*%d\r\n" % len(words))
    for word in words:
        if word == _REDACTED or _MORE_ARGUMENTS.fullmatch(word):
            return None
        length = len(word)
        if (more := _MORE_BYTES.search(word)) and more.start() == _ARGUMENT_MOST:
            length = _ARGUMENT_MOST + int(more[1])
        size += len(b"$%d\r\n" % length) + length + 2
    return size


def arguments(words: Sequence[bytes]) -> int:
    """How many arguments the command had, after its name."""
    if words and (more := _MORE_ARGUMENTS.fullmatch(words[-1])):
        return len(words) - 2 + int(more[1])
    return len(words) - 1
