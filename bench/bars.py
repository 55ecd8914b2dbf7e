"""What this server must show, and whether it does.

Owns the limits and the comparison with them. Never measures and never prints.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench import peers
from bench.ledger_cost import Cost
from bench.load import CELLS
from bench.rounds import Rounds
from bench.standing import Standing

_LEDGER_LIMIT_NS = {1: 250.0, 16: 60.0}  # framing and ledger per command, by pipeline depth
_HAPROXY_SHARE = 0.85  # of its throughput with 50 connections
_ADDED_P50_LIMIT_S = 60e-6  # over bare Valkey, one connection
_FIRST_PONG_LIMIT_S = 0.6
_IDLE_LIMIT_BYTES = 100 * 1000 * 1000  # supervisor and one worker


@dataclass(frozen=True)
class Bar:
    """One promise: what was measured, and the limit, both as text with units."""

    promise: str
    measured: str
    limit: str
    met: bool


def judge(rounds: Rounds, costs: list[Cost], standing: dict[str, Standing]) -> list[Bar]:
    """Every bar that was measured in this run."""
    bars = [
        Bar(
            f"framing and ledger per command, P{cost.pipeline}",
            f"{cost.total_ns.median:.0f} ns",
            f"≤ {_LEDGER_LIMIT_NS[cost.pipeline]:.0f} ns",
            cost.total_ns.median <= _LEDGER_LIMIT_NS[cost.pipeline],
        )
        for cost in costs
    ]
    if peers.SIDECAR not in rounds.samples:
        return bars
    for cell in CELLS:
        if cell.connections == 50 and peers.HAPROXY in rounds.samples:
            ratio = rounds.rate_ratio(peers.SIDECAR, peers.HAPROXY, cell)
            met = ratio.median >= _HAPROXY_SHARE
            promise = f"throughput over HAProxy's, {cell.name}"
            bars.append(Bar(promise, f"{ratio.median:.2f}", f"≥ {_HAPROXY_SHARE}", met))
        if cell.connections == 1 and cell.pipeline == 1:
            added = rounds.added_p50_s(peers.SIDECAR, peers.BARE, cell)
            met = added.median <= _ADDED_P50_LIMIT_S
            limit = f"≤ {_ADDED_P50_LIMIT_S * 1e6:.0f} µs"
            bars.append(Bar(f"added p50, {cell.name}", f"{added.median * 1e6:.0f} µs", limit, met))
    ours = standing[peers.SIDECAR]
    pong = ours.first_pong_s.median
    met = pong <= _FIRST_PONG_LIMIT_S
    bars.append(Bar("first PONG after the start", f"{pong:.2f} s", f"≤ {_FIRST_PONG_LIMIT_S} s", met))
    idle = ours.supervisor.rss + ours.front.rss
    limit = f"≤ {_IDLE_LIMIT_BYTES / 1e6:.0f} MB"
    bars.append(Bar("idle memory, supervisor and 1 worker", f"{idle / 1e6:.0f} MB", limit, idle <= _IDLE_LIMIT_BYTES))
    return bars
