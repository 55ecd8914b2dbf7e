from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest

from bench import load, rounds
from bench.load import Cell, Measured
from bench.peers import Peer
from bench.plan import Part
from bench.process import Cpu
from bench.rounds import Rounds, Samples, Spread, p50, p99, rate
from tests.bench.figures import add, measured

_GET, _TLS = Cell("GET", 50, 1), Cell("GET", 50, 1, tls=True)


def test_a_spread_is_the_median_with_the_quartiles() -> None:
    assert Spread.of([4.0, 1.0, 2.0, 3.0, 5.0]) == Spread(2.0, 3.0, 4.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)


def test_a_ratio_is_taken_within_a_round() -> None:
    """The machine got four times as fast: the ratio of the medians would be 1.25."""
    taken = Rounds()
    add(taken, "ours", _GET, measured(50), measured(200), measured(200))
    add(taken, "bare", _GET, measured(100), measured(400), measured(160))
    assert taken.ratio("ours", "bare", _GET) == Spread.of([0.5, 0.5, 1.25])


def test_rounds_in_which_only_one_was_measured_are_left_out() -> None:
    taken = Rounds()
    add(taken, "ours", _GET, measured(50), measured(60))
    add(taken, "bare", _GET, measured(100), first=1)
    add(taken, "late", _GET, measured(100), first=2)
    assert taken.ratio("ours", "bare", _GET) == Spread.of([0.6])
    assert not taken.compared("ours", "late", _GET)
    assert not taken.compared("ours", "nobody", _GET)
    assert not taken.compared("ours", "bare", _TLS)


def test_latencies_are_compared_in_the_same_way() -> None:
    taken = Rounds()
    add(taken, "ours", _GET, measured(1, p50_us=150, p99_us=300))
    add(taken, "bare", _GET, measured(1, p50_us=100, p99_us=200))
    assert taken.ratio("ours", "bare", _GET, p99).median == pytest.approx(1.5)
    assert taken.added("ours", "bare", _GET, p50).median == pytest.approx(50e-6)


def test_a_peer_is_compared_with_itself_under_another_kind_of_load() -> None:
    taken = Rounds()
    add(taken, "ours", _GET, measured(100))
    add(taken, "ours", _TLS, measured(40))
    assert taken.ratio("ours", "ours", _TLS, rate, _GET).median == pytest.approx(0.4)


def test_processor_time_per_command_is_that_of_all_rounds() -> None:
    taken = Rounds()
    taken.add(0, "ours", _GET, measured(1, requests=1000), {"front": Cpu(0.001, 0.002), "engine": Cpu(0.0, 0.004)})
    taken.add(1, "ours", _GET, measured(1, requests=3000), {"front": Cpu(0.003, 0.002), "engine": Cpu(0.0, 0.0)})
    samples = taken.of("ours", _GET)
    assert samples.us_per_command("front") == Cpu(pytest.approx(1.0), pytest.approx(1.0))
    assert samples.us_per_command("engine") == Cpu(0.0, pytest.approx(1.0))


def test_the_processors_allow_what_their_time_or_that_of_the_busiest_process_does() -> None:
    taken = Rounds()
    spent = {"load": Cpu(0.002, 0.002), "front": Cpu(0.001, 0.002), "engine": Cpu(0.004, 0.001)}
    taken.add(0, "ours", _GET, measured(1, requests=1000), spent)
    samples = taken.of("ours", _GET)
    assert samples.us_in_all() == pytest.approx(12.0)
    assert samples.allowed_rate(2) == pytest.approx(2 / 12e-6)
    assert samples.allowed_rate(16) == pytest.approx(1 / 5e-6)


def test_nobody_always_follows_the_same_neighbour() -> None:
    orders = [rounds.in_turns(["a", "b", "c"], number) for number in range(6)]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert {order[0] for order in orders} == {"a", "b", "c"}
    assert {first for order in orders for first, second in pairwise(order) if second == "a"} == {"b", "c"}
    assert rounds.in_turns([], 3) == []


class _Load:
    """In place of redis-benchmark: 1,000 requests a second at port 1, 2,000 at port 2; remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, int]] = []

    def run(self, cell: Cell, port: int, requests: int, _certificate: Path | None) -> Measured:
        self.asked.append((cell.name, port, requests))
        return measured(1000 * port, requests=requests)


def _run(monkeypatch: pytest.MonkeyPatch, *parts: Part) -> tuple[Rounds, _Load, list[str]]:
    generator, settled = _Load(), []
    monkeypatch.setattr(load, "run", generator.run)
    peers = [Peer("ours", 1, "1.0", {"front": [os.getpid()]}, tls_port=1), Peer("bare", 2, "1.0")]
    taken = rounds.run(peers, parts, 4.0, 0.0, None, lambda peer: settled.append(peer.name), lambda _line: None)
    return taken, generator, settled


def test_everything_is_measured_once_however_short_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Cell("SET", 1, 1)
    parts = Part("core", [_GET], ("ours", "bare", "not installed")), Part("more", [small], ("ours",), every=3)
    taken, _, settled = _run(monkeypatch, *parts)
    assert taken.count == 3
    assert {name: set(cells) for name, cells in taken.samples.items()} == {"ours": {_GET, small}, "bare": {_GET}}
    assert [len(taken.of(name, _GET).measured) for name in ("ours", "bare")] == [3, 3]
    assert len(taken.of("ours", small).measured) == 1
    # After every run, and after the first one of each, which only finds out how fast it is.
    assert len(settled) == 3 + 3 + 1 + 3
    assert taken.memory["ours"]["front"].rss > 0


def test_each_peer_gets_as_many_requests_as_it_answers_in_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, generator, _ = _run(monkeypatch, Part("core", [_GET], ("ours", "bare")))
    assert [(port, requests) for _, port, requests in generator.asked] == [(1, 1500), (1, 4000), (2, 1500), (2, 8000)]
    assert taken.of("ours", _GET).requests == 4000


def test_tls_meets_only_who_speaks_it_and_twice_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, generator, _ = _run(monkeypatch, Part("TLS", [_TLS], ("ours", "bare")))
    assert set(taken.samples) == {"ours"}
    assert generator.asked[-1] == ("GET c50 P1 TLS", 1, 8000)


def test_a_sample_that_nobody_took_is_an_error() -> None:
    with pytest.raises(KeyError):
        Rounds().of("ours", _GET)
    assert not Rounds().has("ours", _GET)
    assert Samples().requests == 0
