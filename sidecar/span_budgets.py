"""Log records about spans that weren't sent because a budget was spent.

Owns the two records, one when it begins and one when it's over, each with the number and the setting. It counts
nothing: workers do, and `valkey.sidecar.spans.dropped` has every figure.

    task = asyncio.create_task(SpanBudgets(lambda: totals.counter("spans.dropped"), settings, journal).run())
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple

from sidecar.journal import Journal, Level
from sidecar.settings import SidecarSettings
from sidecar.tracing import bursts

_LOOK_S = 5.0
_QUIET_LOOKS = 12
"""A minute in which every span was sent: it's over."""


class _Budget(NamedTuple):
    """Which spans it limits, the setting, and how serious it is when some are lost."""

    what: str
    setting: str
    level: Level


# Losing roots is expected: their budget is small on purpose.
_BUDGETS: Mapping[str, _Budget] = {
    "budget_remote": _Budget("spans under client spans", "trace-budget-remote", "warning"),
    "budget_children": _Budget(
        "spans inside pipelines and transactions without a context", "trace-budget-remote", "warning"
    ),
    "budget_root": _Budget("spans of commands without a context", "trace-budget-root", "notice"),
    "budget_kept": _Budget("spans of commands that failed or were slow", "trace-budget-kept", "warning"),
}


class _State:
    """What is known about one budget."""

    def __init__(self) -> None:
        self.seen = 0
        self.lost = 0
        self.quiet_looks = 0
        self.told = False


class SpanBudgets:
    """dropped: how many spans weren't sent so far, by reason."""

    def __init__(self, dropped: Callable[[], Mapping[str, int]], settings: SidecarSettings, journal: Journal) -> None:
        self._dropped = dropped
        self._journal = journal
        self._per_second = {
            budget.setting: getattr(settings, budget.setting.replace("-", "_")) for budget in _BUDGETS.values()
        }
        self._at_once = dict(zip(_BUDGETS, bursts(settings), strict=True))
        self._states = {reason: _State() for reason in _BUDGETS}

    async def run(self) -> None:
        """Look every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            self.look()

    def look(self) -> None:
        """Log what has changed since the last look."""
        dropped = self._dropped()
        for reason, budget in _BUDGETS.items():
            state = self._states[reason]
            new = dropped.get(reason, 0) - state.seen
            state.seen += new
            state.lost += new
            state.quiet_looks = 0 if new else state.quiet_looks + 1
            details = {"reason": reason, "setting": f"sidecar-{budget.setting}", "spans": state.lost}
            if new and not state.told:
                state.told = True
                allowed = f"{self._per_second[budget.setting]:,} a second, {self._at_once[reason]:,} at once"
                self._journal.log(
                    budget.level,
                    "spans.limited",
                    f"{new:,} {budget.what} weren't sent: sidecar-{budget.setting} allows {allowed}. "
                    "valkey.sidecar.spans.dropped has the running count.",
                    **details,
                )
            elif state.told and state.quiet_looks >= _QUIET_LOOKS:
                self._journal.notice(
                    "spans.not_limited",
                    f"All {budget.what} are sent again; {state.lost:,} weren't, because of sidecar-{budget.setting}.",
                    **details,
                )
                state.told = False
                state.lost = 0
