"""The relay workers: started, told, counted, replaced.

Owns the worker processes and the links to them. A worker that dies is replaced at once; only one that died before it
was ready is replaced with delay. It never decides what the workers are told and never reads what they measure.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from sidecar.counts import ConnectionCounts
from sidecar.journal import Journal
from sidecar.link import Link
from sidecar.processes import Child, Children
from sidecar.worker_process import WorkerProcess, spawn_worker
from telemetry import spanpacket

_BACKOFF_FIRST_S = 0.1
_BACKOFF_MOST_S = 5.0

_BOOKED_WITHIN_S = 1.0
# A worker that was told to stop has only to write its last figures.
_STOP_WITHIN_S = 2.0
_LAST_FRAMES_WITHIN_S = 1.0
_ELSEWHERE_WITHIN_S = 2.0


class Requests(Protocol):
    """Answers what workers ask."""

    async def answer(self, kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a request of this kind."""

    def notice(self, kind: str, body: Mapping[str, Any]) -> None:
        """A message that wants no answer."""


class Figures(Protocol):
    """Where snapshots go."""

    def apply(self, worker: int, frame: bytes) -> None: ...

    def worker_gone(self, worker: int) -> None: ...


class Worker:
    """One worker process. `number` names this incarnation: it is never used again."""

    def __init__(self, index: int, number: int, child: Child, ours: socket.socket) -> None:
        self.index = index
        self.number = number
        self.child = child
        self.socket = ours
        self.ready = False
        self.was_ready = False
        self.link: Link | None = None
        self.link_closed = asyncio.Event()


class Workers:
    """All of them.

    configure: the body of `configure` for a worker and the descriptors that go with it, asked for at every start.
    """

    def __init__(
        self,
        count: int,
        children: Children,
        journal: Journal,
        configure: Callable[[int], tuple[dict[str, Any], list[int]]],
        requests: Requests,
        figures: Figures,
        counts: ConnectionCounts,
    ) -> None:
        self.restarts = 0
        self.on_change: Callable[[], None] = lambda: None
        self.on_spans: Callable[[bytes], None] = lambda _packet: None
        self.first_ready = asyncio.Event()
        self._children = children
        self._journal = journal
        self._configure = configure
        self._requests = requests
        self._figures = figures
        self._counts = counts
        self._numbers = itertools.count(1)
        self._workers: dict[int, Worker] = {}
        self._indexes = range(count)
        self._keepers: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._commands: dict[str, Any] | None = None

    def spawn(self, first: WorkerProcess | None = None) -> None:
        """Start all processes, but for the first where it runs already. Needs no event loop. Raises OSError."""
        for index in self._indexes:
            self._workers[index] = self._spawn(index, first if index == 0 else None)

    def attach(self) -> None:
        """Talk to them from now on, and keep them alive."""
        self._keepers = [asyncio.create_task(self._keep(index), name=f"worker {index}") for index in self._indexes]

    @property
    def ready(self) -> bool:
        """Whether one of them accepts clients."""
        return any(worker.ready for worker in self._workers.values())

    @property
    def pids(self) -> list[int]:
        return [worker.child.pid for worker in self._workers.values() if worker.child.code is None]

    def tell(self, kind: str, body: Mapping[str, Any] | None = None, fds: Sequence[int] = ()) -> None:
        """Send a message to all of them."""
        for worker in self._workers.values():
            if worker.link is not None:
                worker.link.send(kind, dict(body or {}), fds)

    def set_commands(self, table: Sequence[tuple[str, list[str]]], *, strict: bool) -> None:
        """Tell the command table to all of them, those that come later too. A worker accepts once it has it.

        strict: the engine refuses line ends that are wrong.
        """
        self._commands = {"commands": table, "strict": strict}
        self.tell("commands", self._commands)

    def renew_commands(self, table: Sequence[tuple[str, list[str]]]) -> None:
        """The same, for a table that has grown: nobody accepts because of it."""
        if self._commands is not None:
            self.set_commands(table, strict=self._commands["strict"])

    def hold_newcomers(self) -> None:
        """A worker that starts from now on does not accept, until the command table is set again."""
        self._commands = None

    async def ask(
        self, kind: str, body: Mapping[str, Any], within_s: float, but: Worker | None = None
    ) -> list[dict[str, Any]]:
        """The answers to a request that come in time. but: a worker that is not asked."""
        others = [worker for worker in self._workers.values() if worker is not but and worker.ready]
        links = [worker.link for worker in others if worker.link is not None]
        asked = (link.request(kind, dict(body), timeout=within_s) for link in links)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        return [answer for answer in answers if isinstance(answer, dict)]

    async def order(self, kind: str, body: Mapping[str, Any], within_s: float) -> None:
        """Have all of them do something, and wait for those that serve clients to say that it is done."""
        for worker in self._workers.values():
            if worker.link is not None and not worker.ready:
                worker.link.send(kind, dict(body))
        await self.ask(kind, body, within_s)

    async def booked(self) -> list[tuple[str, int]]:
        """Commands and bytes of replies that the engine takes for large ones, because it had pushed so much before."""
        answers = await self.ask("booked", {}, _BOOKED_WITHIN_S)
        return [(command, size) for answer in answers for command, size in answer["booked"]]

    async def stop(self) -> None:
        """Have them write their last figures, close every session and end."""
        self._stopping.set()
        self.tell("stop")
        if self._keepers:
            _, late = await asyncio.wait(self._keepers, timeout=_STOP_WITHIN_S)
            for worker in self._workers.values():
                worker.child.send_signal(signal.SIGKILL)
            for keeper in late:
                with contextlib.suppress(asyncio.CancelledError):
                    await keeper

    def _spawn(self, index: int, running: WorkerProcess | None = None) -> Worker:
        process = running or spawn_worker(self._children, index)
        return Worker(index, next(self._numbers), process.child, process.socket)

    async def _keep(self, index: int) -> None:
        while not self._stopping.is_set():
            try:
                await self._replace_dead(index)
            except Exception as error:  # of ours: the next worker must be replaced all the same
                self._journal.error("worker.watch_failed", f"Watching worker {index} failed: {error!r}.", worker=index)
                self._workers[index].child.send_signal(signal.SIGKILL)
                self._counts.clear(index)
                await self._pause(_BACKOFF_FIRST_S)
                if self._stopping.is_set():
                    return
                with contextlib.suppress(OSError):
                    self._workers[index] = self._spawn(index)

    async def _pause(self, seconds: float) -> None:
        """So long, but not beyond the end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _replace_dead(self, index: int) -> None:
        backoff_s = _BACKOFF_FIRST_S
        while True:
            worker = self._workers[index]
            self._connect(worker)
            code = await worker.child.wait()
            await self._bury(worker)
            if self._stopping.is_set():
                return
            if worker.was_ready:
                backoff_s = _BACKOFF_FIRST_S
                wait_s = 0.0
            else:
                wait_s, backoff_s = backoff_s, min(backoff_s * 2, _BACKOFF_MOST_S)
            self._journal.warning(
                "worker.restarted",
                f"Worker {index} ended with code {code} and is replaced{f' in {wait_s:g} s' if wait_s else ''}.",
                worker=index,
                code=code,
            )
            while True:
                await self._pause(wait_s)
                if self._stopping.is_set():
                    return
                try:
                    self._workers[index] = self._spawn(index)
                except OSError as error:
                    self._journal.error("worker.not_started", f"Worker {index} could not be started: {error}.")
                    wait_s, backoff_s = backoff_s, min(backoff_s * 2, _BACKOFF_MOST_S)
                    continue
                break
            self.restarts += 1

    def _connect(self, worker: Worker) -> None:
        worker.link = Link(
            worker.socket,
            asyncio.get_running_loop(),
            on_message=lambda kind, body, fds: self._received(worker, kind, body, fds),
            on_figures=lambda packet: self._take(worker, packet),
            on_close=worker.link_closed.set,
        )
        body, fds = self._configure(worker.index)
        worker.link.send("configure", body, fds)
        if self._commands is not None:
            worker.link.send("commands", self._commands)
        if self._stopping.is_set():
            worker.link.send("stop")

    def _take(self, worker: Worker, packet: bytes) -> None:
        if packet[:1] == spanpacket.MAGIC:
            self.on_spans(packet)
        else:
            self._figures.apply(worker.number, packet)

    async def _bury(self, worker: Worker) -> None:
        """Take over its last words, and count its clients no more."""
        worker.ready = False
        self.on_change()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_FRAMES_WITHIN_S):
                await worker.link_closed.wait()
        if worker.link is not None:
            worker.link.close()
        self._figures.worker_gone(worker.number)
        self._counts.clear(worker.index)

    def _received(self, worker: Worker, kind: str, body: dict[str, Any], fds: list[int]) -> None:
        for fd in fds:
            os.close(fd)  # none is expected this way
        if kind == "ready":
            worker.ready = worker.was_ready = True
            self.first_ready.set()
            self.on_change()
        elif kind == "log":
            self._journal.log(
                body["level"], body["event"], body["message"], worker=worker.index, **body.get("attributes", {})
            )
        elif "id" in body:
            task = asyncio.create_task(self._answer(worker, kind, body))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._requests.notice(kind, body)

    async def _answer(self, worker: Worker, kind: str, body: dict[str, Any]) -> None:
        if kind == "elsewhere":
            answer = {"answers": await self.ask("roster", body, _ELSEWHERE_WITHIN_S, but=worker)}
        else:
            answer = await self._requests.answer(kind, body)
        if worker.link is not None:
            worker.link.reply(body, answer)
