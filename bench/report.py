"""What a run says, as tables for people.

Owns the wording and the units. Never measures and never judges.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench import plan
from bench.load import Cell
from bench.peers import BARE, HAPROXY, NUTCRACKER, REDIS_TLS
from bench.process import Cpu
from bench.result import Result
from bench.rounds import Rounds, Spread, p50, p99, p999, rate
from bench.variants import ALL_SPANS, HOME, OFF, SIDECAR, SOME_SPANS, TWO_WORKERS

_ROLES = ("supervisor", "front", "engine")
_ROLE_NAMES = {"supervisor": "supervisor", "front": "workers or proxy", "engine": "engine"}


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    """The first column to the left, the others to the right; one in which nothing stands is left out."""
    lines = [head, *rows]
    kept = [number for number in range(len(head)) if number == 0 or any(line[number] for line in lines[1:])]
    lines = [[line[number] for number in kept] for line in lines]
    widths = [max(len(line[column]) for line in lines) for column in range(len(kept))]
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


def ratio_text(rounds: Rounds, name: str, base: str, cell: Cell, digits: int = 2, base_cell: Cell | None = None) -> str:
    """The throughput as a share of the base's, with quartiles; empty where they were not compared."""
    if not rounds.compared(name, base, cell, base_cell):
        return ""
    return _with_quartiles(rounds.ratio(name, base, cell, rate, base_cell), digits)


def thousands(rounds: Rounds, name: str, cell: Cell) -> str:
    """Thousands of requests a second, the median; empty where nothing was measured."""
    return f"{rounds.of(name, cell).spread(rate).median / 1e3:.1f}" if rounds.has(name, cell) else ""


def text(result: Result) -> str:
    """The report as a person reads it."""
    sections = [_head(result)]
    core = [cell for cell in plan.CORE if cell in result.measured_cells]
    if core:
        sections += [*_throughput(result, core)]
    sections += [_everywhere(result), *_with_tls(result)]
    if core:
        sections += [*_telemetry(result, core), *_workers(result, core)]
    sections += [_latency(result), _processor_time(result, core), *_allowed(result, core), _memory(result)]
    sections += [*_prototype(result), *_standing(result), *_costs(result), *_bars(result)]
    return "\n\n".join(sections)


def _head(result: Result) -> str:
    parts = [f"{key} {value}" for key, value in result.machine.items()]
    rounds = result.rounds
    about = [
        f"{', '.join(parts)}; {rounds.count} rounds in {result.took_s:.0f} s",
        f"Other programs took {rounds.others:.0%} of the processors meanwhile.",
    ]
    return "\n".join([*about, *(f"{peer.name}: {peer.version}" for peer in result.peers), *result.missing])


def _throughput(result: Result, core: list[Cell]) -> list[str]:
    rounds = result.rounds
    head = ["", *(cell.name for cell in core)]
    names = [name for name in result.names if any(rounds.has(name, cell) for cell in core)]
    return [
        "Requests a second, in thousands (median of rounds)\n"
        + _table(head, ([name, *(thousands(rounds, name, cell) for cell in core)] for name in names)),
        "Throughput as a share of bare Valkey's in the same round: median (quartiles)\n"
        + _table(
            head, ([name, *(ratio_text(rounds, name, BARE, cell) for cell in core)] for name in names if name != BARE)
        ),
    ]


def _everywhere(result: Result) -> str:
    """Ours at every kind of load, and as a share of each other's throughput."""
    rounds = result.rounds
    bases = [base for base in (BARE, HOME, HAPROXY, NUTCRACKER) if base in result.names]
    rows = [
        [cell.name, thousands(rounds, SIDECAR, cell), *(ratio_text(rounds, SIDECAR, base, cell) for base in bases)]
        for cell in result.measured_cells
        if rounds.has(SIDECAR, cell) and not cell.tls
    ]
    title = "valkey-sidecar, thousands of requests a second, and as a share of the others' in the same round"
    return f"{title}\n" + _table(["", "thousands", *(f"over {base}" for base in bases)], rows)


def _with_tls(result: Result) -> list[str]:
    rounds = result.rounds
    with_tls = [cell for cell in result.measured_cells if cell.tls and rounds.has(SIDECAR, cell)]
    if not with_tls:
        return []
    bases = [base for base in (HAPROXY, REDIS_TLS) if base in result.names]
    rows = []
    for cell in with_tls:
        plain = Cell(cell.command, cell.connections, cell.pipeline)
        ours = [thousands(rounds, SIDECAR, cell), ratio_text(rounds, SIDECAR, SIDECAR, cell, base_cell=plain)]
        rows.append([cell.name, *ours, *(ratio_text(rounds, SIDECAR, base, cell) for base in bases)])
    head = ["", "thousands", "over itself without TLS", *(f"over {base} with TLS" for base in bases)]
    return ["TLS: valkey-sidecar, thousands of requests a second, and shares as above\n" + _table(head, rows)]


def _telemetry(result: Result, core: list[Cell]) -> list[str]:
    rounds = result.rounds
    if OFF not in result.names:
        return []
    rows = []
    for name, what in ((SIDECAR, "metrics (default)"), (SOME_SPANS, SOME_SPANS), (ALL_SPANS, ALL_SPANS)):
        arrived = f"{result.arrived[name]:.2%}" if name in result.arrived else ""
        rows.append([what, *(ratio_text(rounds, name, OFF, cell, 3) for cell in core), arrived])
    return [
        "Telemetry: throughput as a share of that with telemetry off, and the share of spans that arrived\n"
        + _table(["", *(cell.name for cell in core), "arrived"], rows)
    ]


def _workers(result: Result, core: list[Cell]) -> list[str]:
    if TWO_WORKERS not in result.names:
        return []
    row = ["2 workers", *(ratio_text(result.rounds, TWO_WORKERS, SIDECAR, cell) for cell in core)]
    return ["Throughput as a share of that with 1 worker\n" + _table(["", *(cell.name for cell in core)], [row])]


def _latency(result: Result) -> str:
    rounds = result.rounds
    names = [name for name in (BARE, SIDECAR, HOME, HAPROXY, NUTCRACKER, REDIS_TLS) if name in result.names]

    def of(name: str, cell: Cell) -> str:
        if not rounds.has(name, cell):
            return ""
        samples = rounds.of(name, cell)
        return " / ".join(f"{samples.spread(figure).median * 1e6:.0f}" for figure in (p50, p99, p999))

    rows = [[cell.name, *(of(name, cell) for name in names)] for cell in result.measured_cells]
    return "Latency, µs: p50 / p99 / p99.9 (medians of rounds)\n" + _table(["", *names], rows)


def _per_command(spent: Cpu) -> str:
    return f"{spent.user:.2f} + {spent.system:.2f}"


def _processor_time(result: Result, core: Sequence[Cell]) -> str:
    """Of every process under the core loads; the JSON has it for all."""
    rounds = result.rounds
    cells = core or result.measured_cells
    rows = []
    for peer in result.peers:
        for role in _ROLES:
            if role in peer.pids and any(rounds.has(peer.name, cell) for cell in cells):
                costs = [
                    _per_command(rounds.of(peer.name, cell).us_per_command(role)) if rounds.has(peer.name, cell) else ""
                    for cell in cells
                ]
                rows.append([f"{peer.name}: {_ROLE_NAMES[role]}", *costs])
    return "Processor time per command, µs: user + system\n" + _table(["", *(cell.name for cell in cells)], rows)


def allowed_rows(rounds: Rounds, names: Sequence[str], cpus: int) -> list[list[str]]:
    """Of bare Valkey and `names` under the core loads: processor time of all processes, and the share it allows."""
    shown = [name for name in names if all(rounds.has(name, cell) for cell in plan.CORE)]
    rows = [[BARE, *(f"{rounds.of(BARE, cell).us_in_all():.2f}" for cell in plan.CORE)]]
    for name in shown:
        of = [(rounds.of(name, cell), rounds.of(BARE, cell)) for cell in plan.CORE]
        rows.append([name, *(f"{ours.us_in_all():.2f}" for ours, _ in of)])
        shares = (ours.allowed_rate(cpus) / bare.allowed_rate(cpus) for ours, bare in of)
        rows.append([f"{name}: allowed share", *(f"{share:.2f}" for share in shares)])
    return rows


def _allowed(result: Result, core: Sequence[Cell]) -> list[str]:
    if not all(result.rounds.has(BARE, cell) for cell in plan.CORE):
        return []
    rows = allowed_rows(result.rounds, (SIDECAR, HAPROXY, NUTCRACKER), int(result.machine["cpus"]))
    title = (
        "Processor time per command of all processes, redis-benchmark's included, µs; and the share of bare Valkey's "
        f"throughput\nthat it allows on {result.machine['cpus']} processors, were none of them ever idle"
    )
    return [f"{title}\n" + _table(["", *(cell.name for cell in core)], rows)]


def _memory(result: Result) -> str:
    def of(name: str, role: str) -> str:
        memory = result.rounds.memory.get(name, {}).get(role)
        return f"{memory.rss / 1e6:.0f} / {memory.pss / 1e6:.0f}" if memory is not None else ""

    rows = [[name, *(of(name, role) for role in _ROLES)] for name in result.names]
    head = ["", *(_ROLE_NAMES[role] for role in _ROLES)]
    return "Memory after all of this, MB: resident / with shared pages split\n" + _table(head, rows)


def _prototype(result: Result) -> list[str]:
    rounds = result.rounds
    rows = [
        [
            f"{name} ({cell.name})",
            f"{prototype / 1e3:.0f}",
            thousands(rounds, SIDECAR, cell),
            thousands(rounds, BARE, cell),
            ratio_text(rounds, SIDECAR, BARE, cell),
        ]
        for name, prototype, cell in plan.PROTOTYPE
        if rounds.has(SIDECAR, cell)
    ]
    if not rows:
        return []
    return [
        "Beside the first prototype, thousands of requests a second. Its figures are from another machine:\n"
        "bare Valkey in this run says what this one can do.\n"
        + _table(["", "prototype, there", "valkey-sidecar, here", "bare Valkey, here", "share of bare Valkey's"], rows)
    ]


def _standing(result: Result) -> list[str]:
    if not result.standing:
        return []
    return [
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
    ]


def _costs(result: Result) -> list[str]:
    sections = []
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


def _bars(result: Result) -> list[str]:
    if not result.bars:
        return []
    rows = ([bar.promise, bar.measured, bar.limit, "met" if bar.met else "MISSED"] for bar in result.bars)
    return ["Bars\n" + _table(["", "measured", "limit", ""], rows)]
