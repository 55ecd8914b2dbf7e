"""WAIT and WAITAOF of a session whose writes went by lane.

The engine waits for the last write of the connection that asks. So the lane that carried the session's last write is
asked first, then the session's own connection, which may have carried earlier ones; the answer is the smaller one, and
from then on the session writes over its own connection only. Owns this order and the answer; never a connection.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from sidecar.relay.plan import Plan, Transform, encode

if TYPE_CHECKING:
    from sidecar.relay.session import Session

_AT_ONCE = b"1"
"""The shortest timeout, in milliseconds: 0 is none at all."""


_LOST = b"-ERR valkey-sidecar: the connection that carried the last write was lost, who has it is not known\r\n"


class Waits:
    """Decides about both commands."""

    def decide(self, session: Session, args: list[bytes], request: bytes) -> Plan | Awaitable[Plan]:
        """What becomes of the request."""
        wanted = _wanted(args)
        if wanted is None:  # the engine says what is wrong
            return Plan(blocks=True)
        if session.requesting_multi:
            # It will not wait, but answer by what has been acknowledged when EXEC is executed.
            session.pin()
            return Plan(transform=_in_transaction(session, args))
        on_lane = session.wait_on_lane(request)
        session.pin()
        return Plan(blocks=True) if on_lane is None else self._both(on_lane, args, wanted)

    async def _both(self, on_lane: Awaitable[bytes], args: list[bytes], wanted: list[int]) -> Plan:
        began = time.monotonic()
        first = await _answer_of(on_lane)
        timeout = args[-1]
        if not _is_met(first, wanted):
            timeout = _AT_ONCE
        elif int(timeout):
            left = int(timeout) - round((time.monotonic() - began) * 1000)
            timeout = b"%d" % max(left, int(_AT_ONCE))
        return Plan(encode([*args[:-1], timeout]), _lesser(first), blocks=True)


def _wanted(args: list[bytes]) -> list[int] | None:
    """How many acknowledgements are asked for, in the order of the answer; None for arguments that are refused."""
    try:
        *wanted, timeout = map(int, args[1:])
    except ValueError:
        return None
    return wanted if timeout >= 0 and wanted else None


def _in_transaction(session: Session, args: list[bytes]) -> Transform:
    async def answer(reply: bytes) -> bytes:
        on_lane = session.wait_on_lane(encode([*args[:-1], _AT_ONCE]))
        return reply if on_lane is None else _lesser(await _answer_of(on_lane))(reply)

    return answer


async def _answer_of(on_lane: Awaitable[bytes]) -> bytes:
    try:
        return await on_lane
    except ConnectionError:
        return _LOST


def _numbers(reply: bytes) -> list[int] | None:
    """The counts of an answer; None when it is an error."""
    lines = reply.split(b"\r\n")
    values = lines[1:-1] if reply[:1] == b"*" else lines[:-1]
    if not values or any(value[:1] != b":" for value in values):
        return None
    return [int(value[1:]) for value in values]


def _is_met(reply: bytes, wanted: list[int]) -> bool:
    """Whether as many have acknowledged as were asked for."""
    numbers = _numbers(reply)
    return (
        numbers is not None
        and len(numbers) == len(wanted)
        and all(n >= w for n, w in zip(numbers, wanted, strict=True))
    )


def _lesser(first: bytes) -> Callable[[bytes], bytes]:
    """The smaller of two answers, count by count; an error before any count."""

    def answer(second: bytes) -> bytes:
        one, two = _numbers(first), _numbers(second)
        if one is None:
            return first
        if two is None or len(one) != len(two):
            return second
        counts = b"".join(b":%d\r\n" % min(pair) for pair in zip(one, two, strict=True))
        return b"*%d\r\n%b" % (len(one), counts) if second[:1] == b"*" else counts

    return answer
