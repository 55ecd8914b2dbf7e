"""What a workload knows of its data: the keys, what each may hold, and what was found wrong.

Owns the rule of every value, ``name:sequence:padding``, and the judgement of each that is read. A key has one writer;
it may hold anything from the last write that was acknowledged to the last one that was sent. Never talks to a server.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.campaign.connection import Reply, Words, error_type

_SHOWN = 60
_FINDINGS_KEPT = 50


@dataclass
class Findings:
    """What was found, in sums, and the first of what was wrong in words."""

    writes_acknowledged: int = 0
    writes_lost: int = 0
    replies_checked: int = 0
    replies_swapped: int = 0
    other: int = 0
    words: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> int:
        return self.writes_lost + self.replies_swapped + self.other

    def lost(self, what: str) -> None:
        self.writes_lost += 1
        self._say(f"write lost: {what}")

    def swapped(self, what: str) -> None:
        self.replies_swapped += 1
        self._say(f"reply swapped: {what}")

    def odd(self, what: str) -> None:
        self.other += 1
        self._say(what)

    def _say(self, what: str) -> None:
        if len(self.words) < _FINDINGS_KEPT:
            self.words.append(what)


@dataclass
class Key:
    """A place for one value: a string, or a field of a hash. Sequence numbers: last acknowledged, last sent.

    doubtful: its last write may come yet, or never: it is not written until it has been looked at when all is quiet.
    """

    name: bytes
    field: bytes | None = None
    acknowledged: int = 0
    sent: int = 0
    doubtful: bool = False

    @property
    def place(self) -> bytes:
        return self.name if self.field is None else self.name + b"." + self.field

    @property
    def reading(self) -> Words:
        return (b"GET", self.name) if self.field is None else (b"HGET", self.name, self.field)

    def next_value(self, size: int) -> bytes:
        """The value of a write that is about to be sent, of about this size."""
        self.sent += 1
        self.doubtful = True
        value = b"%s:%d:" % (self.place, self.sent)
        return value + b"x" * (size - len(value))

    def acknowledge(self, findings: Findings) -> None:
        """That write was answered well."""
        self.acknowledged = self.sent
        self.doubtful = False
        findings.writes_acknowledged += 1

    def judge(self, reply: Reply, at_least: int, findings: Findings) -> int:
        """The sequence number in a value that was read; at_least: what was acknowledged when the reading was sent."""
        findings.replies_checked += 1
        if reply is None:
            if at_least:
                findings.lost(f"{self.place!r} is empty, and {at_least} was acknowledged")
            return 0
        name, sequence = parts(reply)
        if name != self.place:
            findings.swapped(f"{self.place!r} was asked for, and {_short(reply)} came")
        elif sequence < at_least:
            findings.lost(f"{self.place!r} has {sequence}, and {at_least} was acknowledged")
        elif sequence > self.sent:
            findings.odd(f"{self.place!r} has {sequence}, and {self.sent} is the last that was sent")
        return sequence

    def settle(self, reply: Reply, findings: Findings) -> None:
        """It was read while nothing was under way: this is what it has."""
        sequence = self.judge(reply, self.acknowledged, findings)
        self.acknowledged = self.sent = sequence
        self.doubtful = False


def parts(value: Reply) -> tuple[bytes, int]:
    """Name and sequence number of a value; b"" and -1 for anything else."""
    if isinstance(value, bytes):
        name, _, rest = value.partition(b":")
        digits = rest.partition(b":")[0]
        if digits.isdigit():
            return name, int(digits)
    return b"", -1


def expect(reply: Reply, wanted: Reply, findings: Findings) -> None:
    """A reply that can only be this one."""
    findings.replies_checked += 1
    if reply != wanted:
        findings.swapped(f"{_short(wanted)} had to come, and {_short(reply)} came")


# A server that is restarted, or has no space, may say these; what they refuse was not done, or is in doubt.
_OF_FAULTS = ("LOADING", "MISCONF", "EXECABORT", "connection_lost")


def refused(reply: Reply, findings: Findings) -> bool:
    """Whether this is an error; one that no fault explains is wrong."""
    kind = error_type(reply)
    if kind and kind not in _OF_FAULTS:
        findings.odd(f"an error that nothing explains: {reply}")
    return bool(kind)


Check = Callable[[Reply], None]


def _short(value: Reply) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}... ({len(shown)})"
