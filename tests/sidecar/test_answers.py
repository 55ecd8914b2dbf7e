from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from sidecar.answers import Answers
from sidecar.engine.connection import Connection
from sidecar.front import Front
from sidecar.journal import Journal
from sidecar.listener_settings import ListenerSettings
from tests.conftest import Server


def test_our_connection_that_was_cut_unseen_costs_no_answer(start_bare: Callable[..., Server], tmp_path: Path) -> None:
    path = str(tmp_path / "engine.sock")
    bare = start_bare("--unixsocket", path)

    class Engine(SimpleNamespace):
        @property
        def connection(self) -> Connection:
            return self.second if self.first.closed else self.first

    async def main() -> dict[str, Any]:
        first, second = await Connection.open(path), await Connection.open(path)
        front = Front(ListenerSettings(), str, Journal())
        engine = cast("Any", Engine(first=first, second=second))
        answers = Answers(
            front,
            engine,
            cast("Any", None),
            None,
            Journal(),
            injected=dict[str, str],
            logged_from=dict[str, str],
            starts_open=lambda: False,
        )
        identifier = await first.call("CLIENT", "ID")
        with bare.client() as client:  # our loop stands still meanwhile
            assert client.execute_command("CLIENT", "KILL", "ID", identifier) == 1
        assert not first.closed
        try:
            return await answers.answer("protected", {})
        finally:
            second.close()

    assert asyncio.run(main()) == {"denied": True}  # as the default user of this engine has no password
