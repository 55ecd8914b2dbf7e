"""Child processes: how they are started, that none outlives us, and who collects them.

Owns `spawn` and the one reaper of this process. It never decides what a child's end means and never signals a child by
itself. It must be used from the main thread: PDEATHSIG fires when the *thread* that started the child ends.
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

_PR_SET_PDEATHSIG = 1
_prctl: Callable[..., int] = ctypes.CDLL(None, use_errno=True).prctl

# What belongs to our own supervision; an engine or worker that saw it would answer systemd or upstart in our place.
_OURS_ALONE = ("NOTIFY_SOCKET", "UPSTART_JOB", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")

# What exporters read, and .NET's connection strings: keys and passwords. Only the supervisor exports.
_SECRET = re.compile(r"OTEL_|APPLICATIONINSIGHTS_|ConnectionStrings__", re.IGNORECASE)

NOT_STARTED = 127


class Child:
    """One child process.

    `code` is its exit code, 128 + signal when a signal ended it, None while it lives; `signal` is that signal or None.
    """

    def __init__(self, name: str, popen: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.pid = popen.pid
        self.stdout: IO[bytes] | None = popen.stdout
        self.code: int | None = None
        self.signal: int | None = None
        self._popen = popen
        self._waiters: list[asyncio.Future[int]] = []

    async def wait(self) -> int:
        """The exit code, once there is one. `Children.attach` must have been called before anything waits here."""
        if self.code is not None:
            return self.code
        import asyncio  # not above: the first worker is started before the loop's modules are imported

        waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return await waiter

    @property
    def end(self) -> str:
        """How it ended: "ended with code 1", "was ended by SIGKILL"."""
        if self.signal is None:
            return f"ended with code {self.code}"
        known = {number.value: number.name for number in signal.Signals}
        return f"was ended by {known.get(self.signal, f'signal {self.signal}')}"

    def send_signal(self, number: int) -> None:
        """Signal the child if it lives. Safe from mistaken identity: a pid is free again only after we collected it."""
        if self.code is None:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return

    def _ended(self, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            self.signal = -code
        self.code = code if code >= 0 else 128 - code
        self._popen.returncode = code  # else Popen itself would wait for the pid, which may be someone else's by then
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(self.code)
        self._waiters.clear()


class Children:
    """All children of this process. Unknown ones are collected too: as PID 1 we inherit every orphan of a container."""

    def __init__(self) -> None:
        self._by_pid: dict[int, Child] = {}

    def spawn(
        self,
        name: str,
        command: Sequence[str],
        *,
        pass_fds: Sequence[int] = (),
        output: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> Child:
        """Start `command` in a session of its own, with /dev/null as standard input.

        output: its standard output and error arrive on `Child.stdout` (one pipe for both, so their order is kept).
        Raises OSError when the program cannot be run. A session of its own keeps the terminal's Ctrl-C away: the
        supervisor alone decides when a child ends.
        """
        us = os.getpid()

        def die_with_us() -> None:
            # Between fork and exec only async-signal-safe work is allowed; `_prctl` was looked up beforehand.
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != us:  # we died before the call could take effect
                os._exit(NOT_STARTED)

        inherited = {k: v for k, v in os.environ.items() if k not in _OURS_ALONE and not _SECRET.match(k)}
        popen: subprocess.Popen[bytes] = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if output else None,
            stderr=subprocess.STDOUT if output else None,
            close_fds=True,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
            preexec_fn=die_with_us,
            env={**inherited, **(environment or {})},
        )
        child = Child(name, popen)
        self._by_pid[child.pid] = child
        return child

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Collect children from now on, and at once those that ended before."""
        loop.add_signal_handler(signal.SIGCHLD, self.reap)
        self.reap()

    def reap(self) -> None:
        """Collect every child that has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self._by_pid.pop(pid, None)
            if child is not None:
                child._ended(status)

    @property
    def alive(self) -> list[Child]:
        return list(self._by_pid.values())


def raise_open_files(needed: int) -> int:
    """Raise the limit of open files for us and all children to at least `needed` if the system lets us.

    Returns the limit that holds now. The soft limit always goes up to the hard one, as the engine's own start does.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if hard != unlimited and hard < needed:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, needed))
        except (OSError, ValueError):
            pass
        else:
            return needed
    # An unlimited soft limit makes programs that close every possible descriptor slow for minutes.
    target = max(soft, needed) if hard == unlimited else hard
    if soft not in (target, unlimited):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
        except (OSError, ValueError):
            return soft
    return target


def share_open_files(child: Child) -> None:
    """Give a child that runs already the limit of open files that we have now."""
    try:
        resource.prlimit(child.pid, resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE))
    except (OSError, ValueError):
        return


def open_files_limit() -> int:
    """The soft limit of open files as it is now."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
