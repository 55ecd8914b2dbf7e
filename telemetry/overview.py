"""What a person looks at first: rate, latency, hits, errors and memory of the last interval, one number each.

Owns how these gauges are computed from two readings. What clients send by themselves (telemetry.housekeeping) is left
out: a handshake may expect an error, and a health check's PING says nothing about the application's commands. Never
takes a reading itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from telemetry import names
from telemetry.figures import Reading, Values
from telemetry.housekeeping import is_housekeeping
from telemetry.names import BUCKETS, DURATION_BOUNDS_NS, NANOSECONDS, Instrument

_NANOSECONDS_PER_MS = 1_000_000


class _Sums(NamedTuple):
    calls: float
    errors: float
    hits: float
    misses: float
    buckets: list[int]


class Overview:
    """Compares each reading with the one before; the first with the server's start, when all was zero."""

    def __init__(self) -> None:
        self._before = _Sums(0, 0, 0, 0, [0] * BUCKETS)

    def update(self, reading: Reading, interval_ns: int, memory_bytes: float | None) -> dict[Instrument, float]:
        """The gauges of the time since the last call; those that have nothing to say are absent.

        interval_ns: length of that time. memory_bytes: what the engine uses, None when it is not known.
        """
        now, before = _sums(reading), self._before
        self._before = now
        gauges: dict[Instrument, float] = {}
        calls = now.calls - before.calls
        if interval_ns > 0:
            gauges[names.OVERVIEW_RATE] = calls * NANOSECONDS / interval_ns
        buckets = [n - o for n, o in zip(now.buckets, before.buckets, strict=True)]
        if any(buckets):
            gauges[names.OVERVIEW_P50] = quantile_ns(buckets, 0.5) / _NANOSECONDS_PER_MS
            gauges[names.OVERVIEW_P99] = quantile_ns(buckets, 0.99) / _NANOSECONDS_PER_MS
        hits, misses = now.hits - before.hits, now.misses - before.misses
        if hits or misses:
            gauges[names.OVERVIEW_HIT_RATIO] = hits / (hits + misses)
        if calls:
            gauges[names.OVERVIEW_ERROR_RATIO] = (now.errors - before.errors) / calls
        if memory_bytes is not None:
            gauges[names.OVERVIEW_MEMORY] = memory_bytes
        return gauges


def quantile_ns(buckets: Sequence[int], quantile: float) -> float:
    """The duration below which this share of the durations lies, interpolated inside its bucket.

    buckets: counts of the 34 buckets (not cumulative), not all zero. What lies in the last one, which has no upper
    bound, counts as its lower bound, as Prometheus' histogram_quantile has it.
    """
    cumulative = list(accumulate(buckets))
    rank = quantile * cumulative[-1]
    index = next(index for index, count in enumerate(cumulative) if count >= rank and buckets[index])
    if index == len(DURATION_BOUNDS_NS):
        return DURATION_BOUNDS_NS[-1]
    low = DURATION_BOUNDS_NS[index - 1] if index else 0
    inside = (rank - (cumulative[index] - buckets[index])) / buckets[index]
    return low + (DURATION_BOUNDS_NS[index] - low) * inside


def _sums(reading: Reading) -> _Sums:
    calls = [(of, value) for of, value in reading.numbers[names.COMMAND_CALLS] if _counts(of)]
    lookups = reading.numbers[names.KEYSPACE_LOOKUPS]
    hits = sum(value for (_, hit), value in lookups if hit)
    durations = reading.histograms[names.COMMAND_DURATION]
    columns = zip(*(histogram.buckets for of, histogram in durations if _counts(of)), strict=True)
    return _Sums(
        calls=sum(value for _, value in calls),
        errors=sum(value for (_, error_type), value in calls if error_type),
        hits=hits,
        misses=sum(value for _, value in lookups) - hits,
        buckets=[sum(column) for column in columns] or [0] * BUCKETS,
    )


def _counts(of: Values) -> bool:
    """Whether a command with these attributes is one of the application's."""
    return not is_housekeeping(str(of[0]))
