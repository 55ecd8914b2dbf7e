"""Commands that clients send by themselves: no span of their own, and a context passes over them.

Owns the list and how a name is found in it. `CLIENT *` stands for every subcommand and for CLIENT itself. Metrics count
them all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

HOUSEKEEPING: Final[tuple[str, ...]] = (
    "ASKING", "AUTH", "CLIENT *", "CLUSTER *", "COMMAND *", "CONFIG GET", "ECHO", "HELLO", "INFO", "PING", "QUIT", "READONLY",
    "READWRITE", "RESET", "SELECT", "SENTINEL *", "UNWATCH", "WATCH",
)  # fmt: skip

OWN_KEYS: Final = b"__Booksleeve_"
"""What the keys and channels of StackExchange.Redis itself begin with."""


def is_housekeeping(name: str, patterns: Iterable[str] = HOUSEKEEPING) -> bool:
    """Whether the command (upper-case, subcommand included: `CLIENT SETNAME`) is in the list."""
    head = name.partition(" ")[0]
    return any(pattern == name or pattern == f"{head} *" for pattern in patterns)
