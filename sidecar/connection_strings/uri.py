"""Owns the URI forms: redis://, rediss://, valkey://, valkeys://, and unix:// for a Unix socket.

The common ground of the provisional "redis" scheme (IANA) and of the clients that read it; docs/connection-strings.md
says which were tried. A text is refused when clients disagree about it, or when a password may have slipped into
another part: an `@` behind the server, a fragment, a user without a colon. Never knows an option of a single client:
what is not understood stays in `query`.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal
from urllib.parse import quote, unquote_to_bytes

from sidecar.conf import encode
from sidecar.connection_strings.model import (
    DEFAULT_PORT,
    MASK,
    ConnectionString,
    ConnectionStringError,
    Endpoint,
    check_host,
    read_database,
    read_port,
    said_of,
)
from sidecar.secret import SecretStr

Scheme = Literal["redis", "valkey"]

_TCP: Final = {"redis": False, "valkey": False, "rediss": True, "valkeys": True}
_UNIX: Final = frozenset({"unix", "redis+socket", "redis-socket"})
_SCHEMES: Final = "redis://, rediss://, valkey://, valkeys:// and unix://"

_IS_URI: Final = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*://")
_PARTS: Final = re.compile(r"([^:]+)://([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?")
_NOT_IN_A_URI: Final = re.compile(r"[\x00-\x20\x7f]")
_NOT_ENCODED: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")

# Query parameters by the names that clients have for them (valkey-py and redis-py, go-redis, Lettuce, Kombu).
_DATABASE: Final = frozenset({"db", "database", "virtual_host"})
_CLIENT_NAME: Final = frozenset({"client_name", "clientName"})


def is_uri(text: str) -> bool:
    """Whether the text has the shape of a URI, whatever its scheme."""
    return _IS_URI.match(text) is not None


def parse_uri(text: str, origin: str = "connection string") -> ConnectionString:
    """Read a URI. Raises ConnectionStringError that begins with `origin`.

    >>> parse_uri("rediss://:p%40ss@cache/2").endpoints
    (Endpoint(host='cache', port=6379),)
    """
    with said_of(origin):
        return _parse(text.strip())


def format_uri(connection: ConnectionString, *, scheme: Scheme = "redis", masked: bool = False) -> str:
    """Write a URI; masked: without the password and the values of query parameters that are not understood.

    scheme: every client takes `redis`, few take `valkey`. Raises ConnectionStringError for several servers, Sentinel.
    """
    endpoint = connection.only_endpoint("a URI")
    password = connection.shown_password(masked)
    secret = password if password is None or masked else _quoted(password)
    user = connection.shown_name(connection.user, masked)
    user_info = "" if secret is None and user is None else f"{quote(user or '', safe='*')}:{secret or ''}@"
    query = []
    if endpoint is None:
        path = quote(connection.unix_path or "", safe="/")
        uri = f"unix://{user_info}{path}"
        if connection.database is not None:
            query.append(f"db={connection.database}")
    else:
        server = str(endpoint).replace("%", "%25")
        path = "" if connection.database is None else f"/{connection.database}"
        uri = f"{scheme}{'s' if connection.tls else ''}://{user_info}{_ascii(server)}{path}"
    if (client := connection.shown_name(connection.client_name, masked)) is not None:
        query.append(f"client_name={quote(client, safe='*')}")
    query += [f"{MASK}={MASK}" if masked else f"{name}={value}" for name, value in connection.query]
    return f"{uri}?{'&'.join(query)}" if query else uri


def _parse(text: str) -> ConnectionString:
    if _NOT_IN_A_URI.search(text):
        raise ConnectionStringError("a blank or control character: write it percent-encoded, a blank as %20")
    match = _PARTS.fullmatch(text)
    scheme = match[1].lower() if match else ""
    if match is None or (scheme not in _TCP and scheme not in _UNIX):
        raise ConnectionStringError(f"scheme: it is none of {_SCHEMES}")
    authority, path, query = match[2], match[3], (match[4] or "?")[1:]
    if match[5]:
        raise ConnectionStringError("a # has no meaning here: in a password write it as %23")
    if "@" in path + query:
        raise ConnectionStringError(
            "an @ stands behind the server: in a password write / as %2F and ? as %3F, elsewhere @ as %40"
        )
    user_info, has_user_info, server = authority.rpartition("@")
    fields = _read_user_info(user_info) if has_user_info else {}
    is_unix = scheme in _UNIX
    rest = _read_query(query, fields, is_unix)
    if is_unix:
        if server or not path.strip("/"):
            raise ConnectionStringError("a path has three slashes, as in unix:///run/valkey.sock")
        return ConnectionString(unix_path=_decoded("path", path), query=rest, **fields)
    if path.strip("/"):
        fields.setdefault("database", read_database(path.strip("/"), "path"))
    return ConnectionString(endpoints=(_read_server(server),), tls=_TCP[scheme], query=rest, **fields)


def _read_user_info(text: str) -> dict[str, Any]:
    user, has_password, password = text.partition(":")
    if not has_password:
        raise ConnectionStringError("user: no colon before the @: write :PASSWORD@ or USER:PASSWORD@")
    fields: dict[str, Any] = {}
    if user:
        fields["user"] = _decoded("user", user)
    if password:
        fields["password"] = SecretStr(_decoded("password", password))
    return fields


def _read_server(text: str) -> Endpoint:
    if "," in text:
        raise ConnectionStringError("server: a URI names one server")
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")) or ":" not in host:
            raise ConnectionStringError("server: brackets hold an IPv6 address, as in [::1]:6379")
        port_text = rest[1:]
    else:
        host, _, port_text = text.partition(":")
    host = _decoded("server", host)
    check_host(host)
    return Endpoint(host, read_port(port_text) if port_text else DEFAULT_PORT)


def _read_query(text: str, fields: dict[str, Any], is_unix: bool) -> tuple[tuple[str, str], ...]:
    """Put what is understood into `fields`, and return the rest."""
    rest = []
    for number, parameter in enumerate(filter(None, text.split("&")), start=1):
        where = f"query parameter {number}"
        name, has_value, value = parameter.partition("=")
        if not has_value or not name:
            raise ConnectionStringError(f"{where}: it has no name or no equals sign; in a password write ? as %3F")
        if name in _DATABASE and (name != "virtual_host" or is_unix):
            fields["database"] = read_database(value, where)
        elif name in _CLIENT_NAME and value:
            fields["client_name"] = _decoded(where, value, in_query=True)
        elif name == "username" and value:
            fields.setdefault("user", _decoded(where, value, in_query=True))
        elif name == "password" and value:
            fields.setdefault("password", SecretStr(_decoded(where, value, in_query=True)))
        else:
            rest.append((name, value))
    return tuple(rest)


def _decoded(part: str, text: str, *, in_query: bool = False) -> str:
    if _NOT_ENCODED.search(text):
        raise ConnectionStringError(f"{part}: a % is not followed by two hexadecimal digits: write it as %25")
    data = encode(text.replace("+", " ") if in_query else text)
    try:
        return unquote_to_bytes(data).decode()
    except UnicodeDecodeError:
        raise ConnectionStringError(f"{part}: it is not UTF-8 once it is decoded") from None


def _quoted(text: str) -> str:
    return quote(text, safe="")


def _ascii(server: str) -> str:
    """A host name beyond ASCII percent-encoded, as RFC 3986 has it."""
    return quote(server, safe="[]:%")
