"""Who is who behind the engine's Unix socket.

Owns the way from a descriptor number of the engine (`fd=9` in its CLIENT LIST, where every address is the socket's
path) to the socket that we hold at the other end. It reads the kernel's tables, never the engine's memory, and any of
them may be hidden from us (another user's process, a kernel without unix_diag): then OSError.

Netlink messages: sock_diag(7).
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Sequence

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLM_F_REQUEST = 0x1
_NLM_F_REQUEST_DUMP = _NLM_F_REQUEST | 0x300
_ALL_STATES = 0xFFFFFFFF
_UDIAG_SHOW_PEER = 4
_UNIX_DIAG_PEER = 2

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_REQUEST = struct.Struct("=BBHIIIII")  # family, protocol, padding, states, inode, what to show, two cookies
_ANSWER = struct.Struct("=BBBBIII")  # family, type, state, padding, inode, two cookies
_ATTRIBUTE = struct.Struct("=HH")  # length, type

# A dump comes in messages of at most this size.
_RECEIVE_BYTES = 64 * 1024
_ANSWER_WITHIN_S = 1.0
_ONE_BY_ONE = 16


def peer_inodes() -> dict[int, int]:
    """For every connected Unix socket of this network namespace: its inode and that of its other end."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(_ANSWER_WITHIN_S)
        body = _REQUEST.pack(socket.AF_UNIX, 0, 0, _ALL_STATES, 0, _UDIAG_SHOW_PEER, 0, 0)
        netlink.send(_HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 1, 0) + body)
        return dict(_answers(netlink))


def peer_inode(inode: int) -> int:
    """That of the other end of a connected Unix socket of this network namespace, 0 without one. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(_ANSWER_WITHIN_S)
        any_cookie = 0xFFFFFFFF
        body = _REQUEST.pack(socket.AF_UNIX, 0, 0, _ALL_STATES, inode, _UDIAG_SHOW_PEER, any_cookie, any_cookie)
        netlink.send(_HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0) + body)
        try:
            return next((peer for _inode, peer in _answers(netlink)), 0)
        except FileNotFoundError:
            return 0


def _answers(netlink: socket.socket) -> Iterator[tuple[int, int]]:
    while True:
        data = netlink.recv(_RECEIVE_BYTES)
        at = 0
        while at + _HEADER.size <= len(data):
            length, kind, *_ = _HEADER.unpack_from(data, at)
            if kind == _NLMSG_DONE or length < _HEADER.size:
                return
            if kind == _NLMSG_ERROR:
                (code,) = struct.unpack_from("=i", data, at + _HEADER.size)
                raise OSError(-code, f"sock_diag: {os.strerror(-code)}")
            inode = _ANSWER.unpack_from(data, at + _HEADER.size)[4]
            attribute = at + _HEADER.size + _ANSWER.size
            while attribute + _ATTRIBUTE.size <= at + length:
                size, name = _ATTRIBUTE.unpack_from(data, attribute)
                if name == _UNIX_DIAG_PEER:
                    (peer,) = struct.unpack_from("=I", data, attribute + _ATTRIBUTE.size)
                    yield inode, peer
                attribute += max(_ATTRIBUTE.size, (size + 3) & ~3)
            at += (length + 3) & ~3


def _socket(pid: int, number: int) -> int:
    """The inode of a socket that process `pid` has open, 0 where it is none (any more). Raises OSError."""
    try:
        target = os.readlink(f"/proc/{pid}/fd/{number}")
    except FileNotFoundError:
        return 0
    return int(target[8:-1]) if target.startswith("socket:[") else 0


def other_ends(pid: int, numbers: Sequence[int]) -> dict[int, int]:
    """For the descriptors of process `pid` that are connected Unix sockets: the inode of the other end. Raises OSError.

    Few are asked for one by one: a dump has every Unix socket of the machine.
    """
    os.stat(f"/proc/{pid}/fd")
    found = {number: inode for number in numbers if (inode := _socket(pid, number))}
    peer_of = peer_inode if len(found) <= _ONE_BY_ONE else peer_inodes().get
    return {number: peer for number, inode in found.items() if (peer := peer_of(inode))}
