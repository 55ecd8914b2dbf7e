"""What a server uses: memory and descriptors of its processes, without those of its clients.

Owns how that is read. It judges nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.process import memory
from tests.conftest import Server, wait_until


@dataclass(frozen=True)
class Usage:
    """By role. memory_mb: resident, of its largest process. descriptors: of no client and no connection to the engine.

    Those of several workers are added up.
    """

    memory_mb: dict[str, float]
    descriptors: dict[str, int]

    def __str__(self) -> str:
        sizes = [f"{role} {size:.1f} MB" for role, size in self.memory_mb.items()]
        return ", ".join(sizes + [f"{role} {n} descriptors" for role, n in self.descriptors.items()])


def take(server: Server, workers: int) -> Usage:
    """The usage of now. workers: how many there have to be."""
    carriers = wait_until(lambda: len(w := server.children("worker")) == workers and w, "all workers are there")
    metrics = server.metrics()
    upstreams = _total(metrics, "valkey_sidecar_upstream_connections")
    clients = _total(metrics, "valkey_client_connections")
    return Usage(
        {
            "supervisor": memory(server.process.pid).rss / 1e6,
            "worker": max(memory(worker.pid).rss for worker in carriers) / 1e6,
        },
        {
            "supervisor": server.process.num_fds(),
            "workers": sum(worker.num_fds() for worker in carriers) - clients - upstreams,
            "engine": server.engine.num_fds() - upstreams,
        },
    )


def _total(metrics: dict[str, float], name: str) -> int:
    return int(sum(value for sample, value in metrics.items() if sample.startswith(name + "{")))
