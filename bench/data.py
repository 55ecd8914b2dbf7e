"""The commands of the comparison, and the data they meet.

Owns the keys and values, and writes them to a server once before it is measured. Never measures.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass

_LIMIT_S = 20.0
_BATCH = 500

_MEMBERS = 10_000
_FIELDS = 100
_KEYS = 100
_SMALL = "VXK"  # what redis-benchmark writes
_LARGE_BYTES = 10_000
_FIELD_BYTES = 10


class DataError(Exception):
    """A server did not take the data."""


@dataclass(frozen=True)
class Command:
    """A command as redis-benchmark sends it: __rand_int__ stands for twelve digits below `random`, where that is set.

    wire_bytes: request and reply together, about.
    """

    arguments: tuple[str, ...]
    wire_bytes: int
    random: int = 0


_MANY = tuple(f"bench:key:{number}" for number in range(_KEYS))

COMMANDS = {
    "GET": Command(("GET", "bench:small"), 50),
    "SET": Command(("SET", "bench:small", _SMALL), 50),
    "ZADD": Command(("ZADD", "bench:sorted", "__rand_int__", "member:__rand_int__"), 100, random=_MEMBERS),
    "HGETALL 100": Command(("HGETALL", "bench:hash"), 3_200),
    "MGET 100": Command(("MGET", *_MANY), 3_500),
    "GET 10 KB": Command(("GET", "bench:large"), _LARGE_BYTES),
    "SET 10 KB": Command(("SET", "bench:large", "x" * _LARGE_BYTES), _LARGE_BYTES),
}


def _encode(words: Sequence[str]) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word.encode()) for word in words)


def fill(port: int) -> None:
    """Writes what every command reads or replaces to the server at a loopback port. Raises DataError."""
    members = [word for number in range(_MEMBERS) for word in (str(number), f"member:{number:012}")]
    commands = [
        COMMANDS["SET"].arguments,
        COMMANDS["SET 10 KB"].arguments,
        ("MSET", *(word for key in _MANY for word in (key, "x" * _FIELD_BYTES))),
        ("HSET", "bench:hash", *(w for number in range(_FIELDS) for w in (f"field:{number}", "x" * _FIELD_BYTES))),
        *(("ZADD", "bench:sorted", *members[begin : begin + _BATCH]) for begin in range(0, len(members), _BATCH)),
    ]
    with (
        socket.create_connection(("127.0.0.1", port), timeout=_LIMIT_S) as connection,
        connection.makefile("rb") as replies,
    ):
        connection.sendall(b"".join(map(_encode, commands)))
        for command in commands:
            reply = replies.readline()
            if not reply.startswith((b"+OK", b":")):
                said = reply.decode(errors="replace").strip() or "the connection was closed"
                raise DataError(f"{command[0]} on port {port}: {said}")
