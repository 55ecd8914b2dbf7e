"""The tables of docs/performance.md, made anew from a run: python -m bench.page build/bench/result.json

Owns what stands between `<!-- NAME -->` and `<!-- end -->` there, and the pictures beside it. Never touches the text
around them, and never measures.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import plan
from bench.load import Cell, Measured
from bench.peers import BARE, HAPROXY, NUTCRACKER, REDIS_TLS
from bench.process import Cpu
from bench.report import allowed_rows, ratio_text, thousands
from bench.rounds import Rounds, p50, p99, p999
from bench.variants import ALL_SPANS, HOME, OFF, SIDECAR, SOME_SPANS, TWO_WORKERS

_MARKED = re.compile(r"<!-- (?P<name>[a-z ]+) -->\n.*?<!-- end -->", re.DOTALL)
_PICTURES = ("throughput.svg", "ratios.svg")


class PageError(Exception):
    """The page and the run do not fit together."""


def rounds_of(document: dict[str, Any]) -> Rounds:
    """The samples in a run's JSON (bench.result)."""
    cells = {cell.name: cell for cell in plan.every_cell((*plan.PARTS, *plan.full()))}
    rounds = Rounds(count=document["rounds"])
    for name, loads in document["loads"].items():
        for load, samples in loads.items():
            spent = {role: Cpu(**cpu) for role, cpu in samples["cpu_s"].items()}
            for number, measured in samples["by_round"].items():
                rounds.add(int(number), name, cells[load], Measured(**measured), spent)
                spent = {}  # of all rounds together
    return rounds


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _full(name: str) -> str:
    return name if name in (BARE, SIDECAR, HAPROXY, NUTCRACKER) else f"{SIDECAR}, {name}"


def _core(rounds: Rounds) -> list[str]:
    return [name for name in rounds.samples if any(rounds.has(name, cell) for cell in plan.CORE)]


def _plain(rounds: Rounds) -> list[Cell]:
    return [cell for cell in plan.every_cell(plan.PARTS) if rounds.has(SIDECAR, cell) and not cell.tls]


def _about(document: dict[str, Any], rounds: Rounds) -> str:
    machine, peers = document["machine"], document["peers"]
    return (
        f"{machine['cpus']} CPUs ({machine['cpu']}), Linux {machine['kernel'].partition('-')[0]}, Python "
        f"{machine['python']}; Valkey {peers[BARE]}, HAProxy {peers.get(HAPROXY, 'not')}, "
        f"nutcracker {peers.get(NUTCRACKER, 'not')};\n{rounds.count} rounds on {machine['date']}. "
        f"Programs of others took {document['others_share']:.0%} of the processors meanwhile."
    )


def _throughput(_document: dict[str, Any], rounds: Rounds) -> str:
    rows = [[f"{BARE}, thousands/s", *(thousands(rounds, BARE, cell) for cell in plan.CORE)]]
    rows += [
        [_full(name), *(ratio_text(rounds, name, BARE, cell) for cell in plan.CORE)]
        for name in _core(rounds)
        if name != BARE
    ]
    return _table(["", *(cell.name for cell in plan.CORE)], rows)


def _every_load(_document: dict[str, Any], rounds: Rounds) -> str:
    bases = (BARE, HAPROXY, NUTCRACKER)
    rows = [
        [cell.name, thousands(rounds, SIDECAR, cell), *(ratio_text(rounds, SIDECAR, base, cell) for base in bases)]
        for cell in _plain(rounds)
    ]
    return _table(["", "thousands/s", *(f"over {base}" for base in bases)], rows)


def _latency(_document: dict[str, Any], rounds: Rounds) -> str:
    names = (BARE, SIDECAR, HAPROXY, NUTCRACKER)

    def of(name: str, cell: Cell) -> str:
        if not rounds.has(name, cell):
            return ""
        return " / ".join(f"{rounds.of(name, cell).spread(one).median * 1e6:.0f}" for one in (p50, p99, p999))

    return _table(["", *names], [[cell.name, *(of(name, cell) for name in names)] for cell in _plain(rounds)])


def _processor_time(_document: dict[str, Any], rounds: Rounds) -> str:
    rows = []
    for name in _core(rounds):
        front = "proxy" if name in (HAPROXY, NUTCRACKER) else "workers" if name == TWO_WORKERS else "worker"
        for role, shown in (("front", front), ("engine", "engine"), ("supervisor", "supervisor")):
            spent = [
                rounds.of(name, cell).us_per_command(role)
                for cell in plan.CORE
                if rounds.has(name, cell) and role in rounds.of(name, cell).cpu
            ]
            if len(spent) == len(plan.CORE):
                rows.append([f"{_full(name)}: {shown}", *(f"{one.user:.2f} + {one.system:.2f}" for one in spent)])
    return _table(["", *(cell.name for cell in plan.CORE)], rows)


def _allowed(document: dict[str, Any], rounds: Rounds) -> str:
    rows = allowed_rows(rounds, (SIDECAR, HAPROXY, NUTCRACKER), int(document["machine"]["cpus"]))
    return _table(["", *(cell.name for cell in plan.CORE)], rows)


def _memory(document: dict[str, Any], rounds: Rounds) -> str:
    def of(name: str, role: str) -> str:
        memory = document["memory"][name].get(role)
        return f"{memory['rss'] / 1e6:.0f} / {memory['pss'] / 1e6:.0f}" if memory else ""

    roles = ("supervisor", "front", "engine")
    rows = [[_full(name), *(of(name, role) for role in roles)] for name in _core(rounds)]
    return _table(["", "supervisor", "workers or proxy", "engine"], rows)


def _telemetry(_document: dict[str, Any], rounds: Rounds) -> str:
    kinds = ((SIDECAR, "metrics (the default)"), (SOME_SPANS, "and 1 % of spans"), (ALL_SPANS, "and every span"))
    rows = [[shown, *(ratio_text(rounds, name, OFF, cell) for cell in plan.CORE)] for name, shown in kinds]
    return _table(["", *(cell.name for cell in plan.CORE)], rows)


def _switches(_document: dict[str, Any], rounds: Rounds) -> str:
    kinds = ((HOME, "`sidecar-lanes off`"), (TWO_WORKERS, "`sidecar-workers 2`"))
    rows = [
        [shown, *(ratio_text(rounds, name, SIDECAR, cell) for cell in plan.CORE)]
        for name, shown in kinds
        if name in rounds.samples
    ]
    return _table(["", *(cell.name for cell in plan.CORE)], rows)


def _tls(_document: dict[str, Any], rounds: Rounds) -> str:
    rows = []
    for cell in (cell for cell in plan.every_cell(plan.PARTS) if cell.tls and rounds.has(SIDECAR, cell)):
        plain = Cell(cell.command, cell.connections, cell.pipeline)
        ours = [thousands(rounds, SIDECAR, cell), ratio_text(rounds, SIDECAR, SIDECAR, cell, base_cell=plain)]
        rows.append([cell.name, *ours, *(ratio_text(rounds, SIDECAR, base, cell) for base in (HAPROXY, REDIS_TLS))])
    head = ["", "thousands/s", "over itself without TLS", "over HAProxy with TLS", "over redis-server with TLS"]
    return _table(head, rows)


def _prototype(_document: dict[str, Any], rounds: Rounds) -> str:
    rows = [
        [
            f"{shown} ({cell.name})",
            f"{rate / 1e3:.0f}",
            thousands(rounds, SIDECAR, cell),
            thousands(rounds, BARE, cell),
            ratio_text(rounds, SIDECAR, BARE, cell),
        ]
        for shown, rate, cell in plan.PROTOTYPE
    ]
    head = ["thousands/s", "prototype, there", "valkey-sidecar, here", "bare Valkey, here", "share of bare Valkey's"]
    return _table(head, rows)


def _bars(document: dict[str, Any], _rounds: Rounds) -> str:
    rows = [
        [bar["promise"], bar["measured"], bar["limit"], "met" if bar["met"] else "**missed**"]
        for bar in document["bars"]
    ]
    return _table(["", "measured", "limit", ""], rows)


_TABLES: dict[str, Callable[[dict[str, Any], Rounds], str]] = {
    "about": _about,
    "throughput": _throughput,
    "every load": _every_load,
    "latency": _latency,
    "processor time": _processor_time,
    "allowed": _allowed,
    "memory": _memory,
    "telemetry": _telemetry,
    "switches": _switches,
    "tls": _tls,
    "prototype": _prototype,
    "bars": _bars,
}


def renewed(page: str, document: dict[str, Any]) -> str:
    """The page with its tables made from this run. Raises PageError where it has not exactly our tables."""
    marked = [match["name"] for match in _MARKED.finditer(page)]
    if sorted(marked) != sorted(_TABLES):
        raise PageError(f"the page has the tables {', '.join(marked)}; it must have {', '.join(_TABLES)}, each once")
    rounds = rounds_of(document)
    return _MARKED.sub(
        lambda match: f"<!-- {match['name']} -->\n{_TABLES[match['name']](document, rounds)}\n<!-- end -->", page
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.page", description="Renews docs/performance.md from a run.")
    parser.add_argument("result", type=Path, help="the run's result.json; its pictures lie beside it")
    parser.add_argument("--page", type=Path, default=Path("docs/performance.md"))
    options = parser.parse_args()
    try:
        text = renewed(options.page.read_text(), json.loads(options.result.read_text()))
    except (OSError, ValueError, KeyError, PageError) as error:
        print(f"bench.page: {options.result}, {options.page}: {error}", file=sys.stderr)
        return 2
    options.page.write_text(text)
    for name in _PICTURES:
        shutil.copyfile(options.result.with_name(name), options.page.parent / "images" / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
