from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

from bench import bars, picture, plan, report
from bench.ledger_cost import Cost
from bench.load import Cell
from bench.peers import BARE, HAPROXY, NUTCRACKER, REDIS_TLS, Peer
from bench.process import Memory
from bench.result import Result, as_json
from bench.rounds import Rounds, Spread
from bench.span_cost import OURS, SpanCost
from bench.standing import Standing
from bench.variants import HOME, OFF, SIDECAR, SOME_SPANS, TWO_WORKERS
from tests.bench.figures import add, measured

_RATES = {BARE: 1000, SIDECAR: 950, HOME: 600, OFF: 1000, SOME_SPANS: 900, TWO_WORKERS: 1900, HAPROXY: 500}
_ZADD, _TLS = Cell("ZADD", 50, 1), Cell("GET", 50, 1, tls=True)


def _result(*names: str) -> Result:
    """All of these have met the core loads, twice; ours and bare Valkey ZADD, and ours TLS, once."""
    rounds = Rounds(others=0.25)
    for name in names:
        for cell in plan.CORE:
            runs = [measured(_RATES[name] * 100 * share, p50_us=120, p99_us=340) for share in (1, 2)]
            add(rounds, name, cell, *runs, worker_us=2.5)
        rounds.memory[name] = {"front": Memory(20_000_000, 10_000_000)}
    if SIDECAR in names:
        add(rounds, SIDECAR, _ZADD, measured(56_000), first=1)
        add(rounds, BARE, _ZADD, measured(70_000), first=1)
        add(rounds, SIDECAR, _TLS, measured(47_500), first=1)
        add(rounds, REDIS_TLS, _TLS, measured(95_000), first=1)
    flat = Spread(30.0, 31.0, 32.0)
    costs = [Cost(1, flat, flat)]
    standing = {BARE: Standing(Spread(0.1, 0.1, 0.1), Memory(0, 0), Memory(7_000_000, 5_000_000))}
    spans = [SpanCost(OURS, Spread(1e5, 2e5, 3e5), Spread(1e5, 2e5, 3e5))]
    peers = [Peer(name, 1, "9.1", {"front": [1]}) for name in (*names, REDIS_TLS)]
    judged = bars.judge(rounds, costs, standing, spans)
    arrived = {SOME_SPANS: 0.995} if SOME_SPANS in names else {}
    return Result(
        peers, [f"{NUTCRACKER}: not installed"], plan.PARTS, rounds, costs, standing, arrived, spans, judged, 12.0
    )


@pytest.fixture
def result() -> Result:
    return _result(*_RATES)


def _line(text: str, title: str, first: str) -> list[str]:
    """The columns of one line in the table under a title; columns are two blanks apart."""
    table = text[text.index(title) :].split("\n\n")[0]
    (line,) = (line for line in table.splitlines() if line.startswith(f"{first} "))
    return [cell.strip() for cell in line[len(first) :].split("  ") if cell.strip()]


def test_the_head_says_what_the_figures_depend_on(result: Result) -> None:
    head = report.text(result).split("\n\n")[0]
    assert "2 rounds in 12 s" in head
    assert "Other programs took 25% of the processors meanwhile." in head
    assert "nutcracker: not installed" in head


def test_throughput_and_shares_of_bare_valkeys(result: Result) -> None:
    text = report.text(result)
    assert _line(text, "Requests a second", HAPROXY) == ["75.0"] * 4
    assert _line(text, "Throughput as a share of bare Valkey's", HAPROXY) == ["0.50 (0.50–0.50)"] * 4
    assert _line(text, "Throughput as a share of that with 1 worker", "2 workers") == ["2.00 (2.00–2.00)"] * 4


def test_every_kind_of_load_has_its_line(result: Result) -> None:
    title = "valkey-sidecar, thousands of requests a second"
    assert _line(report.text(result), title, "ZADD c50 P1") == ["56.0", "0.80 (0.80–0.80)"]
    ours = ["142.5", "0.95 (0.95–0.95)", "1.58 (1.58–1.58)", "1.90 (1.90–1.90)"]
    assert _line(report.text(result), title, "GET c50 P16") == ours


def test_tls_is_beside_itself_without_and_beside_who_speaks_it(result: Result) -> None:
    ours = ["47.5", "0.25 (0.25–0.25)", "0.50 (0.50–0.50)"]
    assert _line(report.text(result), "TLS: valkey-sidecar", "GET c50 P1 TLS") == ours


def test_telemetry_is_beside_telemetry_off(result: Result) -> None:
    text = report.text(result)
    assert _line(text, "Telemetry:", "metrics (default)") == ["0.950 (0.950–0.950)"] * 4
    assert _line(text, "Telemetry:", "1% of spans") == [*["0.900 (0.900–0.900)"] * 4, "99.50%"]


def test_latency_processor_time_and_memory(result: Result) -> None:
    text = report.text(result)
    assert _line(text, "Latency", "ZADD c50 P1") == ["100 / 300 / 600"] * 2
    assert _line(text, "Processor time", "HAProxy: workers or proxy") == ["1.25 + 1.25"] * 4
    assert _line(text, "Processor time per command of all", "HAProxy")[0] == "2.50"
    assert _line(text, "Memory", "HAProxy") == ["20 / 10"]


def test_the_prototype_stands_beside_ours_and_bare_valkey(result: Result) -> None:
    line = _line(report.text(result), "Beside the first prototype", "sorted sets (ZADD c50 P1)")
    assert line == ["112", "56.0", "70.0", "0.80 (0.80–0.80)"]


def test_a_missed_bar_is_seen(result: Result) -> None:
    text = report.text(result)
    assert _line(text, "Bars", "throughput over bare Valkey's, GET c50 P1") == ["0.95", "≥ 0.95", "met"]
    assert _line(text, "Bars", "processor time of the worker per command, GET c50 P16")[-1] == "MISSED"


def test_a_run_without_ours_and_without_proxies_is_reported() -> None:
    text = report.text(_result(BARE))
    assert _line(text, "Requests a second", BARE) == ["150.0"] * 4
    assert "Telemetry" not in text
    assert "prototype" not in text


def test_the_json_has_every_measurement_and_the_ratios(result: Result) -> None:
    document = json.loads(as_json(result))
    assert document["loads"][SIDECAR]["GET c50 P1"]["by_round"]["1"]["rate"] == 190_000
    assert document["loads"][SIDECAR]["GET c50 P1"]["cpu_s"]["front"] == {"user": 0.0025, "system": 0.0025}
    assert document["ratios"][SIDECAR][HAPROXY]["GET c50 P1"]["rate"] == {"low": 1.9, "median": 1.9, "high": 1.9}
    assert document["ratios"][SIDECAR][REDIS_TLS]["GET c50 P1 TLS"]["p99"]["median"] == 1.0
    assert document["memory"][HAPROXY] == {"front": {"rss": 20_000_000, "pss": 10_000_000}}
    assert document["prototype_rates"]["GET"] == 168_000
    assert {bar["promise"] for bar in document["bars"]} == {bar.promise for bar in result.bars}


def test_the_pictures_show_every_peer_and_every_kind_of_load(result: Result) -> None:
    pictures = picture.all_of(result)
    assert set(pictures) == {"throughput.svg", "ratios.svg"}
    texts = {name: "\n".join(node.text or "" for node in ET.fromstring(svg).iter()) for name, svg in pictures.items()}
    variants = {HOME, OFF, SOME_SPANS, TWO_WORKERS}
    shown = {f"valkey-sidecar, {name}" if name in variants else name for name in _RATES}
    assert shown <= set(texts["throughput.svg"].splitlines())
    assert "142k" in texts["throughput.svg"].splitlines()
    assert "ZADD c50 P1" in texts["ratios.svg"].splitlines()
    assert "GET c50 P1 TLS" not in texts["ratios.svg"]


def test_in_the_picture_twice_as_fast_is_as_far_from_one_as_half_as_fast() -> None:
    rounds = Rounds()
    for name, own in ((SIDECAR, 1000), (BARE, 500), (HAPROXY, 1000), (NUTCRACKER, 2000)):
        add(rounds, name, _ZADD, measured(own))
    dots = ET.fromstring(picture.ratios(rounds, [_ZADD], "")).findall("{*}circle")
    twice, same, half = (float(dot.attrib["cx"]) for dot in dots)
    assert twice - same == pytest.approx(same - half, abs=0.2)
    assert twice > same


def test_without_measurements_there_is_no_picture() -> None:
    assert picture.all_of(Result([], [], plan.PARTS, Rounds(), [], {}, {}, [], [])) == {}
