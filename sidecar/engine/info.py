"""The engine's own figures, read from it again and again.

Owns the poll of INFO, and of the few answers beside it, over our connection to the engine, and what was read last.
Never shows a figure that is not what a client of our port would see, and never opens a connection of its own.

    info = EngineInfo(engine, journal, view)
    task = asyncio.create_task(info.run())
    await info.refresh()        # before a scrape
    info.points()               # from any thread
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from sidecar.engine.connection import Connection, EngineError, UnreachableError
from sidecar.engine.embedded import Engine
from sidecar.info_view import Tally, our_config, our_info
from sidecar.journal import Journal
from sidecar.processes import Child

if TYPE_CHECKING:
    from telemetry.engine.beside import Question
    from telemetry.engine.families import EngineCollector
    from telemetry.engine.info import Info
    from telemetry.engine.starts import Since, Starts
    from telemetry.enginepoint import EnginePoint

_POLL_S = 5.0
# Between two polls at least, however many scrape.
_APART_S = 1.0
# A scrape waits so long for an engine that is busy, and then shows what was read last.
_PATIENCE_S = 0.4
# Our connection is lost to CLIENT KILL as any other, and comes back at once.
_RECONNECTED_WITHIN_S = 0.25
_LOOK_AGAIN_S = 0.01
# So often in a row an answer cost us the connection: it is more than client-output-buffer-limit allows.
_MOST_CUTS = 3


class View(NamedTuple):
    """What a client of our port sees instead of the engine's own: see sidecar.info_view."""

    settings: Mapping[str, Any]
    config_values: Mapping[str, str]
    tally: Tally


class _Reading(NamedTuple):
    """What one life of the engine has told last."""

    child: Child
    info: Info
    since: Since


class EngineInfo:
    """What the engine told last.

    view: asked at every poll. on_unseen_reset: called when the figures show a CONFIG RESETSTAT that `was_reset` hasn't
    reported, before they are kept.
    """

    def __init__(
        self,
        engine: Engine,
        journal: Journal,
        view: Callable[[], View],
        on_unseen_reset: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._journal = journal
        self._view = view
        self._on_unseen_reset = on_unseen_reset
        self._starts: Starts | None = None
        self._resets: list[tuple[int, int]] = []
        self._shown_unix_ns = 0
        self._reading: _Reading | None = None
        self._polling: asyncio.Task[None] | None = None
        self._polled_at = -_APART_S
        self._refused: set[Question] = set()
        self._asked: Connection | None = None
        self._beside: tuple[Child | None, dict[Question, Any]] = (None, {})
        self._scraped: Child | None = None
        self._cut_child: Child | None = None
        self._cuts = 0
        self._warned = False

    # ---- what is known ---------------------------------------------------------------------------------------------

    def latest(self) -> Info | None:
        """What was read last, corrected for a client of our port; None while the engine is away or refuses to tell."""
        reading = self._reading
        if reading is None or reading.child is not self._engine.child or reading.child.code is not None:
            return None
        return reading.info

    def points(self) -> list[EnginePoint]:
        """The figures under the names of the Collector's redis receiver; none while the engine is away."""
        from telemetry.engine.points import points

        info, reading = self.latest(), self._reading
        if info is None or reading is None:
            return []
        self._shown_unix_ns = time.time_ns()
        return points(info, reading.since)

    @property
    def collector(self) -> EngineCollector:
        """The figures under redis_exporter's names, for a registry of prometheus-client's. Imports it."""
        from telemetry.engine.families import EngineCollector

        return EngineCollector(self.latest)

    # ---- reading ---------------------------------------------------------------------------------------------------

    def was_reset(self, sent_unix_ns: int, done_unix_ns: int) -> None:
        """A worker passed CONFIG RESETSTAT on, and later had the engine's OK: most counters have started over."""
        self._resets.append((sent_unix_ns, done_unix_ns))

    async def run(self) -> None:
        """Read INFO every five seconds, until cancelled. Begins late: at the start there is more urgent work."""
        while True:
            await asyncio.sleep(_APART_S if self._reading is None else _POLL_S)
            await self._poll_once(scrape=False)

    async def refresh(self) -> None:
        """Read now, unless that was done within the last second. Waits a moment for a busy engine; never raises.

        Also what only a scrape shows, the answers beside INFO: they are not asked for where nobody scrapes.
        """
        fresh = time.monotonic() - self._polled_at < _APART_S and self._scraped is self._engine.child
        if fresh and self._polling is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                await self._poll_once(scrape=True)

    async def _poll_once(self, *, scrape: bool) -> None:
        """One poll for all who want one now. Who gives up waiting takes it from nobody else."""
        if self._polling is None:
            self._polled_at = time.monotonic()
            self._polling = asyncio.create_task(self._poll(scrape), name="engine-info")
            self._polling.add_done_callback(self._polled)
        await asyncio.wait([self._polling])

    def _polled(self, _task: asyncio.Task[None]) -> None:
        self._polling = None

    async def _poll(self, scrape: bool) -> None:
        child = self._engine.child
        if scrape:
            self._scraped = child
        try:
            connection = await self._connection()
            if child is not self._cut_child:
                self._cut_child, self._cuts = child, 0
            if child is None or connection is None or self._cuts >= _MOST_CUTS:
                self._reading = None
                return
            await self._read(child, connection, scrape)
        except Exception as error:  # a fault of ours: the figures are gone, and nothing else
            self._reading = None
            self._warn_once(f"Reading the engine's own figures failed: {error!r}.", fault=True)

    async def _connection(self) -> Connection | None:
        deadline = time.monotonic() + _RECONNECTED_WITHIN_S
        while (connection := self._engine.connection) is None or connection.closed:
            if time.monotonic() > deadline:
                return None
            await asyncio.sleep(_LOOK_AGAIN_S)
        return connection

    async def _read(self, child: Child, connection: Connection, scrape: bool) -> None:
        from telemetry.engine.beside import QUESTIONS
        from telemetry.engine.info import Info

        if connection is not self._asked:
            self._asked = connection
            self._refused.clear()  # it may be another user's now
        questions = [question for question in QUESTIONS if scrape and question not in self._refused]
        asked_unix_ns = time.time_ns()
        # In one go: all answers show the same moment.
        text, *answers = await asyncio.gather(
            connection.call("INFO", "ALL"),
            *(connection.call(*question.words) for question in questions),
            return_exceptions=True,
        )
        if isinstance(text, BaseException):
            self._failed(connection, text)
            return
        self._cuts = 0
        starts = self._read_starts(Info.parse(str(text)), asked_unix_ns)
        view = self._view()
        raw = our_info(str(text).encode("utf-8", "surrogateescape"), view.settings, view.tally)
        info = Info.parse(raw.decode("utf-8", "replace"))
        self._keep(child, dict(zip(questions, answers, strict=True)))
        for question, answer in self._beside[1].items():
            with contextlib.suppress(ValueError, TypeError, LookupError):
                question.take(info, answer)
        for name in [name for name in info.fields if name.startswith("config:")]:
            setting, value = name.removeprefix("config:"), info.fields[name]
            info.fields[name] = our_config(setting, value, view.settings, view.config_values)
        self._reading = _Reading(child, info, starts.read_connections(view.tally.cleared_unix_ns))

    def _read_starts(self, info: Info, asked_unix_ns: int) -> Starts:
        """info: as the engine wrote it."""
        if self._starts is None:
            from telemetry.engine.starts import Starts

            self._starts = Starts()
        for sent, done in self._resets:
            self._starts.reset(sent, done)
        self._resets.clear()
        self._starts.read(info, asked_unix_ns, time.time_ns(), self._shown_unix_ns)
        if self._starts.unseen:
            self._on_unseen_reset()
        return self._starts

    def _keep(self, child: Child, answers: Mapping[Question, Any]) -> None:
        """Answers beside INFO hold until the next scrape, but not for another engine."""
        known = self._beside[1] if self._beside[0] is child else {}
        self._beside = (child, known)
        for question, answer in answers.items():
            if not isinstance(answer, BaseException):
                known[question] = answer
            elif isinstance(answer, EngineError) and (answer.no_rights or answer.code == "ERR"):
                self._refused.add(question)  # each further try would be counted as one denied

    def _failed(self, connection: Connection, error: BaseException) -> None:
        self._reading = None
        if isinstance(error, EngineError) and (error.no_rights or error.code == "ERR"):
            self._warn_once(
                f"The engine refuses us INFO ({error}): there are no engine metrics. "
                "Give a user that may call it with sidecar-engine-user and sidecar-engine-password."
            )
        elif isinstance(error, UnreachableError) and connection.closed:
            self._cuts += 1
            if self._cuts == _MOST_CUTS:
                self._warn_once(
                    "The engine closes our connection when it is asked for INFO: there are no engine metrics. "
                    "Raise client-output-buffer-limit normal."
                )
        elif not isinstance(error, EngineError | UnreachableError):
            raise error

    def _warn_once(self, message: str, *, fault: bool = False) -> None:
        if not self._warned:
            self._warned = True
            self._journal.log("error" if fault else "warning", "engine.metrics_off", message)
