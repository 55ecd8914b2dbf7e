"""The supervisor: the process that people start, and the parent of all others.

Owns the order of things: what is started when, what the end of a child means, how everything ends. It never touches a
client's bytes, and leaves each child to the module that knows it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sidecar import tracing
from sidecar.answers import Answers
from sidecar.conf import ConfigurationError, encode
from sidecar.configuration import Configuration
from sidecar.control.port import HttpPort
from sidecar.counts import ConnectionCounts
from sidecar.daemon import DEFAULT_PIDFILE, Notifier, PidFile, go_to_background, supervisor_kind
from sidecar.data_folder import DataFolder
from sidecar.engine.commandtable import Table
from sidecar.engine.datalock import FolderTakenError
from sidecar.engine.embedded import End, Engine
from sidecar.engine.folder import PrivateFolder
from sidecar.engine.info import EngineInfo, View
from sidecar.engine.limits import OF_MEMORY
from sidecar.exports import Exports
from sidecar.front import Front, lanes_most
from sidecar.journal import Journal, Level
from sidecar.lanes import Lanes
from sidecar.launch import Launch
from sidecar.listener_settings import LISTENER_DIRECTIVES
from sidecar.listeners import ListenError
from sidecar.process_arguments import TitleMemory
from sidecar.process_title import Title
from sidecar.processes import Children, share_open_files
from sidecar.slowlog import SlowLog
from sidecar.span_budgets import SpanBudgets
from sidecar.status import Status
from sidecar.worker_process import WorkerProcess
from sidecar.workers import Workers
from telemetry.exemplars import Exemplars
from telemetry.names import LEDGER_SPANS_DROPPED
from telemetry.otlp import settings as otlp_settings
from telemetry.totals import Totals

_PROGRAM = "valkey-sidecar"
_FAILURE = 1
_INTERRUPTED = 130

# Between a second Ctrl-C's SIGTERM and SIGINT to the engine: both at once would arrive in the wrong order.
_INSIST_AFTER_S = 0.05
# Beyond the workers' own time limit for draining.
_DRAIN_GRACE_S = 0.5


class StartError(Exception):
    """The server cannot start: one line for the person who started it."""


def run(configuration: Configuration, children: Children, first_worker: WorkerProcess | None = None) -> int:
    """Run the server until it has ended, and return its exit code.

    first_worker: one that runs already, among `children`; not for a daemon.
    """
    listener = configuration.listener
    kind = supervisor_kind(listener.supervised)
    if listener.daemonize and kind is None:
        try:
            go_to_background()
        except OSError as error:
            _tell_failure(StartError(f"daemonize: no process for the background: {_told(error)}"), None)
            return _FAILURE
    journal = Journal()
    supervisor = Supervisor(configuration, Notifier(kind), journal, children, first_worker)
    early = _EarlySignals()
    try:
        try:
            supervisor.prepare()
            supervisor.spawn()
        except (ConfigurationError, StartError, ListenError, FolderTakenError, OSError) as error:
            _tell_failure(error, journal if listener.logfile or listener.syslog_enabled else None)
            supervisor.show_log()
            return _FAILURE
        # Not uvloop's loop: it keeps SIGCHLD to itself, and what runs here is no traffic.
        with asyncio.Runner() as runner:
            return runner.run(supervisor.main(early))
    finally:
        supervisor.clean_up()


def _lacks_tls(word: str) -> bool:
    """Whether an engine says so that it was built without TLS: Valkey 9.1's words, and those of earlier ones."""
    return word.startswith(("Failed finding TLS support", ">>> 'tls-"))


def _threshold(loglevel: str) -> Any:
    """A `loglevel` as the log's threshold; the default for one that the engine will refuse."""
    level = loglevel.lower()
    return level if level in ("debug", "verbose", "notice", "warning", "nothing") else "notice"


def _tell_failure(error: Exception, journal: Journal | None) -> None:
    """Say on standard error why the start failed. journal: says it too, where the log is read elsewhere."""
    for line in error.lines if isinstance(error, ListenError) else (_told(error),):
        sys.stderr.write(f"{_PROGRAM}: {line}\n")
        if journal is not None:
            journal.warning("server.failed", line)


def _told(error: Exception) -> str:
    """The error without Python's `[Errno 2]`."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


class _EarlySignals:
    """Keeps what arrives before the event loop takes signals."""

    def __init__(self) -> None:
        self.received: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _frame: self.received.append(number))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


class Supervisor:
    """The server as a whole. `prepare` and `spawn` come before the event loop, `main` is its life."""

    def __init__(
        self,
        configuration: Configuration,
        notifier: Notifier,
        journal: Journal,
        children: Children,
        first_worker: WorkerProcess | None,
    ) -> None:
        self._configuration = configuration
        self._notifier = notifier
        self._journal = journal
        beside = [name for name in LISTENER_DIRECTIVES if configuration.is_beside(name)]
        self._front = Front(
            configuration.listener, configuration.path, journal, beside, configuration.listener_defaults
        )
        self._children = children
        self._first_worker = first_worker
        self._totals = Totals()
        has_title = "proc-title-template" in configuration.origins
        self._title = Title(
            sys.argv[0],
            configuration.file,
            configuration.listener.proc_title_template,
            TitleMemory(grow=has_title).show,
            wanted=has_title,
            follows=configuration.sets_title,
        )
        self._export_settings, self._export_warnings = otlp_settings.read(os.environ)
        self._http = HttpPort(journal)
        self._lanes: Lanes | None = None
        self._folder: PrivateFolder | None = None
        self._data = DataFolder(configuration, journal)
        self._pidfile: PidFile | None = None
        self._log_shown = False
        self._was_ready = False
        self._clients_told = False
        self._stop_signal = int(signal.SIGTERM)
        self._stop_asked = asyncio.Event()
        self._insisted = asyncio.Event()

    # ---- start -----------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Take what only one server can have, before anything is started. Raises StartError and the like."""
        configuration = self._configuration
        for warning in [*configuration.warnings, *self._export_warnings]:
            self._journal.warning("configuration.warning", warning)
        self._check_logfile()
        self._title.follow(self._front.settings)
        self._front.fit_maxclients()
        if self._first_worker is not None:
            share_open_files(self._first_worker.child)
        self._front.open()
        self._http.bind(configuration.sidecar, configuration.origins)
        self._data.take()
        self._folder = PrivateFolder.create()
        self._folder.note_http(self._http.address)
        self._assemble(self._folder)
        if self._data.is_ours:
            self._own_data()

    def _own_data(self) -> None:
        """The data folder is ours from now on, and so is the pid file, which may have been another server's."""
        configuration, listener = self._configuration, self._configuration.listener
        self._launch.plan.inherit = self._data.inherited
        if listener.daemonize or listener.pidfile:
            pidfile = configuration.path(listener.pidfile or DEFAULT_PIDFILE)
            self._pidfile = PidFile(os.fsdecode(encode(pidfile)))
            if problem := self._pidfile.write():
                self._journal.warning("pidfile.failed", problem)

    def _assemble(self, folder: PrivateFolder) -> None:
        configuration = self._configuration
        launch = Launch(configuration, self._front, folder)
        self._launch = launch
        self._engine = Engine(launch.plan, folder, self._children, self._journal, launch.policy())
        self._answers = Answers(
            self._front,
            self._engine,
            launch.private,
            configuration.file,
            self._journal,
            injected=launch.injected,
            logged_from=launch.logged_from,
            starts_open=launch.starts_open,
        )
        self._counts = ConnectionCounts()
        self._budgets = tracing.budgets_memory()
        self._workers = Workers(
            configuration.workers,
            self._children,
            self._journal,
            self._configure,
            self._answers,
            self._totals,
            self._counts,
        )
        self._answers.workers = self._workers
        if configuration.sidecar.lanes:
            limits = configuration.memory_limits
            self._lanes = self._answers.lanes = Lanes(self._engine, self._workers, self._journal, limits)
        self._answers.tell_workers = self._settings_changed
        self._answers.on_engine_setting = self.engine_set
        self._front.certificates.on_change = self._certificates_changed
        self._workers.on_change = self._tell_ready
        self._engine_info = EngineInfo(self._engine, self._journal, self._view, self._counts.reset)
        self._answers.on_stats_reset = self._engine_info.was_reset
        exemplars = Exemplars(self._export_settings.exemplar_filter)
        self._status = Status(os.getpid(), self._engine, self._engine_info, self._workers, self._totals, exemplars)
        self._exports = Exports(self._export_settings, self._status, self._engine_info)
        self._workers.on_spans = self._exports.take
        self._slow_log = SlowLog(self._engine, self._journal, self._workers.booked)
        self._answers.witness = self._slow_log.witness
        self._span_budgets = SpanBudgets(
            lambda: self._totals.counter(LEDGER_SPANS_DROPPED), configuration.sidecar, self._journal
        )

    def spawn(self) -> None:
        """Start the children; they start up while this process imports the rest. No engine before we own its data."""
        try:
            self._workers.spawn(self._first_worker)
        except OSError as error:
            raise StartError(f"a worker could not be started: {_told(error)}") from None
        if self._data.is_ours:
            self._spawn_engine()

    def _spawn_engine(self) -> None:
        try:
            self._engine.spawn()
        except OSError as error:
            raise StartError(f"the engine could not be started: {_told(error)}") from None

    def _check_logfile(self) -> None:
        listener = self._configuration.listener
        if not listener.logfile:
            return
        path = self._configuration.path(listener.logfile)
        try:
            os.close(os.open(encode(path), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644))
        except OSError as error:
            raise StartError(f"logfile: {path} cannot be opened: {error.strerror}") from None

    # ---- life ------------------------------------------------------------------------------------------------------

    async def main(self, early: _EarlySignals) -> int:
        """From the first turn of the loop to the end of every child."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._signalled, signal.SIGTERM)
        loop.add_signal_handler(signal.SIGINT, self._signalled, signal.SIGINT)
        loop.set_exception_handler(self._fault)
        for number in early.received:
            self._signalled(number)
        self._children.attach(loop)
        self._workers.attach()
        engine = asyncio.create_task(self._live(), name="engine")
        helpers = [
            asyncio.create_task(self._engine_info.run(), name="engine-info"),
            asyncio.create_task(self._slow_log.run(), name="slow-log"),
            asyncio.create_task(self._span_budgets.run(), name="span-budgets"),
            asyncio.create_task(self._front.certificates.watch(), name="certificates"),
            asyncio.create_task(self._start_exports(), name="exports"),
        ]
        http = asyncio.create_task(self._http.serve(self._status, self._workers.first_ready), name="http")
        self.show_log()
        try:
            while not engine.done():
                stop = asyncio.create_task(self._stop_asked.wait())
                await asyncio.wait([engine, stop], return_when=asyncio.FIRST_COMPLETED)
                stop.cancel()
                if not engine.done():
                    await self._stop()
            end = engine.result()
        except BaseException:
            # A fault of ours must not cost the user's data: PDEATHSIG would kill the engine unsaved.
            await self._engine.end_unattended()
            raise
        finally:
            self._status.stopping = True
            if self._lanes is not None:
                self._lanes.stop()
            await self._workers.stop()
            await self._exports.stop()
            for helper in helpers:
                helper.cancel()
            http.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await http
        self._tell_end(end)
        return end.code

    async def _live(self) -> End:
        """The engine's life, which begins when its data are ours.

        Until then clients that connect wait, /livez answers, and /readyz says why nobody is served.
        """
        if not self._data.is_ours:
            self._engine.reason = "another server still holds the data folder"
            try:
                await self._data.wait()
                if self._data.is_ours:
                    self._own_data()
                if self._status.stopping:
                    return End(_INTERRUPTED if self._stop_signal == signal.SIGINT else 0, started=False)
                self._spawn_engine()
            except (FolderTakenError, StartError) as error:
                return End(_FAILURE, str(error), started=False)
        return await self._engine.run(self)

    async def _stop(self) -> None:
        """SIGTERM or Ctrl-C: finish what is in flight, let the engine save; go on serving when it refuses to end."""
        self._stop_asked.clear()
        self._insisted.clear()
        self._status.stopping = True
        if self._engine.child is None:
            self._data.stop_waiting()
            return
        self._workers.hold_newcomers()
        self._notifier.stopping()
        self._journal.notice("server.stopping", "Shutting down: no new clients, commands in flight are finished.")
        timeout_s = self._configuration.sidecar.drain_timeout
        drain = asyncio.create_task(self._workers.ask("drain", {"timeout": timeout_s}, timeout_s + _DRAIN_GRACE_S))
        insisted = asyncio.create_task(self._insisted.wait())
        await asyncio.wait([drain, insisted], return_when=asyncio.FIRST_COMPLETED)
        drain.cancel()
        insist = asyncio.create_task(self._insist())
        refusal = await self._engine.stop(self._stop_signal)
        insisted.cancel()
        insist.cancel()
        if refusal is None:
            return
        self._status.stopping = False
        self._journal.warning("server.resumed", f"The engine did not end, because {refusal}: serving on.")
        self._serve_on()
        self._notifier.resumed()

    async def _insist(self) -> None:
        await self._insisted.wait()
        await asyncio.sleep(_INSIST_AFTER_S)
        self._engine.insist()

    def _signalled(self, number: int) -> None:
        name = signal.Signals(number).name
        self._journal.notice("server.signal", f"Received {name} scheduling shutdown...")
        if self._status.stopping and number == signal.SIGINT:
            self._insisted.set()
        elif not self._status.stopping:
            self._stop_signal = number
            self._stop_asked.set()

    def engine_accepts(self, table: Table) -> None:
        """The engine's socket accepts: so may the workers; a client gets the engine's own LOADING."""
        if not self._status.stopping:
            self._workers.set_commands(table, strict=self._engine.strict)

    def engine_set(self, name: str, value: str) -> None:
        """A setting of the engine's: as a client has changed it at run time, or as the engine says when it accepts."""
        if name == "requirepass":
            self._launch.run_time_password = value
            self._workers.tell("update", self._settings())
        elif name == "loglevel" and self._log_shown:
            from telemetry import logs

            logs.set_level(_threshold(value))
        elif name == "maxmemory":
            self._answers.maxmemory_set(value)
        elif name in OF_MEMORY and self._lanes is not None:
            self._lanes.limit(name, value.split())

    def engine_ready(self, ready: bool) -> None:
        """The engine began, or ceased, to answer."""
        self._tell_ready()

    async def engine_restarts(self) -> None:
        """What was only set at run time is forgotten, ours and the engine's; so are its statistics."""
        self.engine_set("loglevel", self._configuration.loglevel)
        if self._lanes is not None:
            self._lanes.start_over(self._configuration.memory_limits)
        self._launch.run_time_password = None
        self._launch.role = self._engine.policy
        self._counts.reset()
        await self._answers.start_over()

    def engine_waits(self) -> None:
        """As with Valkey, clients are served until the engine can end: one may say SHUTDOWN ABORT or SCRIPT KILL."""
        self._serve_on()

    def engine_told(self, info: Mapping[str, str]) -> None:
        """It says whether it pauses clients."""
        if self._lanes is not None:
            self._lanes.saw_info(info)

    def _settings_changed(self) -> None:
        self._workers.tell("update", self._settings())
        self._title.follow(self._front.settings)

    def _certificates_changed(self) -> None:
        self._answers.tell_certificates()
        self._answers.tell_workers()

    def _serve_on(self) -> None:
        if self._engine.table is not None:
            self._workers.set_commands(self._engine.table, strict=self._engine.strict)
        self._workers.tell("resume")

    def _tell_ready(self) -> None:
        ready, _ = self._status.ready()
        if ready == self._was_ready:
            return
        self._was_ready = ready
        if ready:
            self._journal.notice("server.ready", f"Ready to accept connections on {self._front.addresses()}.")
            self._notifier.ready()
            self._tell_clients()

    def _tell_clients(self) -> None:
        """Once: what clients connect with, its password masked."""
        if self._clients_told:
            return
        self._clients_told = True
        from sidecar.connection_strings.server import log_line

        settings = self._front.settings
        socket = None if settings.unixsocket is None else self._configuration.path(settings.unixsocket)
        if line := log_line(settings, socket, has_password=self._launch.auth_required()):
            self._journal.notice("server.connection_string", line)

    def _tell_end(self, end: End) -> None:
        if not end.explanation and not end.started:
            self._journal.notice("server.ended", "The server ends before it has started an engine.", code=end.code)
            return
        if not end.explanation:
            self._journal.notice("server.ended", "The engine has ended, and so does the server.", code=end.code)
            return
        self._journal.warning("server.failed", f"The server ends, because {end.explanation}.", code=end.code)
        if not end.started:
            if self._configuration.listener.tls_replication and any(map(_lacks_tls, end.last_words)):
                sys.stderr.write(
                    f"{_PROGRAM}: tls-replication: the engine was built without TLS; give one that has it with "
                    "--sidecar-engine-binary\n"
                )
                return
            said = "".join(f"\n{word}" for word in end.last_words)
            sys.stderr.write(f"{_PROGRAM}: {end.explanation}{'; it said:' if said else ''}{said}\n")

    def _fault(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A fault of ours in a callback or a task: it goes to the log, and the server goes on."""
        error = context.get("exception")
        trace = "".join(traceback.format_exception(error)) if error is not None else ""
        message = f"A fault in the supervisor: {context['message']}."
        self._journal.error("supervisor.fault", message, traceback=trace[-8000:])

    def _settings(self) -> dict[str, Any]:
        configuration = self._configuration
        settings = {
            **self._front.worker_settings(),
            "auth_required": self._launch.auth_required(),
            "engine_timeout": configuration.sidecar.engine_timeout,
            "ledger": configuration.sidecar.ledger,
            "lanes": configuration.sidecar.lanes,
            "home_timeout": configuration.sidecar.home_timeout,
            "workers": configuration.workers,
            **configuration.sidecar.limits(),
            "enable_debug_command": configuration.enable_debug_command,
            "enable_protected_configs": configuration.enable_protected_configs,
            "enable_module_command": configuration.enable_module_command,
            "config_file": configuration.file or "",
            "own_connections": 1,
            "lanes_most": lanes_most(configuration.workers),
            "injected": self._launch.injected(),
        }
        return {"settings": settings, "config_values": self._front.settings.config_values()}

    def _view(self) -> View:
        told = self._settings()
        return View(told["settings"], told["config_values"], self._counts.tally())

    def _configure(self, index: int) -> tuple[dict[str, Any], list[int]]:
        assert self._folder is not None
        body = {
            **self._settings(),
            "worker": index,
            "lanes_suspended": self._lanes is not None and self._lanes.suspended,
            "engine_socket": self._folder.socket,
            "listeners": [listener.describe() for listener in self._front.listeners],
            "trace_context": self._configuration.sidecar.trace_context,
            "tracing": tracing.describe(
                self._configuration.sidecar, self._export_settings.sampler, exported=self._exports.wants_spans
            ),
            "rename": self._configuration.rename_commands,
            "tls": self._front.certificates.message(),
        }
        return body, [self._counts.fd, self._budgets, *(listener.socket.fileno() for listener in self._front.listeners)]

    async def _start_exports(self) -> None:
        settings = self._front.settings
        address = settings.bind[0].removeprefix("-") if settings.bind else "*"
        if address in ("*", "0.0.0.0", "::", "::*"):
            address = socket.gethostname()
        await self._exports.start(self._workers.first_ready, address, settings.reached_port)

    # ---- log and end -----------------------------------------------------------------------------------------------

    def show_log(self) -> None:
        """From now on the log is written, and what was said so far."""
        if self._log_shown:
            return
        self._log_shown = True
        from telemetry import logs

        listener = self._configuration.listener
        log_format: Any = self._configuration.sidecar.log_format
        with contextlib.suppress(OSError):
            logs.configure(
                format=log_format,
                level=_threshold(self._configuration.loglevel),
                logfile=self._configuration.path(listener.logfile) if listener.logfile else "",
                syslog_enabled=listener.syslog_enabled,
                syslog_ident=listener.syslog_ident,
                syslog_facility=listener.syslog_facility,
            )
        log = logs.get_logger()

        def sink(when: float, level: Level, event: str, message: str, attributes: dict[str, Any]) -> None:
            log.record(level, event, message, attributes, timestamp=datetime.fromtimestamp(when, UTC))

        self._journal.attach(sink)

    def clean_up(self) -> None:
        """Leave nothing behind. The children have ended, or end with us."""
        self._front.close()
        self._http.close()
        if self._pidfile is not None:
            self._pidfile.remove()
        if self._folder is not None:
            self._folder.remove()
        self._data.release()
