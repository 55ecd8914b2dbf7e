"""Prometheus and OpenMetrics: the figures as families of samples, and those as text.

Owns the custom collector over the ledger's totals and the supervisor's facts, and the text that a scrape
gets. Never asks a worker for anything (whoever serves the scrape does that first) and never keeps a figure,
except the CPU time of processes that ended, so that no counter goes down.

    metrics = registry(totals, facts)
    body, content_type = render(metrics, request.headers.get("accept", ""))

The text is written here and not by prometheus-client, whose writers escape every name anew for every sample: 400
commands with their 26 buckets took them 10 to 20 times as long. Its types are used as they are, and most of its content
negotiation.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Protocol

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.samples import Sample

from telemetry import names
from telemetry.names import Instrument
from telemetry.totals import Histogram, Totals

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TRANSPORTS = ("tcp", "unix")
_REFUSED = re.compile(r";\s*q=0(?:\.0*)?\s*(?:;|$)", re.IGNORECASE)
_VERSION = re.compile(r"version=[^;]*")
_LE = (*map(repr, names.DURATION_BOUNDS_S), "+Inf")
# All bucket lines of a series in one step: counts are put in, then the series' name and labels for each NUL.
_BUCKET_LINES = "".join(f'\0le="{le}"}} %d\n' for le in _LE)


class HistogramFamily(Metric):
    """A histogram with the contract's bounds that becomes samples only for those who ask for them.

    400 commands are 11,000 samples: as text they are made ten times as fast as as objects.
    """

    def __init__(self, instrument: Instrument) -> None:
        super().__init__(instrument.prometheus, instrument.description, instrument.kind, instrument.prometheus_unit)
        self._series: list[tuple[dict[str, str], list[int], float]] = []

    def add(self, labels: dict[str, str], histogram: Histogram) -> None:
        """Take one series, unless it saw nothing."""
        cumulative = list(accumulate(histogram.buckets))
        if cumulative[-1]:
            self._series.append((labels, cumulative, histogram.sum_ns / names.NANOSECONDS))

    @property
    def samples(self) -> list[Sample]:
        """Every series as prometheus-client's samples: cumulative buckets, count and sum."""
        result: list[Sample] = []
        for labels, cumulative, sum_s in self._series:
            result += [
                Sample(f"{self.name}_bucket", {**labels, "le": le}, count)
                for le, count in zip(_LE, cumulative, strict=True)
            ]
            result.append(Sample(f"{self.name}_count", labels, cumulative[-1]))
            result.append(Sample(f"{self.name}_sum", labels, sum_s))
        return result

    @samples.setter
    def samples(self, empty: list[Sample]) -> None:
        """Metric's constructor sets it; there is nothing to keep."""

    def text(self, escaped: Mapping[str, str]) -> str:
        """The same samples as lines."""
        lines: list[str] = []
        for labels, cumulative, sum_s in self._series:
            inner = _label_text(labels, escaped)
            lines.append((_BUCKET_LINES % tuple(cumulative)).replace("\0", f"{self.name}_bucket{{{inner},"))
            lines.append(f"{self.name}_count{{{inner}}} {cumulative[-1]}\n")
            lines.append(f"{self.name}_sum{{{inner}}} {_number(sum_s)}\n")
        return "".join(lines)


class Facts(Protocol):
    """What the supervisor knows and no ledger does. Read at every scrape."""

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

    def processes(self) -> Mapping[str, Sequence[int]]:
        """The process ids that live now, by role: `{"supervisor": [1], "engine": [7], "worker": [8, 9]}`."""


class SidecarCollector(Collector):
    """Families of valkey.commands, valkey.clients and valkey.sidecar, as prometheus-client wants them."""

    def __init__(self, totals: Totals, facts: Facts) -> None:
        self._totals = totals
        self._facts = facts
        self._processes = _Processes()

    def collect(self) -> Iterable[Metric]:
        """All families of the contract with their present figures, in the contract's order."""
        yield from self._commands()
        yield from self._clients()
        yield from self._sidecar()

    def _commands(self) -> Iterator[Metric]:
        calls, duration = _family(names.COMMAND_CALLS), HistogramFamily(names.COMMAND_DURATION)
        command_label, error_label = names.COMMAND_CALLS.labels
        for outcome in self._totals.outcomes():
            labels = {command_label: outcome.command, error_label: outcome.error_type}
            _add(calls, labels, outcome.calls)
            duration.add(labels, outcome.durations)
        blocked = HistogramFamily(names.COMMAND_BLOCKED_DURATION)
        sent, received = _family(names.COMMAND_REQUEST_SIZE), _family(names.COMMAND_RESPONSE_SIZE)
        lookups = _family(names.KEYSPACE_LOOKUPS)
        command_label, hit_label = names.KEYSPACE_LOOKUPS.labels
        for command in self._totals.commands():
            labels = {command_label: command.command}
            _add(sent, labels, command.request_bytes)
            _add(received, labels, command.response_bytes)
            blocked.add(labels, command.blocked)
            if command.hits or command.misses:
                _add(lookups, {**labels, hit_label: "true"}, command.hits)
                _add(lookups, {**labels, hit_label: "false"}, command.misses)
        in_flight = _family(names.COMMAND_IN_FLIGHT)
        _add(in_flight, {}, sum(self._totals.gauge(names.LEDGER_IN_FLIGHT).values()))
        yield from (calls, duration, blocked, in_flight, sent, received, lookups)

    def _clients(self) -> Iterator[Metric]:
        connections = _family(names.CLIENT_CONNECTIONS)
        open_now = self._totals.gauge(names.LEDGER_CONNECTIONS)
        transport_label, tls_label = names.CLIENT_CONNECTIONS.labels
        for transport in dict.fromkeys((*_TRANSPORTS, *open_now)):
            _add(connections, {transport_label: transport, tls_label: "false"}, open_now.get(transport, 0))
        yield connections
        yield self._unlabelled(names.CLIENT_CONNECTIONS_OPENED, names.LEDGER_OPENED)
        yield self._unlabelled(names.CLIENT_CONNECTIONS_CLOSED, names.LEDGER_CLOSED)
        yield self._by_label(names.CLIENT_CONNECTIONS_REJECTED, names.LEDGER_REJECTED)

    def _sidecar(self) -> Iterator[Metric]:
        for instrument, restarts in (
            (names.WORKER_RESTARTS, self._facts.worker_restarts),
            (names.ENGINE_RESTARTS, self._facts.engine_restarts),
        ):
            family = _family(instrument)
            _add(family, {}, restarts)
            yield family
        yield self._by_label(names.SESSIONS_RAW, names.LEDGER_SESSIONS_RAW)
        cpu, memory = _family(names.PROCESS_CPU_TIME), _family(names.PROCESS_MEMORY_USAGE)
        self._processes.read(self._facts.processes())
        for role, ticks in self._processes.cpu_ticks.items():
            _add(cpu, {"role": role}, ticks / _TICKS_PER_SECOND)
        for role, resident in self._processes.resident_bytes.items():
            _add(memory, {"role": role}, resident)
        build = _family(names.BUILD_INFO)
        versions = (self._facts.version, self._facts.valkey_version)
        _add(build, dict(zip(names.BUILD_INFO.labels, versions, strict=True)), 1)
        yield from (cpu, memory, build)

    def _unlabelled(self, instrument: Instrument, counter: str) -> Metric:
        family = _family(instrument)
        _add(family, {}, sum(self._totals.counter(counter).values()))
        return family

    def _by_label(self, instrument: Instrument, counter: str) -> Metric:
        family = _family(instrument)
        (label,) = instrument.labels
        for value, count in self._totals.counter(counter).items():
            _add(family, {label: value}, count)
        return family


class _Processes:
    """CPU time and memory of processes by role, from /proc. CPU time of those that ended stays in the sums."""

    def __init__(self) -> None:
        self.cpu_ticks: dict[str, int] = {}
        self.resident_bytes: dict[str, int] = {}
        self._seen: dict[tuple[str, int, int], int] = {}

    def read(self, processes: Mapping[str, Sequence[int]]) -> None:
        """Take a new reading. A process that is no more, or is a zombie without memory, counts no memory."""
        seen: dict[tuple[str, int, int], int] = {}
        for role, pids in processes.items():
            self.cpu_ticks.setdefault(role, 0)
            self.resident_bytes[role] = 0
            for pid in pids:
                reading = _read_stat(pid)
                if reading is None:
                    continue
                started, ticks, resident_bytes = reading
                key = (role, pid, started)  # the start time tells apart two processes that had the same id
                self.cpu_ticks[role] += ticks - self._seen.get(key, 0)
                self.resident_bytes[role] += resident_bytes
                seen[key] = ticks
        for role in self.resident_bytes.keys() - processes.keys():
            self.resident_bytes[role] = 0
        self._seen = seen


def _read_stat(pid: int) -> tuple[int, int, int] | None:
    """Start time (ticks), CPU time (ticks) and resident memory (bytes) of a process; None when it is gone.

    Fields are those of proc_pid_stat(5); the name in the second may hold anything, so they are counted after its end.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()
    return int(fields[19]), int(fields[11]) + int(fields[12]), int(fields[21]) * _PAGE_BYTES


def registry(totals: Totals, facts: Facts) -> CollectorRegistry:
    """A registry of our own with our collector in it; prometheus-client's global one is not touched."""
    result = CollectorRegistry(auto_describe=False)
    result.register(SidecarCollector(totals, facts))
    return result


def render(metrics: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """What a scrape gets: the text, and its content type.

    prometheus-client negotiates it from the Accept header, but for two things: it takes no notice of `q=0`, which means
    "not this" (RFC 9110, 12.4.2), and it promises any version of OpenMetrics that it is asked for.
    """
    accepted = ",".join(part for part in accept.split(",") if not _REFUSED.search(part))
    try:
        content_type = choose_encoder(accepted)[1]
    except (TypeError, ValueError):  # a version that is none, such as `version=abc`
        content_type = choose_encoder("")[1]
    openmetrics = content_type.startswith("application/openmetrics-text")
    if openmetrics:
        content_type = _VERSION.sub("version=1.0.0", content_type)
    return write(metrics.collect(), openmetrics), content_type


def write(families: Iterable[Metric], openmetrics: bool) -> bytes:
    """Families as OpenMetrics 1.0, or as Prometheus text 0.0.4, in UTF-8.

    Names are plain ASCII here, so that every escaping scheme a scraper may ask for leaves them as they are.
    """
    lines: list[str] = []
    escaped = _Escaped()
    for family in families:
        name, kind = family.name, family.type
        if not openmetrics:
            # OpenMetrics names a family without its samples' suffix; the older format knows samples only.
            suffix, kind = {"counter": ("_total", kind), "info": ("_info", "gauge"), "unknown": ("", "untyped")}.get(
                kind, ("", kind)
            )
            name += suffix
        lines.append(f"# HELP {name} {escaped[family.documentation]}\n# TYPE {name} {kind}\n")
        if openmetrics and family.unit:
            lines.append(f"# UNIT {name} {family.unit}\n")
        if isinstance(family, HistogramFamily):
            lines.append(family.text(escaped))
            continue
        for sample_name, labels, value, *_ in family.samples:
            where = f"{{{_label_text(labels, escaped)}}}" if labels else ""
            lines.append(f"{sample_name}{where} {_number(value)}\n")
    if openmetrics:
        lines.append("# EOF\n")
    return "".join(lines).encode("utf-8", "backslashreplace")


class _Escaped(dict[str, str]):
    """Label values and help texts, escaped once each."""

    def __missing__(self, text: str) -> str:
        escaped = text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
        self[text] = escaped
        return escaped


def _number(value: float) -> str:
    """A figure as both formats spell it: whole numbers without a fraction, and no `inf` or `nan`."""
    text = repr(value)
    return _NOT_FINITE.get(text, text)


def _label_text(labels: Mapping[str, str], escaped: Mapping[str, str]) -> str:
    return ",".join([f'{label}="{escaped[value]}"' for label, value in labels.items()])


def _family(instrument: Instrument) -> Metric:
    return Metric(instrument.prometheus, instrument.description, instrument.kind, instrument.prometheus_unit)


_NOT_FINITE = {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}
_SUFFIX = {"counter": "_total", "info": "_info"}


def _add(family: Metric, labels: dict[str, str], value: float) -> None:
    family.samples.append(Sample(family.name + _SUFFIX.get(family.type, ""), labels, value))
