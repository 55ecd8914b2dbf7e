from __future__ import annotations

from bench import plan
from bench.data import COMMANDS
from bench.load import Cell
from bench.peers import BARE, HAPROXY, NUTCRACKER, REDIS_TLS
from bench.plan import Part
from bench.variants import SIDECAR, VARIANTS

_GET, _SET = Cell("GET", 50, 1), Cell("SET", 50, 1)


def test_the_core_is_in_every_round_and_all_of_the_plan_in_the_fewest() -> None:
    fewest = plan.fewest_rounds(plan.PARTS)
    rounds = [plan.due(plan.PARTS, number) for number in range(fewest)]
    assert all(cell in due and BARE in due[cell] and SIDECAR in due[cell] for due in rounds for cell in plan.CORE)
    met = {(cell, name) for due in rounds for cell, names in due.items() for name in names}
    assert met == {(cell, name) for part in plan.PARTS for cell in part.cells for name in part.peers}


def test_the_plan_has_every_value_of_every_factor() -> None:
    cells = plan.every_cell(plan.PARTS)
    assert {cell.connections for cell in cells} == {1, 50, 500}
    assert {cell.pipeline for cell in cells} == {1, 16, 100}
    assert {cell.command for cell in cells} == set(COMMANDS)
    assert {cell.tls for cell in cells} == {False, True}
    names = {name for part in plan.PARTS for name in part.peers}
    assert names == {variant.name for variant in VARIANTS} | {BARE, HAPROXY, NUTCRACKER, REDIS_TLS}


def test_ours_meets_every_kind_of_load_in_the_same_rounds_as_what_it_is_compared_with() -> None:
    for part in plan.PARTS:
        bases = {HAPROXY, REDIS_TLS} if any(cell.tls for cell in part.cells) else {BARE, HAPROXY, NUTCRACKER}
        if not set(part.cells) & set(plan.CORE):
            assert bases | {SIDECAR} <= set(part.peers)


def test_a_round_has_each_peer_once_for_a_kind_of_load() -> None:
    parts = (Part("one", [_GET], ("a", "b")), Part("two", [_GET, _SET], ("b", "c"), every=2))
    assert plan.due(parts, 0) == {_GET: ["a", "b"]}
    assert plan.due(parts, 1) == {_GET: ["a", "b", "c"], _SET: ["b", "c"]}


def test_the_full_product_has_every_combination_that_fits_into_memory() -> None:
    cells = plan.every_cell(plan.full())
    combinations = len(COMMANDS) * 9 * 2
    left_out = combinations - len(cells)
    assert len(set(cells)) == len(cells)
    assert max(cell.in_flight_bytes for cell in cells) <= 64_000_000
    # 500 connections × 100 × 1 KB and more, and 500 × 16 × 10 KB.
    assert left_out == 2 * (4 + 2)
    assert plan.fewest_rounds(plan.full()) == 1


def test_the_prototypes_loads_are_measured_with_ours_and_bare_valkey() -> None:
    for _, _, cell in plan.PROTOTYPE:
        peers = {name for part in plan.PARTS if cell in part.cells for name in part.peers}
        assert {SIDECAR, BARE} <= peers
