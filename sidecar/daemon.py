"""What Valkey does for those who start it: `daemonize`, `pidfile`, `supervised`.

Owns our place in the system: the background, the pid file, the word to systemd or upstart. It never starts a child.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from pathlib import Path

DEFAULT_PIDFILE = "/var/run/valkey.pid"


def supervisor_kind(setting: str) -> str | None:
    """Who supervises us, "systemd" or "upstart", by the setting `supervised` and the environment; None for nobody."""
    if setting in ("upstart", "auto") and os.environ.get("UPSTART_JOB"):
        return "upstart"
    if setting in ("systemd", "auto") and os.environ.get("NOTIFY_SOCKET"):
        return "systemd"
    return None


def go_to_background() -> None:
    """Leave the terminal. Returns in the background process; the one that was called ends with code 0.

    Two forks, so that no terminal can come back; before any child or socket, so that nothing is left behind.
    """
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    if null > 2:
        os.close(null)


class PidFile:
    """A file that holds our pid while we live."""

    def __init__(self, path: str) -> None:
        self.path = path

    def write(self) -> str | None:
        """None, or Valkey's warning when it cannot be written: no reason not to start, there as here."""
        try:
            Path(self.path).write_text(f"{os.getpid()}\n")
        except OSError as error:
            return f"Failed to write PID file: {error.strerror}"
        return None

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            Path(self.path).unlink()


class Notifier:
    """Tells whoever supervises us that we are ready or ending; tells nobody when nobody does."""

    def __init__(self, kind: str | None) -> None:
        self._kind = kind
        self._told = False

    def ready(self) -> None:
        """Once: later changes of readiness are not the init system's business."""
        if self._told:
            return
        self._told = True
        if self._kind == "systemd":
            self._notify("STATUS=Ready to accept connections\nREADY=1\n")
        elif self._kind == "upstart":
            # upstart waits for the process to stop itself and wakes it up again.
            os.environ.pop("UPSTART_JOB", None)
            signal.raise_signal(signal.SIGSTOP)

    def stopping(self) -> None:
        if self._kind == "systemd":
            self._notify("STOPPING=1\n")

    def resumed(self) -> None:
        """The engine refused to end: we serve on."""
        if self._kind == "systemd":
            self._notify("STATUS=Ready to accept connections\nREADY=1\n")

    def _notify(self, state: str) -> None:
        # sd_notify(3): a datagram to a Unix socket, whose name may be an abstract one.
        path = os.environ.get("NOTIFY_SOCKET", "")
        address = "\0" + path[1:] if path.startswith("@") else path
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(state.encode(), address)
