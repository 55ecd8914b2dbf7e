"""Everything that goes out over OTLP: started once, fed with span packets, stopped with a flush.

Owns the exporters of all signals and their order of starting and ending. Never disturbs who uses it: heavy imports and
connections happen in threads, every wait is bounded, and an exporter that cannot start is logged and counted.

    pipeline = Pipeline(settings, stats, resource, version="1.0", metrics=make_source, logs=make_log_sender)
    pipeline.take(packet)                            # in the event loop; from the first moment on
    await asyncio.to_thread(pipeline.stop, 5.0)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from telemetry.logs import get_logger
from telemetry.otlp.encoded import Observed
from telemetry.otlp.faults import Faults
from telemetry.otlp.resource import Attributes
from telemetry.otlp.settings import ExportSettings, Signal
from telemetry.otlp.spans import Exemplars, Spans
from telemetry.otlp.stats import ExportStats
from telemetry.otlp.transport import ExportError, Transport, make_transport
from telemetry.otlp.trust import TrustError

if TYPE_CHECKING:
    from telemetry.otlp.metrics import Metrics, MetricsSource

SCOPE: Final = "valkey.commands"
_AFTER_STOP_S: Final = 2.0  # what was told to end by a deadline has ended so much later at the latest


class LogSender(Protocol):
    """Who sends log records, in a thread `otlp-logs` of its own."""

    def stop(self, timeout_s: float) -> None:
        """Send what waits, for at most so long; then close the transport."""


class Pipeline:
    """Make it when the first worker is ready: it begins at once, in threads.

    resource: telemetry.otlp.resource.attributes. version: ours. metrics, logs: called in a thread when OTLP wants the
    signal, so that they may import what they need. on_slow: called in a thread for every span with the flag SLOW, also
    when spans are not exported; exemplars likewise.
    """

    def __init__(
        self,
        settings: ExportSettings,
        stats: ExportStats,
        resource: Attributes,
        *,
        version: str,
        metrics: Callable[[], MetricsSource] | None = None,
        logs: Callable[[Transport], LogSender] | None = None,
        on_slow: Callable[[Observed], None] | None = None,
        exemplars: Exemplars | None = None,
    ) -> None:
        self._settings = settings
        self._stats = stats
        self._resource = resource
        self._version = version
        self._make_metrics = metrics
        self._make_logs = logs
        self._metrics: Metrics | None = None
        self._logs: LogSender | None = None
        self._spans = Spans(
            settings.spans, stats, export=settings.traces is not None, on_slow=on_slow, exemplars=exemplars
        )
        self.take = self._spans.take
        """Hand over one packet of spans; returns at once."""
        self._starting = threading.Thread(target=self._start, name="otlp-start", daemon=True)
        self._starting.start()

    def stop(self, timeout_s: float) -> None:
        """Flush all signals side by side, for at most so long; then give up. Blocks: call it in a thread."""
        deadline = time.monotonic() + timeout_s
        self._starting.join(timeout_s)
        stops: list[Callable[[], None]] = [lambda: self._spans.stop(deadline)]
        if (metrics := self._metrics) is not None:
            stops.append(lambda: metrics.stop(deadline))
        if (logs := self._logs) is not None:
            stops.append(lambda: logs.stop(max(0.0, deadline - time.monotonic())))
        threads = [threading.Thread(target=stop, name="otlp-stop", daemon=True) for stop in stops]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline + _AFTER_STOP_S - time.monotonic()))

    # ---- the starting thread

    def _start(self) -> None:
        """Spans first: they are what somebody waits for."""
        self._guard("traces", self._start_traces)
        self._guard("metrics", self._start_metrics)
        self._guard("logs", self._start_logs)

    def _guard(self, signal: Signal, start: Callable[[Transport], None]) -> None:
        transport = self._transport(signal)
        if transport is None:
            return
        try:
            start(transport)
        except Exception as error:
            Faults(signal).log(error)
            self._stats.fail(signal, "fault")

    def _transport(self, signal: Signal) -> Transport | None:
        """None: the signal is off."""
        settings = self._settings.signal(signal)
        if settings is None:
            return None
        try:
            return make_transport(signal, settings, self._stats)
        except TrustError as error:
            get_logger().warning(
                "export.failed",
                f"No {signal} are exported: {error}.",
                signal=signal,
                endpoint=settings.shown,
                reason="tls",
            )
            return Unusable(signal, self._stats, "tls")
        except Exception as error:
            Faults(signal).log(error)
            return Unusable(signal, self._stats, "fault")

    def _start_traces(self, transport: Transport) -> None:
        from telemetry.otlp.envelope import Envelope

        self._spans.send_with(transport, Envelope(self._resource, SCOPE, self._version))

    def _start_metrics(self, transport: Transport) -> None:
        from telemetry.otlp.metrics import Metrics

        if self._make_metrics is not None:
            self._metrics = Metrics(self._make_metrics(), transport, self._settings.metric_interval_s, self._stats)

    def _start_logs(self, transport: Transport) -> None:
        if self._make_logs is not None:
            self._logs = self._make_logs(transport)


class Unusable:
    """In place of a transport that could not be made: what should be sent is lost, and counted."""

    def __init__(self, signal: Signal, stats: ExportStats, reason: str) -> None:
        self._signal, self._stats, self._reason = signal, stats, reason

    def send(self, request: bytes, items: int) -> None:
        """See Transport."""
        self._stats.fail(self._signal, self._reason)
        raise ExportError(self._reason)

    def close(self) -> None:
        """See Transport."""
