"""Owns the grammar of the command line, which is valkey-server's own, and what of it may be shown to `ps`.
Never opens a file and never knows what a directive means, except whether it holds a password.

valkey-server turns its options into conf lines (`--port 6380` becomes `port "6380"`) and reads them after the conf
file and standard input. So do we: a value may begin with dashes (`--requirepass --secret`), an option may be given
several times (`--save 60 1 --save 300 10`), and name and value may share one argument (`"--port 6380"`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from sidecar.conf import ConfError, decode, quote, split_args

Mode = Literal["serve", "help", "version", "engine", "connection-string"]

_MASK: Final = "***"
_SECRET_DIRECTIVES: Final = frozenset(
    {
        "requirepass",
        "masterauth",
        "primaryauth",
        "tls-key-file-pass",
        "tls-client-key-file-pass",
        "sidecar-engine-password",
        "sidecar-http-token",
    }
)
# In `user NAME rules`: add and remove a password, add and remove the hash of one.
_SECRET_RULES: Final = (">", "<", "#", "!")


@dataclass(frozen=True)
class Arguments:
    """The command line in its parts; `options` is the conf text that the options stand for."""

    conf_file: str | None
    reads_stdin: bool
    options: str = field(repr=False)
    masked: tuple[str, ...]
    """The same arguments with every password replaced, for `ps` and for logs."""


def mode(argv: Sequence[str]) -> Mode:
    """What the arguments (without the program's name) ask for: "engine" is valkey-server's own special modes.

    `connection-string` as the first argument is our command; a conf file of that name is given as ./connection-string.
    """
    if argv and argv[0] == "connection-string":
        return "connection-string"
    if "--sentinel" in argv or (argv and argv[0] in ("--test-memory", "--check-system")):
        return "engine"
    if argv and argv[0] in ("--help", "-h"):
        return "help"
    if argv and argv[0] in ("--version", "-v"):
        return "version"
    return "serve"


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Split the arguments (without the program's name) as valkey-server's main() does.

    >>> parse_arguments(["my.conf", "--port", "6380", "--save", "--appendonly yes", "-"]).options
    'port "6380" \\nsave ""\\nappendonly yes '
    """
    arguments = list(argv)
    conf_file = arguments[0] if arguments and not arguments[0].startswith("-") else None
    reads_stdin = False
    options = ""
    masked: list[str] = [conf_file] if conf_file is not None else []
    name = ""
    name_may_follow = True
    last = len(arguments) - 1
    for index in range(len(masked), len(arguments)):
        argument = arguments[index]
        if argument == "-" and index in (0, last):
            reads_stdin = True
            masked.append(argument)
        elif name_may_follow and argument.startswith("--"):
            if options:
                options += "\n"
            options += argument[2:] + " "
            words = _words(argument)
            name = words[0][2:].lower() if words else ""
            name_may_follow = len(words) != 1
            has_no_value = index == last or arguments[index + 1].startswith("--")
            if argument.lower() == "--save" and has_no_value:
                # `--save` without a value means no snapshots, for those who build the line from an empty list.
                options += '""'
                name_may_follow = True
            masked.append(_mask_option(argument, name))
        else:
            options += quote(argument) + " "
            name_may_follow = True
            masked.append(_mask_value(argument, name))
    return Arguments(conf_file, reads_stdin, options, tuple(masked))


def _words(argument: str) -> list[str]:
    try:
        return split_args(argument)
    except ConfError:
        return []


def _mask_option(argument: str, name: str) -> str:
    """Name and value, or even several lines, in one argument: only its first word may be shown."""
    first = argument.split()[0]
    may_hold_secret = name in _SECRET_DIRECTIVES or name in ("", "user") or "\n" in argument
    return f"{first} {_MASK}" if may_hold_secret and first != argument.strip() else argument


def _mask_value(argument: str, name: str) -> str:
    if name in _SECRET_DIRECTIVES or (
        name == "user" and any(rule.startswith(_SECRET_RULES) for rule in argument.split())
    ):
        return _MASK
    return argument


def normalized(argument: str) -> str:
    """An element of sys.argv as UTF-8 with lone surrogates, whatever the locale it was decoded with."""
    return decode(os.fsencode(argument))
