from __future__ import annotations

import pytest

from telemetry import names
from telemetry.figures import Figures
from telemetry.names import BUCKETS
from telemetry.otlp.stats import ExportStats
from telemetry.overview import Overview, quantile_ns
from telemetry.totals import Totals
from tests.telemetry.frames import command, frame, outcome
from tests.telemetry.test_prometheus import FakeFacts

SECOND = 1_000_000_000


def update(
    overview: Overview, totals: Totals, seconds: float = 10, memory_bytes: int | None = None
) -> dict[str, float]:
    reading = Figures(totals, FakeFacts(), ExportStats()).take()
    gauges = overview.update(reading, int(seconds * SECOND), memory_bytes)
    return {instrument.name: value for instrument, value in gauges.items()}


def test_each_interval_is_looked_at_by_itself() -> None:
    totals, overview = Totals(), Overview()
    totals.apply(
        1,
        frame(
            outcome("GET", calls=90, sum_ns=1, buckets={10: 90}),
            outcome("GET", "ERR", calls=10, sum_ns=1, buckets={10: 10}),
            command("GET", hits=30, misses=10),
        ),
    )
    assert update(overview, totals, 10, 1_000) == pytest.approx(
        {
            "valkey.command.rate": 10,
            "valkey.command.latency.p50": 0.625,  # between 500 and 750 µs
            "valkey.command.latency.p99": 0.7475,
            "valkey.cache.hit_ratio": 0.75,
            "valkey.command.error_ratio": 0.1,
            "valkey.memory.used": 1_000,
        }
    )
    totals.apply(2, frame(outcome("SET", calls=4, sum_ns=1, buckets={0: 4})))
    assert update(overview, totals, 2) == pytest.approx(
        {
            "valkey.command.rate": 2,
            "valkey.command.latency.p50": 0.005,
            "valkey.command.latency.p99": 0.0099,
            "valkey.command.error_ratio": 0,
        }
    )
    assert update(overview, totals) == {"valkey.command.rate": 0}


def test_what_clients_send_by_themselves_is_left_out() -> None:
    """As a client's handshake and a health check do on a healthy server."""
    totals, overview = Totals(), Overview()
    handshake = [
        outcome("PING", calls=70, sum_ns=1, buckets={0: 70}),
        outcome("CLIENT SETNAME", calls=10, sum_ns=1, buckets={0: 10}),
        *(outcome(name, "ERR", calls=5, sum_ns=1, buckets={33: 5}) for name in ("SENTINEL MASTERS", "CLUSTER NODES")),
    ]
    totals.apply(1, frame(*handshake))
    assert update(overview, totals) == {"valkey.command.rate": 0}
    totals.apply(2, frame(outcome("GET", calls=20, sum_ns=1, buckets={10: 20}), *handshake))
    assert update(overview, totals) == pytest.approx(
        {
            "valkey.command.rate": 2,
            "valkey.command.latency.p50": 0.625,
            "valkey.command.latency.p99": 0.7475,
            "valkey.command.error_ratio": 0,
        }
    )


def test_calls_without_durations_have_no_latency() -> None:
    totals = Totals()
    totals.apply(1, frame(outcome("BLPOP", calls=5)))
    assert update(Overview(), totals) == {"valkey.command.rate": 0.5, "valkey.command.error_ratio": 0}


def test_every_gauge_is_in_the_table() -> None:
    totals = Totals()
    totals.apply(1, frame(outcome("GET", calls=1, sum_ns=1, buckets={0: 1}), command("GET", hits=1)))
    of_scope = {instrument.name for instrument in names.INSTRUMENTS if instrument.scope == names.OVERVIEW}
    assert update(Overview(), totals, memory_bytes=1).keys() == of_scope


@pytest.mark.parametrize(
    ("buckets", "quantile", "expected_ns"),
    [
        ({0: 1}, 0.5, 5_000),
        ({0: 1}, 1.0, 10_000),
        ({0: 50, 2: 50}, 0.5, 10_000),
        ({0: 50, 2: 50}, 0.75, 25_000),
        ({0: 98, 32: 2}, 0.99, 3_750_000_000),
        ({33: 3}, 0.5, 5_000_000_000),
    ],
)
def test_quantiles_are_interpolated_inside_their_bucket(
    buckets: dict[int, int], quantile: float, expected_ns: float
) -> None:
    assert quantile_ns([buckets.get(index, 0) for index in range(BUCKETS)], quantile) == pytest.approx(expected_ns)
