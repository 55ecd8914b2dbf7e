from __future__ import annotations

import pytest

from bench import bars, plan, standing
from bench.bars import Bar
from bench.ledger_cost import Cost
from bench.load import Cell
from bench.peers import BARE, HAPROXY, NUTCRACKER
from bench.process import Memory
from bench.rounds import Rounds, Spread
from bench.span_cost import OURS, SDK, SpanCost
from bench.standing import Standing
from bench.variants import OFF, SIDECAR, SOME_SPANS
from tests.bench.figures import add, measured

_GET = Cell("GET", 50, 1)
_DEEP = Cell("GET", 50, 16)


def _one(judged: list[Bar], promise: str) -> Bar:
    (bar,) = (bar for bar in judged if bar.promise == promise)
    return bar


def _judged(rounds: Rounds) -> list[Bar]:
    return bars.judge(rounds, [], {}, [])


@pytest.mark.parametrize(
    ("cell", "share", "met"), [(_GET, 0.951, True), (_GET, 0.94, False), (_DEEP, 0.91, True), (_DEEP, 0.89, False)]
)
def test_throughput_beside_bare_valkey(cell: Cell, share: float, met: bool) -> None:
    rounds = Rounds()
    add(rounds, BARE, cell, measured(1000))
    add(rounds, SIDECAR, cell, measured(1000 * share))
    assert _one(_judged(rounds), f"throughput over bare Valkey's, {cell.name}").met is met


@pytest.mark.parametrize(("p99_us", "met"), [(389, True), (391, False)])
def test_p99_beside_bare_valkey(p99_us: float, met: bool) -> None:
    rounds = Rounds()
    add(rounds, BARE, _GET, measured(1000, p99_us=300))
    add(rounds, SIDECAR, _GET, measured(1000, p99_us=p99_us))
    assert _one(_judged(rounds), "p99 over bare Valkey's, GET c50 P1").met is met


@pytest.mark.parametrize(("p50_us", "met"), [(69, True), (71, False)])
def test_added_p50_of_one_connection(p50_us: float, met: bool) -> None:
    rounds = Rounds()
    cell = Cell("SET", 1, 1)
    add(rounds, BARE, cell, measured(1000, p50_us=30))
    add(rounds, SIDECAR, cell, measured(1000, p50_us=p50_us))
    assert _one(_judged(rounds), "added p50, SET c1 P1") == Bar(
        "added p50, SET c1 P1", f"{p50_us - 30} µs", "≤ 40 µs", met
    )


def test_ahead_of_a_proxy_means_at_every_kind_of_load() -> None:
    rounds = Rounds()
    for number, cell in enumerate((_GET, _DEEP, Cell("ZADD", 50, 1), Cell("GET", 50, 1, tls=True))):
        add(rounds, SIDECAR, cell, measured(1000))
        add(rounds, HAPROXY, cell, measured(990))
        add(rounds, NUTCRACKER, cell, measured(990 + 20 * (number == 2)))
    judged = _judged(rounds)
    assert _one(judged, "kinds of load at which ahead of HAProxy").met
    bar = _one(judged, "kinds of load at which ahead of nutcracker")
    assert (bar.measured, bar.met) == ("3 of 4; least 0.99, ZADD c50 P1", False)


@pytest.mark.parametrize(
    ("name", "what", "limit"), [(SIDECAR, "metrics on", 0.97), (SOME_SPANS, "metrics and 1% of spans", 0.95)]
)
def test_what_telemetry_may_cost(name: str, what: str, limit: float) -> None:
    for share in (limit + 0.001, limit - 0.001):
        rounds = Rounds()
        add(rounds, OFF, _GET, measured(1000))
        add(rounds, name, _GET, measured(1000 * share))
        bar = _one(_judged(rounds), f"throughput with {what} over telemetry off, GET c50 P1")
        assert bar.met is (share > limit)


@pytest.mark.parametrize(
    ("cell", "spent_us", "met"), [(_GET, 8.9, True), (_GET, 9.1, False), (_DEEP, 0.99, True), (_DEEP, 1.01, False)]
)
def test_processor_time_of_a_worker(cell: Cell, spent_us: float, met: bool) -> None:
    rounds = Rounds()
    add(rounds, SIDECAR, cell, measured(1000), worker_us=spent_us)
    assert _one(_judged(rounds), f"processor time of the worker per command, {cell.name}").met is met


def _standing(pong_s: float, megabytes: int) -> Standing:
    half = Memory(megabytes * 500_000, 0)
    return Standing(Spread(pong_s, pong_s, pong_s), half, half)


def test_start_and_idle_memory() -> None:
    judged = bars.judge(Rounds(), [], {SIDECAR: _standing(0.5, 101), standing.EXPORTING: _standing(0.7, 101)}, [])
    assert {bar.promise: bar.met for bar in judged} == {
        "first PONG after the start": True,
        "idle memory, supervisor and 1 worker": False,
        "first PONG after the start, OTLP gRPC on": False,
        "idle memory, supervisor and 1 worker, OTLP gRPC on": True,
    }


def test_costs_of_the_ledger_and_of_spans() -> None:
    def flat(value: float) -> Spread:
        return Spread(value, value, value)

    costs = [Cost(1, flat(249), flat(50)), Cost(16, flat(61), flat(5))]
    spans = [SpanCost(OURS, flat(99_999), flat(1)), SpanCost(SDK, flat(200_000), flat(1))]
    assert {bar.promise: bar.met for bar in bars.judge(Rounds(), costs, {}, spans)} == {
        "framing and ledger per command, P1": True,
        "framing and ledger per command, P16": False,
        "spans encoded and sent by one core": False,
    }


def test_what_was_not_measured_is_not_judged() -> None:
    rounds = Rounds()
    for cell in plan.CORE:
        add(rounds, BARE, cell, measured(1000))
        add(rounds, HAPROXY, cell, measured(1000))
    assert _judged(rounds) == []
