"""The interleaved rounds of load, and what they gave.

Owns the order of runs and the arithmetic on their results. Never knows how a peer is started or what is good enough.

A machine is not equally fast all the time, so figures of two peers are compared within a round, where they were taken
seconds apart, and the medians of these ratios are what counts; the order changes from round to round.
"""

from __future__ import annotations

import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench import load, plan, process
from bench.data import COMMANDS
from bench.load import Cell, Measured
from bench.peers import Peer
from bench.plan import Part
from bench.process import Cpu, Memory

LOAD = "load"
"""The role of redis-benchmark in what is measured of processor time."""
_NONE = Cpu(0.0, 0.0)
_FEWEST_REQUESTS = 500
# Of the first run, which only finds out how fast a peer is.
_FIRST_REQUESTS = 1500
_FIRST_BATCHED = 16
_FIRST_BYTES = 8_000_000
# A run begins with its connections, and there they take the most.
_LONGER = 2.0
_MANY_CONNECTIONS = 500

Figure = Callable[[Measured], float]


def rate(measured: Measured) -> float:
    """Requests a second."""
    return measured.rate


def p50(measured: Measured) -> float:
    """The median latency in seconds."""
    return measured.p50_s


def p99(measured: Measured) -> float:
    """In seconds."""
    return measured.p99_s


def p999(measured: Measured) -> float:
    """In seconds."""
    return measured.p999_s


@dataclass(frozen=True)
class Spread:
    """A median with the quartiles around it."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(low, median, high)


@dataclass
class Samples:
    """Of one peer under one kind of load: measurements by round, and processor time by role in all of them."""

    measured: dict[int, Measured] = field(default_factory=dict)
    cpu: dict[str, Cpu] = field(default_factory=lambda: defaultdict(lambda: _NONE))

    def spread(self, figure: Figure) -> Spread:
        return Spread.of([figure(one) for one in self.measured.values()])

    @property
    def requests(self) -> int:
        return sum(one.requests for one in self.measured.values())

    def us_per_command(self, role: str) -> Cpu:
        """Microseconds of processor time that the processes of this role spent on a command."""
        return Cpu(self.cpu[role].user / self.requests * 1e6, self.cpu[role].system / self.requests * 1e6)

    def us_in_all(self) -> float:
        """The same of all roles, redis-benchmark's among them."""
        return sum(one.user + one.system for one in self.cpu.values()) / self.requests * 1e6

    def allowed_rate(self, cpus: int) -> float:
        """Requests a second at which all of `cpus` processors, or the busiest role, taken for one thread, never rest.

        What was measured stays below it by the time that processes waited for each other.
        """
        busiest_s = max(one.user + one.system for one in self.cpu.values()) / self.requests
        return 1.0 / max(self.us_in_all() / 1e6 / cpus, busiest_s)


@dataclass
class Rounds:
    """All samples, by peer and cell, and the memory of every peer's processes after them, by role.

    others: the share of the machine's processors that programs of others took meanwhile.
    """

    samples: dict[str, dict[Cell, Samples]] = field(default_factory=dict)
    memory: dict[str, dict[str, Memory]] = field(default_factory=dict)
    count: int = 0
    others: float = 0.0

    def has(self, peer: str, cell: Cell) -> bool:
        return cell in self.samples.get(peer, {})

    def of(self, peer: str, cell: Cell) -> Samples:
        """What was measured. Raises KeyError where nothing was."""
        return self.samples[peer][cell]

    def add(self, number: int, peer: str, cell: Cell, measured: Measured, cpu: dict[str, Cpu]) -> None:
        """Takes what one run gave in round `number`."""
        samples = self.samples.setdefault(peer, {}).setdefault(cell, Samples())
        samples.measured[number] = measured
        for role, spent in cpu.items():
            samples.cpu[role] += spent

    def compared(self, peer: str, base: str, cell: Cell, base_cell: Cell | None = None) -> bool:
        """Whether both were measured in the same round, once at least."""
        return bool(self._pairs(peer, base, cell, base_cell))

    def ratio(self, peer: str, base: str, cell: Cell, figure: Figure = rate, base_cell: Cell | None = None) -> Spread:
        """The peer's figure as a share of the base's, round by round. base_cell: its kind of load, if it is another."""
        return Spread.of([figure(one) / figure(other) for one, other in self._pairs(peer, base, cell, base_cell)])

    def added(self, peer: str, base: str, cell: Cell, figure: Figure) -> Spread:
        """What the peer's figure is above the base's, round by round."""
        return Spread.of([figure(one) - figure(other) for one, other in self._pairs(peer, base, cell)])

    def _pairs(
        self, peer: str, base: str, cell: Cell, base_cell: Cell | None = None
    ) -> list[tuple[Measured, Measured]]:
        if not self.has(peer, cell) or not self.has(base, base_cell or cell):
            return []
        ours, theirs = self.of(peer, cell).measured, self.of(base, base_cell or cell).measured
        return [(ours[number], theirs[number]) for number in ours if number in theirs]


def _cpu(peer: Peer) -> dict[str, Cpu]:
    return {role: sum((process.cpu(pid) for pid in pids), _NONE) for role, pids in peer.pids.items()}


def _memory(peer: Peer) -> dict[str, Memory]:
    return {role: sum((process.memory(pid) for pid in pids), Memory(0, 0)) for role, pids in peer.pids.items()}


def _ours_s(peers: list[Peer]) -> float:
    """Processor time in seconds that is not others': ours, the load's, and that of all peers with what they send to."""
    pids = {pid for peer in peers for role in peer.pids.values() for pid in role}
    pids |= {peer.receiver.pid for peer in peers if peer.receiver is not None}
    spent = sum((process.cpu(pid) for pid in pids), _NONE)
    return process.spent_here_s() + spent.user + spent.system


def _first_requests(cell: Cell) -> int:
    deep = _FIRST_REQUESTS * min(cell.pipeline, _FIRST_BATCHED)
    return min(deep, _FIRST_BYTES // COMMANDS[cell.command].wire_bytes)


def _fewest(cell: Cell) -> int:
    return max(_FEWEST_REQUESTS, 2 * cell.connections * cell.pipeline)


def in_turns(names: list[str], number: int) -> list[str]:
    """The order in a round: another begins each time, and every other round goes backwards, so that nobody always
    follows the same neighbour."""
    if not names:
        return []
    shift = number % len(names)
    order = names[shift:] + names[:shift]
    return order[::-1] if number % 2 else order


def run(
    peers: list[Peer],
    parts: tuple[Part, ...],
    run_s: float,
    limit_s: float,
    certificate: Path | None,
    settle: Callable[[Peer], None],
    progress: Callable[[str], None],
) -> Rounds:
    """As many rounds of the plan as `limit_s` seconds allow, and so many at least that everything was measured once.

    certificate: that of the peers with TLS; settle: called after each run, returns when the peer has done what it left
    for later (its processor time counts).
    """
    begin, busy_s, ours_s = time.monotonic(), process.busy_s(), _ours_s(peers)
    by_name = {peer.name: peer for peer in peers}
    fewest = plan.fewest_rounds(parts)
    requests: dict[tuple[str, Cell], int] = {}
    rounds = Rounds()
    durations_s: list[float] = []

    def once(peer: Peer, port: int, cell: Cell, count: int) -> Measured:
        measured = load.run(cell, port, max(_fewest(cell), count), certificate)
        settle(peer)
        # The next run is as long as it should be, by what this one showed.
        wanted_s = run_s * (_LONGER if cell.tls or cell.connections >= _MANY_CONNECTIONS else 1.0)
        requests[peer.name, cell] = int(measured.rate * wanted_s)
        return measured

    # A round is as long as the last one with the same parts was, at most as long as the longest of the last ones.
    while rounds.count < fewest or time.monotonic() - begin + max(durations_s[-fewest:]) < limit_s:
        round_begin = time.monotonic()
        for cell, names in plan.due(parts, rounds.count).items():
            for name in in_turns([name for name in names if name in by_name], rounds.count):
                peer = by_name[name]
                port = peer.port_for(cell)
                if port is None:
                    continue
                if (name, cell) not in requests:
                    once(peer, port, cell, _first_requests(cell))
                before = _cpu(peer) | {LOAD: process.spent_by_children()}
                measured = once(peer, port, cell, requests[name, cell])
                after = _cpu(peer) | {LOAD: process.spent_by_children()}
                spent = {role: after[role] - before[role] for role in after}
                rounds.add(rounds.count, name, cell, measured, spent)
        rounds.count += 1
        durations_s.append(time.monotonic() - round_begin)
        progress(f"round {rounds.count}: {time.monotonic() - begin:.0f} s")
    others_s = process.busy_s() - busy_s - (_ours_s(peers) - ours_s)
    rounds.others = max(0.0, others_s) / ((time.monotonic() - begin) * (os.cpu_count() or 1))
    rounds.memory = {peer.name: _memory(peer) for peer in peers}
    return rounds
