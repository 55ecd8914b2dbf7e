"""The two framers once more, as short and as slow as they come: what the compiled ones find has to be the same.

Owns the grammar as the relay takes it, stricter in requests (Valkey's parser) than in replies (the engine's are
trusted). It sees all bytes at once, copies at will, and knows neither pieces nor speed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

Event = tuple[Any, ...]
"""As framer_probe.pyx reports it."""

NAME_MAX: Final = 256
HELD_MAX: Final = 1 << 20
FIRST_KEPT: Final = 16
STREAM_DEPTH: Final = 64
ELEMENTS_MAX: Final = 1 << 40
_INT_MAX: Final = 2**31 - 1
_STRICT: Final = re.compile(rb"0|[1-9][0-9]{0,17}|-[1-9][0-9]*")
_LENIENT: Final = re.compile(rb"([-?]?)(0*(?:[1-9][0-9]{0,17})?)")
_OTHER: Final = "_OTHER"


class _MoreError(Exception):
    """The bytes end inside a frame."""


class _BrokenError(Exception):
    """They are no RESP."""


LACKING: Final = frozenset({b"SENTINEL"})
"""Containers that the engine does not know: whatever they are followed by is its to refuse."""


def requests(data: bytes, names: Mapping[bytes, str], containers: frozenset[bytes]) -> list[Event]:
    """Events of these bytes.

    names: what each upper-case name (with a NUL byte before a subcommand) is called. containers: who has subcommands.
    """
    found: list[Event] = []
    at = 0
    try:
        while at < len(data):
            event, end = _request(data, at, names, containers)
            found.append((*event, end - at))
            at = end
    except _MoreError:
        pass
    except _BrokenError:
        found.append(("broken",))
    return found


def _request(data: bytes, at: int, names: Mapping[bytes, str], containers: frozenset[bytes]) -> tuple[Event, int]:
    if data[at] != ord("*"):
        end = data.find(b"\n", at) + 1
        if not end:
            raise _MoreError
        return ("inline",), end
    count, at, odd = _number(data, at + 1)
    if count > _INT_MAX:
        raise _BrokenError
    if count <= 0:
        return ("empty",), at
    words: list[bytes] = []
    for _ in range(count):
        if at == len(data):
            raise _MoreError
        if data[at] != ord("$"):
            raise _BrokenError
        length, at, wrong = _number(data, at + 1)
        if length < 0:
            raise _BrokenError
        _check_long_name(words, data[at : at + length], length, count, containers - LACKING)
        if at + length + 2 > len(data):
            raise _MoreError
        words.append(data[at : at + length])
        at += length + 2
        odd |= wrong or data[at - 2 : at] != b"\r\n"
    first = words[1][:FIRST_KEPT] if count > 1 and words[0].upper() not in containers else None
    return ("frame", _name(words, names, containers), count, odd, first), at


def _number(data: bytes, at: int) -> tuple[int, int, bool]:
    """A number, where it ends, and whether anything else than LF was behind its CR."""
    end = data.find(b"\r", at)
    digits = data[at : end if end >= 0 else len(data)]
    here = 0 <= end < len(data) - 1
    if not _STRICT.fullmatch(digits) and (here or digits not in (b"", b"-")):
        raise _BrokenError
    if not here:
        raise _MoreError
    return int(digits), end + 2, data[end + 1] != ord("\n")


def _check_long_name(words: list[bytes], seen: bytes, length: int, count: int, containers: frozenset[bytes]) -> None:
    """A NUL byte ends a name, and a name so long that its beginning has gone on must not end."""
    prefix = 0
    if words:
        if len(words) > 1 or words[0].upper() not in containers or count < 2 or len(words[0]) >= NAME_MAX:
            return
        prefix = len(words[0]) + 1
    if length > HELD_MAX and 0 <= seen.find(b"\0") <= NAME_MAX - prefix:
        raise _BrokenError


def _name(words: list[bytes], names: Mapping[bytes, str], containers: frozenset[bytes]) -> str:
    name = words[0].upper()
    if len(words) > 1 and name in containers and len(name) < NAME_MAX:
        name += b"\0" + words[1].partition(b"\0")[0].upper()
    return names.get(name, _OTHER) if len(name) <= NAME_MAX else _OTHER


def replies(data: bytes, descend: bool) -> list[Event]:
    """Events of these bytes. What is known of a reply is None for one with streamed strings, which no engine sends."""
    found: list[Event] = []
    at = 0
    try:
        while at < len(data):
            reply = _Reply(data)
            end = reply.top(at, descend)
            if reply.is_header:
                found.append(("header", reply.count, end - at))
            else:
                found.append(("frame", reply.type, None if reply.chunked else reply.known(), end - at))
            at = end
    except _MoreError:
        pass
    except _BrokenError:
        found.append(("broken",))
    return found


class _Reply:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.type = "\0"
        self.is_header = self.chunked = self.null = self.ended = False
        self.count = self.nulls = self.leaves = self.integer = self.streams = 0
        self.first = self.head = b""

    def known(self) -> object:
        """What a framer says of a reply of this type."""
        if self.type in "+-!":
            return self.head[:256]
        if self.type == ":":
            return self.integer
        if self.type in "$=_":
            return self.null
        if self.type in "*>%~":
            return (self.null, self.count, self.nulls, *([self.first[:16]] if self.type in "*>" else []))
        return None

    def top(self, at: int, descend: bool) -> int:
        """Its end; with `descend` that of an array's header."""
        kind = self._type(at)
        if kind in ";.":
            raise _BrokenError
        if kind == "|":
            sign, number, end = self._header(at + 1)
            if not sign:
                return self.top(self._elements(end, 2 * number), descend)
            return self.value(at)  # streamed, or null: the framer takes it for all there is
        self.type = kind
        self.nulls = self.leaves = 0
        self.first = b""
        if kind in "*>%~":
            sign, number, end = self._header(at + 1)
            if sign == "-":
                self.null = True
                return end
            self.count = -1 if sign else number * (2 if kind == "%" else 1)
            self.is_header = descend and kind == "*" and not sign
            if self.is_header:
                return end
        end = self.value(at)
        self.null = self.leaves == 1 and self.nulls == 1 and kind in "$=_!"
        return end

    def value(self, at: int) -> int:
        """The end of one value; `ended` says that it was the end marker of a streamed aggregate instead."""
        kind = self._type(at)
        if kind in "+-:_#,(.":
            return self._line(kind, at + 1)
        sign, number, end = self._header(at + 1, kind)
        if kind in "$=!;":
            return self._string(kind, sign, number, end)
        if sign == "-":
            return self._leaf(end, null=True)
        if sign == "?":
            return self._streamed(end)
        return self._elements(end, number * 2 + 1 if kind == "|" else number * 2 if kind == "%" else number)

    def _type(self, at: int) -> str:
        if at >= len(self.data):
            raise _MoreError
        kind = chr(self.data[at])
        if kind not in "+-:_#,(.$=!;*%~>|":
            raise _BrokenError
        return kind

    def _leaf(self, end: int, *, null: bool = False) -> int:
        self.leaves += 1
        self.nulls += null
        return end

    def _line(self, kind: str, at: int) -> int:
        end = self.data.find(b"\n", at)
        if end < 0:
            raise _MoreError
        line = self.data[at:end]
        if kind == ".":
            if not self.streams:
                raise _BrokenError
            self.ended = True
            return end + 1
        if kind == ":":
            self.integer = 0
            for digit in re.findall(rb"[0-9]", line):
                if self.integer < 10**17:
                    self.integer = self.integer * 10 + int(digit)
            if b"-" in line:
                self.integer = -self.integer
        self.head = line
        return self._leaf(end + 1, null=kind == "_")

    def _header(self, at: int, kind: str = "*") -> tuple[str, int, int]:
        """Sign (none, - of a null, ? of a streamed form), number, and where it ends."""
        end = self.data.find(b"\n", at)
        text = self.data[at : end if end >= 0 else len(self.data)].replace(b"\r", b"")
        match = _LENIENT.fullmatch(text)
        if match is None or (end >= 0 and not text):
            raise _BrokenError
        if end < 0:
            raise _MoreError
        number = int(match[2] or 0)
        if kind not in "$=!;" and match[1] != b"-" and number > ELEMENTS_MAX:
            raise _BrokenError
        return match[1].decode(), number, end + 1

    def _string(self, kind: str, sign: str, number: int, at: int) -> int:
        self.chunked |= sign == "?" or kind == ";"
        if sign == "?":
            return self.value(at)
        if kind == ";" and number == 0:
            return self._leaf(at)
        if sign == "-":
            return self._leaf(at, null=True)
        end = at + number + 2
        if end > len(self.data):
            raise _MoreError
        if kind == ";":
            return self.value(end)
        self.head = self.data[at : end - 2]
        if self.leaves == 0:
            self.first = self.head
        return self._leaf(end)

    def _elements(self, at: int, number: int) -> int:
        for _ in range(number):
            at = self.value(at)
            if self.ended:  # the streamed aggregate around it has ended, and this with it
                break
        return at

    def _streamed(self, at: int) -> int:
        if self.streams == STREAM_DEPTH:
            raise _BrokenError
        self.streams += 1
        while not self.ended:
            at = self.value(at)
        self.ended = False
        self.streams -= 1
        return at
