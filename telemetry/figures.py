"""The present figures of every instrument in the table: what OTLP and Prometheus both show.

Owns the way from the ledger's sums, the supervisor's facts and the losses of export to series with attributes.
Never knows a format, and never keeps a figure, except the CPU time of processes that ended.

    figures = Figures(totals, facts, stats)
    reading = figures.take()
    reading.numbers[names.COMMAND_CALLS]      # [(("GET", ""), 12), (("GET", "WRONGTYPE"), 2)]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from telemetry import names
from telemetry.names import Instrument
from telemetry.otlp.stats import ExportStats
from telemetry.process_usage import ProcessUsage
from telemetry.totals import Histogram, Totals

Values = tuple[str | bool, ...]
"""The values of an instrument's attributes, in the table's order. An empty text stands for an absent one."""

_ROUTES = ("home", "lane")
_TRANSPORTS = ("tcp", "tls", "unix")


class Facts(Protocol):
    """What the supervisor knows and no ledger does. Read at every reading."""

    @property
    def version(self) -> str:
        """Our own version."""

    @property
    def valkey_version(self) -> str:
        """The engine's version, empty until it has answered."""

    @property
    def worker_restarts(self) -> int:
        """Workers replaced because they died."""

    @property
    def engine_restarts(self) -> int:
        """Times the engine was started again because it died."""

    @property
    def engine_limits(self) -> Mapping[str, int]:
        """Times that the engine cut a client off at a limit of its own, by the setting's name."""

    def processes(self) -> Mapping[str, Sequence[int]]:
        """The process ids that live now, by role: `{"supervisor": [1], "engine": [7], "worker": [8, 9]}`."""


class Reading(NamedTuple):
    """Every series that was ever seen, at one moment, by instrument in the table's order.

    A reading is a copy: it may be worked on in another thread while the figures go on.
    """

    numbers: dict[Instrument, list[tuple[Values, float]]]
    histograms: dict[Instrument, list[tuple[Values, Histogram]]]


class Figures:
    """Takes readings. To be used where the ledgers' frames are merged, that is on the supervisor's event loop."""

    def __init__(self, totals: Totals, facts: Facts, stats: ExportStats) -> None:
        self._totals = totals
        self._facts = facts
        self._stats = stats
        self._usage = ProcessUsage()

    @property
    def version(self) -> str:
        """Our own version."""
        return self._facts.version

    def take(self) -> Reading:
        """All figures of now, as fresh as the workers' last snapshots. A few milliseconds for 400 commands."""
        reading = Reading({}, {})
        self._take_commands(reading)
        self._take_clients(reading.numbers)
        self._take_sidecar(reading.numbers)
        return reading

    def _take_commands(self, reading: Reading) -> None:
        calls: list[tuple[Values, float]] = []
        durations: list[tuple[Values, Histogram]] = []
        for command, error_type, count, histogram in self._totals.outcomes():
            calls.append(((command, error_type), count))
            if any(histogram.buckets):
                durations.append(((command, error_type), histogram))
        sent: list[tuple[Values, float]] = []
        received: list[tuple[Values, float]] = []
        lookups: list[tuple[Values, float]] = []
        blocked: list[tuple[Values, Histogram]] = []
        for moved in self._totals.commands():
            command = moved.command
            sent.append(((command,), moved.request_bytes))
            received.append(((command,), moved.response_bytes))
            if any(moved.blocked.buckets):
                blocked.append(((command,), moved.blocked))
            if moved.hits or moved.misses:
                lookups += [((command, True), moved.hits), ((command, False), moved.misses)]
        reading.histograms[names.COMMAND_DURATION] = durations
        reading.histograms[names.COMMAND_BLOCKED_DURATION] = blocked
        reading.numbers[names.COMMAND_CALLS] = calls
        reading.numbers[names.COMMAND_IN_FLIGHT] = [((), sum(self._totals.gauge(names.LEDGER_IN_FLIGHT).values()))]
        reading.numbers[names.COMMAND_REQUEST_SIZE] = sent
        reading.numbers[names.COMMAND_RESPONSE_SIZE] = received
        reading.numbers[names.KEYSPACE_LOOKUPS] = lookups

    def _take_clients(self, numbers: dict[Instrument, list[tuple[Values, float]]]) -> None:
        open_now = self._totals.gauge(names.LEDGER_CONNECTIONS)
        numbers[names.CLIENT_CONNECTIONS] = [
            (("tcp" if kind == "tls" else kind, kind == "tls"), open_now.get(kind, 0))
            for kind in dict.fromkeys((*_TRANSPORTS, *open_now))
        ]
        for instrument, counter in (
            (names.CLIENT_CONNECTIONS_OPENED, names.LEDGER_OPENED),
            (names.CLIENT_CONNECTIONS_CLOSED, names.LEDGER_CLOSED),
        ):
            numbers[instrument] = [((), sum(self._totals.counter(counter).values()))]
        numbers[names.CLIENT_CONNECTIONS_REJECTED] = _by_label(self._totals.counter(names.LEDGER_REJECTED))

    def _take_sidecar(self, numbers: dict[Instrument, list[tuple[Values, float]]]) -> None:
        dropped = Counter(self._totals.counter(names.LEDGER_SPANS_DROPPED))
        dropped.update(self._stats.dropped())
        numbers[names.SPANS_DROPPED] = _by_label(dropped)
        numbers[names.EXPORT_FAILURES] = sorted(self._stats.failures().items())
        numbers[names.QUEUE_SIZE] = _by_label(self._stats.queue_sizes())
        numbers[names.WORKER_RESTARTS] = [((), self._facts.worker_restarts)]
        numbers[names.ENGINE_RESTARTS] = [((), self._facts.engine_restarts)]
        numbers[names.SESSIONS_RAW] = _by_label(self._totals.counter(names.LEDGER_SESSIONS_RAW))
        limits = Counter(self._totals.counter(names.LEDGER_LIMITS))
        limits.update(self._facts.engine_limits)
        numbers[names.LIMIT_REACHED] = _by_label(limits)
        upstreams = self._totals.gauge(names.LEDGER_UPSTREAMS)
        numbers[names.UPSTREAM_CONNECTIONS] = [((route,), upstreams.get(route, 0)) for route in _ROUTES]
        numbers[names.LANES_BROKEN] = _by_label(self._totals.counter(names.LEDGER_LANES_BROKEN))
        numbers[names.TRACE_CONTEXTS] = _by_label(self._totals.counter(names.LEDGER_TRACE_CONTEXTS))
        self._usage.read(self._facts.processes())
        numbers[names.PROCESS_CPU_TIME] = _by_label(self._usage.cpu_s)
        numbers[names.PROCESS_MEMORY_USAGE] = _by_label(self._usage.resident_bytes)
        numbers[names.BUILD_INFO] = [((self._facts.version, self._facts.valkey_version), 1)]


def _by_label(counts: Mapping[str, float]) -> list[tuple[Values, float]]:
    return [((label,), counts[label]) for label in sorted(counts)]
