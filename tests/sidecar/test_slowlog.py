from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sidecar.engine import commandtable
from sidecar.engine.connection import Connection, EngineError
from sidecar.journal import Journal
from sidecar.slowlog import SlowLog
from tests.sidecar.engine.conftest import ask, bare_engine, binary

__all__ = ["ask", "bare_engine", "binary"]

Told = tuple[str, str, str, dict[str, Any]]


class Lives:
    """An engine that is reached at a path; `child` stands for its process."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.table: commandtable.Table | None = None
        self.child: Any = None
        self.journal = Journal()
        self.told: list[Told] = []
        self.times: list[float] = []
        self.journal.attach(self._take)

    def _take(self, when: float, level: str, event: str, message: str, attributes: dict[str, Any]) -> None:
        self.told.append((level, event, message, attributes))
        self.times.append(when)

    async def begin(self, path: str, renames: dict[str, str] | None = None) -> None:
        self.connection = await Connection.open(path, renames)
        assert await self.connection.introduce([]) is None
        self.table = await commandtable.read(self.connection)
        self.child = object()


def follow(
    path: str, scenario: Callable[[Lives, SlowLog, Connection], Awaitable[None]], renames: dict[str, str] | None = None
) -> Lives:
    """Run a scenario against the engine; `Connection` is a client's, with a name of its own."""

    async def main() -> Lives:
        lives = Lives()
        await lives.begin(path, renames)
        client = await Connection.open(path, renames)
        await client.call("CLIENT", "SETNAME", "api-1")
        await scenario(lives, SlowLog(lives, lives.journal), client)
        client.close()
        if lives.connection is not None:
            lives.connection.close()
        return lives

    return asyncio.run(main())


SLOW = ("--commandlog-execution-slower-than", "0")


def test_a_slow_command_is_told_once_without_its_arguments(bare_engine: Callable[..., str]) -> None:
    async def scenario(lives: Lives, slowlog: SlowLog, client: Connection) -> None:
        await client.call("CONFIG", "SET", "commandlog-execution-slower-than", "20000")
        await client.call("DEBUG", "SLEEP", "0.03")
        await slowlog.look()
        await slowlog.look()

    before = time.time()
    lives = follow(bare_engine("--enable-debug-command", "yes"), scenario)
    ((level, event, message, details),) = lives.told
    assert (level, event) == ("warning", "engine.slow_command")
    assert message.startswith("DEBUG with 2 arguments took ")
    assert message.endswith(" ms in the engine.")
    assert details.pop("duration") >= 0.03
    assert details == {
        "db.operation.name": "DEBUG",
        "valkey.command.arguments": 2,
        "valkey.client.name": "api-1",
    }
    assert before - 1 <= lives.times[0] <= time.time()


def test_subcommands_belong_to_the_name_and_arguments_are_only_counted(bare_engine: Callable[..., str]) -> None:
    async def scenario(lives: Lives, slowlog: SlowLog, client: Connection) -> None:
        await client.call("SET", "secret-key", "secret-value")
        await client.call("CONFIG", "GET", "secret*")
        await client.call("MGET", *[f"secret{number}" for number in range(50)])
        await slowlog.look()

    lives = follow(bare_engine(*SLOW), scenario)
    found = [(told[3]["db.operation.name"], told[3]["valkey.command.arguments"]) for told in lives.told]
    assert found == [("CLIENT SETNAME", 1), ("SET", 2), ("CONFIG GET", 1), ("MGET", 50)]
    assert "secret" not in str(lives.told)


def test_large_requests_and_replies_are_told(bare_engine: Callable[..., str]) -> None:
    async def scenario(lives: Lives, slowlog: SlowLog, client: Connection) -> None:
        await client.call("SET", "key", "x" * 5000)
        await client.call("GET", "key")
        await slowlog.look()

    lives = follow(
        bare_engine("--commandlog-request-larger-than", "4000", "--commandlog-reply-larger-than", "4000"), scenario
    )
    events = {
        event: (message, details)
        for _, event, message, details in lives.told
        if details["db.operation.name"] != "COMMAND INFO"
    }
    message, details = events["engine.large_request"]
    assert message.startswith("SET with 2 arguments came as a request of 5,0")
    assert details["valkey.request.size"] > 5000
    message, details = events["engine.large_reply"]
    assert message.startswith("GET with 1 argument had a reply of 5,0")
    assert details["valkey.response.size"] > 5000


def test_our_own_commands_are_not_told(bare_engine: Callable[..., str]) -> None:
    async def scenario(lives: Lives, slowlog: SlowLog, client: Connection) -> None:
        await client.call("SLOWLOG", "RESET")
        assert lives.connection is not None
        await lives.connection.call("INFO")
        await slowlog.look()
        await slowlog.look()

    lives = follow(bare_engine(*SLOW), scenario)
    assert [told[3]["db.operation.name"] for told in lives.told] == ["SLOWLOG RESET"]


def test_a_reset_loses_nothing_and_repeats_nothing(bare_engine: Callable[..., str]) -> None:
    async def scenario(lives: Lives, slowlog: SlowLog, client: Connection) -> None:
        await slowlog.look()
        lives.told.clear()
        await client.call("SLOWLOG", "RESET")
        await client.call("ECHO", "one")
        await slowlog.look()
        await client.call("ECHO", "two")
        await slowlog.look()

    lives = follow(bare_engine(*SLOW), scenario)
    assert [told[3]["db.operation.name"] for told in lives.told] == ["SLOWLOG RESET", "ECHO", "ECHO"]


def test_a_restarted_engine_begins_anew(bare_engine: Callable[..., str]) -> None:
    async def scenario(lives: Lives, slowlog: SlowLog, client: Connection) -> None:
        for _ in range(10):
            await client.call("ECHO", "x")
        await slowlog.look()
        assert lives.connection is not None
        lives.connection.close()
        lives.connection = None
        await slowlog.look()
        lives.told.clear()
        path = bare_engine(*SLOW)
        await lives.begin(path)
        other = await Connection.open(path)
        await other.call("TIME")
        await slowlog.look()
        other.close()

    lives = follow(bare_engine(*SLOW), scenario)
    names = [told[3]["db.operation.name"] for told in lives.told]
    assert "TIME" in names
    assert "ECHO" not in names


def test_a_burst_is_read_whole_and_summed_up(bare_engine: Callable[..., str]) -> None:
    async def scenario(lives: Lives, slowlog: SlowLog, client: Connection) -> None:
        await slowlog.look()
        lives.told.clear()
        for _ in range(100):
            await client.call("ECHO", "x")
        await slowlog.look()

    lives = follow(bare_engine(*SLOW), scenario)
    assert [told[3]["db.operation.name"] for told in lives.told[:-1]] == ["ECHO"] * 20
    assert lives.told[-1][3] == {"left_out": 80}


def test_an_engine_without_commandlog_is_asked_for_its_slowlog(
    bare_engine: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Connection.call

    async def call(self: Connection, *words: str | bytes, timeout: float = 5) -> Any:
        if words[0] == "COMMANDLOG":
            raise EngineError("ERR unknown command 'COMMANDLOG', with args beginning with: 'GET' '8' 'slow' ")
        return await original(self, *words, timeout=timeout)

    async def scenario(lives: Lives, slowlog: SlowLog, client: Connection) -> None:
        monkeypatch.setattr(Connection, "call", call)
        await slowlog.look()

    lives = follow(bare_engine(*SLOW), scenario)
    found = [(told[1], told[3]["db.operation.name"]) for told in lives.told]
    assert found == [("engine.slow_command", "CLIENT SETNAME")]


@pytest.mark.parametrize("how", ["renamed away", "no rights"])
def test_without_a_way_to_read_it_one_verbose_line_says_so(
    bare_engine: Callable[..., str], tmp_path: Any, how: str
) -> None:
    renames = {"COMMANDLOG": "", "SLOWLOG": ""} if how == "renamed away" else {}
    (tmp_path / "conf").write_text("".join(f'rename-command {name} ""\n' for name in renames))

    async def scenario(lives: Lives, slowlog: SlowLog, client: Connection) -> None:
        if how == "no rights":
            await client.call("ACL", "SETUSER", "default", "-commandlog", "-slowlog")
        for _ in range(3):
            await slowlog.look()

    lives = follow(bare_engine(str(tmp_path / "conf"), *SLOW), scenario, renames)
    ((level, event, _, _),) = lives.told
    assert (level, event) == ("verbose", "engine.slow_log_unreadable")


def test_a_renamed_command_is_called_by_its_own_name(bare_engine: Callable[..., str], tmp_path: Any) -> None:
    (tmp_path / "conf").write_text("rename-command CONFIG Secret-Config\nrename-command COMMANDLOG log\n")

    async def scenario(lives: Lives, slowlog: SlowLog, client: Connection) -> None:
        await client.call("CONFIG", "GET", "port")
        await slowlog.look()

    renames = {"CONFIG": "Secret-Config", "COMMANDLOG": "log"}
    lives = follow(bare_engine(str(tmp_path / "conf"), *SLOW), scenario, renames)
    assert lives.told[-1][3]["db.operation.name"] == "CONFIG GET"
    assert "ecret" not in str(lives.told)


def test_a_small_output_buffer_limit_costs_the_connection_once_at_most(bare_engine: Callable[..., str]) -> None:
    async def scenario(lives: Lives, slowlog: SlowLog, client: Connection) -> None:
        for _ in range(40):
            await client.call("MGET", *["x" * 128] * 40)
        await slowlog.look()
        assert lives.connection is not None
        if lives.connection.closed:
            lives.connection = await Connection.open(path)
            await slowlog.look()
        assert not lives.connection.closed

    path = bare_engine(*SLOW, "--client-output-buffer-limit", "normal 64kb 0 0")
    lives = follow(path, scenario)
    assert {told[3].get("db.operation.name") for told in lives.told} >= {"MGET"}
