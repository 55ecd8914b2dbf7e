"""A line of CLIENT LIST, as it would be if the engine listened itself.

Owns what a line says, and the line of a client that has no connection to the engine now. It knows no session.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

from sidecar.relay.client_filters import true_flags
from sidecar.relay.commands import OTHER

_RESTING = {
    b"sub": b"0",
    b"psub": b"0",
    b"ssub": b"0",
    b"multi": b"-1",
    b"watch": b"0",
    b"qbuf": b"0",
    b"qbuf-free": b"0",
    b"argv-mem": b"0",
    b"multi-mem": b"0",
    b"rbs": b"1024",
    b"rbp": b"0",
    b"obl": b"0",
    b"oll": b"0",
    b"omem": b"0",
    b"tot-mem": b"1928",
    b"events": b"r",
    b"redir": b"-1",
    b"tot-net-in": b"0",
    b"tot-net-out": b"0",
    b"tot-cmds": b"0",
}
"""What Valkey shows for a client that has rested for a minute, where nothing else decides it."""

_DEFAULT_FIELDS = (
    b"id addr laddr fd name age idle flags capa db sub psub ssub multi watch qbuf qbuf-free argv-mem multi-mem rbs rbp "
    b"obl oll omem tot-mem events cmd user redir resp lib-name lib-ver tot-net-in tot-net-out tot-cmds"
).split()
"""Of Valkey 9.1."""


Shown = tuple[int, str, str, int, int, str]
"""What the engine can't know about a client: id, address, local address, age and idle time in seconds, last command."""


def descriptor_of(line: bytes) -> int:
    """The engine's descriptor in a line of CLIENT LIST, -1 where there is none."""
    digits = line.partition(b" fd=")[2].partition(b" ")[0]
    return int(digits) if digits.isdigit() else -1


@cache
def command_shown(name: str) -> bytes:
    """A command of the table as CLIENT LIST spells it: `config|get`."""
    return b"NULL" if name in ("", OTHER) else name.lower().replace(" ", "|").encode()


class Listed(NamedTuple):
    """What our own filters may ask about a client with a connection to the engine; the engine judges the rest."""

    address: bytes
    local: bytes
    flags: bytes
    age_s: int
    idle_s: int
    name: bytes = b""
    user: bytes = b""
    database: int = 0
    library: bytes = b""
    library_version: bytes = b""


def facts_in(line: bytes, shown: Shown, *, times: bool) -> Listed:
    """What the engine's line of a client tells filters, with what we know.

    times: use our age and idle time; the engine's are those of one of several connections of the client.
    """
    _, _, rest = line.partition(b" age=")
    age, _, rest = rest.partition(b" idle=")
    idle, _, rest = rest.partition(b" flags=")
    flags = rest.partition(b" ")[0]
    _id, peer, local, age_s, idle_s, _command = shown
    if not times:
        age_s, idle_s = int(age), int(idle)
    address = peer.encode()
    return Listed(address, local.encode(), true_flags(flags, address), age_s, idle_s)


class LineForm:
    """The form of an engine's lines: which fields they have. Learned from any of them."""

    def __init__(self, line: bytes = b"") -> None:
        self.line = line
        names = [field.partition(b"=")[0] for field in line.split(b" ") if b"=" in field] or _DEFAULT_FIELDS
        self._before = names[: names.index(b"age")]
        self._after = names[names.index(b"idle") + 1 :]

    def around_times(self, values: Mapping[bytes, bytes]) -> tuple[bytes, bytes]:
        """The line of a client without a connection to the engine: the parts before and after its times.

        values: by field name; a missing field gets the value that a resting client has.
        """
        known = {**_RESTING, **values}
        before, after = ([name + b"=" + known.get(name, b"") for name in part] for part in (self._before, self._after))
        return b" ".join(before), b" ".join(after)
