from __future__ import annotations

import pytest

from telemetry.exemplars import Exemplars

SECOND = 1_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now_ns = 1_000 * SECOND

    def __call__(self) -> int:
        return self.now_ns


def offer(exemplars: Exemplars, command: str, duration_ns: int) -> None:
    exemplars.offer(command, "", duration_ns, 1_700_000_000 * SECOND, b"t" * 16, b"s" * 8)


def test_each_second_keeps_the_slowest_that_was_offered() -> None:
    clock = Clock()
    exemplars = Exemplars(clock_ns=clock)
    for command, duration_ns in (("GET", 5), ("SET", 9), ("DEL", 7)):
        offer(exemplars, command, duration_ns)
    clock.now_ns += SECOND
    offer(exemplars, "PING", 1)
    assert [(kept.command, kept.duration_ns) for kept in exemplars.recent()] == [("SET", 9), ("PING", 1)]


def test_every_reader_gets_each_exemplar_once_and_takes_it_from_nobody() -> None:
    clock = Clock()
    exemplars = Exemplars(clock_ns=clock)
    first, second = exemplars.reader(), exemplars.reader()
    offer(exemplars, "GET", 5)
    assert [kept.command for kept in first.take()] == ["GET"]
    assert first.take() == []
    offer(exemplars, "SET", 9)  # the same second: the first reader has had its one
    assert first.take() == []
    clock.now_ns += SECOND
    offer(exemplars, "DEL", 1)
    assert [kept.command for kept in first.take()] == ["DEL"]
    assert [kept.command for kept in second.take()] == ["SET", "DEL"]
    assert [kept.command for kept in exemplars.recent()] == ["SET", "DEL"]


def test_exemplars_are_forgotten_after_five_minutes() -> None:
    clock = Clock()
    exemplars = Exemplars(clock_ns=clock)
    for number in range(400):
        offer(exemplars, f"C{number}", 1)
        clock.now_ns += SECOND
    assert [kept.command for kept in exemplars.reader().take()] == [f"C{number}" for number in range(100, 400)]
    clock.now_ns += 250 * SECOND
    assert len(exemplars.recent()) == 49
    clock.now_ns += 50 * SECOND
    assert exemplars.recent() == []


@pytest.mark.parametrize(("filter_", "kept"), [("always_off", 0), ("trace_based", 1), ("always_on", 1)])
def test_the_filter_says_whether_there_are_any(filter_: str, kept: int) -> None:
    exemplars = Exemplars(filter_)
    offer(exemplars, "GET", 5)
    assert len(exemplars.recent()) == len(exemplars.reader().take()) == kept
