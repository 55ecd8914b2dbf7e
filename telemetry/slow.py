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
from typing import Any

from telemetry import spanpacket
from telemetry.logs import Log
from telemetry.names import NANOSECONDS
from telemetry.spanattributes import attributes, error_type
from telemetry.spanpacket import Span

EVENT = "command.slow"

# A server that is slow at everything must not drown its log. As many as spans that are kept for being slow.
_RECORDS_PER_S = 10
_BURST = 50

_KEPT = ("db.operation.name", "db.operation.batch.size", "network.peer.address", "network.peer.port")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SlowCommands:
    """Writes them to the log: 10 a second at most, after a burst of 50; a record says how many stayed out before it."""

    def __init__(self, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._allowed = float(_BURST)
        self._asked_at = clock()
        self._left_out = 0

    def offer(self, span: Span) -> None:
        """Log the span if its command was slow."""
        if not span.flags & spanpacket.SLOW:
            return
        now = self._clock()
        self._allowed = min(_BURST, self._allowed + (now - self._asked_at) * _RECORDS_PER_S)
        self._asked_at = now
        if self._allowed < 1:
            self._left_out += 1
            return
        self._allowed -= 1
        details = details_of(span)
        if self._left_out:
            details["valkey.slow.left_out"] = self._left_out
            self._left_out = 0
        when = _EPOCH + timedelta(microseconds=span.end_ns // 1000)
        self._log.record("warning", EVENT, sentence(span), details, timestamp=when)


def sentence(span: Span) -> str:
    """`GET took 12.3 ms for 10.0.0.1:5000 (worker-7).`"""
    who = span.identity
    what = f"{span.name} of {span.batch_size} commands" if span.batch_size >= 2 else span.name
    if who.transport == "unix":
        peer = "a client of the Unix socket"
    else:
        peer = f"[{who.address}]:{who.port}" if ":" in who.address else f"{who.address}:{who.port}"
    name = f" ({who.client_name})" if who.client_name else ""
    return f"{what} took {_milliseconds(span)} ms for {peer}{name}."


def details_of(span: Span) -> dict[str, Any]:
    """The attributes of its record: `duration` in seconds, `trace_id` and `span_id` in hexadecimal."""
    known = attributes(span)
    found: dict[str, Any] = {name: known[name] for name in _KEPT if name in known}
    if span.identity.client_name:
        found["valkey.client.name"] = span.identity.client_name
    found["duration"] = (span.end_ns - span.start_ns) / NANOSECONDS
    if error := error_type(span):
        found["error.type"] = error
    return {**found, "trace_id": span.trace_id.hex(), "span_id": span.span_id.hex()}


def _milliseconds(span: Span) -> str:
    return f"{(span.end_ns - span.start_ns) / 1e6:,.1f}"
