from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sidecar.engine import embedded
from sidecar.engine.connection import Connection, UnreachableError
from sidecar.engine.embedded import End, Engine
from sidecar.engine.restart import RestartPolicy
from sidecar.journal import Journal
from tests.conftest import PATIENCE_S, Start


def test_a_cut_connection_is_noticed_at_once_and_not_at_the_next_poll(
    start_bare: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_POLL_S", 3600.0)
    path = str(tmp_path / "engine.sock")
    bare = start_bare("--unixsocket", path)
    nothing = cast("Any", None)

    async def main() -> None:
        policy = RestartPolicy(lambda _appending, _changes: None)
        engine = Engine(nothing, nothing, nothing, Journal(), policy)
        engine.ready = True
        connection = await Connection.open(path)
        identifier = await connection.call("CLIENT", "ID")
        polling = asyncio.create_task(engine._poll(connection))
        while policy.asks_for_files:  # it looks, and then waits for the next time
            await connection.call("PING")
        with bare.client() as client:
            client.client_kill_filter(_id=identifier)
        with pytest.raises(UnreachableError):
            await asyncio.wait_for(polling, PATIENCE_S)
        assert engine.ready  # the engine is well: nobody needs to go elsewhere

    asyncio.run(main())


def test_an_engine_that_closes_our_connection_again_and_again_is_not_hurried(tmp_path: Path) -> None:
    path = str(tmp_path / "engine.sock")
    plan = SimpleNamespace(renames={}, credentials=list)

    async def main() -> float:
        enough = asyncio.Event()
        came: list[float] = []

        def close(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            came.append(time.monotonic())
            if len(came) == 10:
                enough.set()
            writer.close()

        server = await asyncio.start_unix_server(close, path)
        engine = Engine(cast("Any", plan), cast("Any", SimpleNamespace(socket=path)), *[cast("Any", None)] * 3)
        engine._journal = Journal()
        attending = asyncio.create_task(engine._attend(cast("Any", None)))
        await asyncio.wait_for(enough.wait(), PATIENCE_S)
        attending.cancel()
        server.close()
        return came[-1] - came[0]

    assert asyncio.run(main()) > 0.4


def test_an_engine_that_is_told_to_end_before_it_listens_to_signals_has_ended_well() -> None:
    nothing = cast("Any", None)
    engine = Engine(nothing, nothing, nothing, Journal(), RestartPolicy(lambda _appending, _changes: None))
    child = cast("Any", SimpleNamespace(code=143, signal=15, end="was ended by SIGTERM"))
    engine._stopping.set()
    assert engine._judge(child) == End(0)
    engine._was_ready = True
    assert engine._judge(child) == End(143, "the engine was ended by SIGTERM while it was shutting down")
