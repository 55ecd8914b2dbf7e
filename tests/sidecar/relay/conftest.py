"""A real engine behind an in-process relay, for tests of spans."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from sidecar.relay.commands import CommandTable
from telemetry.otlp.settings import Sampler
from tests.conftest import Server, launch_bare
from tests.sidecar.relay.traced import ALWAYS_ON, Conversation, Talk, converse, lines, read_table


@pytest.fixture(scope="module")
def traced_engine(tmp_path_factory: pytest.TempPathFactory, engine_binary: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("engine")
    server = launch_bare(engine_binary, folder, "--enable-debug-command", "yes", "--unixsocket", "engine.sock")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def socket_path(traced_engine: Server) -> str:
    return str(traced_engine.log.parent / "engine.sock")


@pytest.fixture(scope="module")
def traced_table(socket_path: str) -> CommandTable:
    return asyncio.run(read_table(socket_path))


@pytest.fixture(params=["home", "lane"])
def talk(request: pytest.FixtureRequest, traced_engine: Server, socket_path: str, traced_table: CommandTable) -> Talk:
    """A conversation whose commands all go home; and again, with those that can by a lane."""
    with traced_engine.client() as client:
        client.flushall()
        client.config_set("requirepass", "")

    def run(*parts: str | bytes, sampler: Sampler = ALWAYS_ON, **settings: Any) -> Conversation:
        data = [lines(part) if isinstance(part, str) else part for part in parts]
        return uvloop.run(converse(socket_path, traced_table, data, sampler, lane=request.param == "lane", **settings))

    return run
