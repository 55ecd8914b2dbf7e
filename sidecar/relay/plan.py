"""What becomes of one request that is seen whole before it is forwarded, and requests as bytes.

Owns the form in which `special.py` tells a session its decision. It decides nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from sidecar.relay.request_framer import split_inline

Transform = Callable[[bytes], bytes | Awaitable[bytes]]


class Plan:
    """What becomes of one request.

    request: the bytes to forward, None for those that came. transform(reply): what the client gets instead of the
    engine's reply; it is not asked about ``+QUEUED``. sync: the connection becomes a replication stream when the reply
    says so. blocks: it waits by nature, its time is not latency. cosmetic: `transform` does nothing but write the reply
    anew, which nobody needs who has left.
    """

    __slots__ = ("blocks", "cosmetic", "request", "sync", "transform")

    def __init__(
        self,
        request: bytes | None = None,
        transform: Transform | None = None,
        *,
        sync: bool = False,
        blocks: bool = False,
        cosmetic: bool = False,
    ) -> None:
        self.request = request
        self.transform = transform
        self.sync = sync
        self.blocks = blocks
        self.cosmetic = cosmetic


def arguments(request: bytes) -> list[bytes] | None:
    """The arguments of one complete request, whatever its line ends; None when an inline one's quotes do not match."""
    if request[:1] != b"*":
        return split_inline(request)
    found = []
    position = request.index(b"\r") + 2
    while position < len(request):
        begin = request.index(b"\r", position) + 2
        end = begin + int(request[position + 1 : begin - 2])
        found.append(request[begin:end])
        position = end + 2
    return found


def word(argument: bytes) -> bytes:
    """An option as the engine compares it: a C string, in lower case."""
    return argument.partition(b"\0")[0].lower()


def encode(args: Sequence[bytes]) -> bytes:
    """One request of these arguments."""
    return b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in args)


SILENT_PLAN = Plan()
"""The request is forwarded and has no reply: CLIENT REPLY OFF and SKIP."""

FAILED_PLAN = Plan(
    encode([b"CONFIG", b"SET"]),  # refused by the engine for its missing arguments
    lambda _reply: b"-ERR valkey-sidecar: the command was not executed, because the supervisor does not answer\r\n",
)
"""Nobody could decide: what was asked for must not pass unseen."""
