"""What a client's own commands change about its connection: database, user, protocol, name, library, script debugger.

Owns reading it from their arguments; its spans show it, and another connection can be made the same. Whether the
engine agrees, the route sees.
"""

from __future__ import annotations

from collections.abc import Sequence

from sidecar.relay.plan import word

Changes = tuple[tuple[str, str | int | tuple[bytes, bytes | None]], ...]
"""Fields and their new values: database, protocol, name, lib-name, lib-ver, debugger (whether scripts run in it), user
("" is the default user), and credentials: user and password as they were given, which are shown nowhere."""

AFTER_RESET: Changes = (
    ("name", ""),
    ("user", ""),
    ("database", 0),
    ("protocol", 2),
    ("credentials", (b"default", None)),
)
"""What RESET leaves; the library and the script debugger stay."""


def changes(args: Sequence[bytes] | None) -> Changes:
    """What the success of SELECT, AUTH, HELLO, CLIENT SETNAME, CLIENT SETINFO or SCRIPT DEBUG changes, by field."""
    if not args:
        return ()
    name = word(args[0])
    if name == b"select" and len(args) == 2 and args[1].isdigit() and len(args[1]) < 10:
        return (("database", int(args[1])),)
    if name == b"auth" and len(args) in (2, 3):
        user = args[1] if len(args) == 3 else b"default"
        return (("user", _user(user)), ("credentials", (user, args[-1])))
    if name == b"hello":
        return tuple(_hello(args))
    if name == b"client" and len(args) == 3 and word(args[1]) == b"setname":
        return (("name", _text(args[2])),)
    if name == b"client" and len(args) == 4 and word(args[2]) in (b"lib-name", b"lib-ver"):
        return ((word(args[2]).decode(), _text(args[3])),)
    if name == b"script" and len(args) == 3:
        return (("debugger", word(args[2]) != b"no"),)
    return ()


def _hello(args: Sequence[bytes]) -> Changes:
    found: list[tuple[str, str | int | tuple[bytes, bytes | None]]] = []
    if len(args) > 1 and args[1] in (b"2", b"3"):
        found.append(("protocol", int(args[1])))
    at = 2
    while at < len(args):
        option = word(args[at])
        if option == b"auth" and at + 2 < len(args):
            found += [("user", _user(args[at + 1])), ("credentials", (args[at + 1], args[at + 2]))]
            at += 3
        elif option == b"setname" and at + 1 < len(args):
            found.append(("name", _text(args[at + 1])))
            at += 2
        else:
            break
    return tuple(found)


def _user(name: bytes) -> str:
    return "" if name == b"default" else _text(name)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
