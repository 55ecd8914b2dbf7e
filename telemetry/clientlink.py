"""What one client connection sends in front of its commands, and which replies are its own: no application's.

Owns the order of one connection's commands and replies: when `TRACEPARENT` may be sent, which reply answers it, and the
CLIENT span of what is under way. Never touches a socket and imports no client library: `telemetry.client` feeds it.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from opentelemetry import trace as otel
from opentelemetry.trace import Span, SpanContext, SpanKind, Status, StatusCode, Tracer

from telemetry.housekeeping import is_housekeeping

_CONTAINERS: Final = frozenset({
    "ACL", "CLIENT", "CLUSTER", "COMMAND", "COMMANDLOG", "CONFIG", "FUNCTION", "LATENCY", "MEMORY", "MODULE", "OBJECT",
    "PUBSUB", "SCRIPT", "SENTINEL", "SLOWLOG", "XGROUP", "XINFO",
})  # fmt: skip
"""Commands whose second word belongs to their name."""

_STREAMING: Final = frozenset({"MONITOR", "PSYNC", "SYNC"})
"""After these the connection carries no replies any more."""

_QUIETING: Final = _STREAMING | {"CLIENT REPLY", "PSUBSCRIBE", "SSUBSCRIBE", "SUBSCRIBE"}
"""After these, replies are not one to a command: nothing of ours is sent until the connection is made anew."""

_FOR_THE_NEXT: Final = frozenset({"ASKING", "CLIENT CACHING"})
"""These are about the very next command, also for a server that has to reject TRACEPARENT: we keep out."""

_JOINED_UP_TO: Final = 65_536
"""Bytes up to which a first piece is copied behind ours, so that both leave in one write."""

_OK: Final = (b"OK", "OK")

# valkey-py and redis-py cut the code off such errors and keep it as the class.
_CODES: Final = {
    "AskError": "ASK", "AuthenticationError": "NOAUTH", "BusyLoadingError": "LOADING",
    "ClusterDownError": "CLUSTERDOWN",
    "ClusterCrossSlotError": "CROSSSLOT", "ExecAbortError": "EXECABORT", "MasterDownError": "MASTERDOWN",
    "MovedError": "MOVED", "NoPermissionError": "NOPERM", "NoScriptError": "NOSCRIPT", "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY", "TryAgainError": "TRYAGAIN",
}  # fmt: skip


class Tracing:
    """One call of `trace`: what it asked for, shared by all connections that it reaches."""

    def __init__(self, client_spans: bool, tracer: Tracer) -> None:
        self.client_spans = client_spans
        self.tracer = tracer
        self.active = True
        self.classes: dict[type, type] = {}


class Packed(list[Any]):
    """Packed commands, ready to be written, that remember their names."""

    __slots__ = ("names",)

    def __init__(self, pieces: Iterable[Any], commands: Iterable[Sequence[Any]]) -> None:
        super().__init__(pieces)
        self.names = tuple(map(command_name, commands))


def command_name(args: Sequence[Any]) -> str:
    """The bare name of a command, upper case: `GET`, `CONFIG GET`; never an argument."""
    first = args[0]
    word = (first.decode(errors="replace") if isinstance(first, bytes) else str(first)).upper()
    rest: Sequence[Any] = args[1:2]
    if " " in word:
        word, *rest = word.split()
    if word not in _CONTAINERS or not rest:
        return word
    second = rest[0].decode(errors="replace") if isinstance(rest[0], bytes) else str(rest[0])
    return f"{word} {second.upper()}" if len(second) <= 32 and second.replace("-", "").isalpha() else word


def traceparent(context: SpanContext, count: int) -> bytes:
    """The command that gives this context to the next `count` commands, in RESP."""
    words = [b"TRACEPARENT", b"00-%032x-%016x-%02x" % (context.trace_id, context.span_id, context.trace_flags)]
    if state := context.trace_state.to_header():
        words += b"STATE", state.encode()
    if count > 1:
        words += b"COUNT", b"%d" % count
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


class Link:
    """One connection's commands and replies, in order."""

    __slots__ = ("_due", "_hello", "_hold", "_in_multi", "_quiet", "_received", "_sent", "_spans", "_supported",
                 "_system", "tracing")  # fmt: skip

    def __init__(self, tracing: Tracing) -> None:
        self.tracing = tracing
        self._system = "valkey"
        # The number of the reply that ends it, and whether the replies are a transaction's.
        self._spans: deque[tuple[int, Span, bool]] = deque()
        self._due: deque[int] = deque()  # numbers of the replies that ours come before
        self._clear()

    def _clear(self) -> None:
        self._due.clear()
        self._sent = self._received = 0
        self._supported = True  # until the server says otherwise
        self._quiet = self._hello = self._hold = self._in_multi = False

    def reset(self) -> None:
        """The connection is closed: the next one begins anew, and what was under way has failed."""
        if self._spans:
            error = sys.exc_info()[1]
            for _, span, _ in self._spans:
                _fail(span, error)
                span.end()
            self._spans.clear()
        self._clear()

    def outgoing(self, packed: Any, connection: Any) -> Any:
        """The pieces to write for these packed commands. Looks at the context when they are written, not earlier:
        the library may have had to connect first."""
        if isinstance(packed, Packed):
            return self._pieces(packed, connection)
        self._quiet = True  # somebody's own bytes: there is no telling how many replies they bring
        return packed

    def _pieces(self, packed: Packed, connection: Any) -> Iterator[Any]:
        began_in_multi, hold, was_quiet = self._in_multi, self._hold, self._quiet
        count = self._follow(packed.names)
        ours, span = b"", None
        if count and not began_in_multi and self.tracing.active and _STREAMING.isdisjoint(packed.names):
            context = otel.get_current_span().get_span_context()
            if self.tracing.client_spans:
                span = self._start_span(packed.names, count, connection)
                context = span.get_span_context()
            if self._supported and not was_quiet and not hold and context.is_valid:
                ours = traceparent(context, count)
                self._due.append(self._sent)
        self._sent += len(packed.names)
        if span is not None and not self._quiet:
            self._spans.append((self._sent, span, packed.names[0] == "MULTI"))
        pieces = iter(packed)
        if ours:
            first = next(pieces)
            if isinstance(first, bytes) and len(first) <= _JOINED_UP_TO:
                yield ours + first
            else:
                yield ours
                yield first
        yield from pieces
        if span is not None and self._quiet:
            span.end()  # a subscription: its confirmations come among its messages

    def _follow(self, names: tuple[str, ...]) -> int:
        """What these commands do to the connection; how many the server counts (a transaction is one)."""
        count = 0
        for name in names:
            if name == "MULTI" and not self._in_multi:
                self._in_multi = True
                count += 1
            elif self._in_multi:
                self._in_multi = name not in ("EXEC", "DISCARD", "RESET")
            elif not is_housekeeping(name):
                count += 1
            if name in _QUIETING:
                self._quiet = True
        self._hold = names[-1:] != () and names[-1] in _FOR_THE_NEXT
        self._hello = names == ("HELLO",)
        return count

    def keeps(self, reply: Any, push: bool = False) -> bool:
        """Whether this reply, or error, is not for the application. push: it came while only pushes were asked for."""
        if self._is_ours(reply):
            return True
        if not push and (not isinstance(reply, Exception) or is_error_reply(reply)):
            self._answered(reply)
        return False

    def _is_ours(self, reply: Any) -> bool:
        """Whether this reply, or error reply, answers our TRACEPARENT; it is settled then.

        A push may arrive before it; that is a list, while ours is OK or an error.
        """
        if not self._due or self._received < self._due[0]:
            return False
        if isinstance(reply, Exception):
            if not is_error_reply(reply):
                return False
            # Not a complaint about the value: this server, or a proxy in front of it, does not know the command.
            self._supported = self._supported and "invalid traceparent" in str(reply)
        elif reply not in _OK:
            return False
        self._due.popleft()
        return True

    def _answered(self, reply: Any) -> None:
        """The application gets this reply, or error reply."""
        if self._received < self._sent:
            self._received += 1
        if self._hello:
            self._hello = False
            if isinstance(reply, dict):
                server = reply.get(b"server", reply.get("server", b"valkey"))
                self._system = "redis" if server in (b"redis", "redis") else "valkey"
        if not self._spans:
            return
        end, span, in_transaction = self._spans[0]
        if isinstance(reply, Exception):
            _fail(span, reply)
        elif in_transaction and isinstance(reply, list):
            for error in [item for item in reply if isinstance(item, Exception)][:1]:
                _fail(span, error)
        if self._received >= end:
            self._spans.popleft()
            span.end()

    def start_span(self, name: str, connection: Any, start_time: int | None = None, size: int = 0) -> Span:
        """A CLIENT span named `name`. start_time: nanoseconds of Unix time; size: of a batch, 2 or more to show."""
        attributes: dict[str, str | int] = {
            "db.system": self._system,
            "db.system.name": self._system,
            "db.operation.name": name,
            "db.namespace": str(getattr(connection, "db", 0)),
            "server.address": str(getattr(connection, "host", None) or getattr(connection, "path", "")),
        }
        port = getattr(connection, "port", None)
        if port is not None:
            attributes["server.port"] = int(port)
        if size > 1:
            attributes["db.operation.batch.size"] = size
        return self.tracing.tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes, start_time=start_time)

    def _start_span(self, names: tuple[str, ...], count: int, connection: Any) -> Span:
        if names[0] == "MULTI":
            return self.start_span("MULTI", connection, size=len(names) - 2)
        if count > 1:
            return self.start_span("PIPELINE", connection, size=count)
        return self.start_span(next(name for name in names if not is_housekeeping(name)), connection)

    def connect_failed(self, connection: Any, error: BaseException, start_time: int) -> None:
        """A connection could not be made: with client spans, that is one, too."""
        if self.tracing.active and self.tracing.client_spans:
            span = self.start_span("CONNECT", connection, start_time)
            _fail(span, error)
            span.end()


def is_error_reply(error: BaseException) -> bool:
    """Whether the server answered with this error, as opposed to a connection that failed."""
    return any(base.__name__ == "ResponseError" for base in type(error).__mro__)


def _fail(span: Span, error: BaseException | None) -> None:
    """Status and attributes of an error. Quoted words of its text are left out: they may be the application's data."""
    kind = type(error).__name__ if error is not None else "connection_lost"
    status, text = _CODES.get(kind), ""
    if error is not None and (status or is_error_reply(error)):
        text = str(error)
        first = text.partition(" ")[0]
        if status is None:
            status = first if first.isalpha() and first.isupper() and len(first) <= 32 else "ERR"
        for quote in "'\"`":
            text = text.partition(quote)[0]
        text = text.removeprefix(status).strip()
        span.set_attribute("db.response.status_code", status)
    span.set_attribute("error.type", status or kind)
    span.set_status(Status(StatusCode.ERROR, f"{status or kind} {text}".strip()))
