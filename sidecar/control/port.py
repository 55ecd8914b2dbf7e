"""The port of HTTP: bound before anything is started, served once there are workers, closed at the end.

Owns its sockets, and what is said when it cannot be had. What is answered there is `sidecar.control.http`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING

from sidecar import listeners
from sidecar.conf import ConfigurationError, Origin
from sidecar.journal import Journal
from sidecar.listeners import ListenError
from sidecar.secret import SecretStr
from sidecar.settings import SidecarSettings

if TYPE_CHECKING:
    from sidecar.status import Status

_SERVED_AFTER_S = 1.0
"""HTTP is imported once clients are served, or then: who waits for a long load wants /livez before its end."""


class HttpPort:
    """Not bound until `bind`."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._sockets: list[socket.socket] = []
        self._token: SecretStr | None = None

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port of one of its sockets; None without one."""
        if not self._sockets:
            return None
        host, port = self._sockets[0].getsockname()[:2]
        return host, port

    def bind(self, settings: SidecarSettings, origins: Mapping[str, Origin]) -> None:
        """Listen, or do without when only the default port is taken. Raises ConfigurationError with one line."""
        self._token = settings.http_token
        try:
            bound, _ = listeners.bind_tcp(settings.http_bind, settings.http_port, backlog=128)
        except ListenError as error:
            where = f"{' '.join(settings.http_bind)}:{settings.http_port}"
            reason = error.lines[0].rpartition(": ")[2]
            asked_for = ["sidecar-http-bind", "sidecar-http-port"]
            # Whoever asked for an address (our container image does) has not asked for the default port.
            if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE:
                asked_for.remove("sidecar-http-bind")
            if given := [str(origins[name]) for name in asked_for if name in origins]:
                raise ConfigurationError(
                    f"sidecar-http-port: {where} (from {' and '.join(given)}) cannot be listened on: {reason}; "
                    "give another port or address"
                ) from None
            self._journal.warning(
                "http.port_taken",
                f"{where} cannot be listened on: {reason}. There are no metrics and no health checks over HTTP; "
                "choose a port with sidecar-http-port.",
            )
        else:
            self._sockets = [listener.socket for listener in bound]

    async def serve(self, status: Status, workers_ready: asyncio.Event) -> None:
        """Answer until cancelled."""
        if not self._sockets:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SERVED_AFTER_S):
                await workers_ready.wait()
        from sidecar.control import http

        try:
            await http.serve(http.create_app(status, self._token), self._sockets)
        except Exception as error:
            self._journal.error("http.failed", f"There is no HTTP any more, because of a fault of ours: {error!r}.")

    def close(self) -> None:
        """Listen no more."""
        for sock in self._sockets:
            sock.close()
