"""What workers are told about spans.

Owns the translation of our settings and of the sampler into what `telemetry.spans.Tracer` takes, and the memory in
which all workers keep their budgets. It never sees a span.
"""

from __future__ import annotations

import os
from typing import Any

from sidecar.settings import SidecarSettings
from telemetry.otlp.settings import Sampler
from telemetry.spans import BUDGETS_BYTES

# Seconds' worth of a budget that may be used at once: under client spans, under our roots, roots, kept ones. One page
# of an application may look up thousands of keys at once. A span costs all our processes together about 7 µs.
_BURSTS_S = (5, 5, 4, 2)
_NEVER_NS = 2**62


def describe(settings: SidecarSettings, sampler: Sampler, *, exported: bool) -> dict[str, Any] | None:
    """`tracing` of a worker's configuration; None: it makes no spans.

    exported: spans go to somebody. Without that only slow commands are told, for the log.
    """
    if not exported and settings.slow_threshold is None:
        return None
    remote, root, kept = settings.trace_budget_remote, settings.trace_budget_root, settings.trace_budget_kept
    of_remote, of_children, of_roots, of_kept = bursts(settings)
    return {
        "root": sampler.root if exported else "off",
        "parent_based": sampler.parent_based and exported,
        "limited": sampler.plain_always_on,
        "budgets": (remote, root, remote, kept),
        "bursts": (of_remote, of_roots, of_children, of_kept),
        "slow_ns": _NEVER_NS if settings.slow_threshold is None else round(settings.slow_threshold * 1e9),
        "exclude": settings.trace_exclude,
        "keys": settings.trace_keys,
        "exported": exported,
    }


def bursts(settings: SidecarSettings) -> tuple[int, int, int, int]:
    """Spans that may be sent at once: under client spans, under our own roots, roots, kept ones."""
    remote, root, kept = settings.trace_budget_remote, settings.trace_budget_root, settings.trace_budget_kept
    of_remote, of_children, of_roots, of_kept = _BURSTS_S
    return remote * of_remote, remote * of_children, root * of_roots, kept * of_kept


def budgets_memory() -> int:
    """The descriptor of the memory that workers share; a worker that dies leaves it as it is."""
    fd = os.memfd_create("valkey-sidecar-budgets", os.MFD_CLOEXEC)
    os.ftruncate(fd, BUDGETS_BYTES)
    return fd
