from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable

import pytest

from sidecar.engine import peers


def test_the_other_end_of_a_unix_socket_is_found() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        inodes = peers.peer_inodes()
        assert inodes[os.fstat(ours.fileno()).st_ino] == os.fstat(theirs.fileno()).st_ino


def test_a_descriptor_of_the_engine_leads_to_what_we_know_of_our_end(
    bare_engine: Callable[..., str], ask: Callable[..., bytes]
) -> None:
    path = bare_engine()
    pid = int(ask(path, "INFO", "server").split(b"process_id:")[1].split(b"\r\n")[0])
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.sendall(b"CLIENT INFO\r\n")
        number = int(client.recv(4096).split(b" fd=")[1].split()[0])
        known = peers.by_descriptor(pid, {os.fstat(client.fileno()).st_ino: ("192.0.2.1:5000", "192.0.2.9:6379")})
    assert known == {number: ("192.0.2.1:5000", "192.0.2.9:6379")}


def test_a_process_that_is_gone_is_an_oserror() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    with pytest.raises(OSError, match=str(gone.pid)):
        peers.descriptors(gone.pid)
