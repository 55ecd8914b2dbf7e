"""A run: fault after fault on one site, and after each the look at everything that must hold.

Owns the order of the faults and their moments, which the seed decides alone, and what is summed up over the run. The
first thing that does not hold ends it, as an AssertionError.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.campaign import figures, usage
from tests.campaign.chaos.account import Spans, check_counts, check_usage
from tests.campaign.chaos.faults import Fault
from tests.campaign.chaos.site import WORKERS, Site
from tests.campaign.counts import LAST_REPORT_S
from tests.campaign.figures import Row
from tests.campaign.usage import Usage

_SERVED_WITHIN_S = 1.0
_FIRST_SERVED_WITHIN_S = 20.0
_WARM_UP_S = 2.0
_MOMENT_S = (0.1, 1.0)


@dataclass(frozen=True)
class Planned:
    """A fault, the seconds of load before it, how many it lasts, and the chance that decides the rest."""

    fault: Fault
    moment_s: float
    lasts_s: float
    rng: random.Random


def plan(seed: int, kinds: Sequence[Fault]) -> Iterator[Planned]:
    """Faults without end, of these kinds: each once, in random order, before any comes again."""
    rng = random.Random(seed)
    while True:
        for fault in rng.sample(kinds, len(kinds)):
            own = random.Random(rng.getrandbits(64))
            yield Planned(fault, own.uniform(*_MOMENT_S), own.uniform(*fault.lasts_s), own)


class Run:
    """Faults of these kinds on a site. `recoveries`: seconds, by kind, in the order of the rounds.

    tolerance: a machine that others share may take so many times as long as we promise.
    """

    def __init__(self, site: Site, seed: int, kinds: Sequence[Fault], tolerance: float) -> None:
        self.recoveries: dict[str, list[float]] = {}
        self.counts_compared = 0
        self.count_differences = 0
        self._site = site
        self._tolerance = tolerance
        self._plan = plan(seed, kinds)
        self._spans = Spans()
        self._first: Usage | None = None
        self._starts = site.starts

    def rounds(self, number: int, minutes: float = 0.0) -> None:
        """At least so many faults, and for so long."""
        self._warm_up()
        until = time.monotonic() + 60 * minutes
        for done, planned in enumerate(self._plan, 1):
            self._round(done, planned)
            if done >= number and time.monotonic() >= until:
                return

    def _warm_up(self) -> None:
        workload = self._site.workload
        workload.wait_served(time.monotonic(), _FIRST_SERVED_WITHIN_S)
        time.sleep(_WARM_UP_S)
        workload.pause()
        self._check(None)
        self._first = usage.take(self._site.server, WORKERS)
        print(f"    at first: {self._first}", flush=True)
        workload.resume()

    def _round(self, number: int, planned: Planned) -> None:
        site, workload = self._site, self._site.workload
        fault, lasts = planned.fault, planned.lasts_s
        for_how_long = f", for {lasts:.2f} s" if lasts else ""
        print(f"{number:3} {fault.kind}, after {planned.moment_s:.2f} s{for_how_long}", flush=True)
        time.sleep(planned.moment_s)
        began = time.monotonic()
        acting = fault.act(site, planned.rng)
        try:
            since = next(acting)
            ends = time.monotonic()
            if fault.served:
                workload.wait_served(ends, self._tolerance * _SERVED_WITHIN_S)
            if lasts:
                time.sleep(max(0.0, began + lasts - time.monotonic()))
                ends = time.monotonic()
        finally:
            next(acting, None)
        recovery = workload.wait_served(ends if since is None else since, self._tolerance * fault.recovery_s)
        workload.pause()
        used = self._check(began - LAST_REPORT_S if fault.loses_counts else None)
        site.trim()
        self.recoveries.setdefault(fault.kind, []).append(recovery)
        figures.record(Row.FAULTS, 1, fault.kind)
        print(f"    served after {recovery:.2f} s; {used}", flush=True)
        workload.resume()

    def _check(self, lost_since: float | None) -> Usage | None:
        """Everything that must hold while the clients rest. lost_since: from when on a process may have lost counts."""
        site, workload = self._site, self._site.workload
        workload.settle(site.direct)
        lately = workload.answered_lately(float("inf") if lost_since is None else lost_since)
        compared, wrong = check_counts(site, lately)
        self.counts_compared += compared
        self.count_differences += len(wrong)
        assert not wrong, f"counts: {'; '.join(wrong)}"
        assert not workload.findings.wrong, "; ".join(workload.findings.words)
        if site.starts != self._starts:
            self._starts = site.starts
            self._spans = Spans()
        self._spans.check(site, lately)
        return check_usage(site, self._first) if self._first else None
