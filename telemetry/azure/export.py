"""Spans, metrics and log records to Application Insights.

Owns the library's three exporters, a thread and a bounded queue for each, and the rule that nobody but the ingestion
endpoint is talked to. Never waits in `take`, `metrics` and `log`, never keeps anything on disk (the library's offline
storage is off), and never shows the connection string.

    export = open_export(environ["APPLICATIONINSIGHTS_CONNECTION_STRING"], resource, stats)
    if export is not None:
        export.start()
        logs.add_exporter(export.log)

The library is imported by `AzureExport`, not with this module.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from telemetry import logs, spanpacket
from telemetry.azure import connection as connection_strings
from telemetry.azure.delivery import Answer, Delivery, Pace
from telemetry.otlp.stats import ExportStats
from telemetry.proxies import Proxies

if TYPE_CHECKING:
    from opentelemetry.sdk._logs import ReadableLogRecord
    from opentelemetry.sdk._logs.export import LogRecordExporter
    from opentelemetry.sdk.metrics.export import MetricsData
    from opentelemetry.sdk.trace import ReadableSpan

TRACES, METRICS, LOGS = "azure_traces", "azure_metrics", "azure_logs"

# A span waits as some 150 bytes of its packet, and is some 1,500 bytes of JSON when it is sent.
_SPANS_AT_MOST = 20_000
_SPANS_PER_REQUEST = 500
_METRICS_AT_MOST = 2
_TIMEOUT_S = 10.0
_DEFAULT_INTERVAL_S = 60.0

# The library's own telemetry about itself, and its remote configuration: calls to other hosts, each with a thread.
_OFF = {
    "APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL": "true",
    "APPLICATIONINSIGHTS_SDKSTATS_DISABLED": "true",
    "APPLICATIONINSIGHTS_CONTROLPLANE_DISABLED": "true",
    "APPLICATIONINSIGHTS_OPENTELEMETRY_RESOURCE_METRIC_DISABLED": "true",
}

Collect = Callable[[], "MetricsData | None"]


def open_export(
    connection_string: str, resource: Mapping[str, Any], stats: ExportStats, **options: Any
) -> AzureExport | None:
    """An export that is ready to be started; None when there can be none, after one warning that says why.

    resource: its attributes. options: those of AzureExport.
    """
    log = logs.get_logger()
    try:
        return AzureExport(connection_string, resource, stats, **options)
    except connection_strings.ConnectionStringError as error:
        log.warning(
            "azure.off",
            f"{connection_strings.VARIABLE} cannot be used: {error}. Nothing is sent to Application Insights.",
        )
    except ImportError:
        log.warning(
            "azure.off",
            f"{connection_strings.VARIABLE} is set, but what sends to Application Insights is not installed: "
            "pip install valkey-sidecar[azure]. Nothing is sent there.",
        )
    return None


class AzureExport:
    """Everything that goes to one Application Insights resource.

    collect: called before each interval ends, by our own thread, for the metrics to send; without it they come by
    `metrics`. interval_s: between two sendings of metrics, default OTEL_METRIC_EXPORT_INTERVAL. proxies: by default
    those of the environment.
    Raises ConnectionStringError, ImportError.
    """

    def __init__(
        self,
        connection_string: str,
        resource: Mapping[str, Any],
        stats: ExportStats,
        *,
        collect: Collect | None = None,
        interval_s: float | None = None,
        pace: Pace | None = None,
        proxies: Proxies | None = None,
    ) -> None:
        checked = connection_strings.check(connection_string)
        self.origin = checked.endpoint.rstrip("/")
        self.proxy = (proxies or Proxies(os.environ)).to(checked.endpoint)
        proxy_url = "" if self.proxy is None else self.proxy.url
        _keep_to_itself(checked)
        from azure.monitor.opentelemetry.exporter import AzureMonitorMetricExporter
        from opentelemetry.sdk.resources import Resource

        from telemetry.azure.deltas import Deltas
        from telemetry.azure.envelopes import LogExporter, SpanExporter, spans_of

        self._resource = Resource(dict(resource))
        self._stats = stats
        self._pace = pace or Pace()
        self._collect = collect
        self._interval_s = _interval_s() if interval_s is None else interval_s
        self._ending = threading.Event()
        self._spans_of = spans_of
        self._deltas = Deltas()
        self._log_pipeline: Any = None
        self._host = checked.host

        def make(exporter: Callable[..., Any]) -> tuple[Any, Answer]:
            answer = Answer()
            made = exporter(
                connection_string=checked.string,
                disable_offline_storage=True,
                raw_response_hook=answer.hear,
                retry_total=0,  # Delivery does that: its waits end with us
                # Said either way, also "none": else requests reads the environment for itself.
                proxies={"http": proxy_url, "https": proxy_url},
                timeout=_TIMEOUT_S,
                read_timeout=_TIMEOUT_S,
            )
            return made, answer

        self._span_exporter, heard = make(SpanExporter)
        self._spans: Delivery[ReadableSpan] = self._delivery(TRACES, _taken(self._span_exporter), heard, stats.drop)
        self._metric_exporter, heard = make(AzureMonitorMetricExporter)
        self._metrics: Delivery[MetricsData] = self._delivery(METRICS, self._export_metrics, heard, divisible=False)
        self._log_exporter, heard = make(LogExporter)
        self._logs: Delivery[ReadableLogRecord] = self._delivery(LOGS, _taken(self._log_exporter), heard)

        self._changed = threading.Condition()
        self._packets: deque[bytes] = deque()
        self._waiting = 0  # spans in packets
        self._metrics_waiting: deque[MetricsData] = deque(maxlen=_METRICS_AT_MOST)
        self._threads = [
            threading.Thread(target=self._send_spans, name="azure-traces", daemon=True),
            threading.Thread(target=self._send_metrics, name="azure-metrics", daemon=True),
        ]

    def start(self) -> None:
        """Start the threads. What was given before is sent."""
        from telemetry.otlp.logs import LogPipeline

        exporter = _log_record_exporter(self._logs, self._log_exporter)
        attributes = self._resource.attributes
        self._log_pipeline = LogPipeline(exporter, attributes, self._stats, signal=LOGS, thread="azure-logs")
        for thread in self._threads:
            thread.start()

    def take(self, packet: bytes) -> None:
        """Send the spans of a packet. With a full queue they are dropped, and counted as `azure_queue_full`."""
        spans = spanpacket.spans_in(packet)
        with self._changed:
            if self._waiting + spans > _SPANS_AT_MOST:
                self._stats.drop("azure_queue_full", spans)
                return
            self._packets.append(packet)
            self._waiting += spans
            self._stats.set_queue(TRACES, self._waiting)
            self._changed.notify_all()

    def metrics(self, data: MetricsData) -> None:
        """Send these cumulative metrics. Of those that wait only the latest two are kept: they hold the sums."""
        with self._changed:
            self._metrics_waiting.append(data)
            self._changed.notify_all()

    def log(self, record: Mapping[str, Any]) -> None:
        """Send a log record: an exporter for `telemetry.logs.add_exporter`, to be added after `start`."""
        self._log_pipeline.take(record)

    def stop(self, timeout_s: float) -> None:
        """Send what waits, once and without waiting for an endpoint that fails; after so many seconds give it up."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._ending.set()
            self._changed.notify_all()
        if self._log_pipeline is not None:
            ender = threading.Thread(target=self._log_pipeline.stop, args=(timeout_s,), daemon=True)
            ender.start()
            self._threads.append(ender)
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))

    def _delivery(
        self,
        signal: str,
        export: Callable[[Sequence[Any]], bool],
        heard: Answer,
        lost: Callable[[str, int], None] | None = None,
        *,
        divisible: bool = True,
    ) -> Delivery[Any]:
        log, pace, ending = logs.get_logger(), self._pace, self._ending
        return Delivery(signal, self._host, export, heard, self._stats, log, pace, ending, lost, divisible=divisible)

    # ---- spans -----------------------------------------------------------------------------------------------------

    def _send_spans(self) -> None:
        while True:
            batch = self._next_spans()
            if batch:
                self._spans.send(batch)
            elif self._ending.is_set() and not self._packets:
                return

    def _next_spans(self) -> list[ReadableSpan]:
        """The next batch, when it is full or has waited."""
        with self._changed:
            self._changed.wait_for(lambda: self._packets or self._ending.is_set())
            self._changed.wait_for(
                lambda: self._waiting >= _SPANS_PER_REQUEST or self._ending.is_set(), self._pace.delay_s
            )
        spans: list[ReadableSpan] = []
        while len(spans) < _SPANS_PER_REQUEST:
            with self._changed:
                if not self._packets:
                    break
                packet = self._packets.popleft()
                self._waiting -= spanpacket.spans_in(packet)
                self._stats.set_queue(TRACES, self._waiting)
            try:
                spans.extend(self._spans_of(packet, self._resource))
            except (spanpacket.PacketError, ValueError) as error:
                self._stats.fail(TRACES, type(error).__name__)
        return spans

    # ---- metrics ---------------------------------------------------------------------------------------------------

    def _send_metrics(self) -> None:
        due = time.monotonic() + self._interval_s
        while True:
            with self._changed:
                wait = None if self._collect is None else max(0.0, due - time.monotonic())
                self._changed.wait_for(lambda: self._metrics_waiting or self._ending.is_set(), wait)
                waiting = list(self._metrics_waiting)
                self._metrics_waiting.clear()
                ending = self._ending.is_set()
            for data in waiting:
                self._metrics.send([data])
            if self._collect is not None and (ending or time.monotonic() >= due):
                due = time.monotonic() + self._interval_s
                self._send_collected(self._collect)
            if ending:
                return

    def _send_collected(self, collect: Collect) -> None:
        try:
            data = collect()
        except Exception as error:  # of ours: the next interval may do better
            self._stats.fail(METRICS, type(error).__name__)
            return
        if data is not None:
            self._metrics.send([data])

    def _export_metrics(self, items: Sequence[MetricsData]) -> bool:
        """Send what is new in the data. What was not sent is part of the next difference, what was refused is not."""
        (data,) = items
        done = _taken(self._metric_exporter)(self._deltas.since_last(data))
        if not done and not self._metrics.partly_taken:
            self._deltas.undo()
        return done


def _taken(exporter: Any) -> Callable[[Any], bool]:
    def export(items: Any) -> bool:
        return bool(exporter.export(items).name == "SUCCESS")

    return export


def _log_record_exporter(delivery: Delivery[ReadableLogRecord], exporter: LogRecordExporter) -> LogRecordExporter:
    """What the SDK's pipeline gives its batches to."""
    from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult

    class Exporter(LogRecordExporter):
        def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
            delivery.send(batch)
            return LogRecordExportResult.SUCCESS  # a failure is counted and told already

        def force_flush(self, timeout_millis: int = 30000) -> bool:
            return True

        def shutdown(self) -> None:
            exporter.shutdown()  # type: ignore[no-untyped-call]

    return Exporter()


def _keep_to_itself(checked: connection_strings.Connection) -> None:
    """No calls to other hosts, and no lines of the library's: they show whole envelopes, the key included."""
    os.environ.update(_OFF)
    if connection_strings.VARIABLE in os.environ:
        os.environ[connection_strings.VARIABLE] = checked.string  # it is read again, by a stricter reader
    logging.getLogger("azure").setLevel(logging.CRITICAL + 1)


def _interval_s() -> float:
    """OTEL_METRIC_EXPORT_INTERVAL, which is in milliseconds."""
    try:
        milliseconds = float(os.environ.get("OTEL_METRIC_EXPORT_INTERVAL", ""))
    except ValueError:
        return _DEFAULT_INTERVAL_S
    return milliseconds / 1000 if milliseconds > 0 else _DEFAULT_INTERVAL_S
