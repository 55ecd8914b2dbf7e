"""Owns the whole configuration as the user gave it, checked and resolved once; the rest of the server only reads it.
Never opens a socket and never validates a directive of the engine's: the engine does that itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from sidecar.commandline import parse_arguments
from sidecar.conf import (
    ConfFile,
    ConfigurationError,
    ConfReader,
    Directive,
    Origin,
    absolute,
    decode,
    encode,
    shown,
    working_folder,
)
from sidecar.cpus import default_workers
from sidecar.engine.limits import OF_MEMORY, limits_memory
from sidecar.kinds import BearerToken
from sidecar.listener_settings import LISTENER_DIRECTIVES, ListenerSettings, kind_of
from sidecar.password import read_secret, requirepass
from sidecar.secret import SecretStr
from sidecar.settings import PREFIX, SidecarSettings, parse_value, resolve

# Older names of directives that we look at; the engine knows them all (config.c).
_ALIASES: Final = {
    "min-slaves-to-write": "min-replicas-to-write",
    "slave-announce-port": "replica-announce-port",
    "commandlog-execution-slower-than": "slowlog-log-slower-than",
}
_DEFAULT_SAVE: Final = ("3600", "1", "300", "100", "60", "10000")
# Kinds of origin that are no file.
BESIDE: Final = ("environment", "standard input", "argument")
# A renamed command must still be told from others; a SHA-512 in hexadecimal digits fits.
_NAME_MAX: Final = 128


@dataclass(frozen=True)
class Configuration:
    """What was asked for, from every source. Paths are absolute unless said otherwise."""

    file: str | None
    """The conf file the user gave, None without one."""
    files: tuple[ConfFile, ...] = field(repr=False)
    """Every physical file that was read, the user's first, then the included ones."""
    extra_text: str = field(repr=False)
    """What was given beside the file, as conf lines: the environment's password, standard input, then arguments."""
    directives: tuple[Directive, ...] = field(repr=False)
    """All of them in order, `include` lines expanded: environment, conf file, standard input, arguments."""
    listener: ListenerSettings
    """Valkey's directives that are ours, as they are at the start."""
    listener_defaults: ListenerSettings = field(repr=False)
    """What `listener` would be if none of these directives had been given."""
    sidecar: SidecarSettings
    """Our own settings."""
    origins: Mapping[str, Origin] = field(repr=False)
    """Where each setting and listener directive that was given came from, by its name in a conf file."""
    warnings: tuple[str, ...]
    """For the log, once there is one."""
    dir: str
    """The data folder: Valkey's `dir`, else the folder we were started in."""

    @classmethod
    def load(
        cls, argv: Sequence[str], environment: Mapping[str, str], read_stdin: Callable[[], bytes]
    ) -> Configuration:
        """Read everything the arguments (without the program's name) name; `read_stdin` is called if they say `-`.

        Raises ConfigurationError with one line for the user.
        """
        arguments = parse_arguments(argv)
        folder = working_folder()
        reader = ConfReader(folder)
        if arguments.conf_file is not None:
            reader.read_file(arguments.conf_file)
        stdin = read_stdin() if arguments.reads_stdin else b""
        reader.read_text(stdin, "standard input")
        reader.read_text(encode(arguments.options), "argument")
        directives = tuple(reader.directives)
        password = None
        if not any(directive.name == "requirepass" for directive in directives):
            password = requirepass(environment)
        if password is not None:
            directives = (password, *directives)
        _refuse_mistakes(directives)
        _refuse_unavailable(directives)
        resolved = resolve((d for d in directives if d.name.startswith(PREFIX)), environment)
        defaults = ListenerSettings().with_value("protected-mode", resolved.settings.protected_mode)
        listener, origins = _listener(directives, defaults)
        origins.update({PREFIX + name: origin for name, origin in resolved.origins.items()})
        return cls(
            file=None if arguments.conf_file is None else absolute(folder, arguments.conf_file),
            files=tuple(reader.files),
            extra_text="\n".join(
                text for text in (password and password.render(), decode(stdin).rstrip("\n"), arguments.options) if text
            ),
            directives=directives,
            listener=listener,
            listener_defaults=defaults,
            sidecar=_with_token(resolved.settings, origins),
            origins=origins,
            warnings=resolved.warnings,
            dir=reader.folder,
        )

    @property
    def file_text(self) -> str:
        """The text of the user's conf file, "" without one."""
        return "".join(file.text for file in self.files if not file.is_included)

    @property
    def engine_directives(self) -> tuple[Directive, ...]:
        """Everything that goes to the engine, in order."""
        return tuple(directive for directive in self.directives if not is_ours(directive.name))

    @property
    def workers(self) -> int:
        """How many workers to start."""
        return default_workers() if self.sidecar.workers is None else self.sidecar.workers

    def is_beside(self, name: str) -> bool:
        """Whether it was given beside the conf file, and so counts more than the file."""
        return name in self.origins and self.origins[name].kind in BESIDE

    def path(self, given: str) -> str:
        """A path of a directive (unixsocket, logfile, pidfile): Valkey opens them after it has gone to `dir`."""
        return absolute(self.dir, given)

    def engine_args(self, name: str) -> tuple[str, ...] | None:
        """The words of the last directive of this name (or of its older name) that goes to the engine."""
        found = [d.args for d in self.engine_directives if _ALIASES.get(d.name, d.name) == name]
        return found[-1] if found else None

    @property
    def requirepass(self) -> SecretStr | None:
        """The default user's password by `requirepass`; `user` lines and ACL files are the engine's matter."""
        args = self.engine_args("requirepass")
        return SecretStr(args[0]) if args and args[0] else None

    @property
    def enable_debug_command(self) -> str:
        """ "no", "local" or "yes"."""
        return self._word("enable-debug-command", "no")

    @property
    def enable_protected_configs(self) -> str:
        """ "no", "local" or "yes"."""
        return self._word("enable-protected-configs", "no")

    @property
    def enable_module_command(self) -> str:
        """ "no", "local" or "yes"."""
        return self._word("enable-module-command", "no")

    @property
    def sets_title(self) -> bool:
        """Whether `ps` shows `proc-title-template`; else it does once a client sets a new one."""
        return self._word("set-proc-title", "yes") != "no"

    @property
    def loglevel(self) -> str:
        """ "debug", "verbose", "notice", "warning" or "nothing"."""
        return self._word("loglevel", "notice")

    @property
    def memory_limits(self) -> dict[str, bool]:
        """Which of the engine's settings (OF_MEMORY) limit what a normal client may have it keep."""
        found = dict.fromkeys(OF_MEMORY, False)
        found["maxmemory-clients"] = self.listener.maxmemory_clients != 0
        for directive in self.engine_directives:
            if directive.name in OF_MEMORY:
                limited = limits_memory(directive.name, _words(directive.args))
                found[directive.name] = found[directive.name] if limited is None else limited
        return found

    @property
    def has_persistence(self) -> bool:
        """Whether the engine writes its data to disk by itself: by `save` points or `appendonly`."""
        return self._word("appendonly", "no") == "yes" or self.has_save_points

    @property
    def has_save_points(self) -> bool:
        """Whether the engine writes snapshots by itself."""
        return bool(self._save_points())

    @property
    def rename_commands(self) -> dict[str, str]:
        """New name to the name of the command it stands for, in lower case, through chains of renames."""
        return self._renames()[0]

    @property
    def removed_commands(self) -> frozenset[str]:
        """Names of commands, in lower case, that clients cannot call any more: renamed away, or to nothing."""
        return self._renames()[1]

    def _word(self, name: str, default: str) -> str:
        args = self.engine_args(name)
        return args[0].lower() if args else default

    def _save_points(self) -> list[str]:
        given = [directive.args for directive in self.engine_directives if directive.name == "save"]
        points: list[str] = [] if given else list(_DEFAULT_SAVE)
        for args in given:
            # The first `save` replaces the defaults, each adds its points, `save ""` clears them.
            points = [] if args == ("",) else [*points, *_words(args)]
        return points

    def _renames(self) -> tuple[dict[str, str], frozenset[str]]:
        meaning: dict[str, str] = {}
        gone: set[str] = set()
        for directive in self.engine_directives:
            if directive.name != "rename-command" or len(directive.args) != 2:
                continue
            old, new = (command_name(arg) for arg in directive.args)
            command = meaning.pop(old, old)
            gone.add(old)
            if new:
                meaning[new] = command
                gone.discard(new)
        return meaning, frozenset(gone)


def command_name(given: str) -> str:
    """A command's name in lower case, as the engine compares it: ASCII letters only, and no further than a NUL byte."""
    return decode(encode(given).partition(b"\0")[0].lower())


def is_ours(name: str) -> bool:
    """Whether a directive (in lower case) is honoured by us, and so must not reach the engine."""
    return name.startswith(PREFIX) or name in LISTENER_DIRECTIVES


def _listener(
    directives: Iterable[Directive], settings: ListenerSettings
) -> tuple[ListenerSettings, dict[str, Origin]]:
    origins: dict[str, Origin] = {}
    for directive in directives:
        # Checked even when a later one replaces it, as Valkey does.
        if directive.name in LISTENER_DIRECTIVES:
            settings = settings.with_value(directive.name, parse_value(kind_of(directive.name), directive))
            origins[directive.name] = directive.origin
    return settings, origins


def _with_token(settings: SidecarSettings, origins: Mapping[str, Origin]) -> SidecarSettings:
    """The settings with the token that its file holds."""
    path, name = settings.http_token_file, f"{PREFIX}http-token-file"
    if path is None:
        return settings
    if settings.http_token is not None:
        raise ConfigurationError(f"{PREFIX}http-token and {name} are both set: keep one of them")
    given = Directive(f"{PREFIX}http-token", (read_secret(path, name, "token"),), origins[name])
    return replace(settings, http_token=parse_value(BearerToken(), given))


def _refuse_mistakes(directives: Iterable[Directive]) -> None:
    """Slips on the command line that the engine would answer with a line of a file that the user never wrote."""
    for directive in directives:
        if directive.origin.kind != "argument":
            continue
        name, _, value = directive.name.partition("=")
        if name.startswith("-"):
            raise ConfigurationError(f"{shown(name)} is not an option: they begin with two dashes, as in --port 6380")
        if value:
            raise ConfigurationError(f"--{name}=...: write a space instead of =, as in --port 6380")


def _refuse_unavailable(directives: Iterable[Directive]) -> None:
    cluster: Directive | None = None
    for directive in directives:
        name, args, origin = directive.name, directive.args, directive.origin
        if name == "tls-cluster" and args != ("no",):
            raise ConfigurationError(f"tls-cluster: cluster mode is not available yet (from {origin}): leave it out")
        if name == "tls-auth-clients-user" and args != ("off",):
            raise ConfigurationError(
                f"tls-auth-clients-user: log-in by certificate is not available (from {origin}): leave it out, "
                "and have clients send AUTH"
            )
        if name.startswith("rdma-"):
            raise ConfigurationError(f"{name}: RDMA is not available (from {origin}): leave out the rdma- directives")
        if name == "rename-command" and len(args) == 2 and len(encode(args[1])) > _NAME_MAX:
            raise ConfigurationError(
                f"rename-command: the new name of {shown(args[0])} has {len(encode(args[1]))} bytes (from {origin}): "
                f"it must have at most {_NAME_MAX}"
            )
        if name == "cluster-enabled":
            cluster = directive
    if cluster is not None and [arg.lower() for arg in cluster.args] == ["yes"]:
        raise ConfigurationError(
            f"cluster-enabled: cluster mode is not available yet (from {cluster.origin}): leave it out or say no"
        )


def _words(args: tuple[str, ...] | None) -> list[str]:
    """Several words may have been given as one: `save "60 1"`."""
    return " ".join(args or ()).split()
