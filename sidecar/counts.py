"""What all workers count of their clients, in memory that they share with the supervisor.

Owns the layout: for each count a row of slots (64-bit), one per worker, which only that worker writes. That is how
maxclients holds for all workers together, and how INFO shows what all of them have counted. It never counts by itself.
"""

from __future__ import annotations

import mmap
import os
import struct
import time

from sidecar.info_view import Tally

MOST_WORKERS = 64
_SLOT = struct.Struct("=q")
_ROW = struct.Struct(f"={MOST_WORKERS}q")
_CLIENTS, _REJECTED, _RECEIVED, _UNMATCHED = (row * _ROW.size for row in range(4))
_CLEARED = 4 * _ROW.size
"""One slot: when the counts were last cleared. The process that clears them writes it."""
_BYTES = _CLEARED + _SLOT.size


def _sum(memory: mmap.mmap, row: int) -> int:
    return int(sum(_ROW.unpack_from(memory, row)))


def _tally(memory: mmap.mmap) -> Tally:
    (cleared_unix_ns,) = _SLOT.unpack_from(memory, _CLEARED)
    return Tally(_sum(memory, _RECEIVED), _sum(memory, _REJECTED), _sum(memory, _UNMATCHED), cleared_unix_ns)


def _reset(memory: mmap.mmap) -> None:
    for row in (_REJECTED, _RECEIVED):
        memory[row : row + _ROW.size] = bytes(_ROW.size)
    _SLOT.pack_into(memory, _CLEARED, time.time_ns())


class ConnectionCounts:
    """The supervisor's side: it makes the memory, and reads it."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("valkey-sidecar-clients", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, _BYTES)
        self._memory = mmap.mmap(self.fd, _BYTES)

    def tally(self) -> Tally:
        """The sums over all workers."""
        return _tally(self._memory)

    def reset(self) -> None:
        """The engine's statistics were cleared, and so are those that we count in its place."""
        _reset(self._memory)

    def clear(self, index: int) -> None:
        """A worker died, and its clients' connections with it."""
        for row in (_CLIENTS, _UNMATCHED):
            _SLOT.pack_into(self._memory, row + index * _SLOT.size, 0)


class ClientCount:
    """One worker's side: it writes its own slots, and reads all. fd: of the memory; it is closed."""

    def __init__(self, fd: int, worker: int) -> None:
        self._memory = mmap.mmap(fd, _BYTES)
        os.close(fd)
        self._offset = worker * _SLOT.size
        self.mine = 0

    def total(self) -> int:
        """Clients of all workers."""
        return _sum(self._memory, _CLIENTS)

    def tally(self) -> Tally:
        """The sums over all workers."""
        return _tally(self._memory)

    def add(self, n: int) -> None:
        """So many clients more."""
        self.mine += n
        self._write(_CLIENTS, self.mine)

    def add_received(self) -> None:
        """One has become a client."""
        self._increment(_RECEIVED)

    def add_rejected(self) -> None:
        """One was refused."""
        self._increment(_REJECTED)

    def set_unmatched(self, n: int) -> None:
        """Clients of this worker minus its connections to the engine."""
        self._write(_UNMATCHED, n)

    def reset(self) -> None:
        """CONFIG RESETSTAT: nobody was accepted or refused, in any worker."""
        _reset(self._memory)

    def _increment(self, row: int) -> None:
        self._write(row, _SLOT.unpack_from(self._memory, row + self._offset)[0] + 1)

    def _write(self, row: int, value: int) -> None:
        _SLOT.pack_into(self._memory, row + self._offset, value)
