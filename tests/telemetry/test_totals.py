from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.totals import CommandTotals, FrameError, Histogram, Outcome, Totals
from tests.telemetry.frames import BUCKETS, command, counter, frame, gauge, outcome


def test_every_kind_of_row_comes_out_as_it_went_in() -> None:
    totals = Totals()
    totals.apply(
        1,
        frame(
            outcome("CONFIG GET", calls=5, sum_ns=2**63, buckets={0: 1, 33: 3}),
            outcome("GET", "WRONGTYPE", calls=2),
            command("GET", sent=10, received=20, hits=3, misses=4, blocked_ns=50, blocked={7: 6}),
            counter("connections.rejected", 9, "maxclients"),
            gauge("connections", -1, "tcp"),
        ),
    )
    assert list(totals.outcomes()) == [
        Outcome("CONFIG GET", "", 5, Histogram(2**63, [1, *[0] * 32, 3])),
        Outcome("GET", "WRONGTYPE", 2, Histogram(0, [0] * BUCKETS)),
    ]
    assert list(totals.commands()) == [CommandTotals("GET", 10, 20, 3, 4, Histogram(50, [*[0] * 7, 6, *[0] * 26]))]
    assert totals.counter("connections.rejected") == {"maxclients": 9}
    assert totals.gauge("connections") == {"tcp": -1}


def test_workers_are_summed() -> None:
    totals = Totals()
    totals.apply(1, frame(outcome("GET", calls=5, sum_ns=7, buckets={3: 5}), gauge("connections", 2, "tcp")))
    totals.apply(2, frame(outcome("GET", calls=6, sum_ns=8, buckets={3: 1, 4: 5}), gauge("connections", 3, "tcp")))
    (merged,) = totals.outcomes()
    assert (merged.calls, merged.durations.sum_ns) == (11, 15)
    assert merged.durations.buckets[3:5] == [6, 5]
    assert totals.gauge("connections") == {"tcp": 5}


def test_a_frame_with_changed_rows_only_leaves_the_others_as_they_were() -> None:
    totals = Totals()
    totals.apply(1, frame(outcome("GET", calls=5), outcome("SET", calls=1)))
    totals.apply(1, frame(outcome("SET", calls=4)))
    totals.apply(1, frame())
    assert {found.command: found.calls for found in totals.outcomes()} == {"GET": 5, "SET": 4}


def test_counts_survive_a_worker_crash() -> None:
    totals = Totals()
    totals.apply(1, frame(outcome("GET", calls=5), counter("connections.opened", 2)))
    totals.worker_gone(1)
    assert totals.counter("connections.opened") == {"": 2}
    totals.apply(2, frame(outcome("GET", calls=1), counter("connections.opened", 1)))
    assert [found.calls for found in totals.outcomes()] == [6]
    assert totals.counter("connections.opened") == {"": 3}


def test_gauges_of_a_dead_worker_go_with_it() -> None:
    totals = Totals()
    totals.apply(1, frame(gauge("connections", 4, "tcp"), gauge("commands.in_flight", 1)))
    totals.apply(2, frame(gauge("connections", 3, "tcp")))
    totals.worker_gone(1)
    assert totals.gauge("connections") == {"tcp": 3}
    assert totals.gauge("commands.in_flight") == {"": 0}


def test_connections_of_a_dead_worker_count_as_closed() -> None:
    def balance() -> tuple[int, int]:
        opened, closed = (sum(totals.counter(f"connections.{what}").values()) for what in ("opened", "closed"))
        return opened - closed, sum(totals.gauge("connections").values())

    totals = Totals()
    totals.apply(1, frame(counter("connections.opened", 9), counter("connections.closed", 2)))
    totals.apply(1, frame(gauge("connections", 4, "tcp"), gauge("connections", 3, "unix")))
    totals.apply(2, frame(counter("connections.opened", 5), gauge("connections", 5, "tcp")))
    totals.worker_gone(1)
    assert balance() == (5, 5)
    totals.worker_gone(2)
    totals.worker_gone(2)
    assert balance() == (0, 0)
    assert totals.counter("connections.closed") == {"": 14}
    totals.apply(3, frame(counter("connections.opened", 1), counter("connections.closed", 1)))
    assert totals.counter("connections.closed") == {"": 15}


def test_a_frame_that_arrives_after_its_worker_was_given_up_is_not_counted_twice() -> None:
    totals = Totals()
    last_words = frame(outcome("GET", calls=5), gauge("connections", 1, "tcp"))
    totals.apply(1, last_words)
    totals.worker_gone(1)
    totals.apply(1, last_words)
    assert [found.calls for found in totals.outcomes()] == [5]
    assert totals.gauge("connections") == {"tcp": 0}


def test_a_worker_that_never_sent_a_frame_may_go() -> None:
    totals = Totals()
    totals.worker_gone(1)
    assert not list(totals.outcomes())


def test_a_frame_cut_at_any_byte_is_refused_and_counts_nothing() -> None:
    rows = (outcome("GET", "ERR", calls=1), counter("connections.opened", 1), gauge("connections", 1, "tcp"))
    whole = frame(*rows)
    complete = {1, *(len(frame(*rows[:count])) for count in range(1, len(rows) + 1))}
    for end in set(range(len(whole) + 1)) - complete:
        totals = Totals()
        with pytest.raises(FrameError):
            totals.apply(1, whole[:end])
        assert not list(totals.outcomes()), end
        assert not totals.counter("connections.opened"), end


@pytest.mark.parametrize(
    ("bad", "complaint"), [(b"X", "begins with b'S'"), (b"S\x09\0\0\0\0", "unknown row kind 9 at byte 1")]
)
def test_a_frame_that_is_none_is_refused_with_what_is_wrong(bad: bytes, complaint: str) -> None:
    with pytest.raises(FrameError, match=complaint):
        Totals().apply(1, bad)


_STEPS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.one_of(
            st.just("crash"), st.dictionaries(st.sampled_from(["GET", "SET", "é"]), st.integers(0, 9), max_size=3)
        ),
    ),
    max_size=30,
)


@given(_STEPS)
def test_sums_are_what_the_workers_counted_whoever_crashed_in_between(
    steps: list[tuple[int, str | dict[str, int]]],
) -> None:
    """Workers count by steps and send what changed; a crash starts the slot anew. The truth is the sum of all steps."""
    totals, truth = Totals(), Counter[str]()
    incarnation = {slot: slot for slot in range(4)}
    counted = {slot: Counter[str]() for slot in range(4)}
    for slot, step in steps:
        if isinstance(step, str):
            totals.worker_gone(incarnation[slot])
            incarnation[slot] += 4
            counted[slot].clear()
            continue
        counted[slot].update(step)
        truth.update(step)
        rows = [outcome(name, calls=counted[slot][name], buckets={33: counted[slot][name]}) for name in step]
        totals.apply(incarnation[slot], frame(*rows))
        merged = {found.command: found for found in totals.outcomes()}
        assert {name: found.calls for name, found in merged.items()} == dict(truth)
        assert {name: found.durations.buckets[33] for name, found in merged.items()} == dict(truth)
