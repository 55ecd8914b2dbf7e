"""Prometheus and OpenMetrics: the figures as families of samples, and those as text.

Owns the custom collector over the present figures, and the text that a scrape gets. Never asks a worker for
anything (whoever serves the scrape does that first) and never keeps a figure.

    metrics = registry(figures, exemplars)
    body, content_type = render(metrics, request.headers.getlist("accept"))

The text is written here and not by prometheus-client, whose writers escape every name anew for every sample: 400
commands with all their buckets took them 10 to 20 times as long. Its types are used as they are, and its names of what
was negotiated.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import accumulate

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.samples import Exemplar as LibraryExemplar
from prometheus_client.samples import Sample

from telemetry import names
from telemetry.accept import Offer, best
from telemetry.exemplars import Exemplar, Exemplars
from telemetry.figures import Figures, Values
from telemetry.names import Instrument
from telemetry.totals import Histogram

_VERSION = re.compile(r"([0-9]{1,9})(?:\.[0-9]{1,9}){1,2}")
_LE = (*map(repr, names.DURATION_BOUNDS_S), "+Inf")
# All bucket lines of a series in one step: counts are put in, then the series' name and labels for each NUL.
_BUCKET_LINES = "".join(f'\0le="{le}"}} %d\n' for le in _LE)


class HistogramFamily(Metric):
    """A histogram with the contract's bounds that becomes samples only for those who ask for them.

    400 commands are 11,000 samples: as text they are made ten times as fast as as objects.
    """

    def __init__(self, instrument: Instrument) -> None:
        super().__init__(
            instrument.prometheus, instrument.description, instrument.prometheus_type, instrument.prometheus_unit
        )
        self._series: list[tuple[dict[str, str], list[int], float, Mapping[int, Exemplar]]] = []

    def add(
        self, labels: dict[str, str], histogram: Histogram, exemplars: Mapping[int, Exemplar] | None = None
    ) -> None:
        """Take one series. exemplars: by the number of the bucket that their duration falls into."""
        self._series.append(
            (labels, list(accumulate(histogram.buckets)), histogram.sum_ns / names.NANOSECONDS, exemplars or {})
        )

    @property
    def samples(self) -> list[Sample]:
        """Every series as prometheus-client's samples: cumulative buckets, count and sum."""
        result: list[Sample] = []
        for labels, cumulative, sum_s, exemplars in self._series:
            for bucket, (le, count) in enumerate(zip(_LE, cumulative, strict=True)):
                mark = exemplars.get(bucket)
                exemplar = None if mark is None else LibraryExemplar(*_spelt(mark))
                result.append(Sample(f"{self.name}_bucket", {**labels, "le": le}, count, None, exemplar))
            result.append(Sample(f"{self.name}_count", labels, cumulative[-1]))
            result.append(Sample(f"{self.name}_sum", labels, sum_s))
        return result

    @samples.setter
    def samples(self, empty: list[Sample]) -> None:
        """Metric's constructor sets it; there is nothing to keep."""

    def text(self, escaped: Mapping[str, str], openmetrics: bool) -> str:
        """The same samples as lines. Only OpenMetrics knows exemplars."""
        lines: list[str] = []
        for labels, cumulative, sum_s, exemplars in self._series:
            inner = _label_text(labels, escaped)
            buckets = _BUCKET_LINES % tuple(cumulative)
            if exemplars and openmetrics:
                buckets = _marked(buckets, exemplars)
            lines.append(buckets.replace("\0", f"{self.name}_bucket{{{inner},"))
            lines.append(f"{self.name}_count{{{inner}}} {cumulative[-1]}\n")
            lines.append(f"{self.name}_sum{{{inner}}} {_number(sum_s)}\n")
        return "".join(lines)


def _marked(buckets: str, exemplars: Mapping[int, Exemplar]) -> str:
    """The bucket lines of a series with the exemplars behind their own."""
    lines = buckets.splitlines()
    for bucket, mark in exemplars.items():
        ids, seconds, when_s = _spelt(mark)
        named = ",".join(f'{name}="{value}"' for name, value in ids.items())
        lines[bucket] += f" # {{{named}}} {_number(seconds)} {when_s:.3f}"
    return "\n".join(lines) + "\n"


def _spelt(mark: Exemplar) -> tuple[dict[str, str], float, float]:
    """An exemplar's labels, its value in seconds and its Unix time in seconds, to the millisecond."""
    ids = {"trace_id": mark.trace_id.hex(), "span_id": mark.span_id.hex()}
    return ids, mark.duration_ns / names.NANOSECONDS, mark.end_unix_ns // 1_000_000 / 1_000


class ForeignFamily(Metric):
    """A family with somebody else's name and labels, whose true type OpenMetrics does not allow for them.

    text_type: what the older format says; empty for a family that is part of the summary before it, as `NAME_sum` is.
    """

    def __init__(self, name: str, documentation: str, openmetrics_type: str, text_type: str) -> None:
        super().__init__(name, documentation, openmetrics_type)
        self.text_type = text_type


class SidecarCollector(Collector):
    """Families of valkey.commands, valkey.clients and valkey.sidecar, as prometheus-client wants them."""

    def __init__(self, figures: Figures, exemplars: Exemplars | None = None) -> None:
        self._figures = figures
        self._exemplars = exemplars

    def collect(self) -> Iterable[Metric]:
        """All families of the contract with their present figures, in the contract's order."""
        reading = self._figures.take()
        for instrument in names.INSTRUMENTS:
            if instrument in reading.histograms:
                yield self._histogram(instrument, reading.histograms[instrument])
            elif instrument in reading.numbers:
                yield _family(instrument, reading.numbers[instrument])

    def _histogram(self, instrument: Instrument, series: list[tuple[Values, Histogram]]) -> HistogramFamily:
        family = HistogramFamily(instrument)
        marks = self._marks() if instrument is names.COMMAND_DURATION else {}
        labels = instrument.labels
        for values, histogram in series:
            family.add(dict(zip(labels, map(_label, values), strict=True)), histogram, marks.get(values))
        return family

    def _marks(self) -> dict[Values, dict[int, Exemplar]]:
        """By series, the latest exemplar of each bucket: the format has room for one."""
        marks: dict[Values, dict[int, Exemplar]] = {}
        for mark in () if self._exemplars is None else self._exemplars.recent():
            bucket = bisect_left(names.DURATION_BOUNDS_NS, mark.duration_ns)
            marks.setdefault((mark.command, mark.error_type), {})[bucket] = mark
        return marks


def registry(figures: Figures, exemplars: Exemplars | None = None, *others: Collector) -> CollectorRegistry:
    """A registry of our own with our collector in it; prometheus-client's global one is not touched.

    others: collectors of further families, shown after ours. They may be registered later, too.
    """
    result = CollectorRegistry(auto_describe=False)
    for collector in (SidecarCollector(figures, exemplars), *others):
        result.register(collector)
    return result


def render(metrics: CollectorRegistry, accept: Iterable[str]) -> tuple[bytes, str]:
    """What a scrape gets: the text, and its content type. accept: its Accept headers.

    Who accepts none of the formats gets the plain one nevertheless: it's more use than an error.
    """
    choice = best(accept, (_TEXT, _TEXT_1, _OPENMETRICS))
    if choice is None or choice.offer is _TEXT:
        return write(metrics.collect(), openmetrics=False), CONTENT_TYPE_PLAIN_0_0_4
    kind, parameters = f"{choice.offer.type}/{choice.offer.subtype}", choice.range.parameters
    # The library's own negotiation gives each format its name. Only who asks for a version may ask for an escaping.
    if choice.offer is _TEXT_1 or "version" in parameters:
        kind += f";version=1.0.0;escaping={parameters.get('escaping', '')}"
    return write(metrics.collect(), openmetrics=choice.offer is _OPENMETRICS), choose_encoder(kind)[1]


def _first_or_later(version: str) -> bool:
    """A scraper that wants a later version than 1.0.0 can read that one."""
    matched = _VERSION.fullmatch(version)
    return matched is not None and int(matched[1]) >= 1


def _is_utf_8(charset: str) -> bool:
    return charset == "utf-8"


def _any(_escaping: str) -> bool:
    """Names are plain ASCII here: every scheme leaves them as they are."""
    return True


_TEXT = Offer("text", "plain", {"version": lambda version: version == "0.0.4", "charset": _is_utf_8, "escaping": _any})
_TEXT_1 = Offer("text", "plain", {"version": _first_or_later, "charset": _is_utf_8, "escaping": _any})
_OPENMETRICS = Offer("application", "openmetrics-text", _TEXT_1.parameters)


def write(families: Iterable[Metric], openmetrics: bool) -> bytes:
    """Families as OpenMetrics 1.0, or as Prometheus text 0.0.4, in UTF-8.

    Names are plain ASCII here, so that every escaping scheme a scraper may ask for leaves them as they are.
    """
    lines: list[str] = []
    escaped = _Escaped()
    for family in families:
        name, kind = family.name, family.type
        if isinstance(family, ForeignFamily) and not openmetrics:
            kind = family.text_type
        elif not openmetrics:
            # OpenMetrics names a family without its samples' suffix; the older format knows samples only.
            suffix, kind = {"counter": ("_total", kind), "info": ("_info", "gauge"), "unknown": ("", "untyped")}.get(
                kind, ("", kind)
            )
            name += suffix
        if kind:
            lines.append(f"# HELP {name} {escaped[family.documentation]}\n# TYPE {name} {kind}\n")
        if openmetrics and family.unit:
            lines.append(f"# UNIT {name} {family.unit}\n")
        if isinstance(family, HistogramFamily):
            lines.append(family.text(escaped, openmetrics))
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


def _label(value: str | bool) -> str:
    return value if isinstance(value, str) else "true" if value else "false"


def _family(instrument: Instrument, series: list[tuple[Values, float]]) -> Metric:
    kind = instrument.prometheus_type
    family = Metric(instrument.prometheus, instrument.description, kind, instrument.prometheus_unit)
    name = instrument.prometheus + _SUFFIX.get(kind, "")
    labels = instrument.labels
    family.samples = [
        Sample(name, dict(zip(labels, map(_label, values), strict=True)), value) for values, value in series
    ]
    return family


_NOT_FINITE = {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}
_SUFFIX = {"counter": "_total", "info": "_info"}
