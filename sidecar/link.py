"""The link between the supervisor and one worker: messages over a socket pair.

Owns the framing of messages (JSON with a ``kind``, in as many packets as it takes; or figures: a ledger snapshot or
spans, one packet that begins with ``S`` or ``T``), requests and their answers, and descriptors that travel along. It
never interprets a message.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

_PACKET_BYTES = 192 * 1024
"""The largest packet."""
_MORE, _LAST = b"+", b"."
"""What the parts of a message begin with that does not fit a packet: 10,000 clients are half a megabyte."""
_FDS_MAX = 250

Body = dict[str, Any]


class LinkClosedError(ConnectionError):
    """The other end is gone."""


class Link:
    """One end of a link. on_message(kind, body, fds), on_figures(packet) and on_close() are called from the loop."""

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        on_message: Callable[[str, Body, list[int]], None],
        on_figures: Callable[[bytes], None],
        on_close: Callable[[], None],
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = loop
        self._on_message = on_message
        self._on_figures = on_figures
        self._on_close = on_close
        self._next_id = 1
        self._waiting: dict[int, asyncio.Future[Body]] = {}
        self._queue: deque[tuple[bytes, Sequence[int]]] = deque()
        self._parts: list[bytes] = []
        self._closed = False
        self._sent = asyncio.Event()
        self._sent.set()
        loop.add_reader(sock.fileno(), self._readable)

    @property
    def packets_waiting(self) -> int:
        """How many packets wait because the other end does not read."""
        return len(self._queue)

    async def flushed(self, timeout: float) -> None:
        """Wait until every packet is sent, or the link is closed, at most `timeout` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._sent.wait()

    def send(self, kind: str, body: Body | None = None, fds: Sequence[int] = ()) -> None:
        """Send a message. The kernel duplicates descriptors; the caller keeps its own until the packet is sent."""
        message = json.dumps({"kind": kind, **(body or {})}, separators=(",", ":")).encode()
        if len(message) <= _PACKET_BYTES:
            self._send(message, fds)
            return
        size = _PACKET_BYTES - 1
        *parts, last = [message[at : at + size] for at in range(0, len(message), size)]
        for part in parts:
            self._send(_MORE + part, ())
        self._send(_LAST + last, fds)

    def send_figures(self, packet: bytes) -> None:
        """Send a frame of the ledger (it begins with ``S``) or a packet of spans (``T``)."""
        self._send(packet, ())

    async def request(self, kind: str, body: Body | None = None, timeout: float = 5.0) -> Body:
        """Send a message and wait for its answer, at most `timeout` seconds (TimeoutError). Raises LinkClosedError."""
        if self._closed:
            raise LinkClosedError
        identifier = self._next_id
        self._next_id += 1
        future: asyncio.Future[Body] = self._loop.create_future()
        self._waiting[identifier] = future
        try:
            self.send(kind, {**(body or {}), "id": identifier})
            async with asyncio.timeout(timeout):
                return await future
        finally:
            self._waiting.pop(identifier, None)

    def reply(self, request: Body, answer: Body) -> None:
        """Answer a request that arrived as `request`."""
        if "id" in request:
            self.send("answer", {"to": request["id"], "answer": answer})

    def close(self) -> None:
        """Close this end; pending requests fail with LinkClosedError. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self._sent.set()
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(LinkClosedError())
        self._on_close()

    def _send(self, packet: bytes, fds: Sequence[int]) -> None:
        if self._closed:
            return
        if self._queue:
            self._queue.append((packet, fds))
            return
        if not self._try(packet, fds):
            self._queue.append((packet, fds))
            self._sent.clear()
            self._loop.add_writer(self._sock.fileno(), self._writable)

    def _try(self, packet: bytes, fds: Sequence[int]) -> bool:
        try:
            if fds:
                socket.send_fds(self._sock, [packet], list(fds))
            else:
                self._sock.send(packet, socket.MSG_NOSIGNAL)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            self._loop.call_soon(self.close)
        return True

    def _writable(self) -> None:
        while self._queue:
            packet, fds = self._queue[0]
            if not self._try(packet, fds):
                return
            self._queue.popleft()
        self._sent.set()
        if not self._closed:
            self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        try:
            packet, fds, _flags, _address = socket.recv_fds(self._sock, _PACKET_BYTES, _FDS_MAX)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            packet, fds = b"", []
        if not packet:
            self.close()
        elif packet[:1] in (b"S", b"T"):
            self._on_figures(packet)
        elif packet[:1] == _MORE:
            self._parts.append(packet[1:])
        else:
            if packet[:1] == _LAST:
                packet = b"".join([*self._parts, packet[1:]])
                self._parts.clear()
            body = json.loads(packet)
            kind = body.pop("kind")
            if kind == "answer":
                future = self._waiting.get(body["to"])
                if future is not None and not future.done():
                    future.set_result(body["answer"])
            else:
                self._on_message(kind, body, fds)
