"""Owns the environment variables that Aspire gives to an application for a resource called `cache`:
`ConnectionStrings__cache`, `CACHE_URI`, and `CACHE_HOST`, `CACHE_PORT`, `CACHE_PASSWORD`.

Never reads os.environ by itself, and never another variable.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from sidecar.connection_strings.forms import parse
from sidecar.connection_strings.model import (
    DEFAULT_PORT,
    ConnectionString,
    ConnectionStringError,
    Endpoint,
    check_host,
    read_port,
    said_of,
)
from sidecar.connection_strings.stackexchange import format_stackexchange
from sidecar.connection_strings.uri import Scheme, format_uri, parse_uri
from sidecar.secret import SecretStr

_CONNECTION_STRINGS: Final = "ConnectionStrings__"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_NOT_IN_A_VARIABLE: Final = re.compile(r"[^A-Za-z0-9_]")


def check_name(name: str) -> None:
    """Raises ConnectionStringError for what is no name of a resource."""
    if not _NAME.fullmatch(name):
        raise ConnectionStringError("name: it must have letters, digits, - . and _ only, and begin with none of these")


def variable_prefix(name: str) -> str:
    """How Aspire begins the variables of a resource (its EnvironmentVariableNameEncoder, in upper case).

    >>> variable_prefix("my-cache")
    'MY_CACHE_'
    """
    return _encoded(name).upper() + "_"


def from_environment(environment: Mapping[str, str], name: str) -> ConnectionString | None:
    """What the variables say of the resource `name`, None when there are none; an empty one counts as not set.

    The connection string counts before the URI, and that before host, port and password, which say nothing about TLS.
    Raises ConnectionStringError that begins with the variable.
    """
    check_name(name)
    # .NET compares names of its configuration without regard to case. A portable name has no `-`, and no `__` inside.
    wanted = [_CONNECTION_STRINGS + name, _CONNECTION_STRINGS + re.sub("__+", "_", _encoded(name))]
    for variable in wanted:
        for given, value in environment.items():
            if given.lower() == variable.lower() and value:
                return parse(value, given)
    prefix = variable_prefix(name)
    if uri := environment.get(f"{prefix}URI"):
        return parse_uri(uri, f"{prefix}URI")
    return _from_parts(environment, prefix)


def _from_parts(environment: Mapping[str, str], prefix: str) -> ConnectionString | None:
    host, port = environment.get(f"{prefix}HOST"), environment.get(f"{prefix}PORT")
    user, password = environment.get(f"{prefix}USERNAME"), environment.get(f"{prefix}PASSWORD")
    if not host:
        if port or password:
            raise ConnectionStringError(f"{prefix}HOST: it is not set, and {prefix}{'PORT' if port else 'PASSWORD'} is")
        return None
    with said_of(f"{prefix}HOST"):
        check_host(host)
    number = DEFAULT_PORT
    if port:
        with said_of(f"{prefix}PORT"):
            number = read_port(port)
    with said_of(f"{prefix}PASSWORD"):
        return ConnectionString(
            endpoints=(Endpoint(host, number),),
            user=user or None,
            password=SecretStr(password) if password else None,
        )


def format_environment(
    connection: ConnectionString, name: str, *, scheme: Scheme = "redis", masked: bool = False
) -> tuple[list[str], list[str]]:
    """Lines `NAME=VALUE` as `docker run --env-file` reads them, without quotes; and why others are left out.

    Raises ConnectionStringError when not a single line can be written.
    """
    check_name(name)
    prefix = variable_prefix(name)
    lines: list[str] = []
    problems: list[str] = []
    try:
        lines.append(f"{_CONNECTION_STRINGS}{name}={format_stackexchange(connection, masked=masked)}")
    except ConnectionStringError as error:
        problems.append(f"{_CONNECTION_STRINGS}{name}: {error}")
    try:
        endpoint = connection.only_endpoint("a URI")
        if endpoint is not None:
            lines += [f"{prefix}HOST={endpoint.host}", f"{prefix}PORT={endpoint.port}"]
        if (user := connection.shown_name(connection.user, masked)) is not None:
            lines.append(f"{prefix}USERNAME={user}")
        if (password := connection.shown_password(masked)) is not None:
            lines.append(f"{prefix}PASSWORD={password}")
        lines.append(f"{prefix}URI={format_uri(connection, scheme=scheme, masked=masked)}")
    except ConnectionStringError as error:
        problems.append(f"{prefix}URI: {error}")
    if not lines:
        raise ConnectionStringError("; ".join(problems))
    return lines, problems


def _encoded(name: str) -> str:
    encoded = _NOT_IN_A_VARIABLE.sub("_", name)
    return f"_{encoded}" if encoded[:1].isdigit() else encoded
