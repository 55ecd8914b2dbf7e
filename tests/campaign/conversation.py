"""One stream's bytes to a server, in pieces, and what comes back: all of its replies, and which side closed first."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

PATIENCE_S: Final = 20.0
_TICK_S: Final = 0.02


@dataclass(frozen=True)
class Outcome:
    """What a server did.

    closed: it closed first. hung: it did not end within PATIENCE_S, neither by itself nor after we had closed our half.
    """

    reply: bytes
    closed: bool
    hung: bool = False


async def converse(
    port: int, first: bytes, data: bytes, cuts: Sequence[int], expected: Outcome | None, idle_s: float
) -> Outcome:
    """Send a first request, wait for its reply, send the data, cut at these places, and read until the server closes.

    Our half is closed when nothing has come for idle_s, and everything has that was expected: a server that waits for
    more bytes says nothing, so there is no other way to know.
    """
    loop = asyncio.get_running_loop()
    got = bytearray()
    heard = False
    silent_s = 0.0
    began = time.monotonic()

    async def send() -> None:
        with contextlib.suppress(ConnectionError):
            at = 0
            for cut in (*cuts, len(data)):
                await loop.sock_sendall(sock, data[at:cut])
                at = cut
                await asyncio.sleep(0)

    async def read() -> None:
        nonlocal heard
        with contextlib.suppress(ConnectionError):
            while chunk := await loop.sock_recv(sock, 1 << 18):
                got.extend(chunk)
                heard = True

    with socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_sendall(sock, first)
        while not got.endswith(b"\n"):
            got += await asyncio.wait_for(loop.sock_recv(sock, 1 << 10), PATIENCE_S)
        sender, reader = asyncio.create_task(send()), asyncio.create_task(read())
        try:
            while not reader.done():
                await asyncio.wait([reader], timeout=_TICK_S)
                # Counted, not measured: when this process did not run, nobody was silent.
                silent_s = silent_s + _TICK_S if sender.done() and not heard else 0.0
                heard = False
                late = time.monotonic() - began > PATIENCE_S
                if expected is not None and (expected.closed or len(got) < len(expected.reply)) and not late:
                    continue
                if not reader.done() and (late or silent_s > idle_s):
                    with contextlib.suppress(OSError):  # it may have closed just now
                        sock.shutdown(socket.SHUT_WR)
                    await asyncio.wait([reader], timeout=PATIENCE_S)
                    return Outcome(bytes(got), closed=False, hung=not reader.done())
            return Outcome(bytes(got), closed=True)
        finally:
            sender.cancel()
            reader.cancel()
            await asyncio.gather(sender, reader, return_exceptions=True)
