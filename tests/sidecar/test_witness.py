from __future__ import annotations

import pytest

from sidecar.witness import Entry, Question, Row, answer, arguments, request_size
from tests.sidecar.relay.traced import command

_NOW_S = 1_700_000_000
_MS = 1_000_000


def entry(name: str, size: int | None, took_ms: float, client: str = "", when: int = _NOW_S) -> Entry:
    return Entry(1, when, round(took_ms * 1000), name, 1, client, size)


def question(*rows: Row, waited_ms: int = 50, shared: bool = False) -> Question:
    until_ns = _NOW_S * 1000 * _MS + 500 * _MS
    return Question(until_ns - waited_ms * _MS, until_ns, shared, 10 * _MS, rows)


GET, EVAL = Row("GET", 20, 5, 0), Row("EVAL", 80, 4, 1)


def test_the_entry_says_which_of_the_rows_it_was_and_is_told_with_it() -> None:
    found = entry("EVAL", 80, 48)
    assert answer(question(GET, EVAL), [found]) == {1: 48 * _MS}
    assert found.told


@pytest.mark.parametrize(
    "other",
    [
        entry("EVAL", 81, 48),
        entry("EVAL", 80, 90),
        entry("EVAL", 80, 48, when=_NOW_S - 2),
        entry("EVAL", 80, 48, when=_NOW_S + 2),
        entry("EVAL", 80, 48, client="valkey-sidecar-lane"),
        entry("FCALL", 80, 48),
    ],
    ids=["another length", "too long", "before", "after", "another connection", "another command"],
)
def test_an_entry_of_another_command_is_nobodys(other: Entry) -> None:
    assert answer(question(GET, EVAL), [other]) == {}
    assert not other.told


def test_an_entry_is_told_once() -> None:
    found = entry("EVAL", 80, 48)
    assert answer(question(GET, EVAL), [found]) == {1: 48 * _MS}
    assert answer(question(GET, EVAL), [found]) == {}


def test_a_command_that_took_little_of_the_time_is_no_culprit_beside_others() -> None:
    short = entry("GET", 20, 1)
    assert answer(question(GET, EVAL), [short, entry("EVAL", 80, 45)]) == {1: 45 * _MS}
    assert not short.told
    assert answer(question(GET), [short]) == {0: _MS}
    assert short.told


def test_commands_of_a_transaction_are_its_own() -> None:
    rows = (GET, Row("SET", 30, 5, 3), Row("EVAL", 80, 4, 3), Row("EXEC", 14, 20, 3))
    assert answer(question(*rows), [entry("SET", 30, 5), entry("EVAL", 80, 40)]) == {3: 45 * _MS}


def test_entries_come_in_the_order_of_the_replies() -> None:
    rows = [Row("SORT", 30, size, number) for number, size in enumerate((5, 900, 5, 70))]
    assert answer(question(*rows), [entry("SORT", 30, 30)]) == {1: 30 * _MS}
    assert answer(question(*rows), [entry("SORT", 30, 20), entry("SORT", 30, 25)]) == {1: 20 * _MS, 3: 25 * _MS}


@pytest.mark.parametrize(
    "words", [["GET", "key"], ["SET", "key", ""], ["EVAL", "x" * 128, "0"], ["EVAL", "x" * 5000, "0", "ä"]]
)
def test_the_size_of_a_request_is_read_from_what_the_log_shows_of_it(words: list[str]) -> None:
    shown = [w.encode() if len(w) <= 128 else w[:128].encode() + b"... (%d more bytes)" % (len(w) - 128) for w in words]
    assert request_size(shown) == len(command(*words))
    assert arguments(shown) == len(words) - 1


def test_what_the_log_does_not_show_has_no_size() -> None:
    assert request_size([b"AUTH", b"(redacted)"]) is None
    shown = [b"MGET", *[b"k"] * 30, b"... (20 more arguments)"]
    assert request_size(shown) is None
    assert arguments(shown) == 50
