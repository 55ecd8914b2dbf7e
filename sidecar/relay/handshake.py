"""The TLS handshake of one client, before it is a session.

Owns the connection until both sides have agreed, or one has not: it reads record by record, so that what the client
sends behind its handshake stays in the kernel for the session. It never reads a request, and it never waits for long.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import deque
from collections.abc import Callable

from sidecar.relay.tls_stream import TlsStream

_WITHIN_S = 10.0
"""A client has so long for its handshake: until then it takes the place of another."""
_BYTES_MOST = 256 * 1024
"""Certificates of clients are part of it."""

NO_TLS = "it does not speak TLS"

_HEADER_BYTES = 5
_RECORD_MOST = 16384 + 2048
_HANDSHAKE_RECORD = 22
_MAJOR_VERSION = 3


class Turns:
    """Gives each step of a handshake, which may cost a millisecond, a turn of the loop: sessions are served between."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Callable[[], None]] = deque()

    def wait(self, step: Callable[[], None]) -> None:
        """Have `step` called, after those that wait already."""
        self._waiting.append(step)
        if len(self._waiting) == 1:
            self._loop.call_soon(self._next)

    def _next(self) -> None:
        try:
            self._waiting[0]()
        finally:
            self._waiting.popleft()
            if self._waiting:
                self._loop.call_soon(self._next)


class Handshake:
    """Begins at once, and ends by one of two: done(self, stream), the socket stays open; failed(self, why): closed.

    why: a clause such as "it has no certificate"; None when the client left without a word, as health checks do.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        turns: Turns,
        sock: socket.socket,
        context: ssl.SSLContext,
        done: Callable[[Handshake, TlsStream], None],
        failed: Callable[[Handshake, str | None], None],
    ) -> None:
        self._loop = loop
        self._turns = turns
        self._sock = sock
        self._done = done
        self._failed = failed
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._connection = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._record = bytearray()
        self._missing = _HEADER_BYTES
        self._taken = 0
        self._unsent = b""
        self._agreed = False
        self._abandoned = False
        self._has_turn = False
        self._timer = loop.call_later(_WITHIN_S, self._fail, f"it was not over within {_WITHIN_S:g} seconds")
        loop.add_reader(sock.fileno(), self._readable)

    def abandon(self) -> None:
        """Forget it; the socket stays as it is. May be called at any time."""
        self._abandoned = True
        self._timer.cancel()
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        while not self._agreed and not self._has_turn:
            try:
                data = self._sock.recv(self._missing)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._fail(error.strerror if self._taken else None)
                return
            if not data:
                self._fail("it closed the connection" if self._taken else None)
                return
            if not self._take(data):
                return

    def _take(self, data: bytes) -> bool:
        """Take bytes of a record. False when there is nothing more to read for now."""
        if not self._taken and data[0] != _HANDSHAKE_RECORD:
            self._fail(NO_TLS)
            return False
        self._taken += len(data)
        self._record += data
        self._missing -= len(data)
        if self._missing == 0 and len(self._record) == _HEADER_BYTES:
            self._missing = int.from_bytes(self._record[3:5], "big")
            if self._record[1] != _MAJOR_VERSION or not 0 < self._missing <= _RECORD_MOST:
                self._fail(NO_TLS)
                return False
            if self._taken > _BYTES_MOST:
                self._fail("it says too much")
                return False
        if self._missing:
            return True
        self._incoming.write(self._record)
        self._record.clear()
        self._missing = _HEADER_BYTES
        self._has_turn = True
        self._turns.wait(self._turn)
        return False

    def _turn(self) -> None:
        self._has_turn = False
        if not self._abandoned and self._step():
            self._readable()

    def _step(self) -> bool:
        """OpenSSL has one more record."""
        try:
            self._connection.do_handshake()
            self._agreed = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            with contextlib.suppress(OSError):
                self._sock.send(self._outgoing.read())  # the alert
            self._fail(_clause(error))
            return False
        self._unsent += self._outgoing.read()
        return self._flush()

    def _flush(self) -> bool:
        """Send what there is; and be done when that was the last."""
        try:
            sent = self._sock.send(self._unsent) if self._unsent else 0
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._fail(error.strerror)
            return False
        self._unsent = self._unsent[sent:]
        if self._unsent:  # a client that sends on without reading has to wait
            self._loop.remove_reader(self._sock.fileno())
            self._loop.add_writer(self._sock.fileno(), self._writable)
            return False
        if self._agreed:
            self.abandon()
            self._done(self, TlsStream(self._connection, self._incoming, self._outgoing))
            return False
        return True

    def _writable(self) -> None:
        self._loop.remove_writer(self._sock.fileno())
        if self._flush():
            self._loop.add_reader(self._sock.fileno(), self._readable)

    def _fail(self, why: str | None) -> None:
        self.abandon()
        self._sock.close()
        self._failed(self, why)


def _clause(error: ssl.SSLError) -> str:
    """Why OpenSSL gave up, in words; an alert is what the client's side says of ours."""
    from sidecar.tls import reason

    words = reason(error)
    if error.reason and "ALERT" in error.reason:
        return f"it refuses our certificate or what we offer ({words})"
    if error.reason == "HTTP_REQUEST":
        return NO_TLS
    return words
