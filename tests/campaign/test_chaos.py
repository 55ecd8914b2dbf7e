"""A small part of the chaos, with a fixed seed; and that its judges find what is wrong."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from libvalkey import ReplyError

from tests.campaign.chaos import __main__ as chaos
from tests.campaign.chaos.faults import TABLE
from tests.campaign.chaos.run import plan
from tests.campaign.connection import Tally
from tests.campaign.counts import differences
from tests.campaign.knowledge import Findings, Key, expect, refused

_ROOT = Path(__file__).parents[2]


def test_faults_at_random_moments_cost_nothing_that_was_acknowledged() -> None:
    only = [argument for kind, fault in TABLE.items() if fault.fast for argument in ("--only", kind)]
    command = [
        sys.executable,
        "-m",
        "tests.campaign.chaos",
        "--seed",
        "7",
        "--megabytes",
        "0",
        "--clients",
        "20",
        *only,
    ]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_seed_repeats_the_faults_and_their_moments() -> None:
    def first(seed: int) -> list[tuple[str, float, float]]:
        planned = itertools.islice(plan(seed, list(TABLE.values())), 3 * len(TABLE))
        return [(one.fault.kind, one.moment_s, one.lasts_s) for one in planned]

    assert first(7) == first(7)
    assert first(7) != first(8)
    assert {kind for kind, _, _ in first(7)[: len(TABLE)]} == set(TABLE)


@pytest.mark.parametrize("arguments", [["--only", "rain"], ["--clients", "1"], ["--rounds", "-1"]])
def test_wrong_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        chaos.main(arguments)
    assert end.value.code == 2
    assert capsys.readouterr().err


@pytest.fixture
def key() -> Key:
    """Twice acknowledged, a third write under way."""
    key = Key(b"c001.k1")
    for _ in range(2):
        key.next_value(20)
        key.acknowledge(Findings())
    key.next_value(20)
    return key


@pytest.mark.parametrize("value", [b"c001.k1:2:xx", b"c001.k1:3:"])
def test_a_value_between_acknowledged_and_sent_is_right(key: Key, value: bytes) -> None:
    findings = Findings()
    key.judge(value, 2, findings)
    assert findings == Findings(replies_checked=1)


@pytest.mark.parametrize("value", [None, b"c001.k1:1:x"])
def test_an_older_value_is_a_lost_write(key: Key, value: bytes | None) -> None:
    findings = Findings()
    key.judge(value, 2, findings)
    assert findings.writes_lost == findings.wrong == 1


@pytest.mark.parametrize("value", [b"c001.k2:2:x", b"PONG", 7, []])
def test_the_value_of_another_is_a_swapped_reply(key: Key, value: object) -> None:
    findings = Findings()
    key.judge(value, 2, findings)
    assert findings.replies_swapped == findings.wrong == 1


def test_a_value_that_nobody_has_sent_is_wrong(key: Key) -> None:
    findings = Findings()
    key.judge(b"c001.k1:4:x", 2, findings)
    assert findings.other == findings.wrong == 1


def test_a_key_that_was_read_back_is_known_again(key: Key) -> None:
    key.settle(b"c001.k1:2:x", Findings())
    assert (key.acknowledged, key.sent, key.doubtful) == (2, 2, False)


def test_another_reply_than_the_only_one_is_swapped() -> None:
    findings = Findings()
    expect(b"a", b"a", findings)
    assert not findings.wrong
    expect(b"b", b"a", findings)
    assert findings.replies_swapped == 1


def test_an_error_that_no_fault_explains_is_wrong() -> None:
    findings = Findings()
    assert refused(ReplyError("LOADING the engine does not answer"), findings)
    assert not findings.wrong
    assert refused(ReplyError("ERR unknown command"), findings)
    assert findings.other == 1


def test_counts_outside_their_bounds_are_differences() -> None:
    tally = Tally()
    tally.sent.update({"GET": 10, "SET": 5})
    tally.answered.update({("GET", ""): 8, ("GET", "LOADING"): 1, ("SET", ""): 5})
    right = {("GET", ""): 8, ("GET", "LOADING"): 1, ("SET", ""): 5}
    assert not differences(right, tally, {})
    assert not differences({**right, ("GET", "connection_lost"): 1}, tally, {})  # it was sent, and not answered
    assert differences({**right, ("GET", "connection_lost"): 2}, tally, {})
    assert differences({**right, ("SET", ""): 4}, tally, {})
    assert not differences({**right, ("SET", ""): 4}, tally, {("SET", ""): 1})  # a killed worker took it along
    assert differences({**right, ("SET", ""): 3}, tally, {("SET", ""): 1})
    assert differences({**right, ("PING", ""): 1}, tally, {})
