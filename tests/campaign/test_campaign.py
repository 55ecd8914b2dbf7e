from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.campaign import __main__ as campaign
from tests.campaign import figures
from tests.campaign.figures import Figure, Row


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A campaign of two small parts, its page in a folder of ours; the folder of its figures."""
    good = "-c \"from tests.campaign.figures import Row, record; record(Row.FAULTS, 2, 'engine killed')\""
    monkeypatch.setattr(
        campaign, "PARTS", (campaign.Part("good", good), campaign.Part("bad", "-c 'raise SystemExit(3)'"))
    )
    monkeypatch.setattr(campaign, "PAGE", tmp_path / "reliability.md")
    monkeypatch.setattr(campaign, "RECORDED", tmp_path / "figures")
    monkeypatch.delenv(figures.VARIABLE, raising=False)
    monkeypatch.setenv(figures.VARIABLE, "")  # so that what main() sets is gone after the test
    return tmp_path / "figures"


def test_a_part_that_fails_is_named_and_stops_no_other(parts: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert campaign.main(["bad", "good"]) == 1
    said = capfd.readouterr().out
    assert "=== bad: FAILED (3)" in said
    assert "=== good: held" in said
    assert "failed: bad" in said
    assert figures.read(parts / "good.jsonl")[0] == Figure(Row.FAULTS, 2, "engine killed")
    assert not (parts / "bad.jsonl").exists()


def test_one_part_alone(parts: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert campaign.main(["good"]) == 0
    assert "bad" not in capfd.readouterr().out


def test_the_page_waits_for_all_parts(parts: Path, capfd: pytest.CaptureFixture[str]) -> None:
    campaign.PAGE.write_text("as it is")
    assert campaign.main(["good", "--page"]) == 1
    assert "reliability.md is left as it is: not held yet: bad" in capfd.readouterr().out
    assert campaign.PAGE.read_text() == "as it is"


def test_the_page_gets_the_figures_and_keeps_its_words(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign.PAGE.write_text("before\n<!-- last campaign -->\nold\n<!-- end -->\nafter\n")
    assert campaign.main(["good"]) == 0
    mended = campaign.Part("bad", "-c 'print(1)'")
    monkeypatch.setattr(campaign, "PARTS", (campaign.PARTS[0], mended))
    assert campaign.main(["bad", "--page"]) == 0
    text = campaign.PAGE.read_text()
    assert text.startswith("before\n<!-- last campaign -->\n")
    assert text.endswith("<!-- end -->\nafter\n")
    assert "old" not in text
    assert "| – engine killed" in text


def test_the_real_page_has_a_place_for_them() -> None:
    page = Path(campaign.__file__).parents[2] / "docs" / "reliability.md"
    assert "faults injected" in campaign.page(page.read_text(), [])


def test_an_unknown_part_is_an_error() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.campaign", "fuz"], cwd=campaign.ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "no such part: fuz" in done.stderr
