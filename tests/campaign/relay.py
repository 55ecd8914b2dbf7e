"""A relay between clients and a server that can be told to misbehave, as a network does.

Owns its connections; it lives on an event loop of somebody else. Deterministic: what it does, it does to all of them
and at once. Addresses are TCP ports of this machine, or paths of Unix sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from pathlib import Path

_CHUNK_BYTES = 1 << 16
_PIECES_MOST = 100
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: no time to send what is left

End = int | Path


class Relay:
    """Between `listen` and `to`. delay_s: every chunk waits so long. piece: so many bytes of it go at a time, at first.

    `flowing`: cleared, nothing passes until it is set again.
    """

    def __init__(self, listen: End, to: End) -> None:
        self.delay_s = 0.0
        self.piece = 0
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._listen, self._to = listen, to
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Accept connections."""
        if isinstance(self._listen, Path):
            self._server = await asyncio.start_unix_server(self._serve, self._listen, limit=_CHUNK_BYTES)
        else:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._listen, limit=_CHUNK_BYTES)

    async def close(self) -> None:
        """Accept no more, and cut what there is."""
        if self._server is not None:
            self._server.close()
        await self.cut(reset=False)

    async def cut(self, reset: bool) -> None:
        """End every connection on both sides. reset: what is under way is thrown away."""
        for writer in self._writers:
            connected = writer.get_extra_info("socket")
            if reset and connected is not None and connected.family != socket.AF_UNIX:
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()
            else:
                writer.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        other: asyncio.StreamWriter | None = None
        try:
            if isinstance(self._to, Path):
                back, other = await asyncio.open_unix_connection(self._to, limit=_CHUNK_BYTES)
            else:
                back, other = await asyncio.open_connection("127.0.0.1", self._to, limit=_CHUNK_BYTES)
            self._writers.add(other)
            await asyncio.gather(self._carry(reader, other), self._carry(back, writer))
        except (OSError, asyncio.CancelledError):
            pass  # one side is gone, or all are cut: the other side is closed below
        finally:
            self._tasks.discard(task)
            for end in (writer, other):
                if end is not None:
                    self._writers.discard(end)
                    with contextlib.suppress(OSError):
                        end.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            await self.flowing.wait()
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            piece, at = self.piece, 0  # it may change meanwhile
            while piece and at < min(len(data), _PIECES_MOST * piece):
                writer.write(data[at : at + piece])
                at += piece
                await asyncio.sleep(0)
            writer.write(data[at:])
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        raise ConnectionResetError  # what one side ends, ends
