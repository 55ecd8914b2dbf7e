"""The data folder of a server with persistence: taken at the start, waited for where another server still holds it.

Owns what is said of it. Never starts an engine; how a folder is locked is `sidecar.engine.datalock`'s.
"""

from __future__ import annotations

import asyncio
import os

from sidecar.conf import encode
from sidecar.configuration import Configuration
from sidecar.engine.datalock import DataLock, FolderTakenError
from sidecar.journal import Journal


class DataFolder:
    """Not ours until `take` or `wait` says so. A server without persistence needs no lock: it is at once."""

    def __init__(self, configuration: Configuration, journal: Journal) -> None:
        self.is_ours = False
        self._path = configuration.dir
        self._is_needed = configuration.has_persistence
        self._timeout_s = configuration.sidecar.lock_timeout
        self._journal = journal
        self._lock: DataLock | None = None
        self._taken: FolderTakenError | None = None
        self._waiting: asyncio.Task[DataLock | None] | None = None

    @property
    def inherited(self) -> tuple[int, ...]:
        """The descriptors that the engine inherits."""
        return () if self._lock is None else (self._lock.fd,)

    def take(self) -> None:
        """Try it once. Raises FolderTakenError when another server holds the folder and is not to be waited for."""
        try:
            self._adopt(DataLock.take(self._path) if self._is_needed else None)
        except FolderTakenError as taken:
            if not self._timeout_s:
                raise
            self._taken = taken

    async def wait(self) -> None:
        """Wait for the server that holds the folder. Raises FolderTakenError when it does so for too long."""
        assert self._taken is not None
        self._journal.notice(
            "data.waiting",
            f"The data folder {self._taken.folder} is in use by another valkey-sidecar{self._taken.holder}: "
            f"waiting up to {self._timeout_s:g} s for it.",
        )
        self._waiting = asyncio.create_task(DataLock.take_within(self._path, self._timeout_s), name="data-lock")
        await asyncio.wait([self._waiting])
        if not self._waiting.cancelled():
            self._adopt(self._waiting.result())

    def stop_waiting(self) -> None:
        """It is not needed any more: `wait` returns at once."""
        if self._waiting is not None:
            self._waiting.cancel()

    def release(self) -> None:
        """Give it back."""
        if self._lock is not None:
            self._lock.release()

    def _adopt(self, lock: DataLock | None) -> None:
        self.is_ours = True
        self._lock = lock
        if lock is None and self._is_needed and os.path.isdir(encode(self._path)):
            self._journal.warning(
                "data.unlocked", f"The data folder {self._path} cannot be locked: keep other servers out."
            )
