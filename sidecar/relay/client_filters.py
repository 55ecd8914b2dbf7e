"""The options of CLIENT LIST and CLIENT KILL: which clients they mean.

Owns reading them from the arguments, and judging what the engine can't: addresses and times of clients that it sees on
a Unix socket, and clients that have no connection to it now. It refuses nothing: what the engine would refuse reaches
the engine as it came.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sidecar.relay.plan import word

_ID_DIGITS = 19
"""The engine's ids are 64-bit numbers."""

_FLAGS = frozenset(b"OSMPxbtRBdcuAUreTIiEN")
"""What Valkey takes for flags (networking.c, validateClientFlagFilter)."""


def is_id(argument: bytes) -> bool:
    """Whether this may be a client's id."""
    return argument.isdigit() and len(argument) <= _ID_DIGITS


def host_of(address: bytes) -> bytes:
    """The address without its port."""
    return address.rpartition(b":")[0].strip(b"[]")


def true_flags(flags: bytes, address: bytes) -> bytes:
    """U: it came over a Unix socket, whose address has the port 0; N: there is nothing to say."""
    return flags if address.endswith(b":0") else flags.replace(b"U", b"") or b"N"


def has_ip(address: bytes, wanted: bytes) -> bool:
    """Valkey's filter IP (networking.c, clientMatchesIpFilter): a Unix socket's address, of port 0, never meets it."""
    rest = address.removeprefix(b"[")
    if not rest.startswith(wanted):
        return False
    rest = rest[len(wanted) :].removeprefix(b"]")
    return rest[:1] == b":" and rest[1:2] != b"0"


class Facts(Protocol):
    """What filters may ask about a client. flags: as CLIENT LIST shows them. From `name` on: parked clients only."""

    @property
    def address(self) -> bytes: ...
    @property
    def local(self) -> bytes: ...
    @property
    def flags(self) -> bytes: ...
    @property
    def age_s(self) -> int: ...
    @property
    def idle_s(self) -> int: ...
    @property
    def name(self) -> bytes: ...
    @property
    def user(self) -> bytes: ...
    @property
    def database(self) -> int: ...
    @property
    def library(self) -> bytes: ...
    @property
    def library_version(self) -> bytes: ...


def _has_flags(client: Facts, wanted: bytes) -> bool:
    flags = frozenset(client.flags)
    # A MONITOR is a replica, too; CLIENT LIST shows the first only.
    return flags.issuperset(wanted) or (b"O" in client.flags and flags.union(b"S").issuperset(wanted))


_Judge = Callable[[Facts, bytes], bool]

_OURS: dict[bytes, _Judge] = {
    b"addr": lambda client, wanted: client.address == wanted,
    b"laddr": lambda client, wanted: client.local == wanted,
    b"ip": lambda client, wanted: has_ip(client.address, wanted),
    b"flags": lambda client, wanted: _has_flags(client, wanted),
    b"not-addr": lambda client, wanted: client.address != wanted,
    b"not-laddr": lambda client, wanted: client.local != wanted,
    b"not-ip": lambda client, wanted: not has_ip(client.address, wanted),
    b"not-flags": lambda client, wanted: not _has_flags(client, wanted),
    b"maxage": lambda client, wanted: client.age_s >= int(wanted),
    b"idle": lambda client, wanted: client.idle_s >= int(wanted),
}
"""Options that the engine would judge by its Unix socket."""

_OF_TIME = frozenset({b"maxage", b"idle"})
"""Those that the engine judges correctly without lanes: then every client has had its connection all the time."""

_ENGINES: dict[bytes, _Judge] = {
    b"type": lambda _client, wanted: wanted.lower() == b"normal",
    b"user": lambda client, wanted: client.user == wanted,
    b"name": lambda client, wanted: client.name == wanted,
    b"lib-name": lambda client, wanted: client.library == wanted,
    b"lib-ver": lambda client, wanted: client.library_version == wanted,
    b"db": lambda client, wanted: b"%d" % client.database == wanted,
    b"capa": lambda _client, _wanted: False,
    b"skipme": lambda _client, _wanted: True,
    b"not-type": lambda _client, wanted: wanted.lower() != b"normal",
    b"not-user": lambda client, wanted: client.user != wanted,
    b"not-name": lambda client, wanted: client.name != wanted,
    b"not-lib-name": lambda client, wanted: client.library != wanted,
    b"not-lib-ver": lambda client, wanted: client.library_version != wanted,
    b"not-db": lambda client, wanted: b"%d" % client.database != wanted,
    b"not-capa": lambda _client, _wanted: True,
}
"""Options that the engine judges, except for parked clients: about those we know everything it would."""

_ALL = {**_ENGINES, **_OURS}


def _nobody(_client: Facts, _wanted: bytes) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Filters:
    """The options of one CLIENT LIST or CLIENT KILL.

    ours: the ones we judge for every client; others: the rest as it came, without ids; ids, not_ids: from ID and
    NOT-ID, None without them; values: of all options except the ids.
    """

    ours: dict[bytes, bytes]
    others: list[bytes]
    ids: list[int] | None
    not_ids: list[int] | None
    values: dict[bytes, bytes]

    @property
    def admits_all(self) -> bool:
        """Whether no client is excluded."""
        return not self.values and self.ids is None and self.not_ids is None

    def admits_id(self, client_id: int) -> bool:
        return (self.ids is None or client_id in self.ids) and (self.not_ids is None or client_id not in self.not_ids)

    def admits(self, client: Facts) -> bool:
        """Whether our own options admit a client with a connection to the engine; the engine judges the others."""
        return all(_OURS[option](client, value) for option, value in self.ours.items())

    def admits_parked(self, client_id: int, client: Facts) -> bool:
        """Whether a client without a connection is meant. An option that we don't know admits none."""
        if not self.admits_id(client_id):
            return False
        return all(_ALL.get(option, _nobody)(client, value) for option, value in self.values.items())


REFUSED = Filters({}, [], None, None, {b"": b""})
"""For arguments that the engine doesn't understand: they mean no client."""


def filters_of(args: Sequence[bytes], *, lanes: bool) -> Filters | None:
    """From the command's arguments. None when the engine doesn't understand them: its own error is better."""
    found = Filters({}, [], None, None, {})
    ids: list[int] | None = None
    not_ids: list[int] | None = None
    at = 2
    while at < len(args):
        option = word(args[at])
        at += 1
        if option in (b"id", b"not-id"):
            numbers: list[int] = []
            while at < len(args) and is_id(args[at]):
                numbers.append(int(args[at]))
                at += 1
            if not numbers or 0 in numbers:
                return None
            if option == b"id":
                ids = (ids or []) + numbers
            else:
                not_ids = (not_ids or []) + numbers
            continue
        if at == len(args):
            return None
        judged = args[at].partition(b"\0")[0]  # a C string to the engine
        found.values[option] = judged
        if option in _OURS and _is_understood(option, judged, lanes=lanes):
            found.ours[option] = judged
        else:
            found.others.extend(args[at - 1 : at + 1])
        at += 1
    return Filters(found.ours, found.others, ids, not_ids, found.values)


def _is_understood(option: bytes, value: bytes, *, lanes: bool) -> bool:
    """Whether an option that we may judge has a value that the engine would accept."""
    if option in (b"flags", b"not-flags"):
        return _FLAGS.issuperset(value)
    if option in _OF_TIME:
        return lanes and value.isdigit() and len(value) < _ID_DIGITS and int(value) > 0
    return True
