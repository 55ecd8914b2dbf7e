"""Owns Valkey's directives that are honoured by us instead of the engine: the listener's, and those about our own
process (daemonize, pidfile, log file, syslog). Never opens a socket or a file.

Names, defaults, ranges and the wording of errors are those of Valkey 9.1 (config.c).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, TypeVar, cast

from sidecar.kinds import (
    INT_MAX,
    UINT_MAX,
    Addresses,
    Choice,
    Integer,
    Kind,
    OptionalText,
    Permissions,
    Switch,
    Text,
)

T = TypeVar("T")

_IMMUTABLE: Final = "can't set immutable config"
_FACILITIES: Final = ("user", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7")


def _directive(kind: Kind[T], default: T, about: str, *, immutable: bool = False) -> T:
    """A field of ListenerSettings; `immutable` ones refuse CONFIG SET."""
    return field(default=default, metadata={"kind": kind, "about": about, "immutable": immutable})


@dataclass(frozen=True)
class ListenerSettings:
    """What the user asked for, or Valkey's default; CONFIG SET makes a new one by `with_value`.

    >>> ListenerSettings().with_value("port", 6380).config_values()["port"]
    '6380'
    """

    port: int = _directive(Integer(0, 65535), 6379, "TCP port; 0 listens on none")
    bind: tuple[str, ...] = _directive(
        Addresses(), ("*", "-::*"), "addresses to listen on; one with `-` before it may be missing on this machine"
    )
    unixsocket: str | None = _directive(OptionalText("a path"), None, "path of a Unix socket", immutable=True)
    unixsocketgroup: str | None = _directive(
        OptionalText("a group"), None, "group that owns the Unix socket", immutable=True
    )
    unixsocketperm: int = _directive(
        Permissions(), 0, "mode of the Unix socket; 0 leaves it to the umask", immutable=True
    )
    protected_mode: bool = _directive(
        Switch(), True, "while the default user has no password, only clients of this machine may connect"
    )
    tcp_backlog: int = _directive(Integer(0, INT_MAX), 511, "length of the queue of new connections", immutable=True)
    timeout: int = _directive(Integer(0, INT_MAX), 0, "seconds after which an idle client is closed; 0 never")
    tcp_keepalive: int = _directive(Integer(0, INT_MAX), 300, "seconds between TCP keepalive probes; 0 sends none")
    maxclients: int = _directive(Integer(1, UINT_MAX), 10000, "clients at a time")
    mptcp: bool = _directive(Switch(), False, "listen with Multipath TCP", immutable=True)
    daemonize: bool = _directive(Switch(), False, "go to the background", immutable=True)
    supervised: str = _directive(
        Choice(("upstart", "systemd", "auto", "no")), "no", "tell the service manager that we are ready", immutable=True
    )
    pidfile: str | None = _directive(OptionalText("a path"), None, "file to write our process id to", immutable=True)
    logfile: str = _directive(Text("a path"), "", "file to log to; empty is standard output", immutable=True)
    syslog_enabled: bool = _directive(Switch(), False, "log to syslog too", immutable=True)
    syslog_ident: str = _directive(Text("a name"), "valkey", "name of our syslog entries", immutable=True)
    syslog_facility: str = _directive(Choice(_FACILITIES), "local0", "facility of our syslog entries", immutable=True)

    def with_value(self, name: str, value: object) -> ListenerSettings:
        """A copy in which the directive `name` (with dashes) has a value that parse_listener_value returned."""
        changes: dict[str, Any] = {_attribute(name): value}
        return replace(self, **changes)

    def value(self, name: str) -> object:
        """The value of the directive `name` (with dashes)."""
        return getattr(self, _attribute(name))

    def config_values(self) -> dict[str, str]:
        """Every directive as CONFIG GET prints it."""
        return {name: kind_of(name).show(self.value(name)) for name in LISTENER_DIRECTIVES}


_METADATA: Final = {item.name.replace("_", "-"): item.metadata for item in fields(ListenerSettings)}
LISTENER_DIRECTIVES: Final[tuple[str, ...]] = tuple(_METADATA)
"""Names as in a conf file, in the order of the documentation."""


def kind_of(name: str) -> Kind[Any]:
    """How the values of the directive `name` are read and printed."""
    return cast("Kind[Any]", _METADATA[name]["kind"])


def about(name: str) -> str:
    """What the directive is for, for the documentation."""
    return str(_METADATA[name]["about"])


def is_immutable(name: str) -> bool:
    """Whether CONFIG SET refuses the directive."""
    return bool(_METADATA[name]["immutable"])


def parse_listener_value(name: str, args: Sequence[str]) -> object:
    """Check a new value for CONFIG SET at run time; `args` is the one argument that follows the name.

    Raises ValueError with the text that Valkey puts behind "CONFIG SET failed (possibly related to argument 'x') - ".

    >>> parse_listener_value("port", ["70000"])
    Traceback (most recent call last):
    ...
    ValueError: argument must be between 0 and 65535 inclusive
    """
    name = name.lower()
    if is_immutable(name):
        raise ValueError(_IMMUTABLE)
    return kind_of(name).parse(args)


def _attribute(name: str) -> str:
    return name.replace("-", "_")
