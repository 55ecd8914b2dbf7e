"""What a server that sends spans still has to do after a run, and how many of its spans came.

Owns the waiting and the count. Never starts a server.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from bench import process, standing
from bench.peers import Peer
from bench.process import ProcessError

# A supervisor that still sends would take its processor time from the neighbour's run.
_QUIET_WINDOW_S = 0.1
_QUIET_SHARE = 0.2
_QUIET_LIMIT_S = 20.0
_LAST_SPANS_S = 5.5  # a span waits up to five seconds for others


def settle(peer: Peer) -> None:
    """Waits until the supervisor has sent what the last run left. Raises ProcessError when that takes too long."""
    if peer.receiver is None:
        return
    (supervisor,) = peer.pids["supervisor"]
    deadline = time.monotonic() + _QUIET_LIMIT_S
    while True:
        before = process.cpu(supervisor)
        time.sleep(_QUIET_WINDOW_S)
        spent = process.cpu(supervisor) - before
        if spent.user + spent.system <= _QUIET_SHARE * _QUIET_WINDOW_S:
            return
        if time.monotonic() > deadline:
            raise ProcessError(f"{peer.name}: the supervisor still works {_QUIET_LIMIT_S:.0f} s after the load")


def _lost(http_port: int) -> float:
    """Spans that the sampler wanted and that were not sent, as /metrics counts them."""
    return sum(
        float(line.rpartition(" ")[2])
        for line in standing.scrape(http_port).splitlines()
        if line.startswith("valkey_sidecar_spans_dropped_total{") and 'reason="sampler"' not in line
    )


def arrived(peers: Sequence[Peer]) -> dict[str, float]:
    """The share of its spans that arrived, of each peer that sends some."""
    sending = [(peer.name, peer.receiver, peer.http_port) for peer in peers if peer.receiver is not None]
    if sending:
        time.sleep(_LAST_SPANS_S)
    shares = {}
    for name, receiver, http_port in sending:
        assert http_port is not None
        spans, lost = receiver.counts()["spans"], _lost(http_port)
        if not spans:
            raise ProcessError(f"{name}: no span arrived")
        shares[name] = spans / (spans + lost)
    return shares
