"""Commands whose meaning depends on the connections to the engine: what happens before they reach it, and after."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sidecar.relay.lane_rules import HELD_FOR_LANES
from sidecar.relay.plan import Plan, arguments
from sidecar.relay.roster import Roster
from sidecar.relay.special import HELD, Special

SETTINGS = {
    "lanes": True,
    "enable_protected_configs": "yes",
    "settable": ["port"],
    "port": 6379,
    "engine_values": {},
    "workers": 1,
}


class Link:
    """Keeps what the supervisor is asked and told; `fails`: it does not answer."""

    def __init__(self, fails: Exception | None = None, spared: Sequence[int] = ()) -> None:
        self.said: list[tuple[str, dict[str, Any]]] = []
        self._spared = spared
        self._fails = fails

    async def request(self, kind: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        self.said.append((kind, body or {}))
        if self._fails is not None:
            raise self._fails
        return {"pause": 7, "spared": self._spared, "clients": []}

    def send(self, kind: str, body: dict[str, Any] | None = None) -> None:
        self.said.append((kind, body or {}))


async def _nothing(_sessions: object) -> None:
    """Nobody is there to be brought home."""


def decide(link: Link, name: str, text: str, *, stranger: bool = False, **settings: Any) -> Plan | None:
    async def main() -> Plan | None:
        relay = SimpleNamespace(sessions=set(), by_engine_id={}, by_first_id={}, lane_ids=[], bring_home=_nothing)
        told = {**SETTINGS, **settings}
        special = Special(cast("Any", link), told, {}, cast("Any", None), Roster(cast("Any", relay), told))
        plan = special(
            cast("Any", SimpleNamespace(is_local=True, trusted=True, stranger=stranger)),
            name,
            text.encode().split(),
            b"",
        )
        return await plan if inspect.isawaitable(plan) else plan

    return asyncio.run(main())


def transformed(plan: Plan | None, reply: bytes) -> bytes:
    async def main() -> bytes:
        assert plan is not None
        assert plan.transform is not None
        answer = plan.transform(reply)
        return await answer if inspect.isawaitable(answer) else answer

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("name", "text", "milliseconds"),
    [
        ("CLIENT PAUSE", "CLIENT PAUSE 1500 WRITE", 1500),
        ("CLIENT PAUSE", "CLIENT PAUSE x", None),
        ("FAILOVER", "FAILOVER TIMEOUT 100", None),
        ("SHUTDOWN", "SHUTDOWN", None),
    ],
)
@pytest.mark.parametrize("reply", [b"+OK\r\n", b"-NOPERM no\r\n"])
def test_lanes_are_suspended_before_and_the_answer_is_told(
    name: str, text: str, milliseconds: int | None, reply: bytes
) -> None:
    link = Link()
    plan = decide(link, name, text)
    assert plan is not None
    assert plan.request is None
    assert link.said == [("suspend_lanes", {"close": False})]
    assert transformed(plan, reply) == reply
    told = {"pause": 7, "done": reply[:1] == b"+", "milliseconds": milliseconds}
    assert link.said[1:] == [("pause_answered", told)]


def test_only_an_end_of_the_pause_that_was_granted_is_told() -> None:
    link = Link()
    plan = decide(link, "CLIENT UNPAUSE", "CLIENT UNPAUSE")
    assert transformed(plan, b"-NOPERM no\r\n") == b"-NOPERM no\r\n"
    assert link.said == []
    assert transformed(plan, b"+OK\r\n") == b"+OK\r\n"
    assert link.said == [("unpaused", {})]


@pytest.mark.parametrize(
    ("name", "text", "users"),
    [
        ("ACL SETUSER", "ACL SETUSER bob on resetpass >secret", ["bob"]),
        ("ACL SETUSER", "ACL SETUSER bob OFF", ["bob"]),
        ("ACL SETUSER", "ACL SETUSER bob <old", ["bob"]),
        ("ACL SETUSER", "ACL SETUSER bob !hash", ["bob"]),
        ("ACL SETUSER", "ACL SETUSER bob reset", ["bob"]),
        ("ACL SETUSER", "ACL SETUSER bob +@all -select", ["bob"]),
        ("ACL LOAD", "ACL LOAD", None),
    ],
)
def test_before_a_user_may_lose_something_who_is_logged_in_as_it_gets_its_own_connection(
    name: str, text: str, users: list[str] | None
) -> None:
    link = Link()
    assert decide(link, name, text) is None
    assert link.said == [("bring_home", {"keep": True, "users": users})]


@pytest.mark.parametrize(
    "text",
    [
        "ACL SETUSER ann",
        "ACL SETUSER ann on >another #hash nopass +@all ~* &* allkeys resetkeys allchannels (+get~a)",
        "ACL DELUSER ann",
    ],
)
def test_a_change_that_takes_nothing_away_concerns_nobody_who_is_logged_in(text: str) -> None:
    link = Link()
    plan = decide(link, " ".join(text.split()[:2]), text)
    assert link.said == []
    assert plan is None or plan.request is None


def test_the_same_before_the_password_changes() -> None:
    link = Link()
    plan = decide(link, "CONFIG SET", "CONFIG SET maxmemory-samples 5 RequirePass secret")
    assert link.said == [("bring_home", {"keep": True, "users": ["default"]})]
    assert transformed(plan, b"+OK\r\n") == b"+OK\r\n"
    assert link.said[1:] == [("engine_settings", {"values": {"requirepass": "secret"}})]
    for text, settings in (("CONFIG SET maxmemory 0", {}), ("CONFIG SET requirepass secret", {"lanes": False})):
        link = Link()
        decide(link, "CONFIG SET", text, **settings)
        assert link.said == []


@pytest.mark.parametrize("error", [TimeoutError(), ConnectionError()])
@pytest.mark.parametrize("name", ["CLIENT PAUSE", "FAILOVER", "SHUTDOWN", "ACL SETUSER", "ACL DELUSER"])
def test_a_supervisor_that_does_not_answer_is_no_reason_to_refuse(name: str, error: Exception) -> None:
    plan = decide(Link(error), name, f"{name} 1")
    assert plan is None or plan.request is None


@pytest.mark.parametrize(
    ("spared", "lanes", "forwarded"),
    [
        ([3, 9], True, "CLIENT KILL TYPE normal NOT-ID 3 9"),
        ([3], False, "CLIENT KILL TYPE normal NOT-ID 3"),
        ([], True, None),
        ([], False, "CLIENT KILL TYPE normal"),
    ],
)
def test_a_kill_by_filter_spares_our_own_connections_or_finds_no_lane(
    spared: list[int], lanes: bool, forwarded: str | None
) -> None:
    link = Link(spared=spared)
    plan = decide(link, "CLIENT KILL", "CLIENT KILL TYPE normal", lanes=lanes)
    said: list[tuple[str, dict[str, Any]]] = [("spared", {})]
    if lanes and not spared:
        said.append(("suspend_lanes", {"close": True}))
        assert transformed(plan, b":2\r\n") == b":2\r\n"
        said.append(("pause_answered", {"pause": 7, "done": False, "milliseconds": None}))
    assert link.said == said
    request = None if plan is None or plan.request is None else b" ".join(arguments(plan.request) or []).decode()
    assert request == forwarded


def test_an_option_that_we_do_not_know_is_the_engines_to_judge() -> None:
    link = Link(spared=[3])
    plan = decide(link, "CLIENT KILL", "CLIENT KILL COLOR blue")
    assert link.said == [("spared", {})]
    assert plan is not None
    assert plan.request is not None
    assert arguments(plan.request) == b"CLIENT KILL COLOR blue NOT-ID 3".split()


def test_without_lanes_none_of_these_is_held() -> None:
    assert not HELD & HELD_FOR_LANES


@pytest.mark.parametrize(
    "text",
    [
        "ACL LOAD",
        "ACL SETUSER default off",
        "CONFIG SET requirepass another",
        "CLIENT KILL ADDR 127.0.0.1:1",
        "CLIENT KILL 127.0.0.1:1",
        "CLIENT LIST",
        "CLIENT PAUSE 1000",
        "FAILOVER",
        "SHUTDOWN",
        "CONFIG SET client-output-buffer-limit normal",
    ],
)
def test_nothing_is_prepared_for_who_must_log_in_first(text: str) -> None:
    link = Link()
    name = " ".join(text.split()[:2]) if " " in text else text
    decide(link, name, text, stranger=True)
    assert link.said == []
