"""Slow commands as log records.

Owns the record of a command that took longer than the threshold: one finished sentence, its details as attributes, the
ids of its span. It never judges what is slow (the worker does), and shows no argument.

    slow = SlowCommands(get_logger())
    for span in spanpacket.unpack(packet):
        slow.offer(span)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Protocol

from telemetry import spanpacket
from telemetry.logs import Log
from telemetry.names import NANOSECONDS
from telemetry.spanattributes import error_type
from telemetry.spanpacket import Identity, Span

EVENT = "command.slow"

# A server that is slow at everything must not drown its log. As many as spans that are kept for being slow.
_RECORDS_PER_S = 10
_BURST = 50

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Slow(Protocol):
    """What is known of a slow command: a span, or what the OTLP encoder has observed. Times are nanoseconds."""

    @property
    def command(self) -> str: ...
    @property
    def error_type(self) -> str: ...
    @property
    def duration_ns(self) -> int: ...
    @property
    def end_unix_ns(self) -> int: ...
    @property
    def trace_id(self) -> bytes: ...
    @property
    def span_id(self) -> bytes: ...
    @property
    def identity(self) -> Identity: ...
    @property
    def engine_ns(self) -> int: ...


class SlowSpan(NamedTuple):
    """The same of a span."""

    command: str
    error_type: str
    duration_ns: int
    end_unix_ns: int
    trace_id: bytes
    span_id: bytes
    identity: Identity
    engine_ns: int = 0


class SlowCommands:
    """Writes them to the log: 10 a second at most, after a burst of 50; a record says how many stayed out before it.

    To be used by one thread.
    """

    def __init__(self, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._allowed = float(_BURST)
        self._asked_at = clock()
        self._left_out = 0

    def offer(self, span: Span) -> None:
        """Log the span if its command was slow."""
        if span.flags & spanpacket.SLOW:
            duration_ns, engine_ns = span.end_ns - span.start_ns, span.engine_us * 1000
            ids = span.trace_id, span.span_id
            self.observe(
                SlowSpan(span.name, error_type(span), duration_ns, span.end_ns, *ids, span.identity, engine_ns)
            )

    def observe(self, slow: Slow) -> None:
        """Log a command that was slow."""
        now = self._clock()
        self._allowed = min(_BURST, self._allowed + (now - self._asked_at) * _RECORDS_PER_S)
        self._asked_at = now
        if self._allowed < 1:
            self._left_out += 1
            return
        self._allowed -= 1
        details = details_of(slow)
        if self._left_out:
            details["valkey.slow.left_out"] = self._left_out
            self._left_out = 0
        when = _EPOCH + timedelta(microseconds=slow.end_unix_ns // 1000)
        self._log.record("warning", EVENT, sentence(slow), details, timestamp=when)


def sentence(slow: Slow) -> str:
    """`EVAL took 12.3 ms for 10.0.0.1:5000 (worker-7), 11.9 ms of it in the engine.`"""
    who = slow.identity
    if who.transport == "unix":
        peer = "a client of the Unix socket"
    else:
        peer = f"[{who.address}]:{who.port}" if ":" in who.address else f"{who.address}:{who.port}"
    name = f" ({who.client_name})" if who.client_name else ""
    inside = f", {slow.engine_ns / 1e6:,.1f} ms of it in the engine" if slow.engine_ns else ""
    return f"{slow.command} took {slow.duration_ns / 1e6:,.1f} ms for {peer}{name}{inside}."


def details_of(slow: Slow) -> dict[str, Any]:
    """The attributes of its record: `duration` in seconds, `trace_id` and `span_id` in hexadecimal."""
    who = slow.identity
    known = {
        "db.operation.name": slow.command,
        "network.peer.address": who.address,
        "network.peer.port": who.port,
        "valkey.client.name": who.client_name,
        "duration": slow.duration_ns / NANOSECONDS,
        "valkey.engine.duration": slow.engine_ns / NANOSECONDS,
        "error.type": slow.error_type,
    }
    found: dict[str, Any] = {name: value for name, value in known.items() if value}
    return {**found, "trace_id": slow.trace_id.hex(), "span_id": slow.span_id.hex()}
