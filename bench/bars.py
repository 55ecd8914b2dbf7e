"""What this server must show, and whether it does.

Owns the limits and the comparison with them. Never measures and never prints.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench import peers, variants
from bench import standing as starts
from bench.ledger_cost import Cost
from bench.load import CELLS
from bench.rounds import Rounds
from bench.span_cost import OURS, SpanCost
from bench.standing import Standing

_LEDGER_LIMIT_NS = {1: 250.0, 16: 60.0}  # framing and ledger per command, by pipeline depth
_HAPROXY_SHARE = 0.85  # of its throughput with 50 connections
_ADDED_P50_LIMIT_S = 60e-6  # over bare Valkey, one connection
_FIRST_PONG_LIMIT_S = 0.6
# Supervisor and one worker.
_IDLE_LIMIT_BYTES = {peers.SIDECAR: 100 * 1000 * 1000, starts.EXPORTING: 120 * 1000 * 1000}
_TELEMETRY_SHARES = {variants.METRICS: 0.97, variants.SOME_SPANS: 0.95}  # of the throughput with telemetry off
_SPANS_PER_CPU_S = 100_000


@dataclass(frozen=True)
class Bar:
    """One promise: what was measured, and the limit, both as text with units."""

    promise: str
    measured: str
    limit: str
    met: bool


def judge(
    rounds: Rounds, costs: list[Cost], standing: dict[str, Standing], telemetry: Rounds, span_costs: list[SpanCost]
) -> list[Bar]:
    """Every bar that was measured in this run."""
    return [
        *_ledger(costs),
        *_throughput(rounds),
        *_standing(standing),
        *_telemetry(telemetry),
        *_span_costs(span_costs),
    ]


def _ledger(costs: list[Cost]) -> list[Bar]:
    return [
        Bar(
            f"framing and ledger per command, P{cost.pipeline}",
            f"{cost.total_ns.median:.0f} ns",
            f"≤ {_LEDGER_LIMIT_NS[cost.pipeline]:.0f} ns",
            cost.total_ns.median <= _LEDGER_LIMIT_NS[cost.pipeline],
        )
        for cost in costs
    ]


def _throughput(rounds: Rounds) -> list[Bar]:
    bars: list[Bar] = []
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
    return bars


def _standing(standing: dict[str, Standing]) -> list[Bar]:
    bars: list[Bar] = []
    for name, limit in _IDLE_LIMIT_BYTES.items():
        if name not in standing:
            continue
        with_otlp = ", OTLP gRPC on" if name == starts.EXPORTING else ""
        ours = standing[name]
        pong = ours.first_pong_s.median
        met = pong <= _FIRST_PONG_LIMIT_S
        promise = f"first PONG after the start{with_otlp}"
        bars.append(Bar(promise, f"{pong:.2f} s", f"≤ {_FIRST_PONG_LIMIT_S} s", met))
        idle = ours.supervisor.rss + ours.front.rss
        promise = f"idle memory, supervisor and 1 worker{with_otlp}"
        bars.append(Bar(promise, f"{idle / 1e6:.0f} MB", f"≤ {limit / 1e6:.0f} MB", idle <= limit))
    return bars


def _telemetry(rounds: Rounds) -> list[Bar]:
    bars: list[Bar] = []
    for name, share in _TELEMETRY_SHARES.items():
        for cell in variants.CELLS:
            if name in rounds.samples:
                ratio = rounds.rate_ratio(name, variants.OFF, cell).median
                promise = f"{name} over telemetry off, {cell.name}"
                bars.append(Bar(promise, f"{ratio:.3f}", f"≥ {share}", ratio >= share))
    return bars


def _span_costs(costs: list[SpanCost]) -> list[Bar]:
    return [
        Bar(
            "spans encoded and sent by one core",
            f"{cost.per_cpu_s.median:,.0f}/s",
            f"≥ {_SPANS_PER_CPU_S:,}/s",
            cost.per_cpu_s.median >= _SPANS_PER_CPU_S,
        )
        for cost in costs
        if cost.name == OURS
    ]
