"""The interleaved rounds of load, and what they gave.

Owns the order of runs and the arithmetic on their results. Never knows how a peer is started or what is good enough.

A machine is not equally fast all the time, so figures of two peers are compared within a round, where they were taken
seconds apart, and the medians of these ratios are what counts; the order changes from round to round.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench import load, process
from bench.load import CELLS, Cell, Measured
from bench.peers import Peer
from bench.process import Cpu

_NONE = Cpu(0.0, 0.0)
_FEWEST_ROUNDS = 3
_FEWEST_REQUESTS = 500
_CALIBRATION_REQUESTS_PER_BATCH = 1500


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
    """Of one peer under one kind of load: a measurement a round, and the front's processor time in all of them."""

    measured: list[Measured] = field(default_factory=list)
    front: Cpu = _NONE

    @property
    def rates(self) -> list[float]:
        return [one.rate for one in self.measured]

    @property
    def p50s(self) -> list[float]:
        return [one.p50_s for one in self.measured]

    def front_us_per_command(self) -> Cpu:
        """Microseconds of processor time that the front spent on a command."""
        requests = sum(one.requests for one in self.measured)
        return Cpu(self.front.user / requests * 1e6, self.front.system / requests * 1e6)


@dataclass
class Rounds:
    """All samples, by peer and cell. Lists of different peers have the same length: one entry a round."""

    samples: dict[str, dict[Cell, Samples]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return min((len(s.measured) for cells in self.samples.values() for s in cells.values()), default=0)

    def of(self, peer: str, cell: Cell) -> Samples:
        return self.samples.setdefault(peer, {}).setdefault(cell, Samples())

    def rate_ratio(self, peer: str, base: str, cell: Cell) -> Spread:
        """How the peer's throughput compares with the base's, round by round."""
        pairs = zip(self.of(peer, cell).rates, self.of(base, cell).rates, strict=True)
        return Spread.of([ours / theirs for ours, theirs in pairs])

    def added_p50_s(self, peer: str, base: str, cell: Cell) -> Spread:
        """Seconds that the peer adds to the base's median latency, round by round."""
        pairs = zip(self.of(peer, cell).p50s, self.of(base, cell).p50s, strict=True)
        return Spread.of([ours - theirs for ours, theirs in pairs])


def _front_cpu(peer: Peer) -> Cpu:
    return sum((process.cpu(pid) for pid in peer.front), _NONE)


def _calibrate(
    peers: list[Peer], cells: Sequence[Cell], run_s: float, settle: Callable[[Peer], None]
) -> dict[tuple[str, Cell], int]:
    """How many requests each peer answers in about `run_s` seconds. SET comes first, so that GET finds its key."""
    requests = {}
    for cell in cells:
        for peer in peers:
            first = load.run(cell, peer.port, _CALIBRATION_REQUESTS_PER_BATCH * cell.pipeline)
            requests[peer.name, cell] = max(_FEWEST_REQUESTS, int(first.rate * run_s))
            settle(peer)
    return requests


def _nothing(_peer: Peer) -> None:
    """A peer that has answered has no more to do."""


def run(
    peers: list[Peer],
    run_s: float,
    limit_s: float,
    progress: Callable[[str], None],
    cells: Sequence[Cell] = CELLS,
    settle: Callable[[Peer], None] = _nothing,
) -> Rounds:
    """As many rounds as `limit_s` seconds allow, three at least; in each every peer meets every cell for `run_s`.

    settle: called after each run; returns when the peer has done what it left for later.
    """
    begin = time.monotonic()
    requests = _calibrate(peers, cells, run_s, settle)
    rounds = Rounds()
    longest_s = 0.0
    number = 0
    while number < _FEWEST_ROUNDS or time.monotonic() - begin + longest_s < limit_s:
        round_begin = time.monotonic()
        shift = number % len(peers)
        order = peers[shift:] + peers[:shift]
        # Every other round goes backwards, so that nobody always follows the same neighbour.
        if number % 2:
            order.reverse()
        for cell in cells:
            for peer in order:
                before = _front_cpu(peer)
                measured = load.run(cell, peer.port, requests[peer.name, cell])
                samples = rounds.of(peer.name, cell)
                samples.measured.append(measured)
                samples.front += _front_cpu(peer) - before
                settle(peer)
        number += 1
        longest_s = max(longest_s, time.monotonic() - round_begin)
        progress(f"round {number}: {time.monotonic() - begin:.0f} s")
    return rounds
