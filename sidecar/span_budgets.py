"""Spans that are not sent because a budget is spent, as the log says it.

Owns what is said when that begins and when it has ended: once each, with the number and the setting. It counts nothing;
workers do, and `valkey.sidecar.spans.dropped` has every figure.

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
"""A minute without a loss: it is over."""


class _Budget(NamedTuple):
    """What is lost beyond it, and which setting it is."""

    what: str
    setting: str
    level: Level


# Few roots are sent whatever they cost: that is what this budget is for, and no fault.
_BUDGETS: Mapping[str, _Budget] = {
    "budget_remote": _Budget("spans below those of clients", "trace-budget-remote", "warning"),
    "budget_children": _Budget("spans inside our own pipelines and transactions", "trace-budget-remote", "warning"),
    "budget_root": _Budget("spans of commands without a context", "trace-budget-root", "notice"),
    "budget_kept": _Budget("spans of commands that failed or were slow", "trace-budget-kept", "warning"),
}


class _State:
    """Of one budget."""

    def __init__(self) -> None:
        self.seen = 0
        self.lost = 0
        self.quiet_looks = 0
        self.told = False


class SpanBudgets:
    """dropped: how many spans were not sent so far, by reason."""

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
        """Say what has changed since the last look."""
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
                allowed = f"{self._per_second[budget.setting]:,} a second and {self._at_once[reason]:,} at once"
                self._journal.log(
                    budget.level,
                    "spans.limited",
                    f"{new:,} {budget.what} were not sent: sidecar-{budget.setting} allows {allowed}. "
                    "valkey.sidecar.spans.dropped counts them from now on.",
                    **details,
                )
            elif state.told and state.quiet_looks >= _QUIET_LOOKS:
                self._journal.notice(
                    "spans.not_limited",
                    f"All {budget.what} are sent again: {state.lost:,} were not, beyond sidecar-{budget.setting}.",
                    **details,
                )
                state.told = False
                state.lost = 0
