"""Faults of our processes: killed, stopped for a while, out of descriptors."""

from __future__ import annotations

import contextlib
import random
import resource
import time
from collections.abc import Iterator

import psutil

from tests.campaign.chaos.faults import fault
from tests.campaign.chaos.site import Site
from tests.conftest import wait_until

WORKER_S, ENGINE_S = 1.0, 2.0
"""What we promise; an engine has 100 MB of data to load."""
_SERVER_S = 5.0
"""A whole start: Python, the engine, its data."""
_ORPHANS_WITHIN_S = 2.0


@fault("one worker killed", WORKER_S, loses_counts=True, fast=True)
def one_worker(site: Site, rng: random.Random) -> Iterator[float | None]:
    rng.choice(site.workers).kill()
    yield


@fault("all workers killed", WORKER_S, loses_counts=True)
def all_workers(site: Site, rng: random.Random) -> Iterator[float | None]:
    for worker in site.workers:
        worker.kill()
    yield


@fault("engine killed", ENGINE_S, fast=True)
def engine(site: Site, rng: random.Random) -> Iterator[float | None]:
    site.engine.kill()
    yield


@fault("engine killed again while it starts", 2 * ENGINE_S)
def engine_twice(site: Site, rng: random.Random) -> Iterator[float | None]:
    first = site.engine
    first.kill()
    second = wait_until(lambda: [e for e in site.server.children("engine") if e.pid != first.pid], "it is restarted")
    second[0].kill()
    yield


@fault("engine and a worker killed", ENGINE_S, loses_counts=True)
def engine_and_worker(site: Site, rng: random.Random) -> Iterator[float | None]:
    victims = [site.engine, rng.choice(site.workers)]
    rng.shuffle(victims)
    for victim in victims:
        victim.kill()
    yield


@fault("supervisor killed", _SERVER_S)
def supervisor(site: Site, rng: random.Random) -> Iterator[float | None]:
    began = time.monotonic()
    family = site.server.process.children(recursive=True)
    site.server.process.kill()
    _, alive = psutil.wait_procs(family, _ORPHANS_WITHIN_S)
    assert alive == [], f"these outlived their supervisor: {alive}"
    site.start_again()
    yield began


@fault("server stopped and started", _SERVER_S)
def restarted(site: Site, rng: random.Random) -> Iterator[float | None]:
    began = time.monotonic()
    code = site.server.terminate()
    assert code == 0, f"SIGTERM: it ended with {code}"
    site.start_again()
    yield began


@contextlib.contextmanager
def _stopped(process: psutil.Process) -> Iterator[None]:
    process.suspend()
    try:
        yield
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()


@fault("one worker stopped for a while", WORKER_S, lasts_s=(0.5, 2.5))
def stopped_worker(site: Site, rng: random.Random) -> Iterator[float | None]:
    with _stopped(rng.choice(site.workers)):
        yield


@fault("engine stopped for a while", ENGINE_S, lasts_s=(0.5, 2.5), fast=True)
def stopped_engine(site: Site, rng: random.Random) -> Iterator[float | None]:
    with _stopped(site.engine):
        yield


@fault("supervisor stopped for a while", WORKER_S, lasts_s=(0.5, 2.5), served=True)
def stopped_supervisor(site: Site, rng: random.Random) -> Iterator[float | None]:
    with _stopped(site.server.process):
        yield


@contextlib.contextmanager
def _few_descriptors(process: psutil.Process, more: int) -> Iterator[None]:
    """As many as the process has, and a few."""
    before = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (process.num_fds() + more, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, before)


@fault("workers out of descriptors", WORKER_S, lasts_s=(1.0, 2.0))
def worker_descriptors(site: Site, rng: random.Random) -> Iterator[float | None]:
    with contextlib.ExitStack() as stack:
        for worker in site.workers:
            stack.enter_context(_few_descriptors(worker, rng.randint(0, 3)))
        site.workload.run(site.relay.cut(reset=True))  # so that somebody connects
        yield


@fault("supervisor out of descriptors", WORKER_S, lasts_s=(1.0, 2.0), loses_counts=True)
def supervisor_descriptors(site: Site, rng: random.Random) -> Iterator[float | None]:
    with _few_descriptors(site.server.process, 0):
        rng.choice(site.workers).kill()  # it cannot start another
        yield


@fault("engine out of descriptors", WORKER_S, lasts_s=(1.0, 2.0))
def engine_descriptors(site: Site, rng: random.Random) -> Iterator[float | None]:
    with _few_descriptors(site.engine, rng.randint(0, 2)):
        site.workload.run(site.relay.cut(reset=True))
        yield
