"""Owns the forms that `valkey-sidecar connection-string` prints, and what it notes about what a form leaves out.

Never prints, and never names an option that StackExchange.Redis does not have: it may be a piece of a password.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sidecar.connection_strings.environment import format_environment
from sidecar.connection_strings.model import ConnectionString, ConnectionStringError
from sidecar.connection_strings.shell import format_user_secrets, format_valkey_cli
from sidecar.connection_strings.stackexchange import format_stackexchange, is_known_option
from sidecar.connection_strings.uri import Scheme, format_uri


@dataclass(frozen=True)
class Output:
    """What is to be printed of a connection string.

    name: the resource's, as in ConnectionStrings__NAME. masked: without passwords.
    """

    connection: ConnectionString
    name: str
    scheme: Scheme
    masked: bool

    def write(self, form: str) -> tuple[str, list[str]]:
        """The text of one of FORMATS, with a newline at its end, and notes. Raises ConnectionStringError."""
        lines, notes = FORMATS[form].lines(self)
        return "".join(f"{line}\n" for line in lines), notes

    def write_all(self) -> str:
        """All of FORMATS under headings; one that cannot be written says why."""
        parts = []
        for form, told in FORMATS.items():
            try:
                text, notes = self.write(form)
            except ConnectionStringError as error:
                text, notes = "", [f"cannot be written: {error}"]
            parts.append("".join([f"# {form}: {told.about}\n", *(f"# {note}\n" for note in notes), text]))
        return "\n".join(parts)


def _stackexchange(output: Output) -> tuple[list[str], list[str]]:
    return [format_stackexchange(output.connection, masked=output.masked)], _notes_stackexchange(output.connection)


def _uri(output: Output) -> tuple[list[str], list[str]]:
    text = format_uri(output.connection, scheme=output.scheme, masked=output.masked)
    return [text], _notes_uri(output.connection)


def _environment(output: Output) -> tuple[list[str], list[str]]:
    connection = output.connection
    lines, problems = format_environment(connection, output.name, scheme=output.scheme, masked=output.masked)
    return lines, [f"left out: {problem}" for problem in problems]


def _user_secrets(output: Output) -> tuple[list[str], list[str]]:
    text = format_user_secrets(output.connection, output.name, masked=output.masked)
    return [text], _notes_stackexchange(output.connection)


def _valkey_cli(output: Output) -> tuple[list[str], list[str]]:
    return [format_valkey_cli(output.connection, masked=output.masked)], []


@dataclass(frozen=True)
class _Format:
    about: str
    lines: Callable[[Output], tuple[list[str], list[str]]]


FORMATS: Final = {
    "stackexchange": _Format(".NET, by StackExchange.Redis", _stackexchange),
    "uri": _Format("Python, Node, Java, Go", _uri),
    "env": _Format("as Aspire names variables; for docker run --env-file", _environment),
    "dotnet-user-secrets": _Format("a .NET project on the machine of its developer", _user_secrets),
    "valkey-cli": _Format("a shell; with redis-cli the variable is REDISCLI_AUTH", _valkey_cli),
}


def _notes_stackexchange(connection: ConnectionString) -> list[str]:
    notes = []
    unknown = sum(not is_known_option(name) for name, _ in connection.options)
    if unknown:
        notes.append(f"options that StackExchange.Redis does not know, so that it refuses the string: {unknown}")
    if connection.query:
        notes.append(f"query parameters of the URI that are left out: {len(connection.query)}")
    return notes


def _notes_uri(connection: ConnectionString) -> list[str]:
    left_out = [name for name, _ in connection.options if is_known_option(name)]
    if connection.abort_connect is not None:
        left_out.insert(0, "abortConnect")
    unknown = len(connection.options) + (connection.abort_connect is not None) - len(left_out)
    notes = []
    if left_out:
        notes.append(f"options of StackExchange.Redis that are left out: {', '.join(left_out)}")
    if unknown:
        notes.append(f"unknown options that are left out: {unknown}")
    return notes
