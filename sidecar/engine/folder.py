"""The engine's private folder: a socket and a configuration that nobody else reaches.

Owns the folder's making, its removal, and the removal of folders whose supervisor was killed. It never looks into the
data folder, and never removes a folder whose supervisor may live.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from pathlib import Path

_PREFIX = "valkey-sidecar-"

# All that we, and the engine, put into one: a folder with anything else is not ours.
_CONTENTS = re.compile(
    r"http|engine\.conf|(temp-\w+-)?engine\.conf.*|arguments\.conf|included-\w+|(engine|probe)\.sock"
)

# struct sockaddr_un.sun_path holds 108 bytes with the final zero.
_SOCKET_PATH_LIMIT = 107

# Where a socket that listens on every address is reached.
_LOCAL = {"0.0.0.0": "127.0.0.1", "::": "::1"}

# A container whose root is read-only has /dev/shm all the same.
_FOLDERS = ("/tmp", "/run", "/dev/shm")


class PrivateFolder:
    """A folder of mode 0700. Its lock is held while we live: so a later start knows whether its owner does.

    It is on the folder itself: systemd-tmpfiles, which cleans /tmp of what is old, passes over a folder that is locked.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @property
    def socket(self) -> str:
        """Where the engine listens."""
        return str(self.path / "engine.sock")

    @property
    def configuration(self) -> Path:
        """The engine's configuration file; it may hold passwords."""
        return self.path / "engine.conf"

    def note_http(self, address: tuple[str, int] | None) -> None:
        """Leave "host port" of our HTTP port, for a health check of the container's; an empty file: we have none."""
        text = ""
        if address is not None:
            host, port = address
            text = f"{_LOCAL.get(host, host)} {port}\n"
        (self.path / "http").write_text(text)

    @classmethod
    def create(cls, parent: str | None = None) -> PrivateFolder:
        """Make one below `parent` (default: TMPDIR's, else /tmp). Raises OSError."""
        # Not tempfile.gettempdir: where /tmp is read-only it goes to the folder we were started in, often the data's.
        given = parent or os.environ.get("TMPDIR")
        candidates = [*([os.path.abspath(given)] if given else []), *_FOLDERS]
        for candidate in candidates:
            longest = f"{candidate}/{_PREFIX}12345678/engine.sock"
            # CLIENT LIST shows the socket's path between blanks.
            fits = len(os.fsencode(longest)) <= _SOCKET_PATH_LIMIT and not re.search(r"\s", candidate)
            if fits and os.access(candidate, os.W_OK):
                break
        else:
            raise OSError(
                f"no folder for the engine's socket: too long, with a blank or not writable are {', '.join(candidates)}"
            )
        sweep(candidate)
        while True:
            path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=candidate))
            # Another start may sweep the folder away between our making and our locking it.
            try:
                lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(lock), path.stat()):
                    return cls(path, lock)
            os.close(lock)

    def remove(self) -> None:
        """Remove it with all it holds. The lock is given up last: until then no other start touches the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.close(self._lock)


def sweep(parent: str) -> None:
    """Remove our folders below `parent` whose supervisor is gone (killed, so it could not clean up)."""
    for path in Path(parent).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if path.is_symlink() or path.stat().st_uid != os.geteuid():
                continue
            if not all(_CONTENTS.fullmatch(name) for name in os.listdir(path)):
                continue
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)
