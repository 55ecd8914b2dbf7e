"""The embedded engine: a private valkey-server child, from its start to its end.

Owns the child's life (start, readiness, restart after a crash, the request to end) and our connection to it. It never
kills an engine that saves, never touches a client's session, and leaves what follows from its end to the supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sidecar.engine import commandtable
from sidecar.engine.connection import Connection, EngineError, UnreachableError
from sidecar.engine.folder import PrivateFolder
from sidecar.engine.limits import OF_MEMORY, EngineLimits
from sidecar.engine.logparse import LogLine
from sidecar.engine.output import Output, refuses_to_end, waits_for_replicas
from sidecar.engine.restart import FILES, RestartPolicy, parse_info
from sidecar.journal import Journal
from sidecar.processes import Child, Children

_CONNECT_RETRY_S = 0.005
_CONNECT_RETRY_MOST_S = 0.1
_POLL_S = 1.0
# Between two looks at least.
_LOOK_APART_S = 0.05

_SECTIONS = ("server", "clients", "replication", "persistence", "stats")
# What we must know of its settings: CONFIG REWRITE may have changed those that it starts with.
_SETTINGS = ("loglevel", "maxmemory", *sorted(OF_MEMORY))
_NOT_ID_SINCE = 9
_STRICT_SINCE = (9, 1)

# What the engine logs when somebody copies from it, or its role changes.
_ROLES = ("Replica ", "PRIMARY MODE", "REPLICAOF ", "FAILOVER ", "Failover ")

# A crash within this time of being ready is a crash loop: then the restart waits, longer each time.
_STABLE_S = 1.0
_BACKOFF_FIRST_S = 0.1
_BACKOFF_MOST_S = 5.0

# An engine whose log hides "Ready to accept connections", and which refuses us, is believed to be ready after this.
_SILENT_READY_S = 0.5

# The engine looks at its signals ten times a second: an INFO this long after one that shows no shutdown is a refusal.
_REFUSAL_S = 2.0
# Docker kills after ten seconds: the log has said why by then.
_PROGRESS_S = 5.0


class Observer(Protocol):
    """What the supervisor wants to know while the engine lives."""

    def engine_accepts(self, table: commandtable.Table) -> None:
        """The engine's socket accepts (it may still load), and these are its commands."""

    def engine_set(self, name: str, value: str) -> None:
        """`loglevel`, `maxmemory` or one of OF_MEMORY has this value.

        Told whenever our connection is made, before it accepts.
        """

    def engine_ready(self, ready: bool) -> None:
        """It began, or ceased, to answer without LOADING."""

    async def engine_restarts(self) -> None:
        """It crashed and is to be started again: what was only set at run time is gone."""

    def engine_waits(self) -> None:
        """Asked to end, it waits for its replicas or a script, and goes on answering. May be told repeatedly."""

    def engine_told(self, info: Mapping[str, str]) -> None:
        """What INFO says of its clients, the server, replication and persistence: about once a second."""


@dataclass
class Plan:
    """How the engine is started. All of it can change between two starts: CONFIG SET, CONFIG REWRITE.

    credentials: (user or None, password) to try in order. prepare: writes the configuration file before each start.
    """

    binary: str
    arguments: Callable[[], list[str]]
    prepare: Callable[[], None]
    credentials: Callable[[], Sequence[tuple[str | None, str]]]
    renames: dict[str, str] = field(default_factory=dict)
    inherit: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class End:
    """How the engine ended for good. `explanation` is empty when it ended because it was asked to."""

    code: int
    explanation: str = ""
    last_words: tuple[str, ...] = ()
    started: bool = True


class Engine:
    """One engine, over all its restarts."""

    def __init__(
        self, plan: Plan, folder: PrivateFolder, children: Children, journal: Journal, policy: RestartPolicy
    ) -> None:
        self.plan = plan
        self.policy = policy
        self.limits = EngineLimits()
        self.restarts = 0
        self.ready = False
        self.reason = "the engine is starting"
        self.version = ""
        self.spares_by_id = False
        """Whether its CLIENT KILL has NOT-ID: Valkey's, from 9.0 on."""
        self.strict = False
        """Whether it refuses line ends that are wrong: Valkey, from 9.1 on."""
        self.child: Child | None = None
        self.connection: Connection | None = None
        self.table: commandtable.Table | None = None
        self._folder = folder
        self._children = children
        self._journal = journal
        self._output: Output | None = None
        self._observer: Observer | None = None
        self._was_ready = False
        self._ready_at = 0.0
        self._backoff_s = _BACKOFF_FIRST_S
        self._stopping = asyncio.Event()
        self._refused = asyncio.Event()
        self._ended = asyncio.Event()
        self._look = asyncio.Event()
        self._warned_no_rights = False
        self._probed = False

    def spawn(self) -> None:
        """Start the process. The first time this happens before there is an event loop. Raises OSError."""
        self.reason = "the engine is starting"
        self.plan.prepare()
        command = [self.plan.binary, str(self._folder.configuration), *self.plan.arguments()]
        self.child = self._children.spawn("engine", command, pass_fds=self.plan.inherit, output=True)
        self._output = Output(self.child, self._journal, self._saw)
        self._was_ready = False
        self.policy.new_life()
        self.limits.new_life()
        self._journal.notice(
            "engine.started", f"Started the engine {self.plan.binary} with pid {self.child.pid}.", pid=self.child.pid
        )

    async def run(self, observer: Observer) -> End:
        """Live with the engine until it has ended for good; restart it where that is right."""
        self._observer = observer
        try:
            while True:
                child = await self._one_life()
                end = self._judge(child)
                if end is not None:
                    return end
                await observer.engine_restarts()
                await self._pause_before_restart()
                if self._stopping.is_set():
                    return End(0)
                self.restarts += 1
                self._journal.warning(
                    "engine.restarted",
                    "Starting the engine again on its data. What was only set at run time is forgotten.",
                    code=child.code,
                )
                try:
                    self.spawn()
                except OSError as error:
                    return End(1, f"the engine could not be started again: {error}", started=False)
        finally:
            self._ended.set()

    async def stop(self, number: int = signal.SIGTERM) -> str | None:
        """Ask the engine, by this signal, to save and end, and wait as long as it takes.

        None when it has ended; else why it goes on: then everything goes on, as it does with Valkey.
        """
        self._stopping.set()
        self._refused.clear()
        began = time.monotonic()
        if self.child is not None:
            self.child.send_signal(number)
        watcher = asyncio.create_task(self._watch_for_refusal(began))
        try:
            while not self._ended.is_set():
                await _first(_PROGRESS_S, self._ended.wait(), self._refused.wait())
                if self._refused.is_set() and not self._ended.is_set():
                    self._stopping.clear()
                    return "its save failed or the shutdown was aborted (see its log)"
                if not self._ended.is_set():
                    seconds = round(time.monotonic() - began)
                    self._journal.notice(
                        "engine.stopping",
                        f"The engine still saves its data, waits for its replicas or runs a script ({seconds} s).",
                    )
        finally:
            watcher.cancel()
        return None

    async def end_unattended(self) -> None:
        """After a fault of ours: it saves and ends, and nobody starts it again."""
        self._stopping.set()
        if self.child is not None:
            self.child.send_signal(signal.SIGTERM)
            await self.child.wait()

    def insist(self) -> None:
        """The second Ctrl-C: Valkey ends at once, unsaved."""
        if self.child is not None:
            self.child.send_signal(signal.SIGINT)

    async def _one_life(self) -> Child:
        child, output = self.child, self._output
        assert child is not None
        assert output is not None
        output.attach(asyncio.get_running_loop())
        attend = asyncio.create_task(self._attend(output))
        try:
            await child.wait()
        finally:
            attend.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await attend
            output.finish()
            self._set_ready(False, "the engine has ended")
        return child

    def _judge(self, child: Child) -> End | None:
        """What an end means; None: start again."""
        assert child.code is not None
        code, how = child.code, child.end
        words = tuple(self._output.last_words()) if self._output is not None else ()
        if code == 0 and (self.table is not None or self._stopping.is_set()):
            return End(code)
        if self._stopping.is_set() and child.signal == signal.SIGTERM and not self._was_ready:
            return End(0)  # it had not begun to listen to signals
        if self._stopping.is_set():
            return End(code, f"the engine {how} while it was shutting down")
        if not self._was_ready and not (self.restarts and child.signal is not None):
            return End(code or 1, f"the engine {how} before it was ready", words, started=False)
        self._journal.warning("engine.crashed", f"The engine {how}.", code=code)
        refusal = self.policy.refusal()
        if refusal is not None:
            return End(code, f"the engine {how} and is not started again, because {refusal}", words)
        return None

    async def _pause_before_restart(self) -> None:
        if self._was_ready and time.monotonic() - self._ready_at >= _STABLE_S:
            self._backoff_s = _BACKOFF_FIRST_S
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._backoff_s):
                await self._stopping.wait()
        self._backoff_s = min(self._backoff_s * 2, _BACKOFF_MOST_S)

    def _saw(self, line: LogLine) -> None:
        if line.message.startswith(_ROLES):  # a hint: anybody who may run a script can write such a line
            self._look.set()
        if not self._stopping.is_set():
            return
        if refuses_to_end(line):
            self._refused.set()
        elif waits_for_replicas(line) and self._observer is not None:
            self._observer.engine_waits()

    def _set_ready(self, ready: bool, reason: str = "") -> None:
        changed = self.ready != ready
        self.ready, self.reason = ready, reason
        if ready and not self._was_ready:
            self._was_ready, self._ready_at = True, time.monotonic()
        if changed and self._observer is not None:
            self._observer.engine_ready(ready)

    async def _attend(self, output: Output) -> None:
        """Keep a connection to this life of the engine; it is lost to CLIENT KILL as any other."""
        wait = _CONNECT_RETRY_S
        while True:
            connection = await self._connect()
            try:
                await self._introduce(connection)
                self.connection = connection
                await self._learn_version(connection)
                await self._learn_settings(connection)
                await self._learn_commands(connection)
                wait = _CONNECT_RETRY_S
                await self._await_ready(connection, output)
                await self._poll(connection)
            except UnreachableError as error:
                self._journal.debug("engine.connection_lost", f"Lost our connection to the engine: {error}.")
            except Exception as error:  # of ours: without this connection nobody would see the engine any more
                self._journal.error("engine.watch_failed", f"Watching the engine failed and begins anew: {error!r}.")
                wait = _CONNECT_RETRY_MOST_S
            finally:
                self.connection = None
                connection.close()
            # It may have been refused, again and again: an engine whose clients are too many closes at once.
            await asyncio.sleep(wait)
            wait = min(wait * 2, _CONNECT_RETRY_MOST_S)

    async def _connect(self) -> Connection:
        wait = _CONNECT_RETRY_S
        while True:
            try:
                return await Connection.open(self._folder.socket, self.plan.renames)
            except OSError:
                await asyncio.sleep(wait)
                wait = min(wait * 1.5, _CONNECT_RETRY_MOST_S)

    async def _introduce(self, connection: Connection) -> None:
        error = await connection.introduce(self.plan.credentials())
        if error is not None and not self._warned_no_rights:
            self._warned_no_rights = True
            self._journal.warning(
                "engine.no_rights",
                f"The engine refuses our own connection ({error}): its state cannot be watched closely. "
                "Give a user that may call PING, INFO, COMMAND, CLIENT, CONFIG, SLOWLOG, LATENCY and ACL GETUSER "
                "with sidecar-engine-user and sidecar-engine-password.",
            )

    async def _learn_version(self, connection: Connection) -> None:
        with contextlib.suppress(EngineError):
            info = parse_info(str(await connection.call("INFO", "server")))
            valkey = info.get("valkey_version", "")
            self.version = valkey or info.get("redis_version", "")
            self.strict = tuple(int(part) for part in valkey.split(".")[:2] if part.isdigit()) >= _STRICT_SINCE
            self.spares_by_id = valkey.partition(".")[0].isdigit() and int(valkey.partition(".")[0]) >= _NOT_ID_SINCE

    async def _learn_settings(self, connection: Connection) -> None:
        assert self._observer is not None
        with contextlib.suppress(EngineError):
            pairs = await connection.call("CONFIG", "GET", *_SETTINGS)
            for name, value in zip(pairs[::2], pairs[1::2], strict=True):
                self._observer.engine_set(name, value)

    async def _learn_commands(self, connection: Connection) -> None:
        try:
            if not self._probed:
                self.table = await commandtable.read(connection)
        except (EngineError, UnreachableError) as refusal:
            if isinstance(refusal, UnreachableError):
                if not connection.closed:
                    raise
                self._probed = True  # the table is more than client-output-buffer-limit lets us have at once
            if self.table is None:
                try:
                    self.table = await commandtable.probe(self.plan.binary, self._folder.path, self._children)
                except (EngineError, OSError, UnreachableError) as error:
                    self._journal.warning(
                        "engine.commands_unknown",
                        f"The engine's command table can't be read; only well-known commands count by name: {error}.",
                    )
                    self.table = []
        assert self._observer is not None
        self._observer.engine_accepts(self.table or [])

    async def refresh_commands(self) -> bool:
        """Read the command table again, for a module that was loaded. True when it has changed."""
        connection = self.connection
        if connection is None:
            return False
        try:
            table = await commandtable.read(connection)
        except (EngineError, UnreachableError):
            return False
        changed, self.table = table != self.table, table
        return changed

    async def _await_ready(self, connection: Connection, output: Output) -> None:
        wait = _CONNECT_RETRY_S
        while True:
            try:
                await connection.call("PING")
            except EngineError as error:
                if error.no_rights:
                    # It says no before it would say LOADING: its log tells, unless that is silenced.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(None if output.spoke else _SILENT_READY_S):
                            await output.accepts.wait()
                elif error.code == "LOADING":
                    self._set_ready(False, "the engine is loading its data")
                    await asyncio.sleep(wait)
                    wait = min(wait * 2, _CONNECT_RETRY_MOST_S)
                    continue
            except UnreachableError as error:
                if connection.closed:
                    raise
                self._set_ready(False, str(error))
                continue
            self._set_ready(True)
            return

    async def _poll(self, connection: Connection) -> None:
        """Now and once a second: is it loading (as a replica it may), who copies from it, does it save and where.

        Also whether it pauses its clients.
        """
        while True:
            self._look.clear()
            try:
                info = parse_info(str(await connection.call("INFO", *_SECTIONS)))
                self.policy.saw_info(info)
                self.limits.saw_info(info)
                if self._observer is not None:
                    self._observer.engine_told(info)
                if self.policy.asks_for_files:
                    with contextlib.suppress(EngineError):
                        pairs = await connection.call("CONFIG", "GET", *FILES)
                        self.policy.saw_files(dict(zip(pairs[::2], pairs[1::2], strict=True)))
            except EngineError:
                pass
            except UnreachableError as error:
                self._set_ready(False, str(error))
            else:
                if info.get("loading") == "1":
                    self._set_ready(False, "the engine is loading its data")
                else:
                    self._set_ready(True)
            if not await connection.lost_within(_LOOK_APART_S):
                await _first(_POLL_S, connection.lost(), self._look.wait())
            if connection.closed:  # by CLIENT KILL: the engine may be well
                raise UnreachableError("the engine closed our connection")

    async def _watch_for_refusal(self, began: float) -> None:
        """An engine that answers, though it was asked to end, waits for its replicas or runs a script, or has refused.

        Its log may be silenced, and says nothing of a script: only SCRIPT KILL would let the engine see the signal.
        """
        await asyncio.sleep(_REFUSAL_S)
        assert self._observer is not None
        while True:
            connection = self.connection
            if connection is not None:
                with contextlib.suppress(EngineError, UnreachableError):
                    try:
                        info = parse_info(str(await connection.call("INFO", "server")))
                    except EngineError as error:
                        if error.code == "BUSY":
                            self._observer.engine_waits()
                        raise
                    if "shutdown_in_milliseconds" in info:
                        self._observer.engine_waits()
                    elif time.monotonic() - began > _REFUSAL_S:
                        self._refused.set()
                        return
            await asyncio.sleep(_POLL_S)


async def _first(timeout_s: float, *waits: object) -> None:
    """Until one of `waits` is done, or the time is over."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]  # type: ignore[call-overload]
    try:
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
