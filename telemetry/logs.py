"""Logs: one event is one sentence, with a stable name and its details as attributes.

Owns levels, format and destinations of every line that the supervisor writes, its own and the engine's. Never raises
into the caller and never waits for a reader: a full disk or a reader that went away loses lines, and one that stopped
reading finds the last megabyte from before, and how many lines it has missed. At the exit it has a second to read on.

    configure(format="auto", level="notice")
    log = get_logger().bind(role="supervisor")
    log.notice("engine.started", "The engine answers on its socket.", pid=123)
    log.record("warning", "engine.log", "Can't save in background: fork: ...", {"role": "primary"}, timestamp=when)

A record is a dict: timestamp (ISO 8601, UTC), level, severity_number, event_name, message, then the attributes. It
passes through `_PROCESSORS` in that form, and `_Destinations.deliver` writes it wherever lines are wanted and gives it
to the exporters: `add_exporter`.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import logging.handlers
import os
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import structlog
from structlog.dev import Column, ConsoleRenderer, KeyValueColumnFormatter
from structlog.typing import EventDict, Processor

from telemetry.librarylogs import LibraryLogs
from telemetry.names import SEVERITIES
from telemetry.outlet import Outlet, open_log
from telemetry.recordexporters import Exporter, Record, RecordExporters

Format = Literal["auto", "json", "console"]
Threshold = Literal["debug", "verbose", "notice", "warning", "nothing"]
Renderer = Callable[[Record], str]

_NOTHING = max(SEVERITIES.values()) + 1
_RECORD = "record"  # the method of the destinations that structlog calls
_HEAD = "\0head"  # carries what is no attribute through structlog; no attribute can have this name
_SYSLOG_PRIORITIES = {"debug": "debug", "verbose": "info", "notice": "notice", "warning": "warning", "error": "err"}
_SYSLOG_SOCKET = "/dev/log"
_LAST_LINES_WITHIN_S = 1.0


class Log(structlog.BoundLoggerBase):
    """A logger. `bind(role="worker")` gives one whose every record carries these attributes."""

    def debug(self, event_name: str, message: str, /, **attributes: Any) -> None:
        """What only a developer wants to know."""
        self._emit("debug", event_name, message, attributes)

    def verbose(self, event_name: str, message: str, /, **attributes: Any) -> None:
        """What is useful now and then, and too much every day."""
        self._emit("verbose", event_name, message, attributes)

    def notice(self, event_name: str, message: str, /, **attributes: Any) -> None:
        """What happens rarely and is worth a line in production."""
        self._emit("notice", event_name, message, attributes)

    def warning(self, event_name: str, message: str, /, **attributes: Any) -> None:
        """What someone should look at; also the most that a client's mistake is worth."""
        self._emit("warning", event_name, message, attributes)

    def error(
        self, event_name: str, message: str, /, *, exception: BaseException | None = None, **attributes: Any
    ) -> None:
        """A fault of ours. `exception` adds its type, message and traceback as attributes."""
        self._emit("error", event_name, message, attributes, exception=exception)

    def record(
        self,
        level: str,
        event_name: str,
        message: str,
        attributes: Mapping[str, Any] | None = None,
        *,
        timestamp: datetime | None = None,
    ) -> None:
        """Log what somebody else has observed: a worker's message, a line of the engine's with its own timestamp.

        A level that is none of ours counts as notice. A timestamp without a zone is local time, as Valkey writes it;
        None is now.
        """
        self._emit(
            level if level in SEVERITIES else "notice", event_name, message, dict(attributes or {}), timestamp=timestamp
        )

    def _emit(
        self,
        level: str,
        event_name: str,
        message: str,
        attributes: dict[str, Any],
        *,
        timestamp: datetime | None = None,
        exception: BaseException | None = None,
    ) -> None:
        if SEVERITIES[level] < _destinations.threshold:
            return
        with contextlib.suppress(Exception):  # an attribute may fail to show itself; no caller expects that from a log
            if exception is not None:
                attributes |= _describe(exception)
            head = _head(level, event_name, message, timestamp)
            _, record = self._process_event(_RECORD, None, {**attributes, _HEAD: head})
            _destinations.deliver(record)


def _head(level: str, event_name: str, message: str, timestamp: datetime | None = None) -> dict[str, Any]:
    """What every record begins with."""
    when = (timestamp or datetime.now(UTC)).astimezone(UTC)
    return {
        "timestamp": when.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "level": level,
        "severity_number": SEVERITIES[level],
        "event_name": event_name,
        "message": message,
    }


def _describe(exception: BaseException) -> dict[str, str]:
    return {
        "exception.type": f"{type(exception).__module__}.{type(exception).__qualname__}",
        "exception.message": str(exception),
        "exception.stacktrace": "".join(traceback.format_exception(exception)),
    }


def _order(_logger: Any, _method: str, record: EventDict) -> Record:
    """Put the head first; an attribute cannot take the place of one of its fields."""
    head: dict[str, Any] = record.pop(_HEAD)
    return {**head, **record, **head}


_PROCESSORS: list[Processor] = [_order]
"""What every record passes through, whatever its destinations are."""


class _Destinations:
    """Where records go: standard output or the log file, and beside either syslog and the exporters."""

    def __init__(self) -> None:
        self.threshold = SEVERITIES["notice"]
        self._render: Renderer = _json
        self._outlet = Outlet(1, self._loss)
        self._syslog: _Syslog | None = None
        self.exporters = RecordExporters()

    def configure(self, render: Renderer, target: int | Path, syslog: _Syslog | None) -> None:
        if self._syslog is not None:
            self._syslog.close()
        self._outlet.close(_LAST_LINES_WITHIN_S)
        self._render, self._outlet, self._syslog = render, Outlet(target, self._loss), syslog

    def deliver(self, record: Record) -> None:
        """Write one record to every destination. One that fails keeps no other from its line."""
        if self._syslog is not None:
            self._syslog.send(record)
        self.exporters.deliver(record)
        self._outlet.write(self._line(record))

    def flush(self) -> None:
        """Give a slow reader a moment for what waits."""
        self._outlet.flush(_LAST_LINES_WITHIN_S)

    def _line(self, record: Record) -> bytes:
        return (self._render(record) + "\n").encode("utf-8", "backslashreplace")

    def _loss(self, lines: int) -> bytes:
        message = f"Log lines were lost because nobody read them: {lines}."
        return self._line({**_head("warning", "log.lines_lost", message), "lines": lines})


class _Syslog(logging.handlers.SysLogHandler):
    """The system's log: the sentence alone, as `syslog(3)` with LOG_PID writes it. Silent when nobody listens."""

    def __init__(self, ident: str, facility: str, address: str) -> None:
        super().__init__(address=address, facility=self.facility_names[facility])
        self.ident = f"{ident}[{os.getpid()}]: "

    def send(self, record: Record) -> None:
        message = " ".join(str(record["message"]).split("\n"))
        self.emit(logging.makeLogRecord({"msg": message, "levelname": record["level"]}))

    def mapPriority(self, levelName: str) -> str:  # noqa: N802, N803 -- the base class's names
        return _SYSLOG_PRIORITIES[levelName]

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Nobody listens: the base class would print a traceback."""


def get_logger() -> Log:
    """The logger. It may be kept before `configure` was called, and follows every later call."""
    return _log


def configure(
    *,
    format: Format = "auto",  # noqa: A002 -- the setting's name
    level: Threshold = "notice",
    logfile: str = "",
    syslog_enabled: bool = False,
    syslog_ident: str = "valkey",
    syslog_facility: str = "local0",
    stdout: int = 1,
    syslog_address: str = _SYSLOG_SOCKET,
) -> None:
    """Set format, level and destinations; may be called again. Defaults and meanings are Valkey's directives'.

    `auto` is `console` on a terminal and `json` elsewhere. With a `logfile` nothing goes to `stdout` (a file
    descriptor). A relative `logfile` is taken from the present folder. The loggers of libraries are taken over, and
    Python's warnings.
    Raises OSError when the log file cannot be opened for appending, as Valkey refuses to start then.
    """
    file = Path(logfile).absolute() if logfile else None
    if file is not None:
        os.close(open_log(file))
    terminal = file is None and _is_terminal(stdout)
    colours = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    pretty = terminal if format == "auto" else format == "console"
    render = _console(colours) if pretty else _json
    syslog = _Syslog(syslog_ident, syslog_facility, syslog_address) if syslog_enabled else None
    _destinations.configure(render, stdout if file is None else file, syslog)
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, LibraryLogs)]:
        root.removeHandler(handler)
    root.addHandler(LibraryLogs(get_logger))
    logging.captureWarnings(True)
    set_level(level)


def add_exporter(exporter: Exporter) -> None:
    """Give it every record from now on, and the last 1,000 of those before: see `exporters_complete`.

    exporter: takes a record (timestamp, level, severity_number, event_name, message, then the attributes), may be
    called by any thread, and must return at once. What it raises is ignored. Records below the level do not reach it.
    """
    _destinations.exporters.add(exporter)


def remove_exporter(exporter: Exporter) -> None:
    """Give it no more records."""
    _destinations.exporters.remove(exporter)


def exporters_complete() -> None:
    """Every exporter is added, or none is wanted: records are not kept for later ones any more."""
    _destinations.exporters.forget_kept()


def set_level(level: Threshold) -> None:
    """Drop what is below `level`, Valkey's `loglevel`; `nothing` drops all. For `CONFIG SET loglevel` too."""
    _destinations.threshold = _NOTHING if level == "nothing" else SEVERITIES[level]
    libraries = {"debug": logging.DEBUG, "verbose": logging.INFO}.get(level, logging.WARNING)
    logging.getLogger().setLevel(libraries)


def _is_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def _json(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False, default=str)


def _console(colours: bool) -> Renderer:
    """A renderer for people: time, level, sentence, event, attributes; a traceback on lines of its own."""
    styles = ConsoleRenderer.get_default_column_styles(colours)
    levels = {
        "debug": styles.level_debug,
        "verbose": styles.level_debug,
        "notice": styles.level_info,
        "warning": styles.level_warn,
        "error": styles.level_error,
    }

    def column(style: str, width: int = 0, *, keyed: bool = False) -> KeyValueColumnFormatter:
        key_style = styles.kv_key if keyed else None
        return KeyValueColumnFormatter(key_style, style, styles.reset, value_repr=_plain, width=width)

    def level(key: str, value: object) -> str:
        return f"{levels[str(value)]}{value:<7}{styles.reset}"

    renderer = ConsoleRenderer(
        columns=[
            Column("timestamp", column(styles.timestamp)),
            Column("level", level),
            Column("message", column(styles.bright, 40)),
            Column("event_name", column(styles.logger_name)),
            Column("", column(styles.kv_value, keyed=True)),
        ],
        sort_keys=False,
    )

    def render(record: Record) -> str:
        shown = dict(record)
        del shown["severity_number"]
        stacktrace = shown.pop("exception.stacktrace", None)
        line = str(renderer(None, "", shown))
        return "\n".join([line, *map(_plain, (stacktrace or "").splitlines())])

    return render


def _plain(value: object) -> str:
    """A value without line ends and terminal sequences: what a client or the engine sent may hold anything."""
    text = str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


_destinations = _Destinations()
atexit.register(_destinations.flush)
_log = Log(_destinations, _PROCESSORS, {})
