from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.metrics.export import MetricsData

from telemetry.collection import Collection
from tests.conftest import PATIENCE_S
from tests.telemetry.frames import frame, outcome
from tests.telemetry.test_metricsdata import RESOURCE, Server


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that runs in a thread of its own until the test has ended."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop

    async def rest() -> None:
        """What was begun and given up ends."""
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)

    asyncio.run_coroutine_threadsafe(rest(), loop).result(PATIENCE_S)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def calls(data: MetricsData) -> float:
    metrics = {m.name: m for scope in data.resource_metrics[0].scope_metrics for m in scope.metrics}
    found = metrics.get("valkey.command.calls")
    return sum(point.value for point in found.data.data_points) if found is not None else 0  # type: ignore[union-attr, misc]


async def nothing() -> None:
    return None


def test_workers_are_asked_first_and_figures_are_copied_on_the_loop(loop: asyncio.AbstractEventLoop) -> None:
    server = Server()
    threads: list[int] = []

    async def refresh() -> None:
        threads.append(threading.get_ident())
        server.totals.apply(1, frame(outcome("GET", calls=3)))

    collection = Collection(server.source, RESOURCE, loop, refresh)
    assert calls(collection.collect()) == 3
    assert threads
    assert threads[0] != threading.get_ident()


def test_a_worker_that_does_not_answer_holds_nothing_up(loop: asyncio.AbstractEventLoop) -> None:
    server = Server()
    server.totals.apply(1, frame(outcome("GET", calls=3)))

    async def refresh() -> None:
        await asyncio.Event().wait()

    assert calls(Collection(server.source, RESOURCE, loop, refresh).collect()) == 3


def test_a_loop_that_is_busy_is_not_waited_for_for_ever(loop: asyncio.AbstractEventLoop) -> None:
    free = threading.Event()
    loop.call_soon_threadsafe(free.wait)
    try:
        with pytest.raises(TimeoutError, match="event loop"):
            Collection(Server().source, RESOURCE, loop, nothing, limit_s=0.05).collect()
    finally:
        free.set()


def test_the_last_figures_can_be_had_when_the_loop_has_ended() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    server = Server()
    server.totals.apply(1, frame(outcome("GET", calls=3)))
    assert calls(Collection(server.source, RESOURCE, loop, nothing).collect()) == 3
