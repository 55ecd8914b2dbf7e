"""Bytes to try framers with: good requests and replies to begin with, and what becomes of them.

Owns grammar and mutations; whatever is random comes from the generator that it is given. It runs no framer.
"""

from __future__ import annotations

import itertools
import random
from typing import Final

_TOKENS: Final = [
    *(b"\r", b"\n", b"\r\n", b"*", b"$", b"-", b"?", b"0", b"9", b"\x00", b":", b";", b".", b"|", b"%", b"~", b">", b"=", b"!", b"_", b"(", b","),
    *(b"$0\r\n\r\n", b"$-1\r\n", b"*-1\r\n", b"*0\r\n", b"$?\r\n", b";0\r\n", b"*?\r\n", b".\r\n", b"*1\r\n", b"|1\r\n", b"%1\r\n", b"_\r\n", b">2\r\n"),
    *(b"$3\r\nGET\r\n", b"$6\r\nCONFIG\r\n", b"$5\r\nXREAD\r\n", b"$5\r\nblock\r\n", b"$7\r\nstreams\r\n", b"$1048577\r\nget\x00", b"$8\r\nSENTINEL\r\n"),
    *(b"2147483647", b"2147483648", b"99999999999999999", b"100000000000000000", b"999999999999999999", b"9223372036854775807"),
    *(b"18446744071562067968", b"-9223372036854775808", b"1099511627776", b"1099511627777", b"4611686018427387904", b"00", b"-0"),
]  # fmt: skip
_ARGUMENTS: Final = [
    *(b"GET", b"get", b"SET", b"CONFIG", b"cOnFiG", b"RESETSTAT", b"BLPOP", b"XREAD", b"XREADGROUP", b"GROUP", b"COUNT", b"BLOCK", b"STREAMS"),
    *(b"TRACEPARENT", b"client", b"no-evict", b"GET\x00", b"CONFIG\x00x", b"\x00", b"", b"k", b"\r\n", b"$5\r\nblock\r\n", b"GEORADIUSBYMEMBER_RO"),
    *(b"SENTINEL", b"masters", b"Json.Set", b"SENTINEL\x00x", b"masters\x00"),
    *(b"n" * 127, b"n" * 128, b"n" * 255, b"n" * 256, b"n" * 257, b"x" * 300, b"1", b"0", b"-1", b"99999999999999999999"),
]  # fmt: skip
_CORPUS_MAX: Final = 5_000


def requests(rng: random.Random) -> list[bytes]:
    """Some streams of good requests, inline ones among them."""
    return [b"".join(_request(rng) for _ in range(rng.choice((1, 2, 8, 30)))) for _ in range(40)]


def _request(rng: random.Random) -> bytes:
    if rng.random() < 0.1:
        return rng.choice((b"PING\r\n", b"\r\n", b"\n", b"get k\n", b'set "a b" c\r\n', b"*0\r\n", b"*-1\r\n"))
    args = [rng.choice(_ARGUMENTS) for _ in range(rng.choice((1, 1, 2, 2, 3, 3, 4, 7, 12)))]
    return b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in args)


def replies(rng: random.Random) -> list[bytes]:
    """Some streams of good replies and pushes of both protocols."""
    return [b"".join(_reply(rng, 3) for _ in range(rng.choice((1, 2, 8, 30)))) for _ in range(40)]


def _reply(rng: random.Random, depth: int) -> bytes:
    kind = rng.choice("+-:$$_#,(=!*%~>|?*%~>" if depth else "+-:$$_#,(=!?")
    if kind in "+-,(":
        return kind.encode() + rng.choice((b"OK", b"", b"QUEUED", b"ERR no", b"1.5", b"x" * 300)) + b"\r\n"
    if kind == ":":
        return b":%d\r\n" % rng.choice((0, 1, -1, 10**17, 2**63 - 1, -(2**63)))
    if kind in "_#":
        return rng.choice((b"_\r\n", b"#t\r\n", b"#f\r\n", b"$-1\r\n", b"*-1\r\n"))
    if kind in "$=!":
        body = rng.choice((b"", b"message", b"txt:x", b"ERR big", b"\r\n", b"y" * 20, b"z" * 300))
        return kind.encode() + b"%d\r\n%b\r\n" % (len(body), body)
    inner = [_reply(rng, depth - 1) if depth else b";1\r\nx\r\n" for _ in range(2 * rng.randrange(3))]
    if kind == "?" or not depth:
        return (
            rng.choice((b"*?\r\n", b"~?\r\n")) + b"".join(inner) + b".\r\n"
            if depth
            else b"$?\r\n" + b"".join(inner) + b";0\r\n"
        )
    count = len(inner) // 2 if kind in "%|" else len(inner)
    return kind.encode() + b"%d\r\n" % count + b"".join(inner) + (_reply(rng, depth - 1) if kind == "|" else b"")


def cuts(rng: random.Random, size: int) -> list[int]:
    """Where to cut so many bytes."""
    return sorted({rng.randrange(1, size) for _ in range(rng.choice((1, 2, 5, 20)))}) if size > 1 else []


class Corpus:
    """What inputs are made of: the first ones, and those that were worth keeping."""

    def __init__(self, first: list[bytes]) -> None:
        self._kept = first

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, data: bytes) -> None:
        if len(self._kept) < _CORPUS_MAX and data:
            self._kept.append(data)

    def make(self, rng: random.Random) -> bytes:
        """One of them, changed in a few places."""
        changed = bytearray(rng.choice(self._kept))
        for _ in range(rng.choice((0, 1, 1, 2, 4, 8))):
            self._change(rng, changed)
        return bytes(changed)

    def _change(self, rng: random.Random, data: bytearray) -> None:
        at = rng.randrange(len(data) + 1)
        how = rng.randrange(9)
        if how == 0:
            data[at:at] = rng.choice(_TOKENS)
        elif how == 1:
            token = rng.choice(_TOKENS)
            data[at : at + len(token)] = token
        elif how == 2:
            del data[at : at + rng.randint(1, 12)]
        elif how == 3:
            data[at:at] = data[at : at + rng.randint(1, 40)] * rng.choice((1, 1, 2, 70))
        elif how == 4:
            other = rng.choice(self._kept)
            begin = rng.randrange(len(other) + 1)
            data[at:] = other[begin:]
        elif how == 5:
            del data[at:]
        elif at < len(data):
            if how == 6:
                data[at] ^= 1 << rng.randrange(8)
            elif how == 7:
                data[at] = rng.randrange(256)
            else:
                _change_number(rng, data, at)


def _change_number(rng: random.Random, data: bytearray, at: int) -> None:
    """The number at this place, or the next one behind it."""
    is_digit = [48 <= byte <= 57 for byte in data[at : at + 100]]
    if True not in is_digit:
        return
    begin = at + is_digit.index(True)
    end = begin + sum(1 for _ in itertools.takewhile(bool, is_digit[begin - at :]))
    number = int(data[begin:end])
    data[begin:end] = b"%d" % rng.choice(
        (number + 1, max(0, number - 1), number * 10, 2**31 - 1, 2**31, 10**17 - 1, 10**17, 10**18 - 1)
    )
