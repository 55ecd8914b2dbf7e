"""A stand-in for valkey-sidecar: a thin relay in front of a bare valkey-server that understands TRACEPARENT.

Takes TRACEPARENT out of the client's stream, answers it in reply order, notes which context each command came under,
by the rules of design.md. It serves one command after the other and is good for tests of clients only.
"""

from __future__ import annotations

import contextlib
import re
import socket
import socketserver
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, BinaryIO

from telemetry.clientlink import command_name
from telemetry.housekeeping import is_housekeeping
from tests.conftest import PATIENCE_S, wait_until

_TRACEPARENT = re.compile(rb"00-[0-9a-f]{32}-([0-9a-f]{16})-[0-9a-f]{2}")
_SUBSCRIPTIONS = ("SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE")
_NO_REPLIES = (*_SUBSCRIPTIONS, "MONITOR", "CLIENT REPLY")


@dataclass
class Seen:
    """One command that was not housekeeping, and the context it was given."""

    name: str
    parent: str  # span id in hex, empty without a context
    value: bytes = b""  # the whole traceparent
    state: bytes = b""


@dataclass
class Relay:
    upstream: int
    seen: list[Seen] = field(default_factory=list)
    given: int = 0  # contexts taken
    apart: int = 0  # contexts that did not come in one write with their command
    misplaced: list[str] = field(default_factory=list)  # where a context must not be sent
    clients: set[socket.socket] = field(default_factory=set)

    def __enter__(self) -> Relay:
        relay = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                relay.clients.add(self.request)
                with contextlib.suppress(OSError, EOFError):
                    _Conversation(relay, self.request).run()
                relay.clients.discard(self.request)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.drop()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(PATIENCE_S)

    def drop(self) -> None:
        """Close every client's connection."""
        for client in list(self.clients):
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def parents(self, name: str, times: int = 0) -> list[str]:
        """The parents' span ids of the commands of this name, in order; waits until there are so many."""

        def found() -> list[str]:
            return [seen.parent for seen in list(self.seen) if seen.name == name]

        if times:
            wait_until(lambda: len(found()) >= times, f"{times} of {name}")
        return found()


class _Client:
    """The client's stream, and how much of it is here already."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self._data = sock, b""

    def command(self) -> tuple[list[bytes], bytes]:
        """The next command, and its bytes."""
        raw = line = self._line()
        words = []
        for _ in range(int(line[1:])):
            head = self._line()
            word = self._take(int(head[1:]) + 2)
            words.append(word[:-2])
            raw += head + word
        return words, raw

    def is_empty(self) -> bool:
        return not self._data

    def _line(self) -> bytes:
        while b"\r\n" not in self._data:
            self._more()
        return self._take(self._data.index(b"\r\n") + 2)

    def _take(self, size: int) -> bytes:
        while len(self._data) < size:
            self._more()
        taken, self._data = self._data[:size], self._data[size:]
        return taken

    def _more(self) -> None:
        more = self._sock.recv(1 << 20)
        if not more:
            raise EOFError
        self._data += more


class _Conversation:
    def __init__(self, relay: Relay, client: socket.socket) -> None:
        self.relay, self.client = relay, client
        self.stream = _Client(client)
        self.context, self.left = Seen("", ""), 0
        self.in_multi = False
        self.is_quiet = ""  # the command after which replies are not one to a command

    def run(self) -> None:
        with (
            socket.create_connection(("127.0.0.1", self.relay.upstream)) as upstream,
            upstream.makefile("rb") as replies,
        ):
            try:
                while True:
                    words, raw = self.stream.command()
                    name = command_name(words)
                    if name == "TRACEPARENT":
                        self._take_context(words)
                        continue
                    self._note(name)
                    upstream.sendall(raw)
                    if self.is_quiet:
                        continue
                    if name in _NO_REPLIES:
                        self.is_quiet = name
                        threading.Thread(target=self._pump, args=(upstream,), daemon=True).start()
                        continue
                    reply = _read_reply(replies)
                    while reply.startswith(b">"):
                        self.client.sendall(reply)
                        reply = _read_reply(replies)
                    self.client.sendall(reply)
            finally:
                with contextlib.suppress(OSError):
                    upstream.shutdown(socket.SHUT_RDWR)

    def _take_context(self, words: list[bytes]) -> None:
        self.relay.given += 1
        if self.is_quiet or self.in_multi:
            self.relay.misplaced.append(self.is_quiet or "MULTI")
        self.relay.apart += self.stream.is_empty()
        match = _TRACEPARENT.fullmatch(words[1])
        options = dict(zip(words[2::2], words[3::2], strict=True))
        if match is None or options.keys() - {b"STATE", b"COUNT"}:
            self.client.sendall(b"-ERR invalid traceparent\r\n")
            return
        self.context = Seen("", match[1].decode(), words[1], options.get(b"STATE", b""))
        self.left = int(options.get(b"COUNT", b"1"))
        self.client.sendall(b"+OK\r\n")

    def _note(self, name: str) -> None:
        if is_housekeeping(name):
            return
        context = self.context if self.left else Seen("", "")
        if name not in ("EXEC", "DISCARD"):
            self.relay.seen.append(Seen(name, context.parent, context.value, context.state))
        if name == "MULTI":
            self.in_multi = True
        elif name in ("EXEC", "DISCARD"):
            self.in_multi = False
        if not self.in_multi:
            self.left = max(0, self.left - 1)

    def _pump(self, upstream: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := upstream.recv(1 << 16):
                self.client.sendall(data)


def _read_reply(stream: BinaryIO | Any) -> bytes:
    """The bytes of the next reply or push."""
    line: bytes = stream.readline()
    if not line:
        raise EOFError
    kind, size = line[:1], line[1:-2]
    if kind in b"$=!" and size != b"-1":
        line += stream.read(int(size) + 2)
    elif kind in b"*~>%|" and size != b"-1":
        parts = int(size) * (2 if kind in b"%|" else 1)
        line += b"".join(_read_reply(stream) for _ in range(parts + (kind == b"|")))
    return line
