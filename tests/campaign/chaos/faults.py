"""What a fault is: how it is done to a site, how it is undone, and what must hold.

Owns the table, which the modules beside this one fill: each fault is a generator that injects it, yields while it
lasts, and heals it. It never judges whether what must hold held.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.campaign.chaos.site import Site

Act = Callable[[Site, random.Random], Iterator[float | None]]
"""It may yield the moment (time.monotonic) that the recovery counts from, where it is not the fault's end."""


@dataclass(frozen=True)
class Fault:
    """A row of the table.

    recovery_s: from its end until every client is served; what is killed ends at once. lasts_s: how long, at least
    and at most. loses_counts: what a process had not reported yet is gone. served: clients are served meanwhile, within
    a second. fast: short enough for CI. impossible: why it cannot be done here, None where it can.
    """

    kind: str
    act: Act
    recovery_s: float
    lasts_s: tuple[float, float] = (0.0, 0.0)
    loses_counts: bool = False
    served: bool = False
    fast: bool = False
    impossible: Callable[[Site], str | None] = lambda _site: None


TABLE: dict[str, Fault] = {}


def fault(kind: str, recovery_s: float, **more: object) -> Callable[[Act], Act]:
    """Enter a generator into the table."""

    def enter(act: Act) -> Act:
        TABLE[kind] = Fault(kind, act, recovery_s, **more)  # type: ignore[arg-type]
        return act

    return enter
