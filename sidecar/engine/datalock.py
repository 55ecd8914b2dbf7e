"""The lock on the data folder: two servers that save must not share one.

Owns the lock file. Whoever holds an open descriptor of it holds the lock: we do, and the engine inherits ours, so an
engine that still saves keeps the folder even when its supervisor is gone. It never says whether a server saves.

A container that replaces another on the same volume finds the lock held until the other one has saved and ended, so a
server waits for it. The holder's process id says nothing about how long: in another container it is another process.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import time
from pathlib import Path

_NAME = ".valkey-sidecar.lock"

# The file system has no locks: then the folder is not guarded, as it is not with Valkey.
_CANNOT_LOCK = frozenset({errno.EACCES, errno.EPERM, errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS})

_LOOK_AGAIN_S = 0.1


class FolderTakenError(Exception):
    """Another server with persistence works in this folder. holder: its description for people, "" if unknown."""

    def __init__(self, folder: str, holder: str, waited_s: float = 0.0) -> None:
        self.folder = Path(folder).resolve()
        self.holder = holder
        waited = f", which did not release it within {waited_s:g} s" if waited_s else ""
        super().__init__(
            f"the data folder {self.folder} is in use by another valkey-sidecar{holder}{waited}; give this one a "
            'folder of its own with `dir`, or switch its persistence off with `save ""`'
        )


class DataLock:
    """A held lock. `fd` is what the engine inherits."""

    def __init__(self, path: Path, fd: int) -> None:
        self._path = path
        self.fd = fd

    @classmethod
    def take(cls, folder: str) -> DataLock | None:
        """Lock `folder`; None where that is impossible (no such folder, read-only, no locks there).

        Raises FolderTakenError when another server holds it.
        """
        path = Path(folder) / _NAME
        while True:
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            except OSError:
                return None
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = _read_pid(fd)
                os.close(fd)
                if error.errno in _CANNOT_LOCK:
                    return None
                raise FolderTakenError(folder, _described(holder)) from error
            # The holder before us may have removed the file between our open and our lock: then we hold nothing.
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(fd), os.stat(path)):
                    break
            os.close(fd)
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        return cls(path, fd)

    @classmethod
    async def take_within(cls, folder: str, seconds: float) -> DataLock | None:
        """The same, but for so long it waits for the server that holds it. flock(2) offers no wait with an end."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return cls.take(folder)
            except FolderTakenError as taken:
                if time.monotonic() >= deadline:
                    raise FolderTakenError(folder, taken.holder, seconds) from taken
            await asyncio.sleep(_LOOK_AGAIN_S)

    def release(self) -> None:
        """Give the folder back. Whoever else inherited it (a save that outlives its engine) goes on holding it."""
        fresh: int | None = None
        with contextlib.suppress(OSError):
            fresh = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        with contextlib.suppress(OSError):
            os.close(self.fd)
        if fresh is None:
            return
        with contextlib.suppress(OSError):
            fcntl.flock(fresh, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails when somebody else holds it: then the file stays
            self._path.unlink()
        os.close(fresh)


def _read_pid(fd: int) -> int | None:
    try:
        return int(os.pread(fd, 32, 0))
    except (OSError, ValueError):
        return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's, or no number that we wrote
        return True
    return True


def _described(holder: int | None) -> str:
    if holder is None:
        return ""
    if not _is_alive(holder):
        return f" (pid {holder} has ended, but a save of its engine still runs; or it is one of another container)"
    return f" (pid {holder}, here or in another container)"
