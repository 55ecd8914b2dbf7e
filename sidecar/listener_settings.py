"""Owns Valkey's directives that are honoured by us instead of the engine: the listener's, and those about our own
process (daemonize, pidfile, log file, syslog, title), and a limit that our own connection must not count in. Never
opens a socket or a file.

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
    KeyPassword,
    Kind,
    MemoryOrPercent,
    OptionalText,
    Permissions,
    Switch,
    Text,
    TitleTemplate,
    shown_bytes,
)
from sidecar.process_title import DEFAULT as DEFAULT_TITLE
from sidecar.secret import SecretStr

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
    maxmemory_clients: int = _directive(
        MemoryOrPercent(),
        0,
        "memory that all clients together may use in the engine, in bytes or as a percentage of maxmemory; beyond it "
        "the engine closes those that use most",
    )
    tls_port: int = _directive(Integer(0, 65535), 0, "TCP port for clients that speak TLS; 0 listens on none")
    tls_cert_file: str | None = _directive(OptionalText("a path"), None, "our certificate, with its chain (PEM)")
    tls_key_file: str | None = _directive(OptionalText("a path"), None, "the certificate's private key (PEM)")
    tls_key_file_pass: SecretStr | None = _directive(  # noqa: RUF009 - a field, made once
        KeyPassword(), None, "password of an encrypted private key"
    )
    tls_ca_cert_file: str | None = _directive(
        OptionalText("a path"), None, "certificates of the authorities that clients' certificates must come from (PEM)"
    )
    tls_ca_cert_dir: str | None = _directive(
        OptionalText("a path"), None, "folder of such certificates, with OpenSSL's hashed names"
    )
    tls_auth_clients: str = _directive(
        Choice(("no", "yes", "optional")), "yes", "whether clients must have a certificate; optional: only a right one"
    )
    tls_auth_clients_user: str = _directive(
        Choice(("off",)), "off", "Valkey's log-in by certificate is not available", immutable=True
    )
    tls_protocols: str | None = _directive(
        OptionalText("versions of TLS separated by blanks"),
        None,
        "versions of TLS, out of TLSv1, TLSv1.1, TLSv1.2 and TLSv1.3; without it the last two",
    )
    tls_ciphers: str | None = _directive(
        OptionalText("OpenSSL's list of ciphers"), None, "ciphers of TLS 1.2 and earlier, as OpenSSL lists them"
    )
    tls_ciphersuites: str | None = _directive(
        OptionalText("OpenSSL's list of ciphersuites"), None, "ciphersuites of TLS 1.3, as OpenSSL lists them"
    )
    tls_prefer_server_ciphers: bool = _directive(Switch(), False, "prefer our order of ciphers to the client's")
    tls_dh_params_file: str | None = _directive(
        OptionalText("a path"), None, "Diffie-Hellman parameters for old clients (PEM)"
    )
    tls_session_caching: bool = _directive(Switch(), True, "keep TLS sessions, to be resumed")
    tls_session_cache_size: int = _directive(Integer(0, INT_MAX), 20480, "TLS sessions kept by a worker; 0 is no limit")
    tls_session_cache_timeout: int = _directive(Integer(0, INT_MAX), 300, "seconds that a TLS session can be resumed")
    tls_auto_reload_interval: int = _directive(
        Integer(0, INT_MAX), 0, "seconds between looks at whether the files have changed; 0: every second"
    )
    tls_replication: bool = _directive(
        Switch(), False, "speak TLS to our primary; the engine must have been built with TLS", immutable=True
    )
    tls_cluster: bool = _directive(Switch(), False, "there is no cluster bus to protect", immutable=True)
    tls_client_cert_file: str | None = _directive(
        OptionalText("a path"), None, "certificate to show to our primary, where it is not tls-cert-file (PEM)"
    )
    tls_client_key_file: str | None = _directive(OptionalText("a path"), None, "its private key (PEM)")
    tls_client_key_file_pass: SecretStr | None = _directive(  # noqa: RUF009 - a field, made once
        KeyPassword(), None, "password of that key"
    )
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

    proc_title_template: str = _directive(
        TitleTemplate(),
        DEFAULT_TITLE,
        "title of our main process in `ps`; if you don't set it, `ps` shows our command line with its passwords masked",
    )

    def with_value(self, name: str, value: object) -> ListenerSettings:
        """A copy in which the directive `name` (with dashes) has a value that parse_listener_value returned."""
        changes: dict[str, Any] = {_attribute(name): value}
        return replace(self, **changes)

    def value(self, name: str) -> object:
        """The value of the directive `name` (with dashes)."""
        return getattr(self, _attribute(name))

    @property
    def reached_port(self) -> int:
        """The port that others are told to reach us at."""
        return self.tls_port if self.tls_port and (self.tls_replication or not self.port) else self.port

    def config_values(self) -> dict[str, str]:
        """Every directive as CONFIG GET prints it."""
        return {name: kind_of(name).show(self.value(name)) for name in LISTENER_DIRECTIVES}


def conf_value(name: str, value: object) -> str:
    """The value as CONFIG REWRITE writes it."""
    kind = kind_of(name)
    if isinstance(kind, MemoryOrPercent) and isinstance(value, int) and value > 0:
        return shown_bytes(value)
    return kind.show(value)


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
