"""Owns StackExchange.Redis' form: `host:port,password=...,ssl=true`, as .NET and Aspire write it.

Read in the source of StackExchange.Redis (ConfigurationOptions, Format, EndPointCollection and the options providers
for Azure): items are separated by commas, blanks around names and values do not count, names are in any case, the last
one of a name counts, and nothing can be quoted. Never guesses what a text with a comma in its password means.

Stricter than StackExchange.Redis for the sake of passwords: servers stand before a password and an option that it does
not know (else the rest of a password with a comma would become a host name, which is looked up and logged), a host has
only the characters of host names, and the path of a Unix socket begins with a slash.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from sidecar.connection_strings.model import (
    DEFAULT_PORT,
    MASK,
    ConnectionString,
    ConnectionStringError,
    Endpoint,
    check_host,
    said_of,
)
from sidecar.secret import SecretStr

# DefaultPorts of StackExchange.Redis.
_TLS_PORT: Final = 6380
_SENTINEL_PORT: Final = 26379
_PORT_MAX: Final = 65535

# What .NET's string.Trim takes off; Python's strip would take more.
_BLANKS: Final = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_INTEGER: Final = re.compile(r"[+-]?[0-9]+")
_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_FALSE: Final = frozenset({"false", "0", "no", "off"})

# AzureManagedRedisOptionsProvider: TLS whatever the port. AzureOptionsProvider: TLS on port 6380.
_AZURE_TLS_ONLY: Final = (
    ".redis.azure.net",
    ".redis.chinacloudapi.cn",
    ".redis.usgovcloudapi.net",
    ".redis.sovcloud-api.de",
    ".redis.sovcloud-api.fr",
    ".redisenterprise.cache.azure.net",
)
_AZURE: Final = (
    ".redis.cache.windows.net",
    ".redis.cache.chinacloudapi.cn",
    ".redis.cache.usgovcloudapi.net",
    ".redis.cache.cloudapi.de",
)

# Fields of the model.
_FIELDS: Final = {
    "user": "user",
    "password": "password",
    "ssl": "tls",
    "defaultdatabase": "database",
    "name": "client_name",
    "servicename": "service_name",
    "abortconnect": "abort_connect",
}
# All others that StackExchange.Redis knows. `$COMMAND=name` renames a command.
_OTHERS: Final = {
    name.lower(): name
    for name in (
        *("allowAdmin", "asyncTimeout", "channelPrefix", "checkCertificateRevocation", "configChannel"),
        *("configCheckSeconds", "connectRetry", "connectTimeout", "defaults", "highIntegrity", "highPriorityThreads"),
        *("keepAlive", "maintNotifications", "maintPostEventRelaxed", "maintRelaxedTimeout", "maintRelaxedWindowMax"),
        *("preserveAsyncOrder", "protocol", "proxy", "resolveDns", "responseTimeout", "sentinelPassword"),
        *("sentinelUser", "setlib", "sslHost", "sslProtocols", "syncTimeout", "tcpKeepAlive", "tiebreaker"),
        *("topologyRefreshSeconds", "tunnel", "version", "writeBuffer"),
    )
}
_SECRET_OPTIONS: Final = frozenset({"sentinelPassword"})


def parse_stackexchange(text: str, origin: str = "connection string") -> ConnectionString:
    """Read StackExchange.Redis' form. Raises ConnectionStringError that begins with `origin`.

    >>> parse_stackexchange("cache.redis.cache.windows.net:6380,password=hunter2,abortConnect=False").tls
    True
    """
    with said_of(origin):
        return _Reader().read(text)


def format_stackexchange(connection: ConnectionString, *, masked: bool = False) -> str:
    """Write StackExchange.Redis' form; masked: no password, and no option that may be one.

    Raises ConnectionStringError for what the form has no way to write, such as a comma in a password.
    """
    password = connection.shown_password(masked)
    if not masked:
        _check_writable("password", password)
    for part, text in [
        ("Unix socket", connection.unix_path),
        ("user", connection.user),
        ("client name", connection.client_name),
        ("service name", connection.service_name),
    ]:
        _check_writable(part, text)
    parts = [str(endpoint) for endpoint in connection.endpoints]
    if connection.unix_path is not None:
        if "=" in connection.unix_path:
            raise ConnectionStringError("Unix socket: StackExchange.Redis' form cannot hold an equals sign in a path")
        parts.append(f"!{connection.unix_path}")
    if (user := connection.shown_name(connection.user, masked)) is not None:
        parts.append(f"user={user}")
    if password is not None:
        parts.append(f"password={password}")
    # Said also where Azure's names say it: StackExchange.Redis before 2.8.22 does not know all of them.
    if connection.tls or _default_tls(connection.endpoints):
        parts.append(f"ssl={_boolean(connection.tls)}")
    if connection.database is not None:
        parts.append(f"defaultDatabase={connection.database}")
    if (client := connection.shown_name(connection.client_name, masked)) is not None:
        parts.append(f"name={client}")
    if (service := connection.shown_name(connection.service_name, masked)) is not None:
        parts.append(f"serviceName={service}")
    if connection.abort_connect is not None:
        parts.append(f"abortConnect={_boolean(connection.abort_connect)}")
    for name, value in connection.options:
        shown = not masked or (is_known_option(name) and name not in _SECRET_OPTIONS)
        parts.append(f"{name}={connection.shown_name(value, masked)}" if shown else f"{MASK}={MASK}")
    return ",".join(parts)


def is_known_option(name: str) -> bool:
    """Whether StackExchange.Redis has an option of this name; it refuses strings with others."""
    return name.lower() in _OTHERS or (name.startswith("$") and name[1:].isalnum())


class _Reader:
    """One text being read."""

    def __init__(self) -> None:
        self._servers: list[Endpoint] = []  # port 0: not given
        self._unix_path: str | None = None
        self._fields: dict[str, Any] = {}
        self._options: dict[str, tuple[str, str]] = {}
        self._no_server_after = 0
        """The last part that may be a password: one without a comma, or its first piece."""

    def read(self, text: str) -> ConnectionString:
        for number, padded in enumerate(text.split(","), start=1):
            item = padded.strip(_BLANKS)
            name, has_value, value = item.partition("=")
            if has_value:
                self._option(number, name.rstrip(_BLANKS), value.lstrip(_BLANKS))
            elif item:
                self._server(number, item)
        servers = self._servers
        tls = self._fields.pop("tls", None)
        if tls is None:
            tls = _default_tls(servers)
        asks_sentinel = self._fields.get("service_name") is not None
        default_port = _SENTINEL_PORT if asks_sentinel else _TLS_PORT if tls else DEFAULT_PORT
        endpoints = dict.fromkeys(Endpoint(server.host, server.port or default_port) for server in servers)
        return ConnectionString(
            endpoints=tuple(endpoints),
            unix_path=self._unix_path,
            tls=tls,
            options=tuple(self._options.values()),
            **self._fields,
        )

    def _option(self, number: int, name: str, value: str) -> None:
        if not name:
            raise ConnectionStringError(f"part {number}: there is no name before the equals sign")
        attribute = _FIELDS.get(name.lower())
        if attribute is None:
            if not is_known_option(name) or name.lower() == "sentinelpassword":
                self._no_server_after = number
            spelled = _OTHERS.get(name.lower(), name)
            self._options.pop(spelled.lower(), None)
            self._options[spelled.lower()] = (spelled, value)
        elif attribute in ("tls", "abort_connect"):
            self._fields[attribute] = _read_boolean(number, name.lower(), value)
        elif attribute == "database":
            self._fields[attribute] = _read_integer(value, f"part {number}, defaultDatabase: it must be a number")
        elif attribute == "password":
            self._no_server_after = number
            self._fields[attribute] = SecretStr(value) if value else None
        else:
            self._fields[attribute] = value or None

    def _server(self, number: int, item: str) -> None:
        if self._no_server_after:
            raise ConnectionStringError(
                f"part {number}: it has no equals sign, and part {self._no_server_after} may be a password: "
                "a password in this form cannot have a comma, and servers come first"
            )
        if item.lower().startswith(("password", "sentinelpassword")):
            raise ConnectionStringError(f"part {number}: a password needs an equals sign, as in password=...")
        if item.startswith("!"):
            if self._unix_path is not None:
                raise ConnectionStringError(f"part {number}: a second Unix socket: give one")
            self._unix_path = item[1:]
            return
        self._servers.append(_read_server(item, f"part {number}"))


def _read_server(item: str, where: str) -> Endpoint:
    """By the rules of Format.TryParseEndPoint; port 0 stands for none."""
    port_text = ""
    has_port = False
    if item.startswith("["):
        host, closed, rest = item[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")) or ":" not in host:
            raise ConnectionStringError(f"{where}: brackets hold an IPv6 address, as in [::1]:6379")
        has_port, port_text = bool(rest), rest[1:]
    elif item.count(":") == 1:
        host, _, port_text = item.partition(":")
        has_port = True
    else:
        host = item
    check_host(host, where)
    problem = f"{where}: the port must be a number between 1 and {_PORT_MAX}"
    port = _read_integer(port_text, problem) if has_port else 0
    if not 0 <= port <= _PORT_MAX:
        raise ConnectionStringError(problem)
    return Endpoint(host, port)


def _default_tls(endpoints: Sequence[Endpoint]) -> bool:
    """Whether StackExchange.Redis uses TLS when the string does not say: by the first host of Azure's."""
    for endpoint in endpoints:
        host = endpoint.host.lower()
        if host.endswith(_AZURE_TLS_ONLY):
            return True
        if host.endswith(_AZURE):
            return any(each.port == _TLS_PORT for each in endpoints)
    return False


def _read_integer(text: str, problem: str) -> int:
    stripped = text.strip(_BLANKS)
    # Int32: longer ones overflow, and Python would refuse very long ones in words of its own.
    if not _INTEGER.fullmatch(stripped) or len(stripped) > len("-2147483648"):
        raise ConnectionStringError(problem)
    return int(stripped)


def _read_boolean(number: int, name: str, text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ConnectionStringError(f"part {number}, {name}: it must be true or false")


def _boolean(value: bool) -> str:
    return "true" if value else "false"


def _check_writable(part: str, text: str | None) -> None:
    if text is None:
        return
    if "," in text:
        raise ConnectionStringError(f"{part}: StackExchange.Redis' form cannot hold a comma: choose one without")
    if text != text.strip(_BLANKS):
        raise ConnectionStringError(f"{part}: StackExchange.Redis' form loses blanks at its ends: choose one without")
