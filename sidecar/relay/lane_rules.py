"""Commands whose meaning depends on the connections to the engine, where sessions share some.

Owns what must happen before such a command reaches the engine (lanes are suspended, or every client gets its own
connection) and what the supervisor is told of its answer. It is asked only where there are lanes, and refuses nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from sidecar.link import Link
from sidecar.relay.plan import Plan, word
from sidecar.relay.waits import Waits

if TYPE_CHECKING:
    from sidecar.relay.clients import Clients
    from sidecar.relay.session import Session

HELD_FOR_LANES: frozenset[str] = frozenset(
    {
        "ACL DELUSER",
        "ACL LOAD",
        "ACL SETUSER",
        "CLIENT GETREDIR",
        "CLIENT ID",
        "CLIENT PAUSE",
        "CLIENT TRACKING",
        "CLIENT TRACKINGINFO",
        "CLIENT UNBLOCK",
        "CLIENT UNPAUSE",
        "FAILOVER",
        "SHUTDOWN",
        "WAIT",
        "WAITAOF",
    }
)
"""Names of the command table that are seen whole where there are lanes, besides those of `special.py`."""

OF_IDENTITY = frozenset({b"requirepass"})
"""Settings after which a client that is logged in might not get in again."""


async def without_lanes(link: Link, *, milliseconds: int | None = None, close: bool = False) -> Plan:
    """Suspend the lanes before a command is forwarded, and tell when it was answered.

    milliseconds: for how long the command pauses clients, where it says so. close: there must not even be a lane.
    """
    number = None
    with contextlib.suppress(TimeoutError, ConnectionError):  # no reason to refuse the command
        number = (await link.request("suspend_lanes", {"close": close})).get("pause")

    def answered(reply: bytes) -> bytes:
        link.send("pause_answered", {"pause": number, "done": reply[:1] == b"+", "milliseconds": milliseconds})
        return reply

    return Plan(transform=answered)


def _takes_away(rule: bytes) -> bool:
    """Whether a rule of ACL SETUSER may keep somebody from logging in again, or from what its connection needs then."""
    return rule[:1] in (b"-", b"<", b"!") or word(rule) in (b"off", b"reset", b"resetpass", b"nocommands")


class LaneRules:
    """Decides about HELD_FOR_LANES: see `handlers`."""

    def __init__(self, link: Link, clients: Clients) -> None:
        self._link = link
        self._waits = Waits()
        self.handlers: dict[str, Callable[[Session, list[bytes], bytes], Plan | Awaitable[Plan | None] | None]] = {
            "ACL DELUSER": lambda _session, args, _request: clients.users_deleted(args),
            "ACL LOAD": self._users_loaded,
            "ACL SETUSER": self._user_changed,
            "CLIENT GETREDIR": lambda _session, _args, _request: Plan(transform=clients.redirection),
            "CLIENT ID": lambda session, _args, _request: clients.own_id(session),
            "CLIENT PAUSE": self._pause,
            "CLIENT TRACKING": lambda _session, args, _request: clients.tracked(args),
            "CLIENT TRACKINGINFO": lambda _session, _args, _request: Plan(transform=clients.redirection),
            "CLIENT UNBLOCK": lambda _session, args, _request: clients.unblocked(args),
            "CLIENT UNPAUSE": self._unpause,
            "FAILOVER": self._pause,
            "SHUTDOWN": self._pause,
            "WAIT": self._wait,
            "WAITAOF": self._wait,
        }

    async def bring_home(self, user: bytes | None = None) -> None:
        """Who is logged in keeps its connection to the engine: opening another might be refused from now on.

        user: only who is logged in as this one.
        """
        users = None if user is None else [user.decode("latin-1")]
        with contextlib.suppress(TimeoutError, ConnectionError):  # no reason to refuse the command
            await self._link.request("bring_home", {"keep": True, "users": users})

    async def _users_loaded(self, session: Session, args: list[bytes], request: bytes) -> Plan | None:
        if not session.stranger:
            await self.bring_home()
        return None

    def _user_changed(self, session: Session, args: list[bytes], request: bytes) -> Awaitable[Plan | None] | None:
        if session.stranger or not any(map(_takes_away, args[3:])):
            return None
        return self._before_change(args[2])

    async def _before_change(self, user: bytes) -> Plan | None:
        await self.bring_home(user)
        return None

    async def _pause(self, session: Session, args: list[bytes], request: bytes) -> Plan | None:
        """A command that may make the engine pause clients: then nothing may be on a lane."""
        if session.stranger:
            return None
        is_pause = len(args) > 2 and word(args[1]) == b"pause" and args[2].isdigit()
        return await without_lanes(self._link, milliseconds=int(args[2]) if is_pause else None)

    def _unpause(self, session: Session, args: list[bytes], request: bytes) -> Plan:
        def answered(reply: bytes) -> bytes:
            if reply[:1] == b"+":
                self._link.send("unpaused")
            return reply

        return Plan(transform=answered)

    def _wait(self, session: Session, args: list[bytes], request: bytes) -> Plan | Awaitable[Plan]:
        return self._waits.decide(session, args)
