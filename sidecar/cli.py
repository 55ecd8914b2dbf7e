"""Owns what the command line asks for, and how a mistake in it is told. Never serves anything.

Imports are kept few: the first PONG must come within 0.6 s of the start.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Final

from sidecar.commandline import mode, normalized, parse_arguments
from sidecar.conf import ConfigurationError, encode
from sidecar.configuration import Configuration
from sidecar.password import PASSWORD, PASSWORD_FILE
from sidecar.processes import Children
from sidecar.worker_process import spawn_worker

_PROGRAM: Final = "valkey-sidecar"
_FAILURE: Final = 1
_INTERRUPTED: Final = 130
_SECRET_ENVIRONMENT: Final = ("SIDECAR_ENGINE_PASSWORD", "SIDECAR_HTTP_TOKEN", PASSWORD, PASSWORD_FILE)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program with the arguments behind its name (default: sys.argv's) and return its exit code."""
    _fill_standard_descriptors()
    arguments = [normalized(argument) for argument in (sys.argv[1:] if argv is None else argv)]
    try:
        return _run(arguments)
    except ConfigurationError as error:
        sys.stderr.write(f"{_PROGRAM}: {error}\n")
        return _FAILURE
    except KeyboardInterrupt:
        return _INTERRUPTED


def _fill_standard_descriptors() -> None:
    """Who closed standard input, output or error gets /dev/null there, as a socket of ours must not take its number."""
    for name, mode_of_file in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)  # the lowest free number: the one that is missing
            os.set_inheritable(null, True)
            setattr(sys, name, open(null, mode_of_file, closefd=False))  # noqa: SIM115 - open until we end


def _print(text: str) -> int:
    """Write to standard output, and return the exit code: a failure when nobody takes it."""
    try:
        sys.stdout.buffer.write(encode(text))  # whatever the locale: a password is bytes
        sys.stdout.buffer.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else the interpreter's own end fails on it again
        sys.stderr.write(f"{_PROGRAM}: standard output: {error.strerror}\n")
        return _FAILURE
    return 0


def _run(arguments: list[str]) -> int:
    match mode(arguments):
        case "help":
            from sidecar.reference import help_text

            return _print(help_text())
        case "version":
            return _print_version()
        case "connection-string":
            return _print_connection_string(arguments[1:])
        case "engine":
            return _become_engine(arguments)
        case "serve":
            return _serve(arguments)


def _serve(arguments: list[str]) -> int:
    configuration = load_configuration(arguments)
    children = Children()
    first = None
    if not configuration.listener.daemonize:  # a daemon's children are those of the process that it becomes
        with contextlib.suppress(OSError):  # the supervisor tries again, and says what is wrong
            first = spawn_worker(children, 0)
    from sidecar.supervisor import run

    return run(configuration, children, first)


def load_configuration(arguments: list[str]) -> Configuration:
    """Read and check everything, and take the passwords out of sight of `ps` and of our children."""
    _hide_passwords(arguments)
    environment = {name: normalized(value) for name, value in os.environ.items()}
    configuration = Configuration.load(arguments, environment, sys.stdin.buffer.read)
    for name in _SECRET_ENVIRONMENT:
        os.environ.pop(name, None)
    return configuration


def _hide_passwords(arguments: list[str]) -> None:
    masked = parse_arguments(arguments).masked
    if list(masked) != arguments:
        from sidecar.process_arguments import replace_arguments

        replace_arguments(masked)


def _print_version() -> int:
    from sidecar import __version__
    from sidecar.engine_binary import engine_version, find_engine_binary
    from sidecar.settings import resolve

    code = _print(f"{_PROGRAM} {__version__}\n")
    resolved = resolve((), os.environ)
    engine = find_engine_binary(resolved.settings, resolved.origins.get("engine-binary"))
    return code or _print(f"{engine_version(engine)}\n")


def _print_connection_string(arguments: list[str]) -> int:
    from sidecar.connection_strings import command
    from sidecar.connection_strings.model import ConnectionStringError
    from sidecar.process_arguments import replace_arguments

    environment = {name: normalized(value) for name, value in os.environ.items()}
    try:
        text = command.run(arguments, environment, replace_arguments)
    except ConnectionStringError as error:
        sys.stderr.write(f"{_PROGRAM} {command.NAME}: {error}\n")
        return _FAILURE
    return _print(text)


def _become_engine(arguments: list[str]) -> int:
    """Sentinel and the self-tests have nothing to observe: the real program takes our place."""
    from sidecar.engine_binary import find_engine_binary
    from sidecar.settings import resolve

    resolved = resolve((), os.environ)
    engine = find_engine_binary(resolved.settings, resolved.origins.get("engine-binary"))
    try:
        os.execv(engine, [encode(str(engine)), *(encode(argument) for argument in arguments)])
    except OSError as error:
        raise ConfigurationError(f"engine: {engine} cannot be run: {error.strerror}") from None
