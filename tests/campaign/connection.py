"""One client connection of a workload: batches of requests in, replies out, each counted by its command.

Owns the wire (RESP2 or RESP3, read by libvalkey's parser, which the server does not use for its clients) and the tally
of what was sent and answered. It never judges a reply and never repeats a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import libvalkey

REPLY_WITHIN_S = 20.0
"""Nothing that is done to the server takes so long: a reply that is still missing was forgotten."""

_REMEMBERED_S = 3.0
_CHUNK_BYTES = 1 << 18
_NOTHING = object()
_REFUSED = "ERR max number of clients reached"
"""Said to the connection, not to a command."""
_CONTAINERS = (b"CONFIG",)

Reply = Any
Words = tuple[bytes, ...]


class LostError(ConnectionError):
    """The connection ended. What was in flight may have been executed."""


class SilentError(AssertionError):
    """A reply did not come though the connection is there."""


@dataclass
class Tally:
    """What clients sent, and how each command was answered, by name and error type ("" for success)."""

    sent: Counter[str] = field(default_factory=Counter)
    answered: Counter[tuple[str, str]] = field(default_factory=Counter)


@dataclass(frozen=True)
class Address:
    """Where to connect to: a TCP port of this machine, with a context if it speaks TLS."""

    port: int
    tls: ssl.SSLContext | None = None


def encode(words: Sequence[bytes]) -> bytes:
    """A request as RESP has it."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def _name(words: Words) -> str:
    """The command as the server's metrics call it."""
    return b" ".join(words[: 2 if words[0] in _CONTAINERS else 1]).decode()


def error_type(reply: Reply) -> str:
    """The error type that the server's metrics give this reply; "" where it is no error."""
    if not isinstance(reply, libvalkey.ReplyError):
        return ""
    text = str(reply)
    lost = "valkey-sidecar: the connection to the engine was lost" in text
    return "connection_lost" if lost else text.partition(" ")[0]


class Connection:
    """An open connection. `recent`: what was answered in the last seconds, oldest first."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tally: Tally) -> None:
        self.recent: deque[tuple[float, Counter[tuple[str, str]]]] = deque()
        self._reader, self._writer = reader, writer
        self._tally = tally
        self._parser = libvalkey.Reader(notEnoughData=_NOTHING)
        self._queued: list[str] = []

    @classmethod
    async def open(cls, address: Address, protocol: int, tally: Tally) -> Connection:
        """Connect, and say HELLO for RESP3. Raises OSError, LostError."""
        name = "localhost" if address.tls else None
        try:
            async with asyncio.timeout(REPLY_WITHIN_S):
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", address.port, ssl=address.tls, server_hostname=name, limit=_CHUNK_BYTES
                )
        except TimeoutError:
            raise LostError("no connection in time") from None
        connection = cls(reader, writer, tally)
        if protocol == 3:
            try:
                async for reply in connection.call([(b"HELLO", b"3")]):
                    if error_type(reply):
                        raise LostError(str(reply))
            except BaseException:
                connection.close()
                raise
        return connection

    async def call(self, requests: Sequence[Words]) -> AsyncIterator[Reply]:
        """Send all in one write; their replies, one by one as they come. Raises LostError, SilentError."""
        names = [_name(words) for words in requests]
        self._tally.sent.update(names)
        try:
            self._writer.write(b"".join(map(encode, requests)))
            for name in names:
                reply = await self.next_reply()
                if str(reply) == _REFUSED:
                    raise LostError(_REFUSED)
                self._count(name, reply)
                yield reply
        except OSError as error:
            raise LostError(str(error)) from None

    async def send(self, words: Words) -> None:
        """Send a request whose replies are pushed: a subscription. It counts as one call."""
        self._tally.sent[words[0].decode()] += 1
        self._writer.write(encode(words))

    def confirmed(self, name: str) -> None:
        """What `send` asked for was answered."""
        self._count(name, None)

    async def next_reply(self, within_s: float = REPLY_WITHIN_S) -> Reply:
        """The next thing the server says."""
        try:
            async with asyncio.timeout(within_s):
                while (reply := self._parser.gets()) is _NOTHING:
                    chunk = await self._reader.read(_CHUNK_BYTES)
                    if not chunk:
                        raise LostError("closed")
                    self._parser.feed(chunk)
        except TimeoutError:
            raise SilentError(f"no reply within {within_s:g} s") from None
        except libvalkey.ProtocolError as error:
            raise AssertionError(f"not RESP: {error}") from None
        except OSError as error:
            raise LostError(str(error)) from None
        return reply

    def close(self) -> None:
        """End it, with a reset where something is still unsent."""
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.close()

    def _count(self, name: str, reply: Reply) -> None:
        """Commands in a transaction count at EXEC. After an error there, whether they count is in doubt."""
        if reply == b"QUEUED":
            self._queued.append(name)
            return
        found = Counter({(name, error_type(reply)): 1})
        if name == "EXEC":
            if isinstance(reply, list):
                found.update((queued, error_type(one)) for queued, one in zip(self._queued, reply, strict=True))
            self._queued.clear()
        self._tally.answered.update(found)
        now = time.monotonic()
        self.recent.append((now, found))
        while self.recent[0][0] < now - _REMEMBERED_S:
            self.recent.popleft()
