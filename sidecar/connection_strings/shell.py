"""Owns the command lines that a connection string is written into, quoted so that a POSIX shell takes them.

Never puts a password among the arguments of valkey-cli, where `ps` shows it.
"""

from __future__ import annotations

import shlex

from sidecar.connection_strings.environment import check_name
from sidecar.connection_strings.model import ConnectionString
from sidecar.connection_strings.stackexchange import format_stackexchange


def format_user_secrets(connection: ConnectionString, name: str, *, masked: bool = False) -> str:
    """The command that gives a .NET project the connection string, outside its source.

    Raises ConnectionStringError for what StackExchange.Redis' form has no way to write.
    """
    check_name(name)
    text = format_stackexchange(connection, masked=masked)
    return f'dotnet user-secrets set "ConnectionStrings:{name}" {_quoted(text)}'


def format_valkey_cli(connection: ConnectionString, *, masked: bool = False) -> str:
    """valkey-cli with the password in its environment. Raises ConnectionStringError for several servers, Sentinel."""
    endpoint = connection.only_endpoint("valkey-cli")
    words = ["valkey-cli"]
    if endpoint is None:
        words += ["-s", shlex.quote(connection.unix_path or "")]
    else:
        words += ["-h", shlex.quote(endpoint.host), "-p", str(endpoint.port)]
    if connection.tls:
        words.append("--tls")
    if (user := connection.shown_name(connection.user, masked)) is not None:
        words += ["--user", shlex.quote(user)]
    if connection.database:
        words += ["-n", str(connection.database)]
    password = connection.shown_password(masked)
    if password is not None:
        words.insert(0, f"VALKEYCLI_AUTH={_quoted(password)}")
    return " ".join(words)


def _quoted(text: str) -> str:
    """In single quotes even where a shell needs none: also PowerShell takes them."""
    quoted = shlex.quote(text)
    return quoted if quoted.startswith("'") else f"'{quoted}'"
