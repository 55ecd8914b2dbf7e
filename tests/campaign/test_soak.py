"""Seconds of the soak, and that its verdict finds what grows."""

from __future__ import annotations

import pytest

from tests.campaign import soak


def _steady(value: float) -> list[float]:
    return [value / 2, *[value + 0.001 * (i % 7) for i in range(100)]]


def test_seconds_of_it_hold(capsys: pytest.CaptureFixture[str]) -> None:
    """As long as a test may take, memory still warms up: 2 % are for the whole."""
    code = soak.main(["--minutes", "0.15", "--clients", "50", "--percent", "15"])
    said = capsys.readouterr().out
    assert code == 0, said
    assert said.endswith("held\n")


def test_what_is_flat_holds() -> None:
    assert not soak.verdict({"worker MB": _steady(30), "worker descriptors": _steady(9), "records waiting": [0, 9]}, 2)


@pytest.mark.parametrize(
    ("name", "last"), [("worker MB", 31.5), ("worker descriptors", 60.0), ("records waiting", 9000.0)]
)
def test_what_grows_is_named(name: str, last: float) -> None:
    rising = [30 + (last - 30) * i / 200 for i in range(201)]
    (found,) = soak.verdict({name: rising}, 2)
    assert found.startswith(f"{name}: ")


def test_a_peak_is_no_growth() -> None:
    assert not soak.verdict({"supervisor MB": [*_steady(50), 80.0, *_steady(50)[1:]]}, 2)


def test_wrong_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        soak.main(["--minutes", "0"])
    assert end.value.code == 2
    assert "minutes above 0" in capsys.readouterr().err
