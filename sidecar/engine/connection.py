"""Our own connection to the engine: for readiness, for the command table, for what workers ask.

Owns one RESP2 connection that comes and goes with the engine, and its manners (named, bounded waits, never evicted). It
never carries a client's command.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import libvalkey

NAME = "valkey-sidecar"

# Enough for the largest answer we ask for (COMMAND, some 100 KB) on a machine under load.
_CALL_TIMEOUT_S = 5.0


class EngineError(Exception):
    """The engine answered with an error; its text is the engine's own. `code` is its first word."""

    @property
    def code(self) -> str:
        return str(self).partition(" ")[0]

    @property
    def no_rights(self) -> bool:
        return self.code in ("NOAUTH", "NOPERM", "WRONGPASS")


class UnreachableError(Exception):
    """There is no connection now, or the engine did not answer in time."""


class Connection(asyncio.Protocol):
    """One connection. `renames` is the engine's rename-command table, upper-case: {"CONFIG": "secret-name"}."""

    def __init__(self, renames: Mapping[str, str] | None = None) -> None:
        self._renames = dict(renames or {})
        self._reader = libvalkey.Reader(encoding="utf-8", errors="surrogateescape")
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._transport: asyncio.Transport | None = None
        self._lost = asyncio.Event()
        self.client_id: int | None = None
        """The engine's id of it, None before it has been introduced, and where the engine does not say."""

    @classmethod
    async def open(cls, path: str, renames: Mapping[str, str] | None = None) -> Connection:
        """Connect to the engine's socket. Raises OSError while nobody listens there."""
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_unix_connection(lambda: cls(renames), path)
        return protocol

    async def introduce(self, credentials: Sequence[tuple[str | None, str]]) -> EngineError | None:
        """Log in with the first of (user, password) that is accepted, and name ourselves.

        None when the engine lets us in; else its refusal, and most calls will raise it again. Raises UnreachableError.
        """
        for user, password in credentials:
            try:
                await (self.call("AUTH", user, password) if user else self.call("AUTH", password))
            except EngineError:
                continue
            break
        refusal: EngineError | None = None
        for words in (("CLIENT", "SETNAME", NAME), ("CLIENT", "NO-EVICT", "ON")):
            try:
                await self.call(*words)
            except EngineError as error:
                if error.no_rights:
                    refusal = error
                    break
        with contextlib.suppress(EngineError):  # once we have a name: the engine's slow log shows this, too
            self.client_id = int(await self.call("CLIENT", "ID"))
        return refusal

    async def call(self, *words: str | bytes, timeout: float = _CALL_TIMEOUT_S) -> Any:
        """One command and its answer. Raises EngineError, UnreachableError."""
        if self._transport is None or self._transport.is_closing():
            raise UnreachableError("the engine closed our connection")
        name = str(words[0]).upper()
        renamed = self.renamed(name)
        if not renamed:
            raise EngineError(f"ERR {name} is disabled by rename-command")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        self._transport.write(encode(renamed, *words[1:]))
        try:
            # shield: a late answer must still take its own place in the queue. Not wait_for: before Python 3.12 it
            # forgets that it was cancelled when the answer comes at the same moment.
            async with asyncio.timeout(timeout):
                result = await asyncio.shield(answer)
        except TimeoutError:
            raise UnreachableError(f"the engine did not answer {name} within {timeout:g} s") from None
        if isinstance(result, libvalkey.ReplyError):
            raise EngineError(str(result))
        return result

    def renamed(self, name: str) -> str:
        """The name by which the engine takes the command; empty when it does not."""
        return self._renames.get(name.upper(), name)

    def original(self, name: str) -> str:
        """The command that the engine takes by this name: the other way round."""
        given = name.lower()
        return next((own for own, new in self._renames.items() if new.lower() == given), name)

    @property
    def inode(self) -> int | None:
        """Of our end of the connection, None without one."""
        if self._transport is None or self._transport.is_closing():
            return None
        return os.fstat(self._transport.get_extra_info("socket").fileno()).st_ino

    @property
    def closed(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    async def lost(self) -> None:
        """Wait until it is lost."""
        await self._lost.wait()

    async def lost_within(self, seconds: float) -> bool:
        """Wait so long, or until it is lost. Whether it is."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._lost.wait()
        return self.closed

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if self._waiting:
                answer = self._waiting.popleft()
                if not answer.done():
                    answer.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._lost.set()
        for answer in self._waiting:
            if not answer.done():
                answer.set_exception(UnreachableError("the engine closed our connection"))
                answer.exception()  # retrieved: nobody may be waiting for it any more
        self._waiting.clear()


def encode(*words: str | bytes) -> bytes:
    """A request in RESP."""
    raw = [word if isinstance(word, bytes) else word.encode("utf-8", "surrogateescape") for word in words]
    return b"*%d\r\n" % len(raw) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in raw)
