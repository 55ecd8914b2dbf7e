"""How the engine is started from what the user configured.

Owns the engine's command line, the credentials of our own connection, and what we give the engine without the user's
asking. It never starts anything.
"""

from __future__ import annotations

import os

from sidecar.conf import Directive, Origin, absolute, encode
from sidecar.configuration import BESIDE, Configuration, is_ours
from sidecar.engine.configfile import PrivateConfiguration
from sidecar.engine.embedded import Plan
from sidecar.engine.folder import PrivateFolder
from sidecar.engine.restart import RestartPolicy
from sidecar.engine_binary import find_engine_binary
from sidecar.front import Front
from sidecar.listener_settings import LISTENER_DIRECTIVES, ListenerSettings

# One that needs no TLS itself does not get any of these: some do not know them.
_OF_REPLICATION = tuple(
    name
    for name in LISTENER_DIRECTIVES
    if name.startswith("tls-") and name not in ("tls-port", "tls-auto-reload-interval", "tls-auth-clients-user")
)
_ANNOUNCED_PORT = "replica-announce-port"
# From when the engine logs a command, in microseconds: the name that all engines know, and the one that they write.
_LOGGED_FROM = ("slowlog-log-slower-than", "commandlog-execution-slower-than")
_LOGGED_FROM_US = 10_000  # without our asking


class Launch:
    """The engine's start, as it is to be done at any moment: CONFIG SET and CONFIG REWRITE change it.

    Raises ConfigurationError when there is no engine to be found.
    """

    def __init__(self, configuration: Configuration, front: Front, folder: PrivateFolder) -> None:
        self._configuration = configuration
        self._front = front
        self._folder = folder
        self.run_time_password: str | None = None
        self.role: RestartPolicy | None = None
        """Knows the role that the engine had, once it is started again; None: its configuration says which it has."""
        self.private = PrivateConfiguration(
            folder.path,
            configuration.file_text,
            configuration.extra_text,
            is_ours,
            {file.path: file.text for file in configuration.files if file.is_included},
            self.replication_lines,
        )
        self.plan = Plan(
            binary=str(find_engine_binary(configuration.sidecar, configuration.origins.get("sidecar-engine-binary"))),
            arguments=self.arguments,
            prepare=self.private.write,
            credentials=self.credentials,
            renames={
                **{name.upper(): "" for name in configuration.removed_commands},
                **{name.upper(): new for new, name in configuration.rename_commands.items()},
            },
        )

    def arguments(self) -> list[str]:
        """What follows the configuration file on the engine's command line: everybody may read it."""
        # fmt: off
        words = [
            "--port", "0", "--unixsocket", self._folder.socket, "--unixsocketperm", "600",
            "--daemonize", "no", "--supervised", "no", "--logfile", "", "--syslog-enabled", "no",
            "--protected-mode", "no", "--timeout", "0", "--tcp-keepalive", "0",
            "--maxclients", str(self._front.engine_maxclients(self._front.settings)),
        ]
        # fmt: on
        if self._front.settings.maxmemory_clients:
            words += ["--maxmemory-clients", self._front.engine_maxmemory_clients(self._front.settings)]
        for name, value in [*self.injected().items(), *list(self.logged_from().items())[:1]]:
            words += [f"--{name}", value]
        if self.role is not None and self.role.seen:
            words += ["--replicaof", *(self.role.primary or ("no", "one"))]
        return words

    def injected(self) -> dict[str, str]:
        """Directives of the engine's that the user did not give.

        A primary that we follow, and Sentinel, must be told a port that can be reached: ours.
        """
        port = self._front.settings.reached_port
        given = self._configuration.engine_args(_ANNOUNCED_PORT) or self.private.value(_ANNOUNCED_PORT)
        return {_ANNOUNCED_PORT: str(port)} if port and not given else {}

    def logged_from(self) -> dict[str, str]:
        """The same, so that the engine's slow log has what is slow by our own threshold: under both names of it."""
        slow_s = self._configuration.sidecar.slow_threshold
        given = self._configuration.engine_args(_LOGGED_FROM[0]) or any(map(self.private.value, _LOGGED_FROM))
        if slow_s is None or slow_s * 1e6 >= _LOGGED_FROM_US or given:
            return {}
        return dict.fromkeys(_LOGGED_FROM, str(int(slow_s * 1e6)))

    def replication_lines(self) -> list[str]:
        """Conf lines that only an engine gets which speaks TLS to its primary: the certificates are ours and its."""
        settings = self._front.settings
        if not settings.tls_replication:
            return []
        default, present = ListenerSettings().config_values(), settings.config_values()
        names = [name for name in _OF_REPLICATION if present[name] != default[name]]
        return [Directive(name, (present[name],), Origin("default")).render() for name in names]

    def credentials(self) -> list[tuple[str | None, str]]:
        """(user, None for the default one; password) of our own connection, the likeliest first."""
        sidecar = self._configuration.sidecar
        found: list[tuple[str | None, str]] = []
        if self.run_time_password is not None:
            found.append((None, self.run_time_password))
        if sidecar.engine_user is not None or sidecar.engine_password is not None:
            password = sidecar.engine_password
            found.append((sidecar.engine_user, "" if password is None else password.get_secret_value()))
        if self._configuration.requirepass is not None:
            found.append((None, self._configuration.requirepass.get_secret_value()))
        if (rewritten := self.private.value("requirepass")) is not None:
            found.append((None, rewritten))
        return found

    def starts_open(self) -> bool:
        """Whether the default user of an engine that is started now needs no password, as far as `requirepass` says."""
        return not self._word("requirepass", "")

    def auth_required(self) -> bool:
        """Whether the default user has a password now, as far as `requirepass` says."""
        return not self.starts_open() if self.run_time_password is None else bool(self.run_time_password)

    def policy(self) -> RestartPolicy:
        """What is known about replicas before the engine has been asked."""
        configuration = self._configuration
        wanted = configuration.engine_args("min-replicas-to-write")
        min_replicas = int(wanted[0]) if wanted and wanted[0].isdigit() else 0
        return RestartPolicy(self.unsaved, min_replicas=min_replicas)

    def unsaved(self, was_appending: bool, changes: int) -> str | None:
        """Why an engine that is started now would not have all its data; None when it has.

        was_appending: the last one wrote every change to its append-only file; changes: since its last snapshot. What
        was only set at run time does not count: the next start knows nothing of it.
        """
        configuration = self._configuration
        appends = self._word("appendonly", "no").lower() == "yes"
        rewritten = self.private.value("save") if self.private.adopted and not self._beside("save") else None
        saves = bool(rewritten) if rewritten is not None else configuration.has_save_points
        if not appends and not saves:
            return "persistence is off"
        folder = configuration.dir
        if self.private.adopted and not self._beside("dir"):
            folder = absolute(folder, self.private.value("dir") or ".")  # CONFIG REWRITE has written a whole path
        snapshot = absolute(folder, self._word("dbfilename", "dump.rdb"))
        appended = absolute(folder, self._word("appenddirname", "appendonlydir"))
        manifest = f"{appended}/{self._word('appendfilename', 'appendonly.aof')}.manifest"
        if appends and os.path.exists(encode(manifest)):
            return None if was_appending else "the append-only file lacks changes"
        if not os.path.exists(encode(snapshot)):
            return "nothing has been saved yet"
        return f"the last snapshot lacks {changes} changes" if changes else None

    def _word(self, name: str, default: str) -> str:
        """The first word of a directive at the next start."""
        if self.private.adopted and not (beside := self._beside(name)):
            return self.private.value(name) or default
        args = beside if self.private.adopted else self._configuration.engine_args(name)
        return args[0] if args else default

    def _beside(self, name: str) -> tuple[str, ...] | None:
        """What was given for a directive beside the file, which counts more than the file."""
        given = [d.args for d in self._configuration.directives if d.name == name and d.origin.kind in BESIDE]
        return given[-1] if given else None
