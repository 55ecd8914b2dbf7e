"""A small part of the byte-level fuzzer, with a seed that never changes; and that it would see what it looks for."""

from __future__ import annotations

import random

import pytest

from tests.campaign import framer_fuzz, sanitized
from tests.campaign.framer_inputs import Corpus, cuts, replies, requests
from tests.campaign.reference_framers import replies as reference_replies
from tests.campaign.reference_framers import requests as reference_requests

NAMES = {b"GET": "GET", b"CONFIG": "CONFIG", b"CONFIG\0GET": "CONFIG GET"}


def test_the_compiled_framers_pass_the_sanitizers_and_agree_with_the_reference(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert framer_fuzz.main(["--frames", "60000", "--seed", "7"]) == 0, capfd.readouterr()


def test_a_framer_that_finds_something_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"*1\r\n$3\r\nGET\r\n"
    checks = framer_fuzz.Checks.__new__(framer_fuzz.Checks)
    right = [("frame", "GET", 1, False, len(data))]
    for found in [], [("frame", "SET", 1, False, len(data))], [("frame", "GET", 1, False, 5)], [*right, ("broken",)]:
        checks.kinds = {b"q": (lambda _data, _places, found=found: found, lambda _data: right)}
        with pytest.raises(framer_fuzz.Difference, match="reference"):
            checks.check(b"q", data, [3])
    checks.kinds = {b"q": (lambda _data, places: [] if places else right, lambda _data: right)}
    with pytest.raises(framer_fuzz.Difference, match="cut at"):
        checks.check(b"q", data, [3])


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert framer_fuzz.main(["--frames", "1"]) == 1
    assert "no no-such-compiler" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "events"),
    [
        (b"*1\r\n$3\r\nGET\r\n*1", [("frame", "GET", 1, False, None, 13)]),
        (b"*2\rx$6\r\nconfig\r\n$3\r\nget\r\n", [("frame", "CONFIG GET", 2, True, None, 25)]),
        (b"*2\r\n$6\r\nCONFIG\r\n$1\r\nx\r\n", [("frame", "_OTHER", 2, False, None, 23)]),
        (b"*2\r\n$3\r\nGET\r\n$20\r\n" + b"k" * 20 + b"\r\n", [("frame", "GET", 2, False, b"k" * 16, 40)]),
        (b"ping\n*0\r\n*-1\r\n*01", [("inline", 5), ("empty", 4), ("empty", 5), ("broken",)]),
        (b"*1\r\n$-1\r", []),
        (b"*1\r\n$-1\r\n", [("broken",)]),
        (b"*1\r\n$1048577\r\nGET\0", [("broken",)]),
    ],
)
def test_the_reference_knows_requests(data: bytes, events: list[object]) -> None:
    assert reference_requests(data, NAMES, frozenset({b"CONFIG"})) == events


@pytest.mark.parametrize(
    ("data", "events"),
    [
        (b"+OK\r\n:-7\r\n$-1\r\n", [("frame", "+", b"OK\r", 5), ("frame", ":", -7, 5), ("frame", "$", True, 5)]),
        (b"*2\r\n$1\r\nx\r\n_\r\n", [("frame", "*", (False, 2, 1, b"x"), 14)]),
        (b"|1\r\n+a\r\n+b\r\n%1\r\n_\r\n:1\r\n+", [("frame", "%", (False, 2, 1), 23)]),
        (b"*?\r\n*2\r\n:1\r\n.\r\n", [("frame", "*", (False, -1, 0, b""), 15)]),
        (b"*1\r\n.\r\n", [("broken",)]),
    ],
)
def test_the_reference_knows_replies(data: bytes, events: list[object]) -> None:
    assert reference_replies(data, descend=False) == events


def test_an_array_is_taken_apart_where_that_is_asked_for() -> None:
    assert reference_replies(b"*2\r\n:1\r\n", descend=True) == [("header", 2, 4), ("frame", ":", 1, 4)]


def test_inputs_depend_on_the_seed() -> None:
    for make in (requests, replies):
        one, same = (Corpus(make(rng)).make(rng) for rng in (random.Random(3), random.Random(3)))
        assert one == same
    assert cuts(random.Random(3), 50) == cuts(random.Random(3), 50)
    assert sanitized.BUILT.is_relative_to(sanitized.ROOT / "build")
