"""What a server costs before anyone uses it: the time to its first PONG, and its idle memory.

Owns the repeated starts and the reading of memory. Never sends load.
"""

from __future__ import annotations

import http.client
import time
from dataclasses import dataclass
from pathlib import Path

from bench import peers, process
from bench.process import Memory
from bench.rounds import Spread

_STARTS = 5
# What is imported after the first PONG has been imported by then.
_SETTLE_S = 3.0


@dataclass(frozen=True)
class Standing:
    """Seconds from the start of the program to its first PONG, and idle memory in bytes."""

    first_pong_s: Spread
    supervisor: Memory
    front: Memory


def _scrape(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/metrics")
        connection.getresponse().read()
    finally:
        connection.close()


def _total(pids: list[int]) -> Memory:
    return sum((process.memory(pid) for pid in pids), Memory(0, 0))


def measure(folder: Path, with_sidecar: bool) -> dict[str, Standing]:
    """Starts bare Valkey and this server, with one worker, in turns. Memory is read after a scrape of /metrics."""
    pongs: dict[str, list[float]] = {peers.BARE: []}
    memory: dict[str, tuple[Memory, Memory]] = {}
    if with_sidecar:
        pongs[peers.SIDECAR] = []
    for number in range(_STARTS):
        last = number == _STARTS - 1
        for name in pongs:
            own = folder / f"start-{number}-{name.split()[0]}"
            own.mkdir()
            http_port = process.free_port()
            if name == peers.SIDECAR:
                options = ("--sidecar-workers", "1", "--sidecar-http-port", str(http_port))
                started = peers.sidecar_process(own, *options)
            else:
                started = peers.bare_process(own)
            with started:
                pongs[name].append(started.first_pong_s)
                if not last:
                    continue
                time.sleep(_SETTLE_S)
                if name == peers.SIDECAR:
                    _scrape(http_port)
                    roles = peers.sidecar_roles(started.pid)
                    memory[name] = (_total(roles["supervisor"]), _total(roles["front"]))
                else:
                    memory[name] = (Memory(0, 0), _total([started.pid]))
    return {name: Standing(Spread.of(times), *memory[name]) for name, times in pongs.items()}
