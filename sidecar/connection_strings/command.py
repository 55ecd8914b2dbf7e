"""`valkey-sidecar connection-string`: owns its command line, and where the connection string comes from.

It starts nothing and asks nothing of the network. What it prints is for standard output only; notes and mistakes, which
never hold a password, are for standard error.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NoReturn

from sidecar.commandline import parse_arguments
from sidecar.conf import decode, encode
from sidecar.configuration import Configuration
from sidecar.connection_strings.environment import check_name, from_environment
from sidecar.connection_strings.forms import parse
from sidecar.connection_strings.model import (
    MASK,
    ConnectionString,
    ConnectionStringError,
    Endpoint,
    check_host,
    read_database,
    read_port,
)
from sidecar.connection_strings.output import FORMATS, Output
from sidecar.connection_strings.server import described_by, has_users
from sidecar.connection_strings.uri import is_uri
from sidecar.password import PASSWORD, requirepass
from sidecar.secret import SecretStr

NAME: Final = "connection-string"
_PROGRAM: Final = f"valkey-sidecar {NAME}"
_USAGE_MISTAKE: Final = 2

_USAGE: Final = f"""\
{_PROGRAM} [options] [STRING | -]
       {_PROGRAM} [options] [/path/to/valkey.conf] [-- valkey-server's options]"""
_ABOUT: Final = """\
Prints what clients are given to reach a server: as a connection string of StackExchange.Redis (.NET), as a URI, as
environment variables like Aspire's, or as a command. Nothing is started and nobody is asked.

The server is described by the same conf file, options and VALKEY_PASSWORD (or VALKEY_PASSWORD_FILE) that it is started
with; or by a connection string in any form, as an argument or, with -, on standard input.
"""
_EXAMPLES: Final = f"""\
examples:
  {_PROGRAM} --format uri /etc/valkey/valkey.conf
  {_PROGRAM} --format stackexchange --host cache.example.com -- --port 7000
  echo 'cache:6379,password=...' | {_PROGRAM} --format uri -
  {_PROGRAM} --format env --name cache > cache.env && docker run --env-file cache.env ...

The password is printed in full, because you asked for it; --mask hides it. Give it by a conf file, VALKEY_PASSWORD or
--password-stdin rather than in an argument, which other users of this machine may see.
A conf file that is really called "{NAME}" is served by: valkey-sidecar ./{NAME}
"""


def run(arguments: Sequence[str], environment: Mapping[str, str], show_arguments: Callable[[list[str]], object]) -> str:
    """What the command prints, for the arguments behind its name; show_arguments: is given them without passwords.

    Raises ConnectionStringError and ConfigurationError with one line for the user, SystemExit after --help.
    """
    ours, rest = _split(arguments)
    options = _parser().parse_args(ours)
    source = _Source(options, list(rest), environment)
    show_arguments([NAME, *ours, *source.masked()])
    connection = source.connection()
    for note in source.notes:
        _note(note)
    output = Output(connection, options.name, options.scheme, options.mask)
    if options.format is None:
        return output.write_all()
    text, notes = output.write(options.format)
    for note in notes:
        _note(note)
    return text


def _note(text: str) -> None:
    sys.stderr.write(f"{_PROGRAM}: note: {text}\n")


# ---- arguments -------------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Mistakes are told without a value: it may be a password in the wrong place."""

    def error(self, message: str) -> NoReturn:
        self.exit(_USAGE_MISTAKE, f"{_PROGRAM}: {_mistake(message)} (see --help)\n")


_NO_QUOTES: Final = {ord("'"): None}


def _mistake(message: str) -> str:
    """What argparse has found, in its own words where they hold no value."""
    if option := re.match(r"argument (--[a-z-]+)(/--[a-z-]+)*: expected one argument", message):
        return f"{option[1]}: it needs a value"
    if option := re.match(r"argument (--[a-z-]+)(/--[a-z-]+)*: ignored explicit argument", message):
        return f"{option[1]}: it takes no value"
    if choice := re.fullmatch(r"argument (--[a-z-]+): invalid choice: .* \(choose from (.*)\)", message, re.DOTALL):
        return f"{choice[1]}: choose one of {choice[2].translate(_NO_QUOTES)}"
    option = re.search(r"arguments?:? (--[a-z-]+)", message)
    what = f"{option[1]} is no option of this command" if option else "an argument is not understood"
    return f"{what}; valkey-server's options come behind --"


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=_PROGRAM,
        usage=_USAGE,
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--format", choices=tuple(FORMATS), metavar="FORM", help=f"one of {', '.join(FORMATS)} (default: all)")
    add("--name", default="cache", help="name of the resource, as in ConnectionStrings__NAME (default: cache)")
    add("--host", help="host as clients know it (default: an address that bind names, else localhost)")
    add("--port", help="port as clients know it, such as a published one")
    add("--tls", action=argparse.BooleanOptionalAction, help="with TLS or without (default: as the server listens)")
    add("--user", help="ACL user; its password comes from VALKEY_PASSWORD or --password-stdin, not from requirepass")
    add("--database", help="number of the database")
    add("--password-stdin", action="store_true", help="read the password from standard input, one line")
    add(
        "--from-environment",
        action="store_true",
        help="convert what ConnectionStrings__NAME, NAME_URI or NAME_HOST, NAME_PORT and NAME_PASSWORD say",
    )
    add("--scheme", choices=("redis", "valkey"), default="redis", help="of URIs (default: redis, taken by all)")
    add("--mask", action="store_true", help=f"print {MASK} in place of passwords")
    return parser


_WITHOUT_VALUE: Final = frozenset({"--tls", "--no-tls", "--password-stdin", "--from-environment", "--mask"})


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Our options, and what follows them: a conf file or a connection string, or `--` and valkey-server's options."""
    index = 0
    while index < len(arguments):
        argument = arguments[index]
        if argument in ("-", "--") or not argument.startswith("-"):
            break
        has_value = argument.startswith("--") and "=" not in argument and argument not in _WITHOUT_VALUE
        index += 2 if has_value and argument != "--help" else 1
    return list(arguments[:index]), list(arguments[index:])


# ---- where it comes from ---------------------------------------------------------------------------------------------


@dataclass
class _Source:
    """What was asked for, and the connection string that it means."""

    options: argparse.Namespace
    rest: list[str]
    environment: Mapping[str, str]

    def __post_init__(self) -> None:
        self.notes: list[str] = []
        check_name(self.options.name)
        self._is_server = not self.rest or self.rest[0] == "--" or _is_conf_file(self.rest[0])
        if self.options.from_environment and self.rest:
            raise ConnectionStringError("--from-environment: leave out the conf file or connection string")
        if not self._is_server and len(self.rest) > 1:
            raise ConnectionStringError("a connection string is the last argument: options of ours come before it")
        if self.options.password_stdin and self.rest[:1] == ["-"]:
            raise ConnectionStringError("--password-stdin: standard input cannot be the connection string too")

    def masked(self) -> list[str]:
        """The arguments behind our options, without passwords."""
        if not self._is_server:
            return [argument if argument == "-" else MASK for argument in self.rest]
        masked = list(parse_arguments(self._server_arguments()).masked)
        if "--" in self.rest[:2]:
            masked.insert(self.rest.index("--"), "--")
        return masked

    def connection(self) -> ConnectionString:
        if self.options.from_environment:
            found = from_environment(self.environment, self.options.name)
            if found is None:
                raise ConnectionStringError(
                    f"--from-environment: there is neither ConnectionStrings__{self.options.name} nor a variable of "
                    "Aspire's for its URI or host"
                )
            return self._adapted(found)
        if self._is_server:
            return self._server()
        if self.rest == ["-"]:
            return self._adapted(parse(_read_standard_input(), "standard input"))
        text = self.rest[0]
        if not is_uri(text) and not any(mark in text for mark in "=,:!"):
            raise ConnectionStringError(
                "argument: it is no file, and no connection string: those are like host:6379 or redis://host"
            )
        return self._adapted(parse(text, "argument"))

    def _server_arguments(self) -> list[str]:
        if self.rest[:1] == ["--"]:
            return self.rest[1:]
        # `--` may stand between a conf file and options, too.
        return [*self.rest[:1], *(self.rest[2:] if self.rest[1:2] == ["--"] else self.rest[1:])]

    def _server(self) -> ConnectionString:
        configuration = Configuration.load(self._server_arguments(), self.environment, sys.stdin.buffer.read)
        socket = configuration.listener.unixsocket
        tls = None if self.options.port is not None else self.options.tls
        server = described_by(
            configuration.listener,
            self._server_password(configuration),
            None if socket is None else configuration.path(socket),
            tls=tls,
        )
        if server.password is None and has_users(configuration):
            self.notes.append(
                f"the server has users of its own: give --user, and the password by {PASSWORD} or --password-stdin"
            )
        return self._adapted(server)

    def _server_password(self, configuration: Configuration) -> SecretStr | None:
        """requirepass is the default user's; a password of the environment counts where that is not set."""
        if self.options.user in (None, "default") and configuration.requirepass is not None:
            return configuration.requirepass
        if self.options.password_stdin:
            return None  # read when the rest is known to be right
        given = requirepass(self.environment)
        return None if given is None else SecretStr(given.args[0])

    def _adapted(self, connection: ConnectionString) -> ConnectionString:
        """With what our options say."""
        options = self.options
        if options.host is not None or options.port is not None:
            connection = replace(connection, endpoints=(self._endpoint(connection),), unix_path=None)
        if options.tls is not None:
            connection = replace(connection, tls=options.tls)
        if options.user is not None:
            connection = replace(connection, user=options.user or None)
        if options.database is not None:
            connection = replace(connection, database=read_database(options.database, "--database"))
        if options.password_stdin:
            password = _one_line(_read_standard_input(), "--password-stdin")
            connection = replace(connection, password=password)
        return connection

    def _endpoint(self, connection: ConnectionString) -> Endpoint:
        if len(connection.endpoints) > 1:
            raise ConnectionStringError("--host, --port: there are several servers: change the string itself")
        given = connection.endpoints[0] if connection.endpoints else None
        if given is None and None in (self.options.host, self.options.port):
            raise ConnectionStringError("--host, --port: there is a Unix socket only: give both")
        host = self.options.host if given is None or self.options.host is not None else given.host
        check_host(host, "--host")
        if self.options.port is not None:
            return Endpoint(host, read_port(self.options.port, "--port"))
        assert given is not None
        return Endpoint(host, given.port)


def _is_conf_file(argument: str) -> bool:
    """Whether it is taken for a conf file: an argument of this name, or anything that exists."""
    if argument == "-" or is_uri(argument):
        return False
    return argument.endswith(".conf") or os.path.exists(encode(argument))


def _read_standard_input() -> str:
    return decode(sys.stdin.buffer.read())


def _one_line(text: str, origin: str) -> SecretStr:
    password = text.removesuffix("\n").removesuffix("\r")
    if not password:
        raise ConnectionStringError(f"{origin}: there is no password")
    return SecretStr(password)
