"""What the encoder gives back for one packet of spans. Owns these three shapes, and nothing else."""

from __future__ import annotations

from typing import NamedTuple

from telemetry.spanpacket import Identity


class Observed(NamedTuple):
    """A single command that is worth a second look: a slow one, or an exemplar. Durations and times are nanoseconds."""

    command: str
    error_type: str
    duration_ns: int
    end_unix_ns: int
    trace_id: bytes
    span_id: bytes
    trace_flags: int
    identity: Identity
    engine_ns: int = 0
    """What the engine says that it took itself; 0: it did not say."""


class Encoded(NamedTuple):
    """Spans as repeated `ScopeSpans.spans` fields, one after the other; `ends[i]` is where the i-th ends in `data`."""

    data: bytes
    ends: list[int]
    slow: list[Observed]
    """Spans with the flag SLOW."""
    exemplar: Observed | None
    """The slowest SAMPLED one with a duration of its own: no PIPELINE or MULTI, not blocked, with a reply."""
