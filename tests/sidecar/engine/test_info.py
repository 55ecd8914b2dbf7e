"""The poll of INFO, without a server around it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.engine.connection import Connection
from sidecar.engine.info import EngineInfo, View
from sidecar.info_view import Tally
from sidecar.journal import Journal

_SETTINGS: dict[str, Any] = {
    "tcp_port": 7000,
    "tls_info": {},
    "config_file": "",
    "maxclients": 50,
    "own_connections": 1,
    "info_listeners": [],
    "injected": {},
}


class Watched:
    """An EngineInfo over a real engine's socket."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.journal = Journal()
        self.said: list[str] = []
        self.journal.attach(lambda _when, _level, event, *_rest: self.said.append(event))
        self.engine: Any = SimpleNamespace(child=SimpleNamespace(code=None), connection=None)
        self.info = EngineInfo(
            self.engine, self.journal, lambda: View(_SETTINGS, {"maxclients": "50"}, Tally(41, 3, 2))
        )

    async def connect(self) -> Connection:
        self.engine.connection = await Connection.open(self.path)
        return self.engine.connection

    def points(self) -> dict[str, float]:
        return {point.name: point.value for point in self.info.points()}


def test_points_are_those_of_a_client_of_our_port(bare_engine: Callable[..., str]) -> None:
    async def main() -> None:
        watched = Watched(bare_engine())
        assert watched.info.points() == []
        await watched.connect()
        await watched.info.refresh()
        found = watched.points()
        assert found["redis.clients.connected"] == 2
        assert found["redis.connections.received"] == 41
        assert found["redis.connections.rejected"] == 3
        assert found["redis.uptime"] >= 0
        latest = watched.info.latest()
        assert latest is not None
        assert latest.fields["tcp_port"] == "7000"
        assert latest.fields["config:maxclients"] == "50"
        assert await asyncio.to_thread(watched.points) == found
        watched.engine.connection.close()

    asyncio.run(main())


def test_an_engine_that_ended_has_no_figures(bare_engine: Callable[..., str]) -> None:
    async def main() -> None:
        watched = Watched(bare_engine())
        await watched.connect()
        await watched.info.refresh()
        assert watched.points()
        watched.engine.child.code = 137
        assert watched.points() == {}
        watched.engine.child = SimpleNamespace(code=None)  # the next one has told nothing yet
        assert watched.points() == {}
        watched.engine.connection.close()

    asyncio.run(main())


def test_those_who_ask_at_once_share_one_poll(bare_engine: Callable[..., str]) -> None:
    async def main() -> None:
        watched = Watched(bare_engine())
        connection = await watched.connect()
        await asyncio.gather(*(watched.info.refresh() for _ in range(20)))
        await watched.info.refresh()  # within the same second
        stats = await connection.call("INFO", "commandstats")
        assert "cmdstat_info:calls=1," in stats
        connection.close()

    asyncio.run(main())


def test_a_busy_engine_keeps_nobody_waiting(bare_engine: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.engine.info._APART_S", 0)

    async def main() -> None:
        watched = Watched(bare_engine())
        connection = await watched.connect()
        pid = int((await connection.call("INFO", "server")).partition("process_id:")[2].split()[0])
        await watched.info.refresh()
        before = watched.points()
        os.kill(pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(2):
                await asyncio.gather(watched.info.refresh(), watched.info.refresh())
            assert watched.points() == before
        finally:
            os.kill(pid, signal.SIGCONT)
        await watched.info.refresh()  # the poll that was under way has its answer
        assert watched.points() != before
        connection.close()

    asyncio.run(main())


def test_a_connection_that_is_lost_is_waited_for_only_a_moment(bare_engine: Callable[..., str]) -> None:
    async def main() -> None:
        watched = Watched(bare_engine())
        async with asyncio.timeout(2):
            await watched.info.refresh()
        assert watched.info.latest() is None
        assert watched.said == []

    asyncio.run(main())


def test_a_password_that_we_lack_is_told_once(bare_engine: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.engine.info._APART_S", 0)

    async def main() -> None:
        watched = Watched(bare_engine("--requirepass", "secret"))
        await watched.connect()
        await watched.info.refresh()
        await watched.info.refresh()
        assert watched.info.latest() is None
        assert watched.said == ["engine.metrics_off"]
        watched.engine.connection.close()

    asyncio.run(main())


def test_a_fault_of_ours_takes_only_the_figures(
    bare_engine: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        watched = Watched(bare_engine())
        await watched.connect()
        monkeypatch.setattr(watched.info, "_view", lambda: View({}, {}, Tally(0, 0, 0)))
        await watched.info.refresh()
        assert watched.info.latest() is None
        assert watched.said == ["engine.metrics_off"]
        watched.engine.connection.close()

    asyncio.run(main())
