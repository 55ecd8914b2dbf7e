"""WAIT and WAITAOF after writes that went by lane: the lane is asked first, and the smaller answer counts."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable
from typing import Any, cast

import pytest

from sidecar.relay import waits
from sidecar.relay.plan import Plan, arguments
from sidecar.relay.waits import Waits


class Session:
    """One whose last write went by lane, where answers are given: the last one holds."""

    def __init__(self, *on_lane: bytes, multi: bool = False, takes_s: float = 0.0) -> None:
        self.requesting_multi = multi
        self.pinned = False
        self.asked: list[bytes] = []
        self._on_lane = list(on_lane)
        self._takes_s = takes_s

    @property
    def has_lane_to_ask(self) -> bool:
        return bool(self._on_lane)

    def wait_on_lane(self, request: bytes) -> Awaitable[bytes] | None:
        if not self._on_lane:
            return None
        self.asked.append(b" ".join(arguments(request) or []))
        return self._answer(self._on_lane.pop(0) if len(self._on_lane) > 1 else self._on_lane[0])

    async def _answer(self, reply: bytes) -> bytes:
        await asyncio.sleep(self._takes_s)
        if reply == b"lost":
            raise ConnectionError
        return reply

    def pin(self) -> None:
        self.pinned = True


def decide(session: Session, text: str) -> Plan:
    async def main() -> Plan:
        args = text.encode().split()
        plan = Waits().decide(cast("Any", session), args)
        return await plan if inspect.isawaitable(plan) else plan

    return asyncio.run(main())


def forwarded(plan: Plan) -> str:
    assert plan.request is not None
    return b" ".join(arguments(plan.request) or []).decode()


def answer(plan: Plan, reply: bytes) -> bytes:
    async def main() -> bytes:
        assert plan.transform is not None
        found = plan.transform(reply)
        return await found if inspect.isawaitable(found) else found

    return asyncio.run(main())


@pytest.mark.filterwarnings("error")
def test_a_lane_is_asked_only_when_the_answer_is_awaited() -> None:
    session = Session(b":1\r\n")
    plan = Waits().decide(cast("Any", session), [b"WAIT", b"1", b"0"])
    assert not isinstance(plan, Plan)
    cast("Any", plan).close()  # as when the client leaves at that moment
    assert session.asked == []


def test_without_a_write_by_lane_it_passes_as_it_came() -> None:
    session = Session()
    plan = decide(session, "WAIT 1 100")
    assert (plan.request, plan.transform, plan.blocks) == (None, None, True)
    assert session.pinned


@pytest.mark.parametrize(("lane", "home", "expected"), [(2, 1, 1), (1, 2, 1), (3, 3, 3)])
def test_the_smaller_count_is_the_answer(lane: int, home: int, expected: int) -> None:
    session = Session(b":%d\r\n" % lane)
    plan = decide(session, "WAIT 1 0")
    assert session.asked == [b"WAIT 1 100"]
    assert session.pinned
    assert plan.blocks
    assert forwarded(plan) == "WAIT 1 0"
    assert answer(plan, b":%d\r\n" % home) == b":%d\r\n" % expected


def test_counts_of_waitaof_are_compared_one_by_one() -> None:
    plan = decide(Session(b"*2\r\n:1\r\n:5\r\n"), "WAITAOF 1 2 0")
    assert forwarded(plan) == "WAITAOF 1 2 0"
    assert answer(plan, b"*2\r\n:0\r\n:7\r\n") == b"*2\r\n:0\r\n:5\r\n"


@pytest.mark.parametrize(
    ("lane", "request_", "expected"),
    [
        (b":0\r\n", "WAIT 1 20", "WAIT 1 1"),
        (b":1\r\n", "WAIT 2 20", "WAIT 2 1"),
        (b"*2\r\n:0\r\n:3\r\n", "WAITAOF 1 2 20", "WAITAOF 1 2 1"),
        (b"*2\r\n:1\r\n:1\r\n", "WAITAOF 1 2 20", "WAITAOF 1 2 1"),
    ],
)
def test_a_wait_that_has_timed_out_does_not_wait_again(lane: bytes, request_: str, expected: str) -> None:
    assert forwarded(decide(Session(lane, takes_s=0.03), request_)) == expected


def test_a_lane_is_asked_little_by_little(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(b":0\r\n", b":0\r\n", b":1\r\n")
    assert forwarded(decide(session, "WAIT 1 0")) == "WAIT 1 0"
    assert session.asked == [b"WAIT 1 100"] * 3
    monkeypatch.setattr(waits, "_SLICE_MS", 1000)  # so long that a busy machine makes no difference
    session = Session(b":0\r\n", b":0\r\n", b":1\r\n", takes_s=0.1)
    plan = decide(session, "WAIT 1 1150")
    first, second, third = (int(asked.split()[2]) for asked in session.asked)
    assert first == second == 1000
    assert 1 <= third <= 950
    assert 1 <= int(forwarded(plan).split()[2]) <= 850


def test_both_together_wait_no_longer_than_was_asked_for() -> None:
    request = forwarded(decide(Session(b":1\r\n", takes_s=0.2), "WAIT 1 5000"))
    assert int(request.split()[2]) <= 4800
    assert forwarded(decide(Session(b":1\r\n", takes_s=0.01), "WAIT 1 5")) == "WAIT 1 1"


def test_errors_come_as_they_are() -> None:
    refused = b"-UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)\r\n"
    plan = decide(Session(refused), "WAIT 1 0")
    assert forwarded(plan) == "WAIT 1 1"
    assert answer(plan, b":7\r\n") == refused
    plan = decide(Session(b":1\r\n"), "WAIT 1 0")
    assert answer(plan, b"-ERR WAIT cannot be used with replica instances.\r\n").startswith(b"-ERR WAIT cannot")


def test_a_lane_that_is_lost_leaves_no_count() -> None:
    for multi in (False, True):
        plan = decide(Session(b"lost", multi=multi), "WAIT 1 0")
        assert answer(plan, b":5\r\n").startswith(b"-ERR valkey-sidecar: the connection that carried the last write")


@pytest.mark.parametrize("text", ["WAIT", "WAIT 1", "WAIT 1 x", "WAIT 1 -1", "WAITAOF 1 1 x"])
def test_what_the_engine_refuses_is_not_asked_twice(text: str) -> None:
    session = Session(b":1\r\n")
    plan = decide(session, text)
    assert (plan.request, plan.transform, session.asked) == (None, None, [])


def test_in_a_transaction_it_answers_at_once_and_when_it_is_executed() -> None:
    session = Session(b":0\r\n", multi=True)
    plan = decide(session, "WAIT 1 0")
    assert session.asked == []
    assert session.pinned
    assert (plan.request, plan.blocks) == (None, False)
    assert answer(plan, b":1\r\n") == b":0\r\n"
    assert session.asked == [b"WAIT 1 1"]
    assert answer(decide(Session(multi=True), "WAIT 1 0"), b":1\r\n") == b":1\r\n"
