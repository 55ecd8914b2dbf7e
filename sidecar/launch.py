"""How the engine is started from what the user configured.

Owns the engine's command line, the credentials of our own connection, and what we give the engine without the user's
asking. It never starts anything.
"""

from __future__ import annotations

from sidecar.configuration import Configuration, is_ours
from sidecar.engine.configfile import PrivateConfiguration
from sidecar.engine.embedded import Plan
from sidecar.engine.folder import PrivateFolder
from sidecar.engine.restart import RestartPolicy
from sidecar.engine_binary import find_engine_binary
from sidecar.front import Front

_ANNOUNCED_PORT = "replica-announce-port"


class Launch:
    """The engine's start, as it is to be done at any moment: CONFIG SET and CONFIG REWRITE change it.

    lock: the descriptor of the data folder's lock, which the engine inherits; None without one.
    Raises ConfigurationError when there is no engine to be found.
    """

    def __init__(
        self, configuration: Configuration, front: Front, folder: PrivateFolder, lock: int | None = None
    ) -> None:
        self._configuration = configuration
        self._front = front
        self._folder = folder
        self.private = PrivateConfiguration(
            folder.path,
            configuration.file_text,
            configuration.extra_text,
            is_ours,
            {file.path: file.text for file in configuration.files if file.is_included},
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
            inherit=() if lock is None else (lock,),
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
        for name, value in self.injected().items():
            words += [f"--{name}", value]
        return words

    def injected(self) -> dict[str, str]:
        """Directives of the engine's that the user did not give.

        A primary that we follow, and Sentinel, must be told a port that can be reached: ours.
        """
        port = self._front.settings.port
        given = self._configuration.engine_args(_ANNOUNCED_PORT) or self.private.value(_ANNOUNCED_PORT)
        return {_ANNOUNCED_PORT: str(port)} if port and not given else {}

    def credentials(self) -> list[tuple[str | None, str]]:
        """(user, None for the default one; password) of our own connection, the likeliest first."""
        sidecar = self._configuration.sidecar
        found: list[tuple[str | None, str]] = []
        if sidecar.engine_user is not None or sidecar.engine_password is not None:
            password = sidecar.engine_password
            found.append((sidecar.engine_user, "" if password is None else password.get_secret_value()))
        if self._configuration.requirepass is not None:
            found.append((None, self._configuration.requirepass.get_secret_value()))
        if (rewritten := self.private.value("requirepass")) is not None:
            found.append((None, rewritten))
        return found

    def policy(self) -> RestartPolicy:
        """What is known about replicas before the engine has been asked."""
        configuration = self._configuration
        wanted = configuration.engine_args("min-replicas-to-write")
        min_replicas = int(wanted[0]) if wanted and wanted[0].isdigit() else 0
        return RestartPolicy(persistent=configuration.has_persistence, min_replicas=min_replicas)
