"""The engine's command table: every command and subcommand it knows, with its flags.

Owns reading `COMMAND`, and asking a throwaway engine when we may not ask the real one. It never decides what a flag
means to a session.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sidecar.engine.connection import Connection, EngineError, UnreachableError
from sidecar.processes import Children

Table = list[tuple[str, list[str]]]

_PROBE_TIMEOUT_S = 10.0
_PROBE_RETRY_S = 0.01


def flatten(reply: Sequence[Any]) -> Table:
    """From COMMAND's reply to (name, flags); a subcommand is called "config|get", as the engine calls it."""
    table: Table = []
    for entry in reply:
        name, _arity, flags = entry[0], entry[1], entry[2]
        table.append((str(name), [str(flag) for flag in flags]))
        if len(entry) > 9 and entry[9]:
            table.extend(flatten(entry[9]))
    return table


async def read(connection: Connection) -> Table:
    """The table of a running engine; it answers while it loads, too. Raises EngineError, UnreachableError."""
    return flatten(await connection.call("COMMAND"))


async def probe(binary: str, folder: Path, children: Children) -> Table:
    """The table of the same binary started for a moment, with nothing of the user's in it.

    For an engine that refuses us. Commands of modules that the user's configuration loads are missing from it.
    Raises EngineError, UnreachableError.
    """
    path = str(folder / "probe.sock")
    # fmt: off
    child = children.spawn("command table", [
        binary, "--port", "0", "--unixsocket", path, "--unixsocketperm", "600", "--dir", str(folder),
        "--save", "", "--appendonly", "no", "--daemonize", "no", "--logfile", "/dev/null",
    ])
    # fmt: on
    try:
        async with asyncio.timeout(_PROBE_TIMEOUT_S):
            while True:
                try:
                    connection = await Connection.open(path)
                except OSError:
                    if child.code is not None:
                        raise UnreachableError(f"{binary} ended with code {child.code} instead") from None
                    await asyncio.sleep(_PROBE_RETRY_S)
                    continue
                try:
                    return await read(connection)
                finally:
                    connection.close()
    except TimeoutError:
        raise UnreachableError(f"{binary} did not tell its commands within {_PROBE_TIMEOUT_S:g} s") from None
    finally:
        child.send_signal(signal.SIGKILL)
        await child.wait()
        with contextlib.suppress(OSError):
            (folder / "probe.sock").unlink()


__all__ = ["EngineError", "Table", "UnreachableError", "flatten", "probe", "read"]
