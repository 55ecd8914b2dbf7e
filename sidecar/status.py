"""How the server is, for those who ask over HTTP.

Owns the answers to "is it ready" and "what happened so far". It never changes anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sidecar import __version__
from sidecar.engine.embedded import Engine
from sidecar.engine.info import EngineInfo
from sidecar.workers import Workers
from telemetry.exemplars import Exemplars
from telemetry.figures import Figures
from telemetry.otlp.stats import ExportStats
from telemetry.totals import Totals

if TYPE_CHECKING:
    from prometheus_client.registry import CollectorRegistry

_SNAPSHOT_WITHIN_S = 0.5


class Status:
    """What `sidecar.control.http` and `telemetry.prometheus` ask the supervisor."""

    def __init__(
        self,
        pid: int,
        engine: Engine,
        engine_info: EngineInfo,
        workers: Workers,
        totals: Totals,
        exemplars: Exemplars,
    ) -> None:
        self.stopping = False
        self._pid = pid
        self._engine = engine
        self._engine_info = engine_info
        self._workers = workers
        self.stats = ExportStats()
        self.figures = Figures(totals, self, self.stats)
        self.exemplars = exemplars
        self._registry: CollectorRegistry | None = None

    def ready(self) -> tuple[bool, str]:
        """Whether a client that connects now is served, and why not."""
        if self.stopping:
            return False, "the server is shutting down"
        if not self._engine.ready:
            return False, self._engine.reason
        if not self._workers.ready:
            return False, "no worker accepts clients yet"
        return True, "ready"

    async def refresh(self) -> None:
        """Have every worker hand over its latest figures, and the engine tell its own."""
        await asyncio.gather(self._workers.ask("snapshot", {}, _SNAPSHOT_WITHIN_S), self._engine_info.refresh())

    @property
    def registry(self) -> CollectorRegistry:
        """Made when it is first asked for: the import costs 5 MB and a tenth of a second."""
        if self._registry is None:
            from telemetry import prometheus

            self._registry = prometheus.registry(self.figures, self.exemplars, self._engine_info.collector)
        return self._registry

    @property
    def version(self) -> str:
        return __version__

    @property
    def valkey_version(self) -> str:
        return self._engine.version

    @property
    def worker_restarts(self) -> int:
        return self._workers.restarts

    @property
    def engine_restarts(self) -> int:
        return self._engine.restarts

    @property
    def engine_limits(self) -> Mapping[str, int]:
        return self._engine.limits.reached

    def processes(self) -> Mapping[str, Sequence[int]]:
        """Process ids by role."""
        engine = self._engine.child
        return {
            "supervisor": [self._pid],
            "engine": [engine.pid] if engine is not None and engine.code is None else [],
            "worker": self._workers.pids,
        }
