"""The settings under which this server is measured: as it comes, without lanes, with nothing measured, with spans.

Owns the name and the settings of each variant. Never starts one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SIDECAR = "valkey-sidecar"
HOME = "home only"
OFF = "telemetry off"
SOME_SPANS = "1% of spans"
ALL_SPANS = "every span"
TWO_WORKERS = "2 workers"


@dataclass(frozen=True)
class Variant:
    """Arguments and environment of a valkey-sidecar. exports: an OTLP receiver takes what it sends."""

    name: str
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    exports: bool = False
    workers: int = 1


def _ratio(share: str) -> dict[str, str]:
    return {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": share}


# With one worker, as on two processors; lanes and metrics are on unless the name says otherwise.
VARIANTS = (
    Variant(SIDECAR),
    Variant(HOME, ("--sidecar-lanes", "off")),
    Variant(OFF, ("--sidecar-ledger", "off", "--sidecar-slow-threshold", "off")),
    Variant(SOME_SPANS, environment=_ratio("0.01"), exports=True),
    # A run of load makes more spans than can be sent meanwhile; the queue holds a run's.
    Variant(ALL_SPANS, environment=_ratio("1.0") | {"OTEL_BSP_MAX_QUEUE_SIZE": "1000000"}, exports=True),
    Variant(TWO_WORKERS, workers=2),
)
