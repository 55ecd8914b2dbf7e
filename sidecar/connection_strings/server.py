"""Owns what clients are told of a server of ours, from its configuration. Never asks a running server.

TLS comes first where the server has it, a Unix socket last. A host is only known when `bind` names an address; else
`localhost`: it is true on the machine itself and behind a published port of a container, whose own name nobody knows.
"""

from __future__ import annotations

from typing import Final

from sidecar.configuration import Configuration
from sidecar.connection_strings.model import MASK, ConnectionString, ConnectionStringError, Endpoint
from sidecar.connection_strings.stackexchange import format_stackexchange
from sidecar.connection_strings.uri import format_uri
from sidecar.listener_settings import ListenerSettings
from sidecar.secret import SecretStr

_ANY_ADDRESS: Final = frozenset({"*", "0.0.0.0", "::", "::*"})
_LOCAL: Final = "localhost"


def client_host(listener: ListenerSettings) -> str:
    """The host that clients can be told."""
    addresses = [address.removeprefix("-") for address in listener.bind]
    if not addresses or _ANY_ADDRESS & set(addresses):
        return _LOCAL
    outer = [address for address in addresses if not address.startswith("127.") and address != "::1"]
    return (outer or addresses)[0]


def described_by(
    listener: ListenerSettings, password: SecretStr | None, path_of_socket: str | None, *, tls: bool | None = None
) -> ConnectionString:
    """How clients reach a server with these settings; tls: by TLS or not, None for TLS where there is a port for it.

    Raises ConnectionStringError when it listens nowhere, or not as asked for.
    """
    listens = bool(listener.bind)
    tls_port = listener.tls_port if listens else 0
    plain_port = listener.port if listens else 0
    if tls and not tls_port:
        raise ConnectionStringError("TLS: the server has no tls-port")
    if tls is False and tls_port and not plain_port:
        raise ConnectionStringError("TLS: the server has no port without it")
    with_tls = bool(tls_port) and tls is not False
    if port := tls_port if with_tls else plain_port:
        return ConnectionString(endpoints=(Endpoint(client_host(listener), port),), tls=with_tls, password=password)
    if path_of_socket is None:
        raise ConnectionStringError("server: it listens nowhere: port is 0 and there is no unixsocket")
    return ConnectionString(unix_path=path_of_socket, password=password)


def log_line(listener: ListenerSettings, path_of_socket: str | None, *, has_password: bool) -> str | None:
    """The sentence for the log, without the password; None for a server that cannot be told in a connection string."""
    placeholder = SecretStr(MASK) if has_password else None
    try:
        connection = described_by(listener, placeholder, path_of_socket)
        stackexchange = format_stackexchange(connection, masked=True)
        uri = format_uri(connection, masked=True)
    except ConnectionStringError:
        return None
    return f"Clients connect with {stackexchange} (StackExchange.Redis) or {uri}"


def has_users(configuration: Configuration) -> bool:
    """Whether users are defined beside `requirepass`, whose passwords we cannot know."""
    return any(directive.name in ("user", "aclfile") for directive in configuration.engine_directives)
