"""What a run says: a table for people, and the same figures as JSON.

Owns the wording and the units. Never measures and never judges.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import peers, variants
from bench.bars import Bar
from bench.ledger_cost import Cost
from bench.load import CELLS, Cell
from bench.peers import Peer
from bench.rounds import Rounds, Spread
from bench.span_cost import SpanCost
from bench.standing import Standing

_COMPARED = ((peers.SIDECAR, peers.BARE), (peers.SIDECAR, peers.HAPROXY), (peers.SIDECAR, peers.NUTCRACKER))


@dataclass
class Result:
    """All that one run measured."""

    peers: list[Peer]
    missing: list[str]
    rounds: Rounds
    costs: list[Cost]
    standing: dict[str, Standing]
    telemetry: Rounds
    arrived: dict[str, float]
    span_costs: list[SpanCost]
    bars: list[Bar]
    took_s: float = 0.0
    machine: dict[str, str] = field(default_factory=lambda: machine())


def machine() -> dict[str, str]:
    """What the figures depend on. No name of a host or a person."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown"
    )
    return {
        "cpu": model,
        "cpus": str(len(os.sched_getaffinity(0))),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    out = []
    for line in lines:
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        out.append("  ".join(cells).rstrip())
    out.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(out)


def _with_quartiles(spread: Spread, digits: int, scale: float = 1.0) -> str:
    low, median, high = (f"{value * scale:.{digits}f}" for value in (spread.low, spread.median, spread.high))
    return f"{median} ({low}–{high})"


def text(result: Result) -> str:
    """The report as a person reads it."""
    rounds = result.rounds
    names = [peer.name for peer in result.peers]
    compared = [pair for pair in _COMPARED if pair[0] in names and pair[1] in names]
    parts = [f"{key} {value}" for key, value in result.machine.items()]
    sections = [
        f"{', '.join(parts)}; {rounds.count} rounds in {result.took_s:.0f} s\n"
        + "\n".join(f"{peer.name}: {peer.version}" for peer in result.peers)
        + "".join(f"\n{line}" for line in result.missing),
        "Requests a second, in thousands (median of rounds)\n"
        + _table(
            ["", *(cell.name for cell in CELLS)],
            ([name, *(f"{Spread.of(rounds.of(name, c).rates).median / 1e3:.1f}" for c in CELLS)] for name in names),
        ),
    ]
    if compared:
        sections.append(
            "Throughput as a share of the other's in the same round: median (quartiles)\n"
            + _table(
                ["", *(base for _, base in compared)],
                (
                    [c.name, *(_with_quartiles(rounds.rate_ratio(us, base, c), 2) for us, base in compared)]
                    for c in CELLS
                ),
            )
        )
    single = [cell for cell in CELLS if cell.connections == 1]
    sections += [
        "Median latency with one connection, µs: median (quartiles)\n"
        + _table(
            ["", *(cell.name for cell in single)],
            ([name, *(_with_quartiles(Spread.of(rounds.of(name, c).p50s), 0, 1e6) for c in single)] for name in names),
        ),
        "Processor time of the front (worker, proxy, or the engine itself) per command, µs: user + system\n"
        + _table(["", *(cell.name for cell in CELLS)], ([name, *_cpu_cells(rounds, name)] for name in names)),
    ]
    if result.standing:
        sections.append(
            "Before the first client\n"
            + _table(
                ["", "first PONG, s", "supervisor, MB", "worker or engine, MB", "the same, shared pages split"],
                (
                    [
                        name,
                        _with_quartiles(one.first_pong_s, 2),
                        f"{one.supervisor.rss / 1e6:.0f}",
                        f"{one.front.rss / 1e6:.0f}",
                        f"{(one.supervisor.pss + one.front.pss) / 1e6:.0f}",
                    ]
                    for name, one in result.standing.items()
                ),
            )
        )
    if result.costs:
        sections.append(
            "Framing and ledger per command, compiled path only, ns: median (quartiles)\n"
            + _table(
                ["", "in all", "of it ledger"],
                (
                    [f"P{cost.pipeline}", _with_quartiles(cost.total_ns, 0), _with_quartiles(cost.ledger_ns, 0)]
                    for cost in result.costs
                ),
            )
        )
    sections += _telemetry(result)
    if result.bars:
        sections.append(
            "Bars\n"
            + _table(
                ["", "measured", "limit", ""],
                ([bar.promise, bar.measured, bar.limit, "met" if bar.met else "MISSED"] for bar in result.bars),
            )
        )
    return "\n\n".join(sections)


def _telemetry(result: Result) -> list[str]:
    sections = []
    rounds, cells = result.telemetry, variants.CELLS
    if rounds.samples:
        sections += [
            f"Telemetry: requests a second, in thousands (median of {rounds.count} rounds), and the share of "
            "spans that arrived\n"
            + _table(
                ["", *(cell.name for cell in cells), "arrived"],
                (
                    [
                        name,
                        *(f"{Spread.of(rounds.of(name, c).rates).median / 1e3:.1f}" for c in cells),
                        f"{result.arrived[name]:.2%}" if name in result.arrived else "",
                    ]
                    for name in rounds.samples
                ),
            ),
            "Throughput as a share of that with telemetry off in the same round: median (quartiles)\n"
            + _table(
                ["", *(cell.name for cell in cells)],
                (
                    [name, *(_with_quartiles(rounds.rate_ratio(name, variants.OFF, c), 3) for c in cells)]
                    for name in rounds.samples
                    if name != variants.OFF
                ),
            ),
            "Processor time of the worker per command, µs: user + system\n"
            + _table(
                ["", *(cell.name for cell in cells)],
                ([name, *_cpu_cells(rounds, name, cells)] for name in rounds.samples),
            ),
        ]
    if result.span_costs:
        sections.append(
            "Spans encoded and sent over gRPC, in thousands: median (quartiles)\n"
            + _table(
                ["", "per second of processor time", "per second"],
                (
                    [cost.name, _with_quartiles(cost.per_cpu_s, 0, 1e-3), _with_quartiles(cost.per_s, 0, 1e-3)]
                    for cost in result.span_costs
                ),
            )
        )
    return sections


def _cpu_cells(rounds: Rounds, name: str, cells: Sequence[Cell] = CELLS) -> list[str]:
    costs = [rounds.of(name, cell).front_us_per_command() for cell in cells]
    return [f"{cost.user:.1f} + {cost.system:.1f}" for cost in costs]


def as_json(result: Result) -> str:
    """Every single measurement; rates in requests a second, times in seconds, memory in bytes."""
    document = {
        "machine": result.machine,
        "took_s": round(result.took_s, 1),
        "peers": {peer.name: peer.version for peer in result.peers},
        "missing": result.missing,
        "loads": _loads(result.rounds),
        "standing": {name: asdict(one) for name, one in result.standing.items()},
        "ledger_cost_ns": [asdict(cost) for cost in result.costs],
        "telemetry_loads": _loads(result.telemetry),
        "spans_arrived": result.arrived,
        "spans_sent": [asdict(cost) for cost in result.span_costs],
        "bars": [asdict(bar) for bar in result.bars],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _loads(rounds: Rounds) -> dict[str, Any]:
    return {
        name: {
            cell.name: {
                "rates": samples.rates,
                "p50_s": samples.p50s,
                "requests": sum(one.requests for one in samples.measured),
                "front_cpu_s": asdict(samples.front),
            }
            for cell, samples in cells.items()
        }
        for name, cells in rounds.samples.items()
    }
