from __future__ import annotations

import contextlib
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


@pytest.mark.parametrize("count", [1, 30])
def test_a_descriptor_of_the_engine_leads_to_our_end(
    bare_engine: Callable[..., str], ask: Callable[..., bytes], count: int
) -> None:
    path = bare_engine()
    pid = int(ask(path, "INFO", "server").split(b"process_id:")[1].split(b"\r\n")[0])
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(count)]
        numbers = {}
        for client in clients:
            client.connect(path)
            client.sendall(b"CLIENT INFO\r\n")
            number = int(client.recv(4096).split(b" fd=")[1].split()[0])
            numbers[number] = os.fstat(client.fileno()).st_ino
        assert peers.other_ends(pid, list(numbers)) == numbers
        assert peers.other_ends(pid, [0, 99_999]) == {}


def test_a_process_that_is_gone_is_an_oserror() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    with pytest.raises(OSError, match=str(gone.pid)):
        peers.other_ends(gone.pid, [3])
