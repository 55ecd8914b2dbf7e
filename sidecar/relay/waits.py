"""WAIT and WAITAOF of a session whose writes went by lane.

The engine waits for the last write of the connection that asks. So the lane that carried the session's last write is
asked first, then the session's own connection, which may have carried another one; the answer is the smaller one, and
from then on the session writes over its own connection only. A lane is asked little by little: others may have written
by it, too, and who asks second waits behind who asked first. Owns this order and the answer; never a connection.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from sidecar.relay.plan import Plan, Transform, encode

if TYPE_CHECKING:
    from sidecar.relay.session import Session

_SLICE_MS = 100
_AT_ONCE_MS = 1
"""The shortest timeout: 0 is none at all."""
_LOST = b"-ERR valkey-sidecar: the connection that carried the last write was lost, who has it is not known\r\n"


class Waits:
    """Decides about both commands."""

    def decide(self, session: Session, args: list[bytes]) -> Plan | Awaitable[Plan]:
        """What becomes of the request."""
        wanted = _wanted(args)
        if wanted is None:  # the engine says what is wrong
            return Plan(blocks=True)
        if session.requesting_multi:
            # It will not wait, but answer by what has been acknowledged when EXEC is executed.
            session.pin()
            return Plan(transform=_in_transaction(session, args))
        timeout = _Timeout(int(args[-1]))
        session.pin()
        return self._both(session, args, wanted, timeout) if session.has_lane_to_ask else Plan(blocks=True)

    async def _both(self, session: Session, args: list[bytes], wanted: list[int], timeout: _Timeout) -> Plan:
        while True:
            first = await _answer_of(session.wait_on_lane(_request(args, timeout.left_ms(_SLICE_MS))))
            if not _falls_short(first, wanted) or timeout.is_over:
                break
        is_met = first[:1] != b"-" and not _falls_short(first, wanted)
        return Plan(_request(args, timeout.left_ms() if is_met else _AT_ONCE_MS), _lesser(first), blocks=True)


class _Timeout:
    """Of a command, in milliseconds; 0 never ends."""

    def __init__(self, milliseconds: int) -> None:
        self._until = time.monotonic() + milliseconds / 1000 if milliseconds else None

    @property
    def is_over(self) -> bool:
        return self._until is not None and time.monotonic() >= self._until

    def left_ms(self, most: int = 0) -> int:
        """What is left of it, at most so much (0: without limit)."""
        if self._until is None:
            return most
        left = max(_AT_ONCE_MS, round((self._until - time.monotonic()) * 1000))
        return min(left, most) if most else left


def _request(args: list[bytes], timeout_ms: int) -> bytes:
    return encode([*args[:-1], b"%d" % timeout_ms])


def _wanted(args: list[bytes]) -> list[int] | None:
    """How many acknowledgements are asked for, in the order of the answer; None for arguments that are refused."""
    try:
        *wanted, timeout = map(int, args[1:])
    except ValueError:
        return None
    return wanted if timeout >= 0 and wanted else None


def _in_transaction(session: Session, args: list[bytes]) -> Transform:
    async def answer(reply: bytes) -> bytes:
        on_lane = session.wait_on_lane(_request(args, _AT_ONCE_MS))
        return reply if on_lane is None else _lesser(await _answer_of(on_lane))(reply)

    return answer


async def _answer_of(on_lane: Awaitable[bytes] | None) -> bytes:
    try:
        return _LOST if on_lane is None else await on_lane
    except ConnectionError:
        return _LOST


def _numbers(reply: bytes) -> list[int] | None:
    """The counts of an answer; None when it is an error."""
    lines = reply.split(b"\r\n")
    values = lines[1:-1] if reply[:1] == b"*" else lines[:-1]
    if not values or any(value[:1] != b":" for value in values):
        return None
    return [int(value[1:]) for value in values]


def _falls_short(reply: bytes, wanted: list[int]) -> bool:
    """Whether fewer have acknowledged than were asked for."""
    numbers = _numbers(reply)
    if numbers is None or len(numbers) != len(wanted):
        return False
    return any(number < enough for number, enough in zip(numbers, wanted, strict=True))


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
