"""A collector that can be told to misbehave: a mock of an OTLP receiver over HTTP.

Owns how it answers, and the sums of the spans in requests that it answered well. Never keeps what it was sent.
"""

from __future__ import annotations

import time

from tests.telemetry.otlp.receivers import Answer, HttpReceiver, Request

_SLOW_S = 1.0


class Collector(HttpReceiver):
    """`slow`: every answer takes a second. What else it does wrong, `answer` says (tests.telemetry.otlp.receivers)."""

    def __init__(self, port: int = 0) -> None:
        self.slow = False
        self.taken = 0
        super().__init__(port=port)

    def _keep(self, request: Request) -> Answer:
        answer = super()._keep(request)
        self.requests.clear()
        if self.slow:
            time.sleep(_SLOW_S)
        if request.signal == "traces" and answer == Answer():
            with self._changed:
                self.taken += sum(
                    span.name != "PIPELINE"
                    for resource in request.message.resource_spans
                    for scope in resource.scope_spans
                    for span in scope.spans
                )
        return answer
