"""While the engine may pause clients, nothing goes by lane; afterwards it does again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import pytest

from sidecar.engine.connection import EngineError, UnreachableError
from sidecar.journal import Journal
from sidecar.lanes import Lanes
from tests.conftest import PATIENCE_S

NOTHING = "# Clients\r\npaused_reason:none\r\npaused_actions:none\r\n"
PAUSED = "# Clients\r\npaused_reason:client_pause\r\npaused_actions:write\r\n"
OLD = "# Replication\r\nmaster_failover_state:no-failover\r\n"


class Engine:
    """Its INFO says what the test says; `asked` counts the looks."""

    def __init__(self, info: str | Exception = NOTHING) -> None:
        self.info = info
        self.asked = 0
        self.looked = asyncio.Event()
        self.before_answer: Callable[[], Awaitable[object]] | None = None

    @property
    def connection(self) -> Engine:
        return self

    async def call(self, *words: str) -> str:
        assert words[0] == "INFO"
        self.asked += 1
        info = self.info
        if self.before_answer is not None:
            await self.before_answer()
        self.looked.set()
        if isinstance(info, Exception):
            raise info
        return info

    async def looks(self, times: int) -> None:
        until = self.asked + times
        async with asyncio.timeout(PATIENCE_S):
            while self.asked < until:
                self.looked.clear()
                await self.looked.wait()


class Workers:
    """Keeps what they are told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.resumed = asyncio.Event()

    async def order(self, kind: str, body: Mapping[str, Any], within_s: float) -> None:
        said = ", ".join(name for name, value in body.items() if value)
        self.told.append(f"{kind}: {said}" if said else kind)

    def tell(self, kind: str) -> None:
        self.told.append(kind)
        if kind == "resume_lanes":
            self.resumed.set()

    async def resume(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self.resumed.wait()


class Scene:
    def __init__(self, info: str | Exception = NOTHING) -> None:
        self.engine = Engine(info)
        self.workers = Workers()
        self.lanes = Lanes(cast("Any", self.engine), cast("Any", self.workers), Journal(), {})

    def answered(self, pause: int, *, done: bool = True, milliseconds: int | None = 60_000) -> None:
        self.lanes.notice("pause_answered", {"pause": pause, "done": done, "milliseconds": milliseconds})


def play(scene: Callable[[Scene], Awaitable[None]], info: str | Exception = NOTHING) -> None:
    async def main() -> None:
        it = Scene(info)
        try:
            await scene(it)
        finally:
            it.lanes.stop()

    asyncio.run(main())


def test_lanes_are_suspended_until_the_engine_pauses_nobody() -> None:
    async def scene(it: Scene) -> None:
        pause = await it.lanes.suspend()
        assert it.workers.told == ["suspend_lanes"]
        it.engine.info = PAUSED
        it.answered(pause)
        await it.engine.looks(3)
        assert it.workers.told == ["suspend_lanes"]
        assert it.lanes.suspended
        it.engine.info = NOTHING
        await it.workers.resume()
        assert not it.lanes.suspended

    play(scene)


def test_nothing_is_believed_before_the_command_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.lanes._LOOK_S", 0.001)

    async def scene(it: Scene) -> None:
        pause = await it.lanes.suspend()
        await asyncio.sleep(0.05)
        assert it.engine.asked == 0
        it.answered(pause, done=False)
        await it.workers.resume()

    play(scene)


def test_a_command_that_is_never_answered_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.lanes._ANSWERED_WITHIN_S", 0.05)

    async def scene(it: Scene) -> None:
        await it.lanes.suspend()
        await it.workers.resume()

    play(scene)


def test_a_pause_that_begins_during_a_look_is_not_overlooked() -> None:
    async def scene(it: Scene) -> None:
        async def another() -> None:
            it.engine.before_answer = None
            it.engine.info = PAUSED
            it.answered(await it.lanes.suspend())

        it.engine.before_answer = another
        it.answered(await it.lanes.suspend(), done=False)
        await it.engine.looks(3)
        assert it.workers.told == ["suspend_lanes", "suspend_lanes"]

    play(scene)


def test_an_end_of_the_pause_is_seen_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.lanes._LOOK_S", PATIENCE_S * 2)

    async def scene(it: Scene) -> None:
        it.engine.info = PAUSED
        it.answered(await it.lanes.suspend())
        await it.engine.looks(1)
        it.engine.info = NOTHING
        it.lanes.notice("unpaused", {})
        await it.workers.resume()

    play(scene)


def test_a_pause_that_nobody_told_is_noticed() -> None:
    async def scene(it: Scene) -> None:
        it.lanes.saw_info({"paused_actions": "none"})
        await asyncio.sleep(0)
        assert it.workers.told == []
        it.engine.info = PAUSED
        it.lanes.saw_info({"paused_actions": "write"})
        it.lanes.saw_info({"paused_actions": "write"})
        await it.engine.looks(1)
        assert it.workers.told == ["suspend_lanes"]
        it.engine.info = NOTHING
        await it.workers.resume()

    play(scene)


@pytest.mark.parametrize("ended", ["by time", "by a client"])
def test_an_engine_that_does_not_tell_is_believed_to_pause_as_long_as_it_was_told(ended: str) -> None:
    async def scene(it: Scene) -> None:
        it.answered(await it.lanes.suspend(), milliseconds=500 if ended == "by time" else 60_000)
        await it.engine.looks(2)
        assert it.workers.told == ["suspend_lanes"]
        if ended == "by a client":
            it.lanes.notice("unpaused", {})
        await it.workers.resume()

    play(scene, OLD)


@pytest.mark.parametrize(
    "info", ["master_failover_state:waiting-for-sync\r\n", "shutdown_in_milliseconds:900\r\n" + OLD]
)
def test_an_older_engine_tells_of_failover_and_shutdown(info: str) -> None:
    async def scene(it: Scene) -> None:
        it.answered(await it.lanes.suspend(), milliseconds=None)
        await it.engine.looks(2)
        assert it.workers.told == ["suspend_lanes"]
        it.engine.info = OLD
        await it.workers.resume()

    play(scene, info)


def test_without_the_right_to_look_a_pause_lasts_as_long_as_it_was_told() -> None:
    async def scene(it: Scene) -> None:
        it.answered(await it.lanes.suspend(), milliseconds=300)
        await it.engine.looks(1)
        assert it.workers.told == ["suspend_lanes"]
        await it.workers.resume()

    play(scene, EngineError("NOPERM User bob has no permissions to run the 'info' command"))


@pytest.mark.parametrize("error", [UnreachableError("it pauses us, too"), EngineError("BUSY a script runs")])
def test_an_engine_that_cannot_say_keeps_them_suspended(error: Exception) -> None:
    async def scene(it: Scene) -> None:
        it.answered(await it.lanes.suspend(), milliseconds=0)
        await it.engine.looks(3)
        assert it.workers.told == ["suspend_lanes"]
        it.engine.info = NOTHING
        await it.workers.resume()

    play(scene, error)


def test_an_engine_that_begins_anew_may_have_the_limits_of_before_until_it_says() -> None:
    async def scene(it: Scene) -> None:
        it.lanes.limit("client-output-buffer-limit", ["normal", "0", "0", "0"])
        it.lanes.limit("maxmemory-clients", ["5%"])
        it.lanes.start_over({"maxmemory-clients": False, "client-output-buffer-limit": False})
        assert it.lanes.suspended
        it.lanes.limit("maxmemory-clients", ["0"])
        assert not it.lanes.suspended
        it.lanes.start_over({"maxmemory-clients": False, "client-output-buffer-limit": True})
        assert it.lanes.suspended

    play(scene)


def test_lanes_are_closed_for_those_who_ask() -> None:
    async def scene(it: Scene) -> None:
        it.answered(await it.lanes.suspend(close=True), done=False)
        assert it.workers.told == ["suspend_lanes: close"]
        await it.workers.resume()

    play(scene)


def test_all_are_brought_home() -> None:
    async def scene(it: Scene) -> None:
        await it.lanes.bring_home(keep=True)
        await it.lanes.bring_home(keep=False, users=["ann"])
        assert it.workers.told == ["bring_home: keep", "bring_home: users"]

    play(scene)
