"""Starting one relay worker process, and the two ends of its link.

Owns the worker's command line. It imports little, so that the first worker can be started before the supervisor has
imported what it needs: both then start up side by side.
"""

from __future__ import annotations

import socket
import sys
from typing import NamedTuple

from sidecar.processes import Child, Children

_BUFFER_BYTES = 768 * 1024
"""Several packets of the link: its largest is above a Unix socket's default send buffer."""

_ENVIRONMENT = {"PYTHONMALLOC": "malloc"}
"""Python's own allocator gives back a megabyte only when no object is left in it: a crowd's memory would stay."""


class WorkerProcess(NamedTuple):
    """A worker that runs. `socket` is our end of its link."""

    child: Child
    socket: socket.socket


def spawn_worker(children: Children, index: int) -> WorkerProcess:
    """Start worker `index`. Raises OSError."""
    ours, theirs = link_sockets()
    try:
        # -P: what lies in the folder that we were started in is no module of ours.
        command = [sys.executable, "-P", "-m", "sidecar.relay.worker", str(index), str(theirs.fileno())]
        child = children.spawn(f"worker {index}", command, pass_fds=(theirs.fileno(),), environment=_ENVIRONMENT)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return WorkerProcess(child, ours)


def link_sockets() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets for the two ends of a link."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        end.setblocking(False)
    return ends
