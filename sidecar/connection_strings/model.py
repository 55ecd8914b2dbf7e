"""Owns what a connection string says, whatever form it is written in, and which values can be meant.

Never reads a form and never resolves a name. No password is in a repr or an error: what is wrong is named by its part.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from sidecar.secret import SecretStr

MASK: Final = "***"
DEFAULT_PORT: Final = 6379
_PORT_MAX: Final = 65535
# The databases of a server are counted by an int.
_DATABASE_MAX: Final = 2**31 - 1
_NAME_MAX: Final = 255
# Narrower than DNS in what a name may be, so that a part of a password in the wrong place is not taken for a host.
_HOST: Final = re.compile(r"[\w.-]+")
_IPV6: Final = re.compile(r"[0-9A-Fa-f:.]+(%[\w.-]+)?")
_DIGITS: Final = re.compile(r"[0-9]{1,5}")
_DATABASE: Final = re.compile(r"[0-9]{1,10}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


class ConnectionStringError(ValueError):
    """What is wrong with a connection string, without showing it: one line for the person who wrote it."""


@contextmanager
def said_of(origin: str) -> Iterator[None]:
    """Errors inside begin with `origin`: where the connection string came from."""
    try:
        yield
    except ConnectionStringError as error:
        raise ConnectionStringError(f"{origin}: {error}") from None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server by TCP: a host name or an address (IPv6 without brackets), and the port, defaults resolved."""

    host: str
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionString:
    """How a client reaches a server. Raises ConnectionStringError for what cannot be meant.

    Ports and TLS are resolved by the rules of the form that was read, so each form writes what the others mean: without
    a port, `cache,ssl=true` is port 6380 to StackExchange.Redis, and `rediss://cache` is port 6379 to everyone.
    Text is never empty: nothing is None.

    >>> ConnectionString(endpoints=(Endpoint("cache"),), password=SecretStr("hunter2"))
    ConnectionString(cache:6379, tls=False, password=***)
    """

    endpoints: tuple[Endpoint, ...] = ()
    """Servers of one group, or Sentinels with `service_name`; () with `unix_path`."""
    unix_path: str | None = None
    tls: bool = False
    user: str | None = None
    password: SecretStr | None = None
    database: int | None = None
    client_name: str | None = None
    service_name: str | None = None
    """The name of the primary that Sentinel is asked for."""
    abort_connect: bool | None = None
    """Whether StackExchange.Redis gives up when the first attempt to connect fails; None: its default."""
    options: tuple[tuple[str, str], ...] = ()
    """Other options of StackExchange.Redis in their order; values as they were, names as it spells those it knows."""
    query: tuple[tuple[str, str], ...] = ()
    """Other query parameters of a URI in their order, percent-encoding left as it was."""

    def __post_init__(self) -> None:
        if not self.endpoints and self.unix_path is None:
            raise ConnectionStringError("no server: give at least one, as in localhost:6379")
        if self.endpoints and self.unix_path is not None:
            raise ConnectionStringError("server: a Unix socket and a host: give one of them")
        if self.unix_path is not None and not self.unix_path.startswith("/"):
            raise ConnectionStringError("Unix socket: its path must begin with a slash")
        if self.unix_path is not None and self.tls:
            raise ConnectionStringError("TLS: there is none through a Unix socket")
        for number, endpoint in enumerate(self.endpoints, start=1):
            where = f"server {number}" if len(self.endpoints) > 1 else "server"
            check_host(endpoint.host, where)
            check_port(endpoint.port, where)
        if self.database is not None and not 0 <= self.database <= _DATABASE_MAX:
            raise ConnectionStringError("database: it must be 0 or more, and fit 32 bits")
        password = None if self.password is None else self.password.get_secret_value()
        for part, text in [
            ("Unix socket", self.unix_path),
            ("user", self.user),
            ("password", password),
            ("client name", self.client_name),
            ("service name", self.service_name),
            *(("option", text) for pair in (*self.options, *self.query) for text in pair),
        ]:
            _check_text(part, text)

    def __repr__(self) -> str:
        server = self.unix_path or ",".join(map(str, self.endpoints))
        password = "" if self.password is None else f", password={MASK}"
        return f"{type(self).__name__}({server}, tls={self.tls}{password})"

    def shown_password(self, masked: bool) -> str | None:
        """The password, or what stands for it."""
        if self.password is None:
            return None
        return MASK if masked else self.password.get_secret_value()

    def shown_name(self, name: str | None, masked: bool) -> str | None:
        """A user, client or service; masked: what does not look like a name may be a password in the wrong place."""
        return MASK if name is not None and masked and not _HOST.fullmatch(name) else name

    def only_endpoint(self, form: str) -> Endpoint | None:
        """The one server that `form` can name, None with a Unix socket; raises ConnectionStringError for more."""
        if self.service_name is not None:
            raise ConnectionStringError(f"service name: {form} cannot ask Sentinel for a server")
        if len(self.endpoints) > 1:
            raise ConnectionStringError(f"servers: {form} names one server, and there are {len(self.endpoints)}")
        return self.endpoints[0] if self.endpoints else None


def check_host(host: str, where: str = "server") -> None:
    """Raises ConnectionStringError for what is no host name and no address."""
    if not host:
        raise ConnectionStringError(f"{where}: there is no host, as in localhost:6379")
    if ":" in host:
        if not _IPV6.fullmatch(host) or not _is_ipv6(host):
            raise ConnectionStringError(f"{where}: no host, port or IPv6 address can be read, as in [::1]:6379")
    elif len(host) > _NAME_MAX or not _HOST.fullmatch(host):
        raise ConnectionStringError(f"{where}: the host has characters that no host name has, or is too long")


def check_port(port: int, where: str = "server") -> None:
    """Raises ConnectionStringError for what is no port."""
    if not 0 < port <= _PORT_MAX:
        raise ConnectionStringError(f"{where}: the port must be a number between 1 and {_PORT_MAX}")


def read_port(text: str, where: str = "server") -> int:
    """A port written in digits. Raises ConnectionStringError."""
    if not _DIGITS.fullmatch(text):
        raise ConnectionStringError(f"{where}: the port must be a number between 1 and {_PORT_MAX}")
    port = int(text)
    check_port(port, where)
    return port


def read_database(text: str, where: str) -> int:
    """The number of a database. Raises ConnectionStringError."""
    if not _DATABASE.fullmatch(text) or int(text) > _DATABASE_MAX:
        raise ConnectionStringError(f"{where}: the database must be a number, 0 or more")
    return int(text)


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def _check_text(part: str, text: str | None) -> None:
    if text is None:
        return
    if not text and part != "option":
        raise ConnectionStringError(f"{part}: it is empty: leave it out")
    if _CONTROL.search(text):
        raise ConnectionStringError(f"{part}: a control character, such as a line break, cannot be written")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConnectionStringError(f"{part}: bytes that are not UTF-8 cannot be written") from None
