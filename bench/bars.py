"""What this server must show, and whether it does.

Owns the limits and the comparison with them. Never measures and never prints.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench import plan
from bench import standing as starts
from bench.ledger_cost import Cost
from bench.load import Cell
from bench.peers import BARE, HAPROXY, NUTCRACKER
from bench.rounds import Rounds, p50, p99
from bench.span_cost import OURS, SpanCost
from bench.standing import Standing
from bench.variants import OFF, SIDECAR, SOME_SPANS

_LEDGER_LIMIT_NS = {1: 250.0, 16: 60.0}  # framing and ledger per command, by pipeline depth
_BARE_SHARES = {1: 0.95, 16: 0.90}  # of bare Valkey's throughput with 50 connections, by pipeline depth
_P99_FACTOR = 1.3  # of bare Valkey's, 50 connections
_ADDED_P50_LIMIT_S = 40e-6  # over bare Valkey, one connection
_WORKER_LIMITS_US = {1: 9.0, 16: 1.0}  # processor time of a worker per command with 50 connections, by pipeline depth
_FIRST_PONG_LIMIT_S = 0.6
# Supervisor and one worker.
_IDLE_LIMIT_BYTES = {SIDECAR: 100 * 1000 * 1000, starts.EXPORTING: 120 * 1000 * 1000}
# Of the throughput with telemetry off.
_TELEMETRY_SHARES = {SIDECAR: (0.97, "metrics on"), SOME_SPANS: (0.95, "metrics and 1% of spans")}
_SPANS_PER_CPU_S = 100_000


@dataclass(frozen=True)
class Bar:
    """One promise: what was measured, and the limit, both as text with units."""

    promise: str
    measured: str
    limit: str
    met: bool


def judge(rounds: Rounds, costs: list[Cost], standing: dict[str, Standing], span_costs: list[SpanCost]) -> list[Bar]:
    """Every bar that was measured in this run."""
    return [
        *_beside_bare(rounds),
        *_ahead(rounds),
        *_telemetry(rounds),
        *_processor_time(rounds),
        *_ledger(costs),
        *_standing(standing),
        *_span_costs(span_costs),
    ]


def _beside_bare(rounds: Rounds) -> list[Bar]:
    bars = []
    for cell in plan.CORE:
        if rounds.compared(SIDECAR, BARE, cell):
            share, limit = rounds.ratio(SIDECAR, BARE, cell).median, _BARE_SHARES[cell.pipeline]
            promise = f"throughput over bare Valkey's, {cell.name}"
            bars.append(Bar(promise, f"{share:.2f}", f"≥ {limit:.2f}", share >= limit))
    for cell in plan.CORE:
        if rounds.compared(SIDECAR, BARE, cell):
            factor = rounds.ratio(SIDECAR, BARE, cell, p99).median
            promise = f"p99 over bare Valkey's, {cell.name}"
            bars.append(Bar(promise, f"{factor:.2f}", f"≤ {_P99_FACTOR}", factor <= _P99_FACTOR))
    for cell in plan.SINGLE:
        if rounds.compared(SIDECAR, BARE, cell):
            added = rounds.added(SIDECAR, BARE, cell, p50).median
            limit_text = f"≤ {_ADDED_P50_LIMIT_S * 1e6:.0f} µs"
            bars.append(
                Bar(f"added p50, {cell.name}", f"{added * 1e6:.0f} µs", limit_text, added <= _ADDED_P50_LIMIT_S)
            )
    return bars


def _ahead(rounds: Rounds) -> list[Bar]:
    """Against each proxy: at how many kinds of load we are ahead of it, and where we are the least."""
    bars = []
    for name in (HAPROXY, NUTCRACKER):
        shares: dict[Cell, float] = {
            cell: rounds.ratio(SIDECAR, name, cell).median
            for cell in rounds.samples.get(SIDECAR, {})
            if rounds.compared(SIDECAR, name, cell)
        }
        if not shares:
            continue
        ahead = sum(share >= 1.0 for share in shares.values())
        least = min(shares, key=lambda cell: shares[cell])
        measured = f"{ahead} of {len(shares)}; least {shares[least]:.2f}, {least.name}"
        bars.append(Bar(f"kinds of load at which ahead of {name}", measured, "all", ahead == len(shares)))
    return bars


def _telemetry(rounds: Rounds) -> list[Bar]:
    bars = []
    for name, (limit, what) in _TELEMETRY_SHARES.items():
        for cell in plan.CORE:
            if rounds.compared(name, OFF, cell):
                share = rounds.ratio(name, OFF, cell).median
                promise = f"throughput with {what} over telemetry off, {cell.name}"
                bars.append(Bar(promise, f"{share:.3f}", f"≥ {limit}", share >= limit))
    return bars


def _processor_time(rounds: Rounds) -> list[Bar]:
    bars = []
    for cell in plan.CORE:
        if rounds.has(SIDECAR, cell):
            spent = rounds.of(SIDECAR, cell).us_per_command("front")
            total, limit = spent.user + spent.system, _WORKER_LIMITS_US[cell.pipeline]
            promise = f"processor time of the worker per command, {cell.name}"
            bars.append(Bar(promise, f"{total:.2f} µs", f"≤ {limit:.0f} µs", total <= limit))
    return bars


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
