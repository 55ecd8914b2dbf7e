"""Metrics collected from an exporter's thread, with figures that live on the event loop.

Owns the way between the two: the workers are asked for their latest, the figures are copied on the loop, and become
MetricsData in the exporter's thread. Never sends anything.

    collection = Collection(source, resource, loop, status.refresh)
    data = collection.collect()      # in any thread but the loop's
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Final

from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.resources import Resource

from telemetry.metricsdata import MetricsSource, Taken

_REFRESH_LIMIT_S: Final = 0.5
_LIMIT_S: Final = 5.0


class Collection:
    """What `telemetry.otlp.metrics` asks for figures. One thread at a time.

    refresh: has every worker hand over its latest figures; a worker that does not answer in time shows older ones.
    """

    def __init__(
        self,
        source: MetricsSource,
        resource: Resource,
        loop: asyncio.AbstractEventLoop,
        refresh: Callable[[], Coroutine[None, None, None]],
        limit_s: float = _LIMIT_S,
    ) -> None:
        self._source = source
        self._resource = resource
        self._loop = loop
        self._refresh = refresh
        self._limit_s = limit_s

    def collect(self) -> MetricsData:
        """All figures, now. Raises TimeoutError when the loop does not get to it within five seconds."""
        return self._source.build(self._taken(), self._resource)

    def _taken(self) -> Taken:
        work = self._take()
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:  # the loop has ended: nobody changes the figures any more
            work.close()
            return self._source.take()
        try:
            return future.result(self._limit_s)
        except TimeoutError:
            future.cancel()
            raise TimeoutError("the event loop did not hand over the figures in time") from None

    async def _take(self) -> Taken:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REFRESH_LIMIT_S):
                await self._refresh()
        return self._source.take()
