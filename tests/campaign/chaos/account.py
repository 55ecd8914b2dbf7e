"""A server's account of itself while its clients rest: counts, spans, what it uses; and whether it is right.

Owns what is compared with what, and the bounds of memory and descriptors, with their reasons. It changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from telemetry.housekeeping import is_housekeeping
from tests.campaign import usage
from tests.campaign.chaos.site import WORKERS, Site
from tests.campaign.counts import Calls, compared, differences
from tests.campaign.usage import Usage
from tests.conftest import wait_until

_SETTLES_WITHIN_S = 10.0

# What a role may have beyond its first usage, in MB: much less than 10,000 clients need at once.
_MEMORY_MB = {"supervisor": 8.0, "worker": 8.0}
# Connections that live as long as they are used: one per signal to the collector, one of a scrape.
_DESCRIPTORS = {"supervisor": 4, "workers": 0, "engine": 1}

_ENDS_OF_MULTI = ("EXEC", "DISCARD")
_DROPPED_LATE = ("link_full", "queue_full", "export_failed", "rejected", "shutdown", "bad_packet")


def check_usage(site: Site, first: Usage) -> Usage:
    """The usage of now, when it is as good as the first; AssertionError when it does not become so."""

    def excess() -> list[str]:
        nonlocal now
        now = usage.take(site.server, WORKERS)
        return [
            f"{role}: {now.memory_mb[role]:.1f} MB, at first {first.memory_mb[role]:.1f}"
            for role, more in _MEMORY_MB.items()
            if now.memory_mb[role] > first.memory_mb[role] + more
        ] + [
            f"{role}: {now.descriptors[role]} descriptors of no client, at first {first.descriptors[role]}"
            for role, more in _DESCRIPTORS.items()
            if now.descriptors[role] > first.descriptors[role] + more
        ]

    now = first
    _settle(excess)
    return now


def check_counts(site: Site, lost: Calls) -> tuple[int, list[str]]:
    """How many counts were compared with what clients sent and were answered, and which differ."""
    wait_until(lambda: site.server.metric("valkey_command_in_flight") == 0, "nothing is in flight", _SETTLES_WITHIN_S)
    counted: Calls = {}

    def look() -> list[str]:
        nonlocal counted
        counted = site.server.calls()
        return differences(counted, site.workload.tally, lost)

    try:
        _settle(look)
        wrong = []
    except AssertionError as error:
        wrong = str(error).split("; ")
    site.workload.adopt(counted)
    return compared(counted, site.workload.tally), wrong


class Spans:
    """Whether every command that has a span is in the collector, or among the dropped; of one server.

    A pipeline's own span belongs to no command. What is dropped after the worker (the collector does not take it, a
    queue is full) is told in spans, so as many as were dropped there may be more than the commands.
    """

    def __init__(self) -> None:
        self._last = (0, 0)

    def check(self, site: Site, lost: Calls) -> None:
        """AssertionError where spans are missing, but for what killed workers had not handed over (lost, at most)."""
        bound = sum(lost.values())
        now = (0, 0)

        def wrong() -> list[str]:
            nonlocal now
            before, now = now, _astray(site)
            if before != now:
                return ["spans still arrive"]
            missing, dropped_late = now[0] - self._last[0], now[1] - self._last[1]
            if -bound - dropped_late <= missing <= bound:
                return []
            return [f"{missing} spans are missing (at most {bound}; {dropped_late} were dropped after the worker)"]

        _settle(wrong)
        self._last = now


def _astray(site: Site) -> tuple[int, int]:
    """Commands that have a span, less those whose span has arrived or was dropped; and dropped after the worker."""
    taken = site.collector.taken
    metrics = site.server.metrics().items()
    dropped = {name: int(n) for name, n in metrics if name.startswith("valkey_sidecar_spans_dropped_total")}
    late = sum(n for name, n in dropped.items() if any(f'"{reason}"' in name for reason in _DROPPED_LATE))
    calls = site.server.calls().items()
    wanted = sum(n for (name, _), n in calls if not is_housekeeping(name) and name not in _ENDS_OF_MULTI)
    return wanted - taken - sum(dropped.values()), late


def _settle(wrong: Callable[[], list[str]]) -> None:
    """Wait until nothing is wrong; AssertionError with what still is."""
    deadline = time.monotonic() + _SETTLES_WITHIN_S
    while found := wrong():
        if time.monotonic() > deadline:
            raise AssertionError("; ".join(found))
        time.sleep(0.2)
