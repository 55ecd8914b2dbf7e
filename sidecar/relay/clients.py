"""Who is who for clients: CLIENT LIST, INFO and KILL as if the engine listened itself, and shared no connection.

Owns what these commands and their replies say of a client that the engine cannot know (its addresses; with lanes its
age and what it did last), and that our own connections are no clients; who is behind which of the engine's clients the
supervisor knows. It never judges options of its own: what the engine would refuse, it gets as it came.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from sidecar.link import Body, Link
from sidecar.relay.commands import OTHER
from sidecar.relay.lane_rules import without_lanes
from sidecar.relay.plan import Plan, encode, word

Peers = dict[str, list[Any]]
"""By the engine's descriptor, a client's address and the one that it came to, both "" for our own connections.

Where there are lanes also the client's age and idle time, in seconds, and the name of its last command.
"""

_ID_DIGITS = 19
"""The engine's ids are 64-bit numbers."""

_UNAUTHENTICATED_MOST = 10
"""Valkey closes the connection of who sends more arguments before it has authenticated."""

_ASK_AGAIN = b"-ERR valkey-sidecar: too many clients for the first command of a connection, send it again\r\n"

_NOBODY = (b"1", b"ADDR", b"none")
"""What follows ID where no client is meant."""

_OPTIONS: dict[bytes, Callable[[_Client, bytes], bool]] = {
    b"addr": lambda client, wanted: client.address == wanted,
    b"laddr": lambda client, wanted: client.local == wanted,
    b"ip": lambda client, wanted: host_of(client.address) == wanted,
    b"flags": lambda client, wanted: client.has_flags(wanted),
    b"not-addr": lambda client, wanted: client.address != wanted,
    b"not-laddr": lambda client, wanted: client.local != wanted,
    b"not-ip": lambda client, wanted: host_of(client.address) != wanted,
    b"not-flags": lambda client, wanted: not client.has_flags(wanted),
    b"maxage": lambda client, wanted: client.age_s >= int(wanted),
    b"idle": lambda client, wanted: client.idle_s >= int(wanted),
}
"""Whether a client meets an option of CLIENT LIST and CLIENT KILL that the engine would judge by its Unix socket."""

_OF_TIME = frozenset({b"maxage", b"idle"})
"""Those that the engine judges rightly where there are no lanes: every client has had its connection all the time."""

_FLAGS = frozenset(b"OSMPxbtRBdcuAUreTIiEN")
"""What Valkey takes for flags (networking.c, validateClientFlagFilter)."""

_ADDRESS = re.compile(rb"(^|\s)addr=\S+ laddr=\S+ fd=(-?\d+)(?:( name=\S*)( age=\d+ idle=\d+)( flags=)(\w+))?")
_COMMAND = re.compile(rb"(?<= cmd=)\S+")


def host_of(address: bytes) -> bytes:
    """The address without its port."""
    return address.rpartition(b":")[0].strip(b"[]")


def text_of(reply: bytes) -> bytes | None:
    """The text of a bulk or verbatim string reply; None when it is something else."""
    head, _, rest = reply.partition(b"\r\n")
    if head[:1] == b"$" and head != b"$-1":
        return rest[:-2]
    if head[:1] == b"=":
        return rest[4:-2]
    return None


def as_text(reply: bytes, text: bytes) -> bytes:
    """The text as the same kind of string as the reply it came from."""
    if reply[:1] == b"=":
        return b"=%d\r\n%b%b\r\n" % (len(text) + 4, reply.partition(b"\r\n")[2][:4], text)
    return b"$%d\r\n%b\r\n" % (len(text), text)


def _true_flags(flags: bytes, address: bytes) -> bytes:
    """U: it came over a Unix socket, whose address is a path; N: there is nothing to say."""
    return flags if address.startswith((b"/", b"[/")) else flags.replace(b"U", b"") or b"N"


def _only(reply: bytes, ids: list[bytes]) -> bytes:
    """CLIENT LIST with the lines of these clients."""
    text = text_of(reply)
    if text is None:
        return reply
    wanted = {b"id=%b" % identifier for identifier in ids}
    lines = [line for line in text.splitlines(keepends=True) if line.partition(b" ")[0] in wanted]
    return as_text(reply, b"".join(lines))


def _true_line(line: bytes, peers: Peers) -> bytes:
    """A line of CLIENT LIST; nothing for our own connections, which the supervisor gives no address."""
    match = _ADDRESS.search(line)
    peer = None if match is None else peers.get(match[2].decode())
    if match is None or peer is None:
        return line
    begin, number, name, times, between, flags = match.groups()
    address, local = peer[0].encode(), peer[1].encode()
    if not address:
        return b""
    rest = line[match.end() :]
    if len(peer) > 2:
        times = b" age=%d idle=%d" % (peer[2], peer[3])
        rest = _COMMAND.sub(_command_shown(peer[4]), rest, count=1)
    shown = b"%baddr=%b laddr=%b fd=%b" % (begin, address, local, number)
    if name is not None:
        shown += name + times + between + _true_flags(flags, address)
    return line[: match.start()] + shown + rest


def _command_shown(name: str) -> bytes:
    """A command of the table as CLIENT LIST spells it: `config|get`."""
    return b"NULL" if name in ("", OTHER) else name.lower().replace(" ", "|").encode()


@dataclass(frozen=True)
class _Client:
    """A client as it is, not as the engine sees it."""

    address: bytes
    local: bytes
    flags: bytes
    age_s: int
    idle_s: int

    @classmethod
    def of(cls, address: str, local: str, flags: str, age_s: int, idle_s: int) -> _Client:
        """From what the supervisor says: true addresses and times, the engine's flags."""
        return cls(address.encode(), local.encode(), _true_flags(flags.encode(), address.encode()), age_s, idle_s)

    def has_flags(self, wanted: bytes) -> bool:
        flags = frozenset(self.flags)
        # A MONITOR is a replica, too; CLIENT LIST shows the first only.
        return flags.issuperset(wanted) or (b"O" in self.flags and flags.union(b"S").issuperset(wanted))


class Clients:
    """Asks the supervisor over the link. settings is the live dict of the worker's settings."""

    def __init__(self, link: Link, settings: Body) -> None:
        self._link = link
        self._settings = settings

    async def listed(self, args: list[bytes]) -> Plan:
        """CLIENT LIST or CLIENT INFO."""
        # Before and after: who asks may be gone when the reply is there, who came since is not known yet.
        # Who asks only for itself asks over its own connection.
        before = await self._peers(home=word(args[1]) == b"list")
        filters = _filters(args, lanes=self._settings["lanes"])
        if filters is None or not filters.ours:
            return Plan(transform=lambda reply: self._true_addresses(reply, before))
        wanted, error = await self._ids(filters.ours)
        if error:
            return Plan(transform=_unless_refused(_cannot_tell(error)))
        ids = [] if filters.ids is None else [b"ID", *(b"%d" % identifier for identifier in filters.ids)]

        async def filtered(reply: bytes) -> bytes:
            return await self._true_addresses(_only(reply, wanted), before)

        return Plan(encode([*args[:2], *filters.others, *ids]), filtered)

    async def _peers(self, *, home: bool = False) -> Peers:
        """home: first every client gets its own connection to the engine."""
        peers: Peers = (await self._link.request("clients", {"home": home}))["clients"]
        return peers

    async def _true_addresses(self, reply: bytes, before: Peers) -> bytes:
        """CLIENT LIST with true addresses, where the engine knows only its Unix socket; without ourselves."""
        text = text_of(reply)
        if text is None:
            return reply
        peers = {**before, **await self._peers()}
        return as_text(reply, b"".join(_true_line(line, peers) for line in text.splitlines(keepends=True)))

    def killed(self, args: list[bytes], *, trusted: bool) -> Awaitable[Plan | None] | None:
        """CLIENT KILL in either form; None: the engine knows whom it means.

        trusted: the engine takes more than ten arguments from this client, as it has authenticated or need not.
        """
        if len(args) == 3:
            return self._kill_address(args)
        filters = _filters(args, lanes=self._settings["lanes"])
        if filters is None:
            return None
        if filters.ours:
            return self._kill_ids(args, filters, trusted)
        return self._kill_judged(args, filters, trusted)

    async def _kill_judged(self, args: list[bytes], filters: _Filters, trusted: bool) -> Plan | None:
        """CLIENT KILL with filters that the engine judges: it must spare our own connections, if it knows how to."""
        if filters.ids is not None:  # they are not among these
            if self._settings["lanes"]:
                await self._link.request("bring_home", {"keep": False})
            return None
        answer = await self._link.request("client_ids", {"home": True})
        spared = [identifier.encode() for identifier in answer.get("spared", [])]
        if not spared:  # it knows no way
            return await without_lanes(self._link, close=True) if self._settings["lanes"] else None
        words = [*args, b"NOT-ID", *spared]
        if not trusted and len(words) > _UNAUTHENTICATED_MOST:
            return Plan(encode([*args[:2], b"ID", *_NOBODY]), _unless_refused(_ASK_AGAIN))
        return Plan(encode(words))

    async def _kill_address(self, args: list[bytes]) -> Plan:
        """CLIENT KILL ip:port, the old form: OK, or an error when there is no such client."""
        ids, error = await self._ids({b"addr": args[2]}, home=True)
        request = encode([*args[:2], b"ID", *(ids[:1] or _NOBODY), b"SKIPME", b"no"])
        return Plan(request, _unless_refused(_cannot_tell(error)) if error else _old_form)

    async def _kill_ids(self, args: list[bytes], filters: _Filters, trusted: bool) -> Plan:
        """CLIENT KILL with filters that are ours to judge: the engine gets ids instead."""
        ids, error = await self._ids(filters.ours, home=True)
        if filters.ids is not None:
            ids = [identifier for identifier in ids if int(identifier) in filters.ids]
        words = [*args[:2], *filters.others, b"ID", *(ids or _NOBODY)]
        if not trusted and len(words) > _UNAUTHENTICATED_MOST:
            return Plan(encode([*args[:2], b"ID", *_NOBODY]), _unless_refused(_ASK_AGAIN))
        return Plan(encode(words), _unless_refused(_cannot_tell(error)) if error else None)

    async def _ids(self, wanted: dict[bytes, bytes], *, home: bool = False) -> tuple[list[bytes], str]:
        """The engine's ids of the clients that are wanted (by option of CLIENT LIST); or why they are not known."""
        answer = await self._link.request("client_ids", {"home": home})
        clients: list[list[Any]] = answer.get("clients", [])
        found = [
            identifier.encode()
            for identifier, *words in clients
            if all(_OPTIONS[option](_Client.of(*words), value) for option, value in wanted.items())
        ]
        return found, answer.get("error", "")


@dataclass(frozen=True)
class _Filters:
    """The options of CLIENT LIST or KILL: those that are ours to judge, the ids if any, the others as they came."""

    ours: dict[bytes, bytes]
    ids: frozenset[int] | None
    others: list[bytes]


def _filters(args: list[bytes], *, lanes: bool) -> _Filters | None:
    """None when they are not what the engine understands: it says so better."""
    ours: dict[bytes, bytes] = {}
    ids: set[int] | None = None
    others: list[bytes] = []
    at = 2
    while at < len(args):
        option = word(args[at])
        at += 1
        if option == b"id":
            ids = set() if ids is None else ids
            while at < len(args) and args[at].isdigit() and len(args[at]) <= _ID_DIGITS:
                ids.add(int(args[at]))
                at += 1
            if not ids or 0 in ids:
                return None
            continue
        if at == len(args):
            return None
        value = args[at]
        judged = value.partition(b"\0")[0]  # a C string to the engine
        if option == b"not-id":
            others.append(args[at - 1])
            while at < len(args) and args[at].isdigit():
                others.append(args[at])
                at += 1
            continue
        if option in _OPTIONS and _is_understood(option, judged, lanes=lanes):
            ours[option] = judged
        else:
            others += args[at - 1 : at + 1]
        at += 1
    return _Filters(ours, None if ids is None else frozenset(ids), others)


def _is_understood(option: bytes, value: bytes, *, lanes: bool) -> bool:
    """Whether an option that may be ours to judge is, with this value."""
    if option in (b"flags", b"not-flags"):
        return _FLAGS.issuperset(value)
    if option in _OF_TIME:
        return lanes and value.isdigit() and len(value) < _ID_DIGITS and int(value) > 0
    return True


def _cannot_tell(error: str) -> bytes:
    text = f"-ERR valkey-sidecar cannot tell clients apart, because the engine refuses its own connection: {error}\r\n"
    return text.encode("utf-8", "surrogateescape")


def _unless_refused(answer: bytes) -> Callable[[bytes], bytes]:
    """This answer, unless the engine refuses the command anyway."""
    return lambda reply: reply if reply[:1] == b"-" else answer


def _old_form(reply: bytes) -> bytes:
    if reply == b":0\r\n":
        return b"-ERR No such client\r\n"
    return b"+OK\r\n" if reply[:1] == b":" else reply
