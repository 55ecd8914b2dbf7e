"""What a client has made of its connection, so that another connection to the engine can be made the same.

Owns the identity that commands must share to share a connection, and the requests that restore it. Passwords are kept
here, in memory only, and shown nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from sidecar.relay.plan import encode

LANE_NAME = b"valkey-sidecar-lane"

Identity = tuple[bytes, int, int]
"""ACL user, RESP version, database."""

_HELLO_ID = re.compile(rb"\$2\r\nid\r\n:(\d+)\r\n")


def id_in(hello: bytes) -> int:
    """The engine's id of the connection, which its reply to HELLO tells; 0 where it does not."""
    match = _HELLO_ID.search(hello)
    return int(match[1]) if match else 0


def with_id(hello: bytes, client_id: int) -> bytes:
    """The reply to HELLO with this id in it."""
    return _HELLO_ID.sub(b"$2\r\nid\r\n:%d\r\n" % client_id, hello, count=1)


class Attributes:
    """Of one client, as the engine has confirmed them. A new connection has the values of a new object."""

    __slots__ = ("database", "library", "library_version", "name", "password", "protocol", "user")

    def __init__(self) -> None:
        self.user = b"default"
        self.password: bytes | None = None
        """None: it has not authenticated, the default user needs none."""
        self.protocol = 2
        self.database = 0
        self.name = b""
        self.library = b""
        self.library_version = b""

    def __repr__(self) -> str:
        return "Attributes()"

    @property
    def identity(self) -> Identity:
        return (self.user, self.protocol, self.database)

    def apply(self, change: Iterable[tuple[str, object]]) -> None:
        """A command has succeeded that changes this (sidecar.relay.notes)."""
        for name, value in change:
            if name == "credentials":
                assert isinstance(value, tuple)
                self.user, self.password = value
            elif name == "protocol":
                assert isinstance(value, int)
                self.protocol = value
            elif name == "database":
                assert isinstance(value, int)
                self.database = value
            elif name == "name":
                self.name = str(value).encode()
            elif name == "lib-name":
                self.library = str(value).encode()
            elif name == "lib-ver":
                self.library_version = str(value).encode()

    def restoring(self) -> list[bytes]:
        """The requests that give a new connection these attributes; no answer to them may be an error.

        The first is HELLO, whose answer tells the connection's id.
        """
        requests = [encode(self._hello())]
        if self.database:
            requests.append(encode([b"SELECT", b"%d" % self.database]))
        if self.name:
            requests.append(encode([b"CLIENT", b"SETNAME", self.name]))
        if self.library:
            requests.append(encode([b"CLIENT", b"SETINFO", b"LIB-NAME", self.library]))
        if self.library_version:
            requests.append(encode([b"CLIENT", b"SETINFO", b"LIB-VER", self.library_version]))
        return requests

    def boarding(self) -> list[bytes]:
        """The requests that make a new connection a lane for this identity. HELLO is allowed to every user."""
        requests = [encode([*self._hello(), b"SETNAME", LANE_NAME])]
        if self.database:
            requests.append(encode([b"SELECT", b"%d" % self.database]))
        return requests

    def _hello(self) -> list[bytes]:
        words = [b"HELLO", b"%d" % self.protocol]
        if self.password is not None:
            words += [b"AUTH", self.user, self.password]
        return words
