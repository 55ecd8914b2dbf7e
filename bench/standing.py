"""What a server costs before anyone uses it: the time to its first PONG, and its idle memory.

Owns the repeated starts and the reading of memory. Never sends load, but the one command that makes a span.
"""

from __future__ import annotations

import http.client
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench import load, peers, process, variants
from bench.process import Memory
from bench.receiver import Receiver
from bench.rounds import Spread

_STARTS = 5
# What is imported after the first PONG has been imported by then.
_SETTLE_S = 3.0
EXPORTING = "valkey-sidecar, OTLP gRPC"
_EXPORTED_LIMIT_S = 20.0
_ONE_SPAN = load.Cell("SET", 1, 1)


@dataclass(frozen=True)
class Standing:
    """Seconds from the start of the program to its first PONG, and idle memory in bytes."""

    first_pong_s: Spread
    supervisor: Memory
    front: Memory


def scrape(port: int) -> str:
    """What /metrics says on a loopback port."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def _total(pids: list[int]) -> Memory:
    return sum((process.memory(pid) for pid in pids), Memory(0, 0))


def measure(folder: Path, with_sidecar: bool) -> dict[str, Standing]:
    """Starts bare Valkey and this server, with one worker, without and with OTLP, in turns.

    Memory is read when everything has been used once: after a scrape of /metrics and, with OTLP, after spans, metrics
    and logs have arrived at a receiver.
    """
    pongs: dict[str, list[float]] = {peers.BARE: []}
    memory: dict[str, tuple[Memory, Memory]] = {}
    if with_sidecar:
        pongs |= {variants.SIDECAR: [], EXPORTING: []}
    for number in range(_STARTS):
        last = number == _STARTS - 1
        for place, name in enumerate(pongs):
            own = folder / f"start-{number}-{place}"
            own.mkdir()
            http_port = process.free_port()
            with ExitStack() as stack:
                receiver = None
                if name == peers.BARE:
                    started = peers.bare_process(own)
                else:
                    environment = {}
                    if name == EXPORTING:
                        receiver = stack.enter_context(Receiver())
                        environment = _exporting(receiver)
                    options = ("--sidecar-workers", "1", "--sidecar-http-port", str(http_port))
                    started = peers.sidecar_process(own, *options, environment=environment)
                stack.enter_context(started)
                pongs[name].append(started.first_pong_s)
                if not last:
                    continue
                if receiver is not None:
                    load.run(_ONE_SPAN, started.port, 1)
                    receiver.wait_for(lambda found: all(found.values()), _EXPORTED_LIMIT_S)
                time.sleep(_SETTLE_S)
                if name == peers.BARE:
                    memory[name] = (Memory(0, 0), _total([started.pid]))
                else:
                    scrape(http_port)
                    roles = peers.sidecar_roles(started.pid)
                    memory[name] = (_total(roles["supervisor"]), _total(roles["front"]))
    return {name: Standing(Spread.of(times), *memory[name]) for name, times in pongs.items()}


def _exporting(receiver: Receiver) -> dict[str, str]:
    """Variables for the export of everything to this receiver, soon."""
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_METRIC_EXPORT_INTERVAL": "1000",
    }
