"""Encoded spans that wait to be sent, cut into batches. Owns the bounds: nothing here ever grows beyond them.

At most `max_queue_size` spans and 2 KiB for each of them wait (8,192 spans and 16 MiB by default; a usual span has 400
bytes); besides them one packet that found the queue empty, and the batch that is being sent, which is under 4 MB.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from typing import Final, NamedTuple

from telemetry.otlp.encoded import Encoded
from telemetry.otlp.settings import BatchSettings

BATCH_BYTES_MAX: Final = (4 << 20) - (64 << 10)
"""Bytes of spans in one request; the rest of 4 MiB is for the resource and the scope."""

_BYTES_PER_SPAN: Final = 2048


class Batch(NamedTuple):
    """Spans for one request."""

    chunks: list[memoryview]
    spans: int


@dataclass
class _Part:
    """What is left of one packet."""

    data: memoryview
    ends: list[int]
    since: float
    first: int = 0  # the spans before it are gone


class SpanQueue:
    """One thread puts, one gets."""

    def __init__(self, settings: BatchSettings) -> None:
        self._settings = settings
        self._parts: deque[_Part] = deque()
        self._changed = threading.Condition()
        self._bytes = 0
        self._closed = False
        self.size = 0
        """Spans that wait."""

    def has_room(self, spans: int, size: int) -> bool:
        """Whether so many more would be taken; an empty queue takes any packet."""
        settings = self._settings
        fits = self._bytes + size <= settings.max_queue_size * _BYTES_PER_SPAN
        return self.size == 0 or (fits and self.size + spans <= settings.max_queue_size)

    def put(self, encoded: Encoded) -> bool:
        """False when there is no room for the packet's spans."""
        with self._changed:
            if not self.has_room(len(encoded.ends), len(encoded.data)):
                return False
            if encoded.ends:
                self._parts.append(_Part(memoryview(encoded.data), encoded.ends, time.monotonic()))
                self.size += len(encoded.ends)
                self._bytes += len(encoded.data)
                self._changed.notify()
            return True

    def get(self) -> Batch | None:
        """Wait for a full batch, or for spans that have waited long enough. None: closed, and all are gone."""
        with self._changed:
            while True:
                if self.size >= self._settings.max_batch_size or (self._closed and self._parts):
                    return self._batch()
                if self._closed:
                    return None
                wait_s = None
                if self._parts:
                    wait_s = self._parts[0].since + self._settings.delay_s - time.monotonic()
                    if wait_s <= 0:
                        return self._batch()
                self._changed.wait(wait_s)

    def close(self) -> None:
        """Nothing more comes: what waits is handed out at once."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def clear(self) -> int:
        """Forget what waits; how many spans that were."""
        with self._changed:
            dropped, self.size, self._bytes = self.size, 0, 0
            self._parts.clear()
            return dropped

    def _batch(self) -> Batch:
        chunks: list[memoryview] = []
        count, room = 0, BATCH_BYTES_MAX
        while self._parts and count < self._settings.max_batch_size:
            part = self._parts[0]
            start = part.ends[part.first - 1] if part.first else 0
            most = min(len(part.ends), part.first + self._settings.max_batch_size - count)
            last = min(most, bisect_right(part.ends, start + room, part.first))
            if last == part.first:
                if count:
                    break
                last += 1  # one span alone that is too large: the transport refuses it, and that is counted
            chunks.append(part.data[start : part.ends[last - 1]])
            count += last - part.first
            room -= len(chunks[-1])
            part.first = last
            if last == len(part.ends):
                self._parts.popleft()
        self.size -= count
        self._bytes -= sum(len(chunk) for chunk in chunks)
        return Batch(chunks, count)
