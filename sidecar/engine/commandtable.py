"""The engine's command table: every command and subcommand it knows, with its flags.

Owns reading it from the engine, and asking a throwaway engine when we may not ask the real one. It never decides what a
flag means to a session.
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

# All of COMMAND is 100 KB, more than `client-output-buffer-limit` may allow: the engine would close our connection.
# The largest entry (cluster) has 4 KB, most have 300 bytes: 16 of them fit what the engine has reserved for a reply.
_NAMES_AT_ONCE = 16

_PROBE_TIMEOUT_S = 10.0
_PROBE_RETRY_S = 0.01


def flatten(reply: Sequence[Any]) -> Table:
    """From COMMAND's reply to (name, flags); a subcommand is called "config|get", as the engine calls it.

    To the engine's flags comes `first-key-2` where the command's second argument is its first key.
    """
    table: Table = []
    for entry in reply:
        name, _arity, flags, first_key = entry[:4]
        key = [f"first-key-{first_key}"] if first_key else []
        table.append((str(name), [*(str(flag) for flag in flags), *key]))
        if len(entry) > 9 and entry[9]:
            table.extend(flatten(entry[9]))
    return table


async def read(connection: Connection) -> Table:
    """The table of a running engine; it answers while it loads, too. Raises EngineError, UnreachableError."""
    with contextlib.suppress(EngineError):  # without COMMAND LIST, before version 7.0; a refusal comes again below
        entries = await _read_in_parts(connection)
        if None not in entries:
            return flatten(entries)
    return flatten(await connection.call("COMMAND"))


async def _read_in_parts(connection: Connection) -> list[Any]:
    """What COMMAND replies; with None for a command that went away meanwhile, or whose new name has a "|" in it."""
    # COMMAND LIST has a command's own name, COMMAND INFO takes the one that it was given by rename-command.
    names = [connection.renamed(name) for name in await connection.call("COMMAND", "LIST") if "|" not in name]
    entries: list[Any] = []
    for first in range(0, len(names), _NAMES_AT_ONCE):  # one after the other: replies that wait count together
        entries += await connection.call("COMMAND", "INFO", *names[first : first + _NAMES_AT_ONCE])
    return entries


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
