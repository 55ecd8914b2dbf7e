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
from collections.abc import Iterator, Mapping
from typing import TypeVar

_Known = TypeVar("_Known")

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLM_F_REQUEST_DUMP = 0x1 | 0x300
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


def peer_inodes() -> dict[int, int]:
    """For every connected Unix socket of this network namespace: its inode and that of its other end."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(_ANSWER_WITHIN_S)
        body = _REQUEST.pack(socket.AF_UNIX, 0, 0, _ALL_STATES, 0, _UDIAG_SHOW_PEER, 0, 0)
        netlink.send(_HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 1, 0) + body)
        return dict(_answers(netlink))


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


def descriptors(pid: int) -> dict[int, int]:
    """For every socket that process `pid` has open: its inode and the descriptor's number there."""
    found: dict[int, int] = {}
    folder = f"/proc/{pid}/fd"
    for number in os.listdir(folder):
        try:
            target = os.readlink(f"{folder}/{number}")
        except OSError:
            continue  # closed meanwhile
        if target.startswith("socket:["):
            found[int(target[8:-1])] = int(number)
    return found


def by_descriptor(pid: int, ours: Mapping[int, _Known]) -> dict[int, _Known]:
    """For the engine's descriptor numbers: what `ours` says of the inode of our end. Raises OSError."""
    peers = peer_inodes()
    numbers = descriptors(pid)
    found: dict[int, _Known] = {}
    for inode, known in ours.items():
        number = numbers.get(peers.get(inode, 0))
        if number is not None:
            found[number] = known
    return found
