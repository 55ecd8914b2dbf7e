"""Sends metrics at every interval. Owns the thread `otlp-metrics`; never counts anything itself.

Imports the SDK's encoder: only for who exports.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any, Final, Protocol

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics.export import MetricsData

from telemetry.otlp.faults import Faults
from telemetry.otlp.stats import ExportStats
from telemetry.otlp.transport import REQUEST_BYTES_MAX, ExportError, Transport

_AFTER_CLOSE_S: Final = 1.0


class MetricsSource(Protocol):
    """Who knows the figures (telemetry.metricsdata)."""

    def collect(self) -> MetricsData:
        """All of them, now. Called in the thread `otlp-metrics`, once per interval and once at the end."""


class Metrics:
    """interval_s: seconds from one collection to the next."""

    def __init__(self, source: MetricsSource, transport: Transport, interval_s: float, stats: ExportStats) -> None:
        self._source = source
        self._transport = transport
        self._interval_s = interval_s
        self._stats = stats
        self._faults = Faults("metrics")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="otlp-metrics", daemon=True)
        self._thread.start()

    def stop(self, deadline: float) -> None:
        """Send the last figures until `deadline` (of time.monotonic), then give up."""
        self._stopping.set()
        self._thread.join(max(0.0, deadline - time.monotonic()))
        self._transport.close()
        self._thread.join(_AFTER_CLOSE_S)

    def _run(self) -> None:
        due = time.monotonic() + self._interval_s
        while not self._stopping.wait(max(0.0, due - time.monotonic())):
            self._export()
            due = max(due + self._interval_s, time.monotonic())
        self._export()

    def _export(self) -> None:
        try:
            for request in requests(encode_metrics(self._source.collect())):
                self._transport.send(request.SerializeToString(), _points(request))
        except ExportError:
            return  # counted and logged by the transport; the next one has all figures again
        except Exception as error:
            self._faults.log(error)
            self._stats.fail("metrics", "fault")


def requests(whole: Any, limit: int = REQUEST_BYTES_MAX) -> Iterator[Any]:
    """The request in as many as it takes to stay under the limit; a metric is never divided."""
    if whole.ByteSize() < limit or _metrics(whole) <= 1:
        if _metrics(whole):
            yield whole
        return
    first, second = type(whole)(), type(whole)()
    half, seen = _metrics(whole) // 2, 0
    for resource in whole.resource_metrics:
        for target in (first, second):
            target.resource_metrics.add(resource=resource.resource, schema_url=resource.schema_url)
        for scope in resource.scope_metrics:
            cut = max(0, min(len(scope.metrics), half - seen))
            seen += len(scope.metrics)
            for target, metrics in ((first, scope.metrics[:cut]), (second, scope.metrics[cut:])):
                if metrics:
                    target.resource_metrics[-1].scope_metrics.add(
                        scope=scope.scope, metrics=metrics, schema_url=scope.schema_url
                    )
    yield from requests(first, limit)
    yield from requests(second, limit)


def _metrics(request: Any) -> int:
    return sum(len(scope.metrics) for resource in request.resource_metrics for scope in resource.scope_metrics)


def _points(request: Any) -> int:
    return sum(
        len(getattr(metric, metric.WhichOneof("data")).data_points)
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.WhichOneof("data")
    )
