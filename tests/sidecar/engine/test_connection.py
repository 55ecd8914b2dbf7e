from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar.engine import commandtable
from sidecar.engine.connection import Connection, EngineError, UnreachableError
from sidecar.engine.folder import PrivateFolder
from sidecar.processes import Children


def test_our_connection_says_who_it_is(bare_engine: Callable[..., str]) -> None:
    async def main() -> None:
        connection = await Connection.open(bare_engine())
        assert await connection.introduce([]) is None
        assert await connection.call("CLIENT", "GETNAME") == "valkey-sidecar"
        flags = (await connection.call("CLIENT", "INFO")).partition(" flags=")[2].partition(" ")[0]
        assert "e" in flags  # never evicted
        connection.close()

    asyncio.run(main())


def test_the_first_password_that_fits_is_used(bare_engine: Callable[..., str]) -> None:
    async def main() -> None:
        connection = await Connection.open(bare_engine("--requirepass", "right"))
        assert await connection.introduce([("nobody", "x"), (None, "wrong"), (None, "right")]) is None
        assert await connection.call("PING") == "PONG"
        connection.close()

    asyncio.run(main())


def test_a_refusal_is_told_and_not_raised(bare_engine: Callable[..., str]) -> None:
    async def main() -> None:
        connection = await Connection.open(bare_engine("--requirepass", "right"))
        refusal = await connection.introduce([])
        assert refusal is not None
        assert refusal.code == "NOAUTH"
        with pytest.raises(EngineError, match="NOAUTH"):
            await connection.call("INFO")
        connection.close()

    asyncio.run(main())


def test_renamed_commands_are_called_by_their_new_names(bare_engine: Callable[..., str], tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "renamed.conf").write_text('rename-command CONFIG secret-config\nrename-command INFO ""\n')
        path = bare_engine(str(tmp_path / "renamed.conf"))
        connection = await Connection.open(path, {"CONFIG": "secret-config", "INFO": ""})
        assert await connection.call("CONFIG", "GET", "port") == ["port", "0"]
        with pytest.raises(EngineError, match="INFO is disabled"):
            await connection.call("INFO")
        connection.close()

    asyncio.run(main())


def test_an_engine_that_does_not_answer_in_time_costs_no_later_answer_its_place(
    bare_engine: Callable[..., str],
) -> None:
    async def main() -> None:
        connection = await Connection.open(bare_engine("--enable-debug-command", "yes"))
        with pytest.raises(UnreachableError, match="did not answer DEBUG"):
            await connection.call("DEBUG", "SLEEP", "0.2", timeout=0.02)
        assert await connection.call("ECHO", "later") == "later"
        connection.close()

    asyncio.run(main())


def test_waiting_calls_end_with_the_connection(bare_engine: Callable[..., str]) -> None:
    async def main() -> None:
        path = bare_engine()
        connection, other = await Connection.open(path), await Connection.open(path)
        waiting = asyncio.create_task(connection.call("BLPOP", "nothing", "0"))
        await asyncio.sleep(0)
        assert await other.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") == 1
        with pytest.raises(UnreachableError, match="closed"):
            await waiting
        with pytest.raises(UnreachableError, match="closed"):
            await connection.call("PING")
        other.close()

    asyncio.run(main())


def test_the_command_table_has_subcommands_by_their_full_names(bare_engine: Callable[..., str]) -> None:
    async def main() -> None:
        connection = await Connection.open(bare_engine())
        table = dict(await commandtable.read(connection))
        connection.close()
        assert "write" in table["set"]
        assert "blocking" in table["blpop"]
        assert "config|get" in table

    asyncio.run(main())


def test_the_command_table_fits_a_small_limit_of_the_output_buffer(bare_engine: Callable[..., str]) -> None:
    async def main() -> None:
        unlimited = await Connection.open(bare_engine())
        limited = await Connection.open(bare_engine("--client-output-buffer-limit", "normal 64kb 0 0"))
        table = await commandtable.read(limited)
        assert sorted(table) == sorted(commandtable.flatten(await unlimited.call("COMMAND")))
        unlimited.close()
        limited.close()

    asyncio.run(main())


@pytest.mark.parametrize("config", ["setting", "c|g"])
def test_the_command_table_has_renamed_commands_by_their_own_names(
    bare_engine: Callable[..., str], tmp_path: Path, config: str
) -> None:
    async def main() -> None:
        renames = {"COMMAND": "secret", "GET": "fetch", "SET": "get", "CONFIG": config, "DEBUG": ""}
        lines = [f'rename-command {name} "{new}"\n' for name, new in renames.items()]
        (tmp_path / "renamed.conf").write_text("".join(lines))
        connection = await Connection.open(bare_engine(str(tmp_path / "renamed.conf")), renames)
        table = await commandtable.read(connection)
        assert {"get", "set", "config", "config|get", "command"} <= dict(table).keys()
        assert "debug" not in dict(table)
        assert sorted(table) == sorted(commandtable.flatten(await connection.call("COMMAND")))
        connection.close()

    asyncio.run(main())


def test_the_command_table_of_an_engine_without_command_list_is_read_at_once(bare_engine: Callable[..., str]) -> None:
    class OldEngine(Connection):
        async def call(self, *words: str | bytes, timeout: float = 5) -> Any:
            if words[1:]:
                raise EngineError("ERR Unknown subcommand or wrong number of arguments for 'LIST'. Try COMMAND HELP.")
            return await super().call(*words, timeout=timeout)

    async def main() -> None:
        connection = await OldEngine.open(bare_engine())
        assert dict(await commandtable.read(connection)).keys() >= {"get", "config|get"}
        connection.close()

    asyncio.run(main())


def test_a_throwaway_engine_knows_the_same_commands(bare_engine: Callable[..., str], binary: str) -> None:
    async def main() -> None:
        children, folder = Children(), PrivateFolder.create()
        children.attach(asyncio.get_running_loop())
        connection = await Connection.open(bare_engine())
        try:
            expected = await commandtable.read(connection)
            assert sorted(await commandtable.probe(binary, folder.path, children)) == sorted(expected)
            assert children.alive == []
        finally:
            connection.close()
            folder.remove()

    asyncio.run(main())


def test_a_throwaway_engine_that_cannot_start_is_told(bare_engine: Callable[..., str]) -> None:
    async def main() -> None:
        children, folder = Children(), PrivateFolder.create()
        children.attach(asyncio.get_running_loop())
        try:
            with pytest.raises(UnreachableError, match="ended with code 1"):
                await commandtable.probe("/bin/false", folder.path, children)
        finally:
            folder.remove()

    asyncio.run(main())
