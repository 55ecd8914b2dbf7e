"""Span packets on their way out: taken from the event loop, encoded in one thread, sent in another.

Owns the threads `otlp-spans` (encodes, and looks for slow commands and exemplars, which a hanging collector must not
hold up) and `otlp-traces` (sends), and the count of every span not sent: `queue_full`, `export_failed`, `shutdown`,
`bad_packet` (the transport counts `rejected`). Never blocks who calls `take`, and never samples: workers have decided.
"""

from __future__ import annotations

import contextlib
import queue
import struct
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from telemetry import spanpacket
from telemetry.otlp.encoded import Observed
from telemetry.otlp.faults import Faults
from telemetry.otlp.settings import BatchSettings
from telemetry.otlp.span_encoder import SpanEncoder
from telemetry.otlp.span_queue import Batch, SpanQueue
from telemetry.otlp.stats import ExportStats
from telemetry.otlp.transport import ExportError, Transport

INBOX_BYTES_MAX: Final = 4 << 20
"""Packets that nobody has encoded yet: the encoder needs 40 µs for one, so this fills only before it has started."""

_AFTER_CLOSE_S: Final = 1.0  # a sender whose transport was closed needs this long at most


class Exemplars(Protocol):
    """Where the slowest sampled command of each packet goes (telemetry.exemplars)."""

    def offer(
        self, command: str, error_type: str, duration_ns: int, end_unix_ns: int, trace_id: bytes, span_id: bytes
    ) -> None: ...


class Wrap(Protocol):
    """Makes requests (telemetry.otlp.envelope.Envelope)."""

    def wrap(self, spans: list[memoryview]) -> bytes: ...


class Spans:
    """Everything about spans; encoding starts at once.

    export: whether they are sent at all; else only the hooks are served. on_slow: called in the encoder's thread for
    each span with the flag SLOW.
    """

    def __init__(
        self,
        settings: BatchSettings,
        stats: ExportStats,
        *,
        export: bool,
        on_slow: Callable[[Observed], None] | None = None,
        exemplars: Exemplars | None = None,
    ) -> None:
        self._stats = stats
        self._export = export
        self._on_slow = on_slow
        self._exemplars = exemplars
        self._inbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._queue = SpanQueue(settings)
        self._faults = Faults("traces")
        # Each is written by one thread only: what was taken less what was encoded is what the inbox holds.
        self._bytes_taken = 0
        self._bytes_encoded = 0
        self._stopped = False
        self._transport: Transport | None = None
        self._encoding = threading.Thread(target=self._encode_all, name="otlp-spans", daemon=True)
        self._sending: threading.Thread | None = None
        self._beginning = threading.Lock()
        self._encoding.start()

    def take(self, packet: bytes) -> None:
        """Hand over one packet; returns at once. Only for one thread."""
        if self._stopped or self._bytes_taken - self._bytes_encoded + len(packet) > INBOX_BYTES_MAX:
            if self._export:
                self._stats.drop("shutdown" if self._stopped else "queue_full", _count(packet))
            return
        self._bytes_taken += len(packet)
        self._inbox.put(packet)

    def send_with(self, transport: Transport, envelope: Wrap) -> None:
        """Begin to send, unless `stop` came first. May be called by another thread than `stop` is."""
        with self._beginning:
            if self._stopped:
                transport.close()
                return
            self._transport = transport
            self._sending = threading.Thread(
                target=self._send_all, args=(transport, envelope), name="otlp-traces", daemon=True
            )
            self._sending.start()

    def stop(self, deadline: float) -> None:
        """Send what waits until `deadline` (of time.monotonic), then give up and count the rest."""
        with self._beginning:
            self._stopped = True
        self._inbox.put(None)
        self._encoding.join(_left(deadline))
        self._queue.close()
        if self._sending is not None and self._transport is not None:
            self._sending.join(_left(deadline))
            self._transport.close()
            self._sending.join(_AFTER_CLOSE_S)
        rest = self._queue.clear()
        with contextlib.suppress(queue.Empty):
            while True:
                rest += _count(self._inbox.get_nowait() or b"")
        self._inbox.put(None)  # the encoder's own may just have been taken out
        if rest and self._export:
            self._stats.drop("shutdown", rest)
        self._stats.set_queue("traces", 0)

    # ---- the encoder's thread

    def _encode_all(self) -> None:
        encoder = SpanEncoder()
        while (packet := self._inbox.get()) is not None:
            try:
                self._encode(encoder, packet)
            except spanpacket.PacketError as error:
                self._faults.log(error)
                self._stats.drop("bad_packet", _count(packet))
            except Exception as error:
                self._faults.log(error)
            self._bytes_encoded += len(packet)

    def _encode(self, encoder: SpanEncoder, packet: bytes) -> None:
        spans = spanpacket.spans_in(packet) if len(packet) >= spanpacket.HEADER.size else 0
        wanted = self._export and self._queue.has_room(spans, len(packet))
        encoded = encoder.encode(packet, wanted)
        if self._export and not (wanted and self._queue.put(encoded)):
            self._stats.drop("queue_full", spans)
        if self._export:
            self._stats.set_queue("traces", self._queue.size)
        if self._on_slow is not None:
            for span in encoded.slow:
                self._on_slow(span)
        if self._exemplars is not None and encoded.exemplar is not None:
            self._exemplars.offer(*encoded.exemplar[:6])

    # ---- the sender's thread

    def _send_all(self, transport: Transport, envelope: Wrap) -> None:
        while (batch := self._queue.get()) is not None:
            self._stats.set_queue("traces", self._queue.size)
            self._send(transport, envelope, batch)

    def _send(self, transport: Transport, envelope: Wrap, batch: Batch) -> None:
        try:
            transport.send(envelope.wrap(batch.chunks), batch.spans)
        except ExportError as error:
            self._stats.drop("shutdown" if error.reason == "shutdown" else "export_failed", batch.spans)
        except Exception as error:
            self._faults.log(error)
            self._stats.fail("traces", "fault")
            self._stats.drop("export_failed", batch.spans)


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def _count(packet: bytes) -> int:
    """Spans of a packet that may be broken: no more than it has room for."""
    try:
        return min(spanpacket.spans_in(packet), len(packet) // spanpacket.SPAN.size + 1)
    except struct.error:
        return 0
