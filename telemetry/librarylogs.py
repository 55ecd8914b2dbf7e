"""What libraries log through the standard library, and Python's warnings, as records of ours.

Owns how loud a library may be. Their news are only verbose, and a warning is said at most once a minute. The libraries
that send telemetry have no news at all: with a collector that is not there they would complain with every batch, and
the exporters say by themselves, once, what is wrong. Never shows more of such a library's exception than its type.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from telemetry.logs import Log

EXPORTER_LIBRARIES = frozenset(
    {"azure", "grpc", "msal", "msrest", "opentelemetry", "py", "requests", "requests_oauthlib", "urllib3"}
)
"""The first words of their loggers' names; `py.warnings` is Python's own logger of warnings."""

_REPEAT_AFTER_S = 60.0
_REMEMBERED = 500


def is_of_exporter(logger: str) -> bool:
    """Whether a logger of this name belongs to a library that sends telemetry."""
    return logger.partition(".")[0] in EXPORTER_LIBRARIES


class LibraryLogs(logging.Handler):
    """A handler for the root logger. `get_log`: the log that takes the records."""

    def __init__(self, get_log: Callable[[], Log], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._get_log = get_log
        self._clock = clock
        self._said_at: dict[tuple[str, str], float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Log a library's line, or leave it out."""
        exception = record.exc_info[1] if record.exc_info else None
        if is_of_exporter(record.name):
            self._emit_complaint(record, exception)
            return
        log, message, attributes = self._get_log(), record.getMessage(), {"logger": record.name}
        if record.levelno >= logging.ERROR and exception is not None:
            log.error("library.fault", message, exception=exception, **attributes)
        elif record.levelno >= logging.WARNING:
            # What a library calls an error without an exception is a peer's doing: a request that is no HTTP. Whoever
            # reaches the port could fill the log with it.
            if self._is_due(record):
                log.warning("library.log", message, **attributes)
        elif record.levelno >= logging.INFO:
            log.verbose("library.log", message, **attributes)
        else:
            log.debug("library.log", message, **attributes)

    def _emit_complaint(self, record: logging.LogRecord, exception: BaseException | None) -> None:
        if record.levelno < logging.WARNING or not self._is_due(record):
            return
        attributes: dict[str, Any] = {"logger": record.name}
        if exception is not None:
            attributes["exception.type"] = f"{type(exception).__module__}.{type(exception).__qualname__}"
        self._get_log().warning("library.log", record.getMessage(), **attributes)

    def _is_due(self, record: logging.LogRecord) -> bool:
        """Whether it did not say the same within the last minute, whatever it put into its sentence."""
        now, key = self._clock(), (record.name, str(record.msg))
        said_at = self._said_at.get(key)  # nobody else is here: the base class holds its lock around emit
        if said_at is not None and now - said_at < _REPEAT_AFTER_S:
            return False
        if len(self._said_at) >= _REMEMBERED:
            self._said_at.clear()
        self._said_at[key] = now
        return True
