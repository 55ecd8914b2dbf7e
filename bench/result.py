"""All that one run measured, and its form as JSON.

Owns the file's fields and units. Never measures, judges or words anything.
"""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import plan
from bench.bars import Bar
from bench.ledger_cost import Cost
from bench.load import Cell
from bench.peers import BARE, HAPROXY, NUTCRACKER, REDIS_TLS, Peer
from bench.plan import Part
from bench.rounds import Rounds, Samples, Spread, p50, p99
from bench.span_cost import SpanCost
from bench.standing import Standing
from bench.variants import OFF


@dataclass
class Result:
    """All that one run measured."""

    peers: list[Peer]
    missing: list[str]
    parts: tuple[Part, ...]
    rounds: Rounds
    costs: list[Cost]
    standing: dict[str, Standing]
    arrived: dict[str, float]
    span_costs: list[SpanCost]
    bars: list[Bar]
    took_s: float = 0.0
    machine: dict[str, str] = field(default_factory=lambda: machine())

    @property
    def names(self) -> list[str]:
        return [peer.name for peer in self.peers]

    @property
    def measured_cells(self) -> list[Cell]:
        """The kinds of load that anyone met, in the order of the plan."""
        return [cell for cell in plan.every_cell(self.parts) if any(self.rounds.has(name, cell) for name in self.names)]


def machine() -> dict[str, str]:
    """What the figures depend on. No name of a host or a person."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    return {
        "cpu": model,
        "cpus": str(len(os.sched_getaffinity(0))),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def as_json(result: Result) -> str:
    """Every single measurement; rates in requests a second, times in seconds, memory in bytes."""
    rounds = result.rounds
    document = {
        "machine": result.machine,
        "took_s": round(result.took_s, 1),
        "peers": {peer.name: peer.version for peer in result.peers},
        "missing": result.missing,
        "plan": [
            {
                "about": part.about,
                "loads": [cell.name for cell in part.cells],
                "peers": list(part.peers),
                "every": part.every,
            }
            for part in result.parts
        ],
        "rounds": rounds.count,
        "others_share": round(rounds.others, 3),
        "loads": {
            name: {cell.name: _samples(samples) for cell, samples in cells.items()}
            for name, cells in rounds.samples.items()
        },
        "ratios": {name: _ratios(rounds, name) for name in rounds.samples},
        "memory": {
            name: {role: asdict(memory) for role, memory in roles.items()} for name, roles in rounds.memory.items()
        },
        "prototype_rates": {name: rate for name, rate, _ in plan.PROTOTYPE},
        "standing": {name: asdict(one) for name, one in result.standing.items()},
        "ledger_cost_ns": [asdict(cost) for cost in result.costs],
        "spans_arrived": result.arrived,
        "spans_sent": [asdict(cost) for cost in result.span_costs],
        "bars": [asdict(bar) for bar in result.bars],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _samples(samples: Samples) -> dict[str, Any]:
    return {
        "by_round": {number: asdict(measured) for number, measured in samples.measured.items()},
        "cpu_s": {role: asdict(spent) for role, spent in samples.cpu.items()},
    }


def _ratios(rounds: Rounds, name: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Shares of the others' figures, by base and kind of load: a median and quartiles of the rounds' ratios."""

    def of(base: str, cell: Cell) -> dict[str, Spread]:
        return {
            "rate": rounds.ratio(name, base, cell),
            "p50": rounds.ratio(name, base, cell, p50),
            "p99": rounds.ratio(name, base, cell, p99),
        }

    found = {}
    for base in (BARE, HAPROXY, NUTCRACKER, REDIS_TLS, OFF):
        if base != name:
            ratios = {
                cell.name: {figure: asdict(spread) for figure, spread in of(base, cell).items()}
                for cell in rounds.samples[name]
                if rounds.compared(name, base, cell)
            }
            if ratios:
                found[base] = ratios
    return found
