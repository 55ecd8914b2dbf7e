"""Lanes, as far as all workers must agree on them.

Owns whether commands may go by lane (not while the engine pauses clients: a read would wait behind a paused write of
somebody else; nor while it closes connections for the memory that they take: one client would cost others theirs) and
the order that every client gets its own connection to the engine. It never sees a command, and what a lane is only the
workers know.

A pause begins in two steps: a worker asks before it forwards a command that may pause clients, and tells when it was
answered; until then nobody may believe an INFO that shows no pause.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from sidecar.engine.connection import EngineError, UnreachableError
from sidecar.engine.embedded import Engine
from sidecar.engine.limits import limits_memory
from sidecar.engine.restart import parse_info
from sidecar.journal import Journal
from sidecar.workers import Workers

_SUSPENDED_WITHIN_S = 1.0
_HOME_WITHIN_S = 2.0
_LOOK_S = 0.1
_ANSWERED_WITHIN_S = 5.0
"""A command that may pause clients is answered at once, or never: its client has left, or it ended the engine."""
_BLIND_S = 10.0
"""So long a failover or a shutdown is believed to pause an engine that refuses us INFO."""
_SECTIONS = ("clients", "replication", "server")


class Lanes:
    """Those of all workers of one server. limits: the configuration's `memory_limits`."""

    def __init__(self, engine: Engine, workers: Workers, journal: Journal, limits: Mapping[str, bool]) -> None:
        self._limits = dict(limits)
        self._paused = False
        self._engine = engine
        self._workers = workers
        self._journal = journal
        self._last = 0
        self._unanswered: dict[int, float] = {}
        self._told_until = 0.0
        self._blind_until = 0.0
        self._look = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._suspending: asyncio.Task[None] | None = None

    @property
    def suspended(self) -> bool:
        """Whether no command may go by lane now."""
        return self._paused or any(self._limits.values())

    def limit(self, name: str, values: Sequence[str]) -> None:
        """A setting of OF_MEMORY has changed."""
        limited = limits_memory(name, values)
        if limited is not None:
            self._adopt({**self._limits, name: limited})

    def start_over(self, limits: Mapping[str, bool]) -> None:
        """The engine is started anew with these limits, or by a CONFIG REWRITE with those that it had: it will say."""
        self._adopt({name: limited or self._limits[name] for name, limited in limits.items()})

    def _adopt(self, limits: Mapping[str, bool]) -> None:
        before = self.suspended
        self._limits = dict(limits)
        if self.suspended and not before:
            # A lane that rests counts in maxmemory-clients like a client.
            order = self._order(close=self._limits.get("maxmemory-clients", False))
            self._suspending = asyncio.create_task(order, name="suspend-lanes")
        elif before and not self.suspended:
            self._workers.tell("resume_lanes")

    async def bring_home(self, *, keep: bool, users: Sequence[str] | None = None) -> None:
        """Every client gets its own connection to the engine, at most two seconds long. keep: from now on, always.

        users: only who is logged in as one of these.
        """
        await self._workers.order("bring_home", {"keep": keep, "users": users}, _HOME_WITHIN_S)

    async def suspend(self, *, close: bool = False) -> int:
        """Nothing goes by lane when this is over, at most a second later: a client may be about to pause others.

        close: and there is no lane then. Returns the number by which the worker tells that the command was answered.
        """
        self._last += 1
        number = self._last
        self._unanswered[number] = time.monotonic() + _ANSWERED_WITHIN_S
        self._begin()
        await self._order(close=close)
        return number

    def notice(self, kind: str, body: Mapping[str, Any]) -> None:
        """A worker tells that a command was answered that may have begun, or ended, a pause.

        pause_answered: with the number, whether it was done, and the milliseconds of a CLIENT PAUSE, else None.
        """
        if kind == "pause_answered":
            self._unanswered.pop(body["pause"], None)
            if body["done"]:
                now, milliseconds = time.monotonic(), body["milliseconds"]
                if milliseconds is None:
                    self._blind_until = now + _BLIND_S
                else:
                    self._told_until = max(self._told_until, now + milliseconds / 1000)
            self._look.set()
        elif kind == "unpaused":
            self._told_until = self._blind_until = 0.0
            self._look.set()

    def saw_info(self, info: Mapping[str, str]) -> None:
        """What the engine says once a second: it may pause clients without our knowledge, by EXEC for example."""
        if not self._paused and self._is_paused(info):
            self._begin()
            self._suspending = asyncio.create_task(self._order(), name="suspend-lanes")

    def stop(self) -> None:
        """Look no more."""
        for task in (self._watching, self._suspending):
            if task is not None:
                task.cancel()

    def _begin(self) -> None:
        if not self._paused:
            self._paused = True
            self._journal.debug("lanes.suspended", "No command is carried by lane while the engine may pause clients.")
            self._watching = asyncio.create_task(self._watch(), name="lanes")

    async def _order(self, *, close: bool = False) -> None:
        await self._workers.order("suspend_lanes", {"close": close}, _SUSPENDED_WITHIN_S)

    async def _watch(self) -> None:
        """Until the engine pauses nobody, and nobody is about to make it."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._look.wait()
            self._look.clear()
            last = self._last
            if self._is_awaited() or await self._pauses() or last != self._last:
                continue
            self._paused = False
            if not self.suspended:
                self._workers.tell("resume_lanes")
                self._journal.debug("lanes.resumed", "Commands are carried by lane again.")
            return

    def _is_awaited(self) -> bool:
        """Whether a command that may pause clients is on its way."""
        now = time.monotonic()
        self._unanswered = {number: until for number, until in self._unanswered.items() if until > now}
        return bool(self._unanswered)

    async def _pauses(self) -> bool:
        """Whether the engine pauses clients now. True as long as it does not say."""
        connection = self._engine.connection
        if connection is None:
            return True
        try:
            info = parse_info(str(await connection.call("INFO", *_SECTIONS)))
        except UnreachableError:  # it pauses us, too
            return True
        except EngineError as error:
            if not error.no_rights and error.code != "ERR":
                return True
            return time.monotonic() < max(self._told_until, self._blind_until)
        return self._is_paused(info)

    def _is_paused(self, info: Mapping[str, str]) -> bool:
        """By INFO: Valkey has said so since 8.1; an older engine says it of a failover and a shutdown only."""
        if "paused_actions" in info:
            return info["paused_actions"] != "none"
        return (
            time.monotonic() < self._told_until
            or info.get("master_failover_state", "no-failover") != "no-failover"
            or "shutdown_in_milliseconds" in info
        )
