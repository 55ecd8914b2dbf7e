"""Made-up measurements for the tests of arithmetic and wording."""

from __future__ import annotations

from bench.load import Cell, Measured
from bench.process import Cpu
from bench.rounds import Rounds


def measured(rate: float, p50_us: float = 100.0, p99_us: float = 300.0, requests: int = 1000) -> Measured:
    """A run; its p99.9 is twice its p99."""
    return Measured(requests, rate, p50_us / 1e6, p99_us / 1e6, 2 * p99_us / 1e6)


def add(
    rounds: Rounds,
    name: str,
    cell: Cell,
    *runs: Measured,
    worker_us: float = 0.0,
    first: int = 0,
) -> None:
    """Runs in rounds `first`, `first` + 1 and so on; worker_us: the front's processor time per command."""
    for number, one in enumerate(runs, first):
        spent = worker_us * one.requests / 1e6
        rounds.add(number, name, cell, one, {"front": Cpu(spent / 2, spent / 2)})
    rounds.count = max(rounds.count, first + len(runs))
