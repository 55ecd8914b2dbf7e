"""Who is who for clients: CLIENT LIST, INFO and KILL with true addresses, where the engine knows only its Unix socket.

Owns the addresses in these commands and in their replies; who is behind which of the engine's clients the
supervisor knows. It never judges options of its own: what the engine would refuse, it gets as it came.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from sidecar.link import Link
from sidecar.relay.plan import Plan, encode

_NOBODY = (b"1", b"ADDR", b"none")
"""What follows ID where no client is meant."""

_ADDRESS_OPTIONS: dict[bytes, Callable[[bytes, bytes, bytes], bool]] = {
    b"addr": lambda address, _local, wanted: address == wanted,
    b"laddr": lambda _address, local, wanted: local == wanted,
    b"ip": lambda address, _local, wanted: host_of(address) == wanted,
    b"not-addr": lambda address, _local, wanted: address != wanted,
    b"not-laddr": lambda _address, local, wanted: local != wanted,
    b"not-ip": lambda address, _local, wanted: host_of(address) != wanted,
}
"""Whether a client (its address, its local address) meets an option of CLIENT LIST and CLIENT KILL."""

_ADDRESS = re.compile(rb"(^|\s)addr=\S+ laddr=\S+ fd=(-?\d+)(?:( name=\S* age=\d+ idle=\d+ flags=)(\w+))?")


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


class Clients:
    """Asks the supervisor over the link."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def listed(self, args: list[bytes]) -> Plan | Awaitable[Plan]:
        """CLIENT LIST or CLIENT INFO."""
        filters = _filters(args)
        if filters is not None and filters.addresses:
            return self._with_addresses(args, filters, self._true_addresses)
        return Plan(transform=self._true_addresses)

    async def _true_addresses(self, reply: bytes) -> bytes:
        """CLIENT LIST with the addresses of the clients, where the engine knows only its Unix socket."""
        text = text_of(reply)
        if text is None:
            return reply
        peers: dict[str, list[str]] = (await self._link.request("clients"))["clients"]

        def replace(match: re.Match[bytes]) -> bytes:
            begin, number, between, flags = match.groups()
            peer = peers.get(number.decode())
            if peer is None:
                return match[0]
            address = b"%baddr=%b laddr=%b fd=%b" % (begin, peer[0].encode(), peer[1].encode(), number)
            if between is None:
                return address
            if not peer[0].startswith("/"):  # U: it came over a Unix socket; N: there is nothing to say
                flags = flags.replace(b"U", b"") or b"N"
            return address + between + flags

        return as_text(reply, _ADDRESS.sub(replace, text))

    def killed(self, args: list[bytes]) -> Plan | Awaitable[Plan] | None:
        """CLIENT KILL in either form; None: it names no address."""
        if len(args) == 3:
            return self._kill_address(args)
        filters = _filters(args)
        if filters is None or not filters.addresses:
            return None
        return self._with_addresses(args, filters, None)

    async def _kill_address(self, args: list[bytes]) -> Plan:
        """CLIENT KILL ip:port, the old form: OK, or an error when there is no such client."""
        ids = await self._ids({b"addr": args[2]})
        return Plan(encode([*args[:2], b"ID", *(ids[:1] or _NOBODY), b"SKIPME", b"no"]), _old_form)

    async def _with_addresses(self, args: list[bytes], filters: _Filters, transform: Any) -> Plan:
        """CLIENT LIST or CLIENT KILL whose filters name addresses: the engine gets ids instead."""
        ids = await self._ids(filters.addresses)
        if filters.ids is not None:
            ids = [identifier for identifier in ids if int(identifier) in filters.ids]
        return Plan(encode([*args[:2], *filters.others, b"ID", *(ids or _NOBODY)]), transform)

    async def _ids(self, wanted: dict[bytes, bytes]) -> list[bytes]:
        """The engine's ids of the clients whose addresses are wanted (by option of CLIENT LIST)."""
        clients: list[list[str]] = (await self._link.request("client_ids"))["clients"]
        return [
            str(identifier).encode()
            for identifier, address, local in clients
            if all(
                _ADDRESS_OPTIONS[option](address.encode(), local.encode(), value) for option, value in wanted.items()
            )
        ]


@dataclass(frozen=True)
class _Filters:
    """The options of CLIENT LIST or KILL: those that name addresses, the ids if any, the others as they came."""

    addresses: dict[bytes, bytes]
    ids: frozenset[int] | None
    others: list[bytes]


def _filters(args: list[bytes]) -> _Filters | None:
    """None when they are not what the engine understands: it says so better."""
    addresses: dict[bytes, bytes] = {}
    ids: set[int] | None = None
    others: list[bytes] = []
    at = 2
    while at < len(args):
        option = args[at].lower()
        at += 1
        if option == b"id":
            ids = set() if ids is None else ids
            while at < len(args) and args[at].isdigit():
                ids.add(int(args[at]))
                at += 1
            if not ids or 0 in ids:
                return None
            continue
        if at == len(args):
            return None
        if option in _ADDRESS_OPTIONS:
            addresses[option] = args[at]
        else:
            others += args[at - 1 : at + 1]
        at += 1
    return _Filters(addresses, None if ids is None else frozenset(ids), others)


def _old_form(reply: bytes) -> bytes:
    if reply == b":0\r\n":
        return b"-ERR No such client\r\n"
    return b"+OK\r\n" if reply[:1] == b":" else reply
