"""The sockets that clients reach us by.

Owns binding: Valkey's rules for `bind`, `port`, `unixsocket` and its error texts. One listening socket per address,
bound here and shared by all workers, so that a second server on the port fails with "Address already in use" exactly
as a second valkey-server does (SO_REUSEPORT would let it in). It never accepts: that is the workers' work.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sidecar.conf import encode

# An address of this kind is passed over, as Valkey does: the machine lacks the protocol, the configuration is right.
_NO_SUCH_PROTOCOL = frozenset(
    {errno.ENOPROTOOPT, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT, errno.EPFNOSUPPORT, errno.EAFNOSUPPORT}
)


class ListenError(Exception):
    """No listening: `lines` are for the log, in Valkey's words."""

    def __init__(self, *lines: str) -> None:
        super().__init__(lines[-1])
        self.lines = lines


@dataclass(frozen=True, slots=True)
class Listener:
    """One listening socket. `address` is what clients reach: "127.0.0.1:6379", "[::]:6379" or a path.

    transport: "tcp", "tls" or "unix". given: the address as `bind` has it, without "-", or the path as `unixsocket`
    has it. inode: of a Unix socket's file.
    """

    transport: str
    address: str
    socket: socket.socket
    given: str = ""
    inode: int = 0

    def describe(self) -> dict[str, str]:
        """What the workers are told about it. Valkey shows the path of a Unix socket as it was given."""
        return {"transport": self.transport, "address": self.given if self.transport == "unix" else self.address}

    @property
    def port(self) -> int:
        """Of tcp and tls."""
        return int(self.socket.getsockname()[1])

    def close(self) -> None:
        self.socket.close()

    def remove(self) -> None:
        """Take a Unix socket's file away, unless it is that of a server which listens there after us."""
        with contextlib.suppress(OSError):
            if self.transport == "unix" and os.stat(self.address).st_ino == self.inode:
                os.unlink(self.address)


def bind_tcp(
    addresses: Sequence[str], port: int, backlog: int, *, transport: str = "tcp", mptcp: bool = False
) -> tuple[list[Listener], list[str]]:
    """Listen on `port` of every address, and the warnings that Valkey would log about addresses passed over.

    An address may begin with "-" (passed over where this machine does not have it), be "*" (every IPv4 address) or
    "::*" (every IPv6 address). Port 0 or no address: nothing. Raises ListenError, and then nothing listens.
    mptcp: with Multipath TCP, which the kernel must have.
    """
    listeners: list[Listener] = []
    warnings: list[str] = []
    if port == 0:
        return listeners, warnings
    for given in addresses:
        optional = given.startswith("-")
        address = given[1:] if optional else given
        try:
            listeners.append(_bind_one(address, port, backlog, transport, mptcp))
        except OSError as error:
            reason = error.strerror if isinstance(error, socket.gaierror) else f"bind: {os.strerror(error.errno or 0)}"
            line = f"Warning: Could not create server TCP listening socket {address}:{port}: {reason}"
            if (error.errno == errno.EADDRNOTAVAIL and optional) or error.errno in _NO_SUCH_PROTOCOL:
                warnings.append(line)
                continue
            close_all(listeners)
            raise ListenError(line, f"Failed listening on port {port} ({transport}), aborting.") from error
    return listeners, warnings


def _bind_one(address: str, port: int, backlog: int, transport: str, mptcp: bool) -> Listener:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # Bytes: text would go through IDNA, which raises UnicodeError where a resolver says that there is no such name.
    host = None if address in ("*", "::*") else encode(address)
    found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, 0, socket.AI_PASSIVE)
    kind, protocol, target = found[0][1], found[0][2], found[0][4]
    sock = socket.socket(family, kind, socket.IPPROTO_MPTCP if mptcp else protocol)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        sock.bind(target)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    bound = sock.getsockname()
    shown = f"[{bound[0]}]:{bound[1]}" if family == socket.AF_INET6 else f"{bound[0]}:{bound[1]}"
    return Listener(transport, shown, sock, address)


def bind_unix(path: str, permissions: int, backlog: int, group: str | None = None, given: str = "") -> Listener:
    """Listen on a Unix socket; what lies at `path` is removed first, as Valkey does.

    given: the path as `unixsocket` has it. permissions: the socket's mode, 0 to leave it to the umask.
    Raises ListenError.
    """
    with contextlib.suppress(OSError):
        os.unlink(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind(path)
        if permissions:
            Path(path).chmod(permissions)
        if group:
            os.chown(path, -1, int(group) if group.isdigit() else grp.getgrnam(group).gr_gid)
        sock.listen(backlog)
        inode = os.stat(path).st_ino
    except OSError as error:
        sock.close()
        reason = os.strerror(error.errno) if error.errno else str(error)  # a path that is too long has no number
        raise ListenError(f"Failed opening Unix socket: bind: {reason}") from error
    except KeyError as error:
        sock.close()
        raise ListenError(f"Failed opening Unix socket: there is no group {group}") from error
    return Listener("unix", path, sock, given or path, inode)


def close_all(listeners: Sequence[Listener]) -> None:
    """Close every one of them."""
    for listener in listeners:
        listener.close()


def backlog_warning(backlog: int) -> str | None:
    """Valkey's warning when the kernel will not keep a backlog of this length."""
    try:
        allowed = int(Path("/proc/sys/net/core/somaxconn").read_text())
    except (OSError, ValueError):
        return None
    if allowed <= 0 or allowed >= backlog:
        return None
    return (
        f"WARNING: The TCP backlog setting of {backlog} cannot be enforced because "
        f"/proc/sys/net/core/somaxconn is set to the lower value of {allowed}."
    )
