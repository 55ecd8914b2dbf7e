"""A small part of the structured fuzzer, with seeds that never change; and that it would see what it looks for."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.campaign import fuzz
from tests.campaign.comparison import TOO_LARGE, difference
from tests.campaign.conversation import Outcome
from tests.campaign.streams import Stream, any_stream, plain_stream

SAME = Outcome(b"+OK\r\n:1\r\n", closed=True)
STREAM = Stream(b"", 2)


def test_streams_are_answered_and_counted_as_by_a_bare_valkey(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"ROUND": 150, "PLAIN": 40, "WARM_ROUNDS": 1}.items():
        monkeypatch.setattr(fuzz, name, value)
    assert fuzz.main(["--frames", "20000", "--seed", "7"]) == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("stream", "ours"),
    [
        (STREAM, replace(SAME, reply=b"+OK\r\n:2\r\n")),
        (STREAM, replace(SAME, reply=b"+OK\r\n")),
        (STREAM, replace(SAME, closed=False)),
        (STREAM, replace(SAME, hung=True)),
        (replace(STREAM, attack=True), replace(SAME, reply=b"+OK\r\n:2\r\n")),
        (replace(STREAM, quiet=True), replace(SAME, reply=b"+OK\r\n:2\r\n")),
        (STREAM, replace(SAME, reply=b"+NO\r\n" + TOO_LARGE)),
    ],
)
def test_what_is_answered_otherwise_is_a_difference(stream: Stream, ours: Outcome) -> None:
    assert difference(stream, SAME, ours)


@pytest.mark.parametrize(
    ("stream", "ours"),
    [
        (STREAM, SAME),
        (replace(STREAM, attack=True), replace(SAME, reply=b"+OK\r\n")),
        (replace(STREAM, quiet=True), replace(SAME, closed=False)),
        (STREAM, replace(SAME, reply=b"+OK\r\n" + TOO_LARGE)),
    ],
)
def test_what_may_differ_is_none(stream: Stream, ours: Outcome) -> None:
    assert not difference(stream, SAME, ours)


def test_the_id_of_a_client_may_differ() -> None:
    hello = [
        Outcome(b"%%2\r\n$2\r\nid\r\n:%d\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n" % n, closed=True) for n in (7, 123)
    ]
    assert not difference(STREAM, *hello)


def test_a_stream_depends_on_its_seed_and_its_keys_on_its_word() -> None:
    for make in (any_stream, plain_stream):
        one, same = (make(random.Random(3), b"word1") for _ in range(2))
        assert one == same
        assert make(random.Random(3), b"word2").data.replace(b"word2", b"word1") == one.data
        assert make(random.Random(4), b"word1") != one


def test_a_name_of_a_stream_is_refused_where_it_is_none() -> None:
    with pytest.raises(SystemExit, match="2"):
        fuzz.main(["--only", "x"])
