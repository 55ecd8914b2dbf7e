"""The sums of all workers: decodes the ledger's snapshot frames and merges them into figures that never go down.

Owns the merged figures and the last values of each living worker. Never measures anything itself, and
never knows how the figures are shown. A worker's values are cumulative since its own start; what it adds
to the sums is the difference from its last frame, so a worker that dies takes nothing away:

    totals = Totals()
    totals.apply(worker, frame)      # as often as frames come; a frame may hold changed rows only
    totals.worker_gone(worker)       # its counts stay, its gauges go: connections that were open count as closed
    for outcome in totals.outcomes(): ...

Frame (little endian): `S`, then rows until the end: u8 kind, u16 length and UTF-8 of the name, the same of the
label, then the values of the kind, 8 bytes each.

    1  outcome of a command (label = error.type, empty on success): calls, sum of durations in ns, 34 bucket counts
    2  totals of a command: request bytes, response bytes, hits, misses, sum of blocked time in ns, 34 bucket counts
    3  counter: one value
    4  gauge: one value, signed
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Iterator
from typing import NamedTuple

from telemetry.names import BUCKETS, LEDGER_CLOSED, LEDGER_CONNECTIONS

_MAGIC = b"S"
_OUTCOME, _COMMAND, _COUNTER, _GAUGE = 1, 2, 3, 4
_VALUES = {
    _OUTCOME: struct.Struct(f"<{2 + BUCKETS}Q"),
    _COMMAND: struct.Struct(f"<{5 + BUCKETS}Q"),
    _COUNTER: struct.Struct("<Q"),
    _GAUGE: struct.Struct("<q"),
}
_LENGTH = struct.Struct("<H")
# The row of the connections that ended, as a ledger spells it.
_CLOSED_HEAD = bytes([_COUNTER]) + _LENGTH.pack(len(LEDGER_CLOSED)) + LEDGER_CLOSED.encode() + _LENGTH.pack(0)


class FrameError(ValueError):
    """A snapshot frame that does not follow the format: a fault of ours. Nothing of the frame was counted."""


class Histogram(NamedTuple):
    """Durations: their sum in nanoseconds, and how many fell into each of the 34 buckets (not cumulative)."""

    sum_ns: int
    buckets: list[int]


class Outcome(NamedTuple):
    """How often a command ended in one way. `calls` may exceed the durations: some calls have none of their own."""

    command: str
    error_type: str
    calls: int
    durations: Histogram


class CommandTotals(NamedTuple):
    """What a command moved (bytes), found (hits, misses) and waited for, whatever its outcomes were."""

    command: str
    request_bytes: int
    response_bytes: int
    hits: int
    misses: int
    blocked: Histogram


class _Series:
    """One row's key and its merged values. `head` is the key as frames spell it."""

    __slots__ = ("head", "kind", "label", "name", "values")

    def __init__(self, head: bytes, kind: int, name: str, label: str) -> None:
        self.head = head
        self.kind = kind
        self.name = name
        self.label = label
        self.values = [0] * (_VALUES[kind].size // 8)


class Totals:
    """Merged figures of every worker that ever ran."""

    def __init__(self) -> None:
        self._series: dict[bytes, _Series] = {}
        # Values stay packed: 400 commands of eight workers are 1 MB so, and 8 MB as Python integers.
        self._last: dict[Hashable, dict[bytes, bytes]] = {}
        self._gone: set[Hashable] = set()

    def apply(self, worker: Hashable, frame: bytes) -> None:
        """Take over a snapshot frame of `worker`.

        `worker` names one incarnation and is never used for another one (a running number, not an index): frames
        that arrive after `worker_gone` are the last words of a dead process and are not counted.
        Raises FrameError for a malformed frame, and then counts nothing of it.
        """
        if worker in self._gone:
            return
        rows = list(_rows(frame))
        last = self._last.setdefault(worker, {})
        for head, kind, values in rows:
            series = self._at(head, kind)
            layout = _VALUES[kind]
            new = layout.unpack(values)
            before = last.get(series.head)
            if before is None:
                series.values = [sum_ + n for sum_, n in zip(series.values, new, strict=True)]
            elif before != values:
                old = layout.unpack(before)
                series.values = [sum_ + n - o for sum_, n, o in zip(series.values, new, old, strict=True)]
            last[series.head] = values

    def worker_gone(self, worker: Hashable) -> None:
        """Keep what a worker has counted, and forget its gauges: its connections ended with it, which counts too."""
        self._gone.add(worker)
        for head, values in self._last.pop(worker, {}).items():
            series = self._series[head]
            if series.kind == _GAUGE:
                (value,) = _VALUES[_GAUGE].unpack(values)
                series.values[0] -= value
                if series.name == LEDGER_CONNECTIONS and value:
                    self._at(_CLOSED_HEAD, _COUNTER).values[0] += value

    def outcomes(self) -> Iterator[Outcome]:
        """Calls and durations by command and outcome, in the order of their names."""
        for series in self._of(_OUTCOME):
            values = series.values
            yield Outcome(series.name, series.label, values[0], Histogram(values[1], values[2:]))

    def commands(self) -> Iterator[CommandTotals]:
        """Bytes, lookups and waiting time by command, in the order of their names."""
        for series in self._of(_COMMAND):
            sent, received, hits, misses, blocked_ns, *buckets = series.values
            yield CommandTotals(series.name, sent, received, hits, misses, Histogram(blocked_ns, buckets))

    def counter(self, name: str) -> dict[str, int]:
        """The values of a counter by label, without those never seen. Example: `{"maxclients": 3}`."""
        return {series.label: series.values[0] for series in self._of(_COUNTER) if series.name == name}

    def gauge(self, name: str) -> dict[str, int]:
        """The values of a gauge by label, summed over the living workers. Example: `{"tcp": 12, "unix": 0}`."""
        return {series.label: series.values[0] for series in self._of(_GAUGE) if series.name == name}

    def _at(self, head: bytes, kind: int) -> _Series:
        series = self._series.get(head)
        if series is None:
            series = self._series[head] = _Series(head, kind, *_key(head))
        return series

    def _of(self, kind: int) -> list[_Series]:
        found = [series for series in self._series.values() if series.kind == kind]
        found.sort(key=lambda series: (series.name, series.label))
        return found


def _rows(frame: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """Cut a frame into (head, kind, packed values). The head, from kind to label, serves as the row's key."""
    if frame[:1] != _MAGIC:
        raise FrameError(f"a snapshot frame begins with {_MAGIC!r}, this one with {frame[:1]!r}")
    at, end = 1, len(frame)
    while at < end:
        kind = frame[at]
        layout = _VALUES.get(kind)
        if layout is None:
            raise FrameError(f"snapshot frame: unknown row kind {kind} at byte {at} of {end}")
        start = at
        at += 1
        for part in ("name", "label"):
            if at + 2 > end:
                raise FrameError(f"snapshot frame: ends at byte {end}, inside the {part} of the row at {start}")
            at += 2 + _LENGTH.unpack_from(frame, at)[0]
        if at + layout.size > end:
            raise FrameError(f"snapshot frame: ends at byte {end}, inside the row at {start}")
        yield frame[start:at], kind, frame[at : at + layout.size]
        at += layout.size


def _key(head: bytes) -> tuple[str, str]:
    """Name and label out of a row's head."""
    split = 3 + _LENGTH.unpack_from(head, 1)[0]
    return head[3:split].decode("utf-8", "backslashreplace"), head[split + 2 :].decode("utf-8", "backslashreplace")
