from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import page, plan
from bench.load import Cell
from bench.page import PageError
from bench.peers import BARE
from bench.process import Cpu
from bench.result import Result, as_json
from bench.rounds import Rounds
from bench.variants import SIDECAR
from tests.bench.figures import add, measured

_PAGE = Path(__file__).parents[2] / "docs/performance.md"
_DEEP = Cell("GET", 50, 16)


@pytest.fixture
def document() -> dict[str, object]:
    rounds = Rounds(others=0.4)
    for cell in (*plan.CORE, Cell("ZADD", 50, 1)):
        add(rounds, BARE, cell, measured(100_000), measured(200_000), worker_us=4)
        add(rounds, SIDECAR, cell, measured(90_000), measured(190_000), worker_us=3)
    rounds.memory = {BARE: {}, SIDECAR: {}}
    result = Result([], [], plan.PARTS, rounds, [], {}, {}, [], [])
    found: dict[str, object] = json.loads(as_json(result))
    return found | {"peers": {BARE: "9.1.2"}}


def test_what_was_measured_is_read_back(document: dict[str, object]) -> None:
    rounds = page.rounds_of(document)
    assert rounds.count == 2
    assert [one.rate for one in rounds.of(SIDECAR, _DEEP).measured.values()] == [90_000, 190_000]
    assert rounds.of(SIDECAR, _DEEP).us_per_command("front") == Cpu(pytest.approx(1.5), pytest.approx(1.5))


def test_the_page_gets_the_tables_of_the_run_and_keeps_its_text(document: dict[str, object]) -> None:
    before = _PAGE.read_text()
    after = page.renewed(before, document)
    assert "| ZADD c50 P1 | 140.0 | 0.93 (0.91–0.94) |" in after
    assert "| valkey-sidecar: worker | 1.50 + 1.50 |" in after
    assert "| valkey-sidecar: allowed share | 1.33 |" in after
    assert "Programs of others took 40% of the processors meanwhile." in after
    assert page._MARKED.sub("", after) == page._MARKED.sub("", before)
    assert page.renewed(after, document) == after


def test_a_page_without_one_of_the_tables_is_refused(document: dict[str, object]) -> None:
    without = _PAGE.read_text().replace("<!-- memory -->", "<!-- storage -->")
    with pytest.raises(PageError, match="storage"):
        page.renewed(without, document)


def test_a_result_that_is_none_is_one_line_and_the_page_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "result.json").write_text("nothing")
    (tmp_path / "page.md").write_text("text")
    words = ["bench.page", str(tmp_path / "result.json"), "--page", str(tmp_path / "page.md")]
    monkeypatch.setattr("sys.argv", words)
    assert page.main() == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert (tmp_path / "page.md").read_text() == "text"
