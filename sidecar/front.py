"""Our side of the server: the listener's directives as they are now, and the sockets that follow from them.

Owns what CONFIG SET may change of them (port and bind open and close sockets) and how they are told to workers, to
CONFIG GET, to INFO and to CONFIG REWRITE. It never talks to the engine or to a worker.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, cast

from sidecar import listeners
from sidecar.certificates import Candidate, Certificates
from sidecar.conf import ConfigurationError, Directive, Origin
from sidecar.journal import Journal
from sidecar.listener_settings import (
    LISTENER_DIRECTIVES,
    ListenerSettings,
    conf_value,
    is_immutable,
    parse_listener_value,
)
from sidecar.listeners import Listener, ListenError
from sidecar.processes import open_files_limit, raise_open_files

# Connections that sessions share: of one worker, and of all.
_LANES_OF_A_WORKER = 32
_LANES_OF_ALL = 96

# The engine's descriptors beside its clients', and its CONFIG_MIN_RESERVED_FDS; ours beside the clients', with lanes.
RESERVED_FILES = 64 + _LANES_OF_A_WORKER

# Our own connection, one for whoever comes while the engine still holds a closed one, and the lanes.
ENGINE_SPARE_CLIENTS = 32 + _LANES_OF_ALL


# What the engine keeps for our own connection: 17 KB in its first seconds, then 1.6 to 5.4 KB, and 16 KB more while an
# INFO waits to be sent (Valkey 9.1.2, by tot-mem of CLIENT LIST).
_OUR_CLIENT_MEMORY = 24 << 10
# A lower maxmemory-clients counts as this one (server.c, getClientEvictionLimit).
_LEAST_CLIENT_MEMORY = 128 << 10
_MOST_CLIENT_MEMORY = 2**63 - 1


def lanes_most(workers: int) -> int:
    """How many lanes each of so many workers may have: the engine has room for them beside all clients."""
    return min(_LANES_OF_A_WORKER, _LANES_OF_ALL // workers)


# The directive that holds the port of a transport.
PORTS = {"tcp": "port", "tls": "tls-port"}

SETTABLE = tuple(name for name in LISTENER_DIRECTIVES if not is_immutable(name))


_TLS = tuple(name for name in SETTABLE if name.startswith("tls-"))


class SettingError(Exception):
    """CONFIG SET is refused: `argument` is the directive, the text is Valkey's."""

    def __init__(self, argument: str, text: str) -> None:
        super().__init__(text)
        self.argument = argument


class Front:
    """The present settings (`settings`), the open sockets (`listeners`) and the certificates of those that speak TLS.
    `path` makes a user's path absolute.

    `lasting` are the settings that the next start would have. beside: names of those that were given beside the file,
    which CONFIG REWRITE does not change. defaults: what holds where nothing was given.
    """

    def __init__(
        self,
        settings: ListenerSettings,
        path: Callable[[str], str],
        journal: Journal,
        beside: Collection[str] = (),
        defaults: ListenerSettings | None = None,
    ) -> None:
        self._defaults = ListenerSettings() if defaults is None else defaults
        self.settings = settings
        self.lasting = settings
        self.maxmemory = 0
        """The engine's `maxmemory` in bytes, as far as known: `maxmemory-clients` may be a percentage of it."""
        self._beside = frozenset(beside)
        self.listeners: list[Listener] = []
        self.certificates = Certificates(path, journal)
        self._path = path
        self._journal = journal

    def open(self) -> None:
        """Bind everything. Raises ListenError or tls.TlsError, and then nothing is open."""
        settings = self.settings
        self.certificates.adopt(self.certificates.checked(settings))
        if (settings.port or settings.tls_port) and (warning := listeners.backlog_warning(settings.tcp_backlog)):
            self._journal.warning("listener.backlog", warning)
        try:
            for transport in PORTS:
                self.listeners += self._bind(settings, transport, settings.bind)
            if settings.unixsocket:
                self.listeners.append(
                    listeners.bind_unix(
                        self._path(settings.unixsocket),
                        settings.unixsocketperm,
                        settings.tcp_backlog,
                        settings.unixsocketgroup,
                        settings.unixsocket,
                    )
                )
        except ListenError:
            self.close()
            raise
        if not self.listeners:
            raise ListenError("Configured to not listen anywhere, exiting.")

    def close(self) -> None:
        """Close everything and take our Unix socket out of the way, as Valkey does at its end."""
        for listener in self.listeners:
            listener.remove()
        listeners.close_all(self.listeners)
        self.listeners = []

    def fit_maxclients(self) -> None:
        """Raise the limit of open files for this many clients, or take fewer, with Valkey's words.

        Any worker may get all clients, and each client costs it two descriptors: the client's and the engine's.
        Raises ListenError when not one client fits.
        """
        wanted = self.settings.maxclients
        needed = 2 * wanted + RESERVED_FILES
        limit = raise_open_files(needed)
        if limit >= needed:
            return
        fitting = (limit - RESERVED_FILES) // 2
        if fitting < 1:
            raise ListenError(
                f"Your current 'ulimit -n' of {limit} is not enough for the server to start. "
                f"Please increase your open file limit to at least {needed}. Exiting."
            )
        self._journal.warning(
            "maxclients.reduced",
            f"You requested maxclients of {wanted} requiring at least {needed} max file descriptors. "
            f"Current maximum open files is {limit}. maxclients has been reduced to {fitting} to compensate for low "
            "ulimit. If you need higher maxclients increase 'ulimit -n'.",
        )
        self.settings = self.lasting = self.settings.with_value("maxclients", fitting)

    # ---- CONFIG SET ------------------------------------------------------------------------------------------------

    def checked(self, values: Mapping[str, str]) -> ListenerSettings:
        """The settings with these values. Raises SettingError."""
        settings = self.settings
        for name, value in values.items():
            try:
                settings = settings.with_value(name, parse_listener_value(name, [value]))
            except ValueError as error:
                raise SettingError(name, str(error)) from None
        if "maxclients" in values and 2 * settings.maxclients + RESERVED_FILES > (limit := open_files_limit()):
            raise SettingError(
                "maxclients",
                "The operating system is not able to handle the specified number of clients, "
                f"try with {(limit - RESERVED_FILES) // 2}",
            )
        return settings

    def certified(self, settings: ListenerSettings, names: Iterable[str]) -> Candidate | None:
        """What TLS is with `settings`, when these directives have been set; None when none of them is TLS's.

        Files are read anew also for a value that is the same, as Valkey does. Raises SettingError.
        """
        name = next((name for name in names if name in _TLS), None)
        try:
            return None if name is None else self.certificates.checked(settings)
        except ConfigurationError as error:
            raise SettingError(str(name), f"Unable to update TLS configuration: {error}") from None

    def rebind(self, settings: ListenerSettings) -> list[Listener]:
        """Open the sockets that `settings` ask for, keep those that stay, and return those to close later.

        Raises SettingError, and then the sockets are as before.
        """
        before = self.settings
        kept = [listener for listener in self.listeners if self._stays(listener, settings)]
        gone = [listener for listener in self.listeners if listener not in kept]
        held = {(listener.transport, listener.given) for listener in kept}
        # One that stays on a port that is wanted may cover a new address (`*` and 127.0.0.1), and the workers hold it
        # too: shut down, it hears nothing more, and can still be brought back.
        ports = {_port(settings, transport) for transport in PORTS}
        in_the_way = [listener for listener in gone if listener.port in ports]
        for listener in in_the_way:
            listener.socket.shutdown(socket.SHUT_RDWR)
        opened: list[Listener] = []
        done = False
        try:
            for transport in PORTS:
                new = [one for one in settings.bind if (transport, one.removeprefix("-")) not in held]
                try:
                    opened += self._bind(settings, transport, new)
                except ListenError as error:
                    for line in error.lines:
                        self._journal.warning("listener.failed", line)
                    if _port(before, transport) != _port(settings, transport):
                        unable = "Unable to listen on this port. Check server logs."
                        raise SettingError(PORTS[transport], unable) from None
                    raise SettingError("bind", "Failed to bind to specified addresses.") from None
            done = True
        finally:
            if not done:  # whatever went wrong, a fault of ours too
                listeners.close_all(opened)
                for listener in in_the_way:
                    listener.socket.listen(before.tcp_backlog)
        self.listeners = kept + opened
        return gone

    def _stays(self, listener: Listener, settings: ListenerSettings) -> bool:
        """Whether a listener is one of those that `settings` ask for."""
        if listener.transport == "unix":
            return True
        wanted = {address.removeprefix("-") for address in settings.bind}
        return listener.port == _port(settings, listener.transport) and listener.given in wanted

    def rewritten(self) -> None:
        """The user's file holds the present settings now."""
        before, self.lasting = self.lasting, self.settings
        for name in self._beside:
            self.lasting = self.lasting.with_value(name, before.value(name))

    # ---- how others are told ---------------------------------------------------------------------------------------

    def info_listeners(self) -> list[str]:
        """What follows `listener0:` and so on in INFO."""
        settings = self.settings
        lines = []
        binds = "".join(f",bind={address}" for address in settings.bind)
        if settings.port and settings.bind:
            lines.append(f"name=tcp{binds},port={settings.port}")
        if settings.unixsocket:
            lines.append(f"name=unix,bind={settings.unixsocket}")
        if settings.tls_port and settings.bind:
            lines.append(f"name=tls{binds},port={settings.tls_port}")
        return lines

    def engine_values(self) -> dict[str, str]:
        """What the engine has for the directives of ours that CONFIG SET may change; for others the same as we."""
        values = ListenerSettings().config_values()
        engine = {
            "port": "0",
            "tls-port": "0",
            "bind": values["bind"],
            "protected-mode": "no",
            "timeout": "0",
            "tcp-keepalive": "0",
            "maxclients": str(self.engine_maxclients(self.settings)),
            "maxmemory-clients": self.engine_maxmemory_clients(self.settings),
            "proc-title-template": values["proc-title-template"],
        }
        if not self.settings.tls_replication:
            engine = {**{name: values[name] for name in _TLS}, **engine}
        return engine

    def engine_maxclients(self, settings: ListenerSettings) -> int:
        """The engine's limit: so much above ours that it is always ours that is met."""
        return settings.maxclients + ENGINE_SPARE_CLIENTS

    def engine_maxmemory_clients(self, settings: ListenerSettings) -> str:
        """The engine's limit: so much above ours that what it keeps for our own connection closes no client.

        A percentage of nothing stays one: to the engine it is no limit.
        """
        limit = settings.maxmemory_clients
        if limit < 0 and self.maxmemory:
            limit = int(self.maxmemory * -limit / 100)
        elif limit <= 0:
            return str(limit) if limit == 0 else f"{-limit}%"
        return str(min(max(limit, _LEAST_CLIENT_MEMORY) + _OUR_CLIENT_MEMORY, _MOST_CLIENT_MEMORY))

    def conf_lines(self) -> dict[str, tuple[str | None, bool]]:
        """For CONFIG REWRITE: of every directive of ours the line for its present value, and whether it is the default.

        No line for what is only expressed by its absence: text that is not set, and bind's default.
        """
        default = self._defaults.config_values()
        lines: dict[str, tuple[str | None, bool]] = {}
        for name, value in self.settings.config_values().items():
            is_default = value == default[name]
            written = conf_value(name, self.settings.value(name))
            words: Sequence[str] = value.split(" ") if name == "bind" and value else [written]
            line = Directive(name, tuple(words), Origin("default")).render()
            absent = is_default and (name == "bind" or not value)
            lines[name] = (None if absent else line, is_default)
        return lines

    def worker_settings(self) -> dict[str, Any]:
        """The part of the workers' `settings` that is the listener's."""
        settings = self.settings
        return {
            "port": settings.reached_port,
            "plain_port": settings.port,
            "tcp_port": settings.port or settings.tls_port,
            "unixsocket": settings.unixsocket or "",
            "maxclients": settings.maxclients,
            "timeout": settings.timeout,
            "tcp_keepalive": settings.tcp_keepalive,
            "protected_mode": settings.protected_mode,
            "settable": list(SETTABLE),
            "engine_values": self.engine_values(),
            "info_listeners": self.info_listeners(),
            "tls_info": self.certificates.info(),
        }

    def addresses(self) -> str:
        """Where clients reach us, for people."""
        return ", ".join(listener.address for listener in self.listeners)

    def _bind(self, settings: ListenerSettings, transport: str, addresses: Sequence[str]) -> list[Listener]:
        bound, warnings = listeners.bind_tcp(
            addresses, _port(settings, transport), settings.tcp_backlog, transport=transport, mptcp=settings.mptcp
        )
        for warning in warnings:
            self._journal.warning("listener.skipped", warning)
        return bound


def _port(settings: ListenerSettings, transport: str) -> int:
    return cast("int", settings.value(PORTS[transport]))
