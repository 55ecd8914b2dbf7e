from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from sidecar.engine import embedded
from sidecar.engine.connection import Connection, UnreachableError
from sidecar.engine.embedded import Engine
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
        engine = Engine(nothing, nothing, nothing, Journal(), nothing)
        engine.ready = True
        connection = await Connection.open(path)
        identifier = await connection.call("CLIENT", "ID")
        polling = asyncio.create_task(engine._poll(connection))
        await asyncio.sleep(0)
        with bare.client() as client:
            client.client_kill_filter(_id=identifier)
        with pytest.raises(UnreachableError):
            await asyncio.wait_for(polling, PATIENCE_S)
        assert engine.ready  # the engine is well: nobody needs to go elsewhere

    asyncio.run(main())
