"""Whether a server has counted what clients sent: its metrics against their tally.

Owns the bounds. A command that was answered is counted once under its outcome; one that was sent and not answered may
be counted or not. Only a worker that is killed takes counts along: those since its last report, which it makes every
second; so what it may have lost is what its clients were answered in their last LAST_REPORT_S seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from tests.campaign.connection import Tally

LAST_REPORT_S = 1.5
"""A report a second, and half a one for a machine that is busy."""

Calls = Mapping[tuple[str, str], int]


def differences(counted: Calls, tally: Tally, lost: Calls) -> list[str]:
    """Every count that is out of its bounds, in words. lost: what killed workers may have taken along, at most."""
    found = []
    for (name, error), answered in sorted(tally.answered.items()):
        least = answered - lost.get((name, error), 0)
        if counted.get((name, error), 0) < least:
            found.append(f"{name} {error or 'well'}: {counted.get((name, error), 0)} counted, {answered} answered")
    sums: Counter[str] = Counter()
    for (name, _), count in counted.items():
        sums[name] += count
    for name, count in sorted(sums.items()):
        if count > tally.sent[name]:
            found.append(f"{name}: {count} counted, {tally.sent[name]} sent")
    return found


def compared(counted: Calls, tally: Tally) -> int:
    """How many counts `differences` looks at."""
    return len(set(counted) | set(tally.answered))
