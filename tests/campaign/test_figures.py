from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaign import figures
from tests.campaign.figures import Figure, Row


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "figures"
    monkeypatch.setenv(figures.VARIABLE, str(path))
    return path


def test_what_was_recorded_is_added_up_by_row_and_by_name(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures.record(Row.FAULTS, 2, "worker killed")
    figures.record(Row.FAULTS, 1, "engine killed")
    figures.record(Row.FAULTS, 3, "worker killed")
    figures.record(Row.WRITES_ACKNOWLEDGED, 12_345)
    assert figures.main([str(file)]) == 0
    lines = [line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert ["faults injected", "6"] in lines
    assert ["– worker killed", "5"] in lines
    assert ["– engine killed", "1"] in lines
    assert ["writes acknowledged", "12,345"] in lines
    assert ["writes lost", "0"] in lines
    assert not any("−" in line[0] for line in lines)


@pytest.mark.parametrize("row", sorted(figures.MUST_BE_ZERO, key=lambda row: row.name))
def test_what_has_to_be_0_and_is_not_fails(row: Row, file: Path) -> None:
    figures.record(row, 0)
    assert figures.main([str(file)]) == 0
    figures.record(row, 1)
    assert figures.main([str(file)]) == 1


def test_without_the_variable_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(figures.VARIABLE, raising=False)
    figures.record(Row.FAULTS, 1)


@pytest.mark.parametrize("line", ["", "[]", '["NONE", 1, ""]', '["FAULTS", "x", ""]', '{"a": 1}'])
def test_a_line_that_is_no_figure_is_named(line: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures.record(Row.FAULTS, 1)
    with file.open("a") as text:
        text.write(line + "\n")
    assert figures.main([str(file)]) == 2
    assert f"{file}, line 2: not a figure" in capsys.readouterr().err


def test_a_page_has_the_same_table() -> None:
    text = figures.table([Figure(Row.FAULTS, 1, "engine killed")], "github")
    assert "| – engine killed" in text
    assert "| faults injected" in text
