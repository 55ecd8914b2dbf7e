"""What clients send by themselves, not for the application: no span, and a trace context passes over it.

Owns one list, which the server and the helper for clients share: what one of them takes for housekeeping, the other
must, too, or a context given for n commands (``TRACEPARENT … COUNT n``) would reach a neighbour. Never counts anything:
metrics show these commands like all others.

    >>> is_housekeeping("PING"), is_housekeeping("CLIENT SETNAME"), is_housekeeping("CONFIG SET")
    (True, True, False)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

HOUSEKEEPING: Final[tuple[str, ...]] = (
    "ASKING", "AUTH", "CLIENT *", "CLUSTER *", "COMMAND *", "CONFIG GET", "ECHO", "HELLO", "INFO", "PING", "QUIT",
    "READONLY", "READWRITE", "RESET", "SELECT", "SENTINEL *", "UNWATCH", "WATCH",
)  # fmt: skip
"""Upper-case names of commands, subcommand included; ``NAME *`` means NAME with any subcommand, and without one."""

KEY_PREFIX: Final = b"__Booksleeve_"
"""Commands on keys and channels that begin like this are StackExchange.Redis' own, and housekeeping as well."""


def is_housekeeping(name: str, patterns: Iterable[str] = HOUSEKEEPING) -> bool:
    """Whether a command is in the list. `name`: upper case, with its subcommand where it has one, no arguments."""
    wildcard = f"{name.partition(' ')[0]} *"
    return any(pattern in (name, wildcard) for pattern in patterns)
