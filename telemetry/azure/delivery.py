"""Batches on their way to the ingestion endpoint: again after throttling, given up in the end, counted in any case.

Owns retries, back-off and what is said about failures: once per change of state. Never waits longer than it is told to
by the endpoint or by its pace, and not at all once the end has come. The exporters of the library keep nothing on disk.

What the endpoint answers: 200; 206 (some items rejected, each with a status of its own); 408, 429, 5xx (later); 402 and
439 (the quota is used up); 400 (never).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Generic, TypeVar

from telemetry.logs import Log
from telemetry.otlp.stats import ExportStats

Item = TypeVar("Item")

_PARTLY = 206
_AGAIN = frozenset({401, 403, 408, 429, 500, 502, 503, 504})
_LONGEST_WAIT_S = 600.0
_WHAT = {"azure_traces": "Spans", "azure_metrics": "Metrics", "azure_logs": "Log records"}
_WHY = {
    400: "it refuses what it gets, or does not know the instrumentation key",
    401: "it wants another way of authentication",
    402: "the quota is used up",
    403: "it wants another way of authentication",
    404: "there is no such resource",
    429: "it is asked too often",
    439: "the quota is used up",
}


@dataclass(frozen=True)
class Pace:
    """Seconds, and attempts per batch. `delay_s`: how long a span waits for others."""

    delay_s: float = 5.0
    first_wait_s: float = 1.0
    longest_wait_s: float = 30.0
    attempts: int = 5


@dataclass
class Answer:
    """What the endpoint said last; status None: nothing."""

    status: int | None = None
    retry_after_s: float = 0.0
    body: dict[str, Any] = field(default_factory=dict)

    def hear(self, response: Any) -> None:
        """For azure-core's `raw_response_hook`: called with every response, those that redirect included."""
        http = response.http_response
        self.status = int(http.status_code)
        self.retry_after_s = _seconds(http.headers.get("Retry-After"))
        self.body = {}
        if self.status == _PARTLY:
            with contextlib.suppress(Exception):  # no JSON: then nobody knows which items it took
                self.body = dict(http.json())

    def forget(self) -> None:
        self.status, self.retry_after_s, self.body = None, 0.0, {}

    @property
    def reason(self) -> str:
        """For the statistics."""
        return "unreachable" if self.status is None else f"http_{self.status}"

    @property
    def explanation(self) -> str:
        """For people."""
        if self.status is None:
            return "it cannot be reached"
        why = _WHY.get(self.status)
        return f"it answers {self.status}" + (f", {why}" if why else "")


class Delivery(Generic[Item]):
    """Sends batches of one signal, one after the other, for one thread. `host` is told to people.

    export: sends items through the library, True if all of them were taken. answer: what the library heard meanwhile.
    lost: called with a reason and the number of items that will never arrive. divisible: the endpoint counts the same
    items as we do, so that those it had no time for can be sent again alone.
    """

    def __init__(
        self,
        signal: str,
        host: str,
        export: Callable[[Sequence[Item]], bool],
        answer: Answer,
        stats: ExportStats,
        log: Log,
        pace: Pace,
        ending: threading.Event,
        lost: Callable[[str, int], None] | None = None,
        *,
        divisible: bool = True,
    ) -> None:
        self._signal = signal
        self._host = host
        self._export = export
        self._answer = answer
        self._stats = stats
        self._log = log
        self._pace = pace
        self._ending = ending
        self._lost = lost
        self._divisible = divisible
        self._failing = False

    def send(self, items: Sequence[Item]) -> None:
        """Send them, as often as it takes and makes sense. Never raises."""
        wait_s, answer = self._pace.first_wait_s, self._answer
        for attempt in range(1, self._pace.attempts + 1):
            answer.forget()
            try:
                done = self._export(items)
            except Exception as error:  # of the library's or ours: these items, and not the next ones
                self._give_up(type(error).__name__, f"a fault: {type(error).__name__}", len(items))
                return
            if done:
                self._recovered()
                return
            again = answer.status is None or answer.status in _AGAIN
            if answer.status == _PARTLY:
                items = self._rejected(items)
                if not items:
                    self._recovered()
                    return
                again = True
            if not again or attempt == self._pace.attempts or self._ending.is_set():
                break
            self._ending.wait(max(wait_s, answer.retry_after_s))
            if self._ending.is_set() and answer.retry_after_s:
                break  # it has asked us not to come back so soon
            wait_s = min(2 * wait_s, self._pace.longest_wait_s)
        self._give_up(answer.reason, answer.explanation, len(items))
        self._ending.wait(max(wait_s, answer.retry_after_s))

    @property
    def partly_taken(self) -> bool:
        """Whether the last answer was that some items were taken and others not."""
        return self._answer.status == _PARTLY

    def _rejected(self, items: Sequence[Item]) -> Sequence[Item]:
        """Some items were refused: count those, and return what may be sent again."""
        errors = [error for error in self._answer.body.get("errors") or () if isinstance(error, dict)]
        later = [error for error in errors if self._divisible and error.get("statusCode") in _AGAIN]
        again = {error.get("index") for error in later}
        refused = len(errors) - len(later)
        if refused:
            self._stats.fail(self._signal, "rejected", refused)
            if self._lost is not None:
                self._lost("azure_rejected", refused)
        return [item for index, item in enumerate(items) if index in again]

    def _give_up(self, reason: str, explanation: str, items: int) -> None:
        self._stats.fail(self._signal, reason)
        if self._lost is not None:
            self._lost("azure_export_failed", items)
        if not self._failing:
            self._failing = True
            message = f"{_WHAT[self._signal]} cannot be sent to Application Insights at {self._host}: {explanation}."
            self._log.warning("export.failed", message, signal=self._signal, reason=reason)

    def _recovered(self) -> None:
        if self._failing:
            self._failing = False
            message = f"{_WHAT[self._signal]} are sent to Application Insights again."
            self._log.notice("export.recovered", message, signal=self._signal)


def _seconds(retry_after: str | None) -> float:
    """RFC 9110, 10.2.3: seconds or a date; 0 for anything else."""
    if not retry_after:
        return 0.0
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        if retry_after.strip().isdigit():
            return min(float(retry_after), _LONGEST_WAIT_S)
        when = parsedate_to_datetime(retry_after)
        return min(max((when - datetime.now(UTC)).total_seconds(), 0.0), _LONGEST_WAIT_S)
    return 0.0
