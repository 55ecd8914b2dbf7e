"""What goes out of this server: OTLP, Application Insights, and slow commands in the log.

Owns the exporters' start, which waits for the first worker and happens in threads, and their end. Packets of spans that
come before wait. It measures nothing and knows no protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING

from sidecar import __version__
from sidecar.engine.info import EngineInfo
from sidecar.status import Status
from telemetry.otlp.settings import SIGNALS, ExportSettings
from telemetry.spanpacket import spans_in

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricsData

    from telemetry.azure.export import AzureExport
    from telemetry.collection import Collection
    from telemetry.otlp.pipeline import LogSender, Pipeline
    from telemetry.otlp.resource import Attributes
    from telemetry.otlp.transport import Transport
    from telemetry.proxies import Proxy

_EARLY_PACKETS_MOST = 64
_STOP_WITHIN_S = 2.0


class Exports:
    """All exporters of one server."""

    def __init__(self, settings: ExportSettings, status: Status, engine_info: EngineInfo) -> None:
        self._settings = settings
        self._status = status
        self._engine_info = engine_info
        self._start_unix_ns = time.time_ns()
        self._early: deque[bytes] = deque()
        self._pipeline: Pipeline | None = None
        self._azure: AzureExport | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._resource: Attributes = {}
        self._azure_collection: Collection | None = None
        self._started = asyncio.Event()

    @property
    def wants_spans(self) -> bool:
        """Whether spans go to somebody."""
        return self._settings.traces is not None or bool(self._settings.azure_connection_string)

    def take(self, packet: bytes) -> None:
        """A packet of spans has come from a worker."""
        if self._pipeline is None:
            if len(self._early) < _EARLY_PACKETS_MOST:
                self._early.append(packet)
            elif self.wants_spans:
                self._status.stats.drop("queue_full", spans_in(packet))
            return
        self._pipeline.take(packet)
        if self._azure is not None:
            self._azure.take(packet)

    async def start(self, ready: asyncio.Event, address: str, port: int) -> None:
        """Start them when `ready` says that clients are served: they wait for no import.

        address, port: where clients reach us.
        """
        await ready.wait()
        self._loop = asyncio.get_running_loop()
        try:
            pipeline, self._azure = await asyncio.to_thread(self._make, address, port)
        except Exception as error:  # a fault of ours: clients are served without it
            from telemetry.otlp.faults import Faults

            Faults("traces").log(error)
        else:
            self._pipeline = pipeline
            while self._early:
                self.take(self._early.popleft())
        finally:
            self._started.set()

    async def stop(self) -> None:
        """Send what waits, within two seconds; then give it up."""
        if self._loop is not None:  # what they import may take longer than the server lived
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STOP_WITHIN_S):
                    await self._started.wait()
        stops = [
            asyncio.to_thread(exporter.stop, _STOP_WITHIN_S)
            for exporter in (self._pipeline, self._azure)
            if exporter is not None
        ]
        await asyncio.gather(*stops, return_exceptions=True)
        if self.wants_spans and self._early:
            self._status.stats.drop("shutdown", sum(map(spans_in, self._early)))

    # ---- in a thread -----------------------------------------------------------------------------------------------

    def _make(self, address: str, port: int) -> tuple[Pipeline, AzureExport | None]:
        from telemetry import logs
        from telemetry.otlp import resource
        from telemetry.otlp.pipeline import Pipeline
        from telemetry.slow import SlowCommands

        settings, stats = self._settings, self._status.stats
        version = self._status.valkey_version or None
        self._resource = resource.attributes(
            settings, version=__version__, valkey_version=version, address=address, port=port
        )
        slow = SlowCommands(logs.get_logger())

        pipeline = Pipeline(
            settings,
            stats,
            self._resource,
            version=__version__,
            metrics=self._collection,
            logs=self._log_sender,
            on_slow=slow.observe,
            exemplars=self._status.exemplars,
        )
        azure = None
        if settings.azure_connection_string:
            from telemetry.azure.export import open_export

            azure = open_export(
                settings.azure_connection_string,
                self._resource,
                stats,
                collect=self._collect_azure,
                proxies=settings.proxies,
            )
        if azure is not None:
            azure.start()
            logs.add_exporter(azure.log)
        if settings.logs is None:
            logs.exporters_complete()
        self._tell_proxies(azure)
        return pipeline, azure

    def _tell_proxies(self, azure: AzureExport | None) -> None:
        """Once for each way out that leads through one."""
        from telemetry import logs

        ways: dict[tuple[str, Proxy], list[str]] = {}
        for signal in SIGNALS:
            settings = self._settings.signal(signal)
            if settings is not None and settings.proxy is not None:
                ways.setdefault((settings.origin, settings.proxy), []).append(signal)
        if azure is not None and azure.proxy is not None:
            ways[azure.origin, azure.proxy] = ["everything for Application Insights"]
        for (endpoint, proxy), what in ways.items():
            logs.get_logger().notice(
                "export.proxy",
                f"Exporting {', '.join(what)} to {endpoint} through the proxy {proxy.shown}, as {proxy.variable} says.",
                endpoint=endpoint,
                proxy=proxy.shown,
                variable=proxy.variable,
            )

    def _collect_azure(self) -> MetricsData:
        """Its own reader of the figures: made in the thread that asks, at its first interval."""
        if self._azure_collection is None:
            self._azure_collection = self._collection(cumulative=True)
        return self._azure_collection.collect()

    def _collection(self, *, cumulative: bool = False) -> Collection:
        from opentelemetry.sdk.resources import Resource

        from telemetry.collection import Collection
        from telemetry.metricsdata import MetricsSource

        assert self._loop is not None
        source = MetricsSource(
            self._status.figures,
            self._status.exemplars,
            self._engine_info.points,
            self._start_unix_ns,
            "cumulative" if cumulative else self._settings.temporality,
        )
        return Collection(source, Resource(dict(self._resource)), self._loop, self._status.refresh)

    def _log_sender(self, transport: Transport) -> LogSender:
        from telemetry import logs
        from telemetry.otlp.logs import LogPipeline, OtlpLogExporter

        pipeline = LogPipeline(OtlpLogExporter(transport), self._resource, self._status.stats)
        logs.add_exporter(pipeline.take)
        logs.exporters_complete()
        return pipeline
