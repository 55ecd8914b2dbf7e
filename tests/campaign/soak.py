"""Hours in minutes: 200 clients with everything on, and nothing may grow: python -m tests.campaign.soak

Owns what is watched, and the verdict. The workload is that of the chaos (all types, small and large values, pipelines,
transactions, scripts, blocking commands, publish and subscribe, connections that come and go); every command is sent as
a span to a receiver here, and the metrics are scraped.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.receiver import Receiver
from tests.campaign import figures, usage
from tests.campaign.connection import Address
from tests.campaign.counts import compared, differences
from tests.campaign.figures import Row
from tests.campaign.workload import Workload
from tests.conftest import Server, launch, wait_until
from tests.sidecar.exported import environment

_LOOK_EVERY_S = 2.0
_WARM_UP_SHARE = 0.25
"""Of the time: caches fill, the allocators get their arenas, Python's collector has run at every level."""
_WINDOW_SHARE = 0.1
_WORKERS = 1
_SERVED_WITHIN_S = 20.0
_PIECES_MB = 0.3
"""Less than this is not growth: an allocator takes memory in such steps."""
_COMING_AND_GOING = 10
"""Clients connect and leave between two looks of which one sees them; a leak would show thousands."""

Series = dict[str, list[float]]


def growth(values: Sequence[float]) -> tuple[float, float]:
    """The medians of the first and the last window after the warm-up: what a garbage collection cuts counts little."""
    warm = values[int(len(values) * _WARM_UP_SHARE) :]
    window = max(1, int(len(values) * _WINDOW_SHARE))
    return statistics.median(warm[:window]), statistics.median(warm[-window:])


def verdict(series: Series, percent: float) -> list[str]:
    """What has grown, in words. Sizes (MB) may by so many percent; descriptors and what waits in queues may not."""
    found = []
    for name, values in series.items():
        first, last = growth(values)
        unit = name.rpartition(" ")[2]
        if unit == "MB":
            allowed = first + max(first * percent / 100, _PIECES_MB)
        elif unit == "descriptors":
            allowed = first + _COMING_AND_GOING
        else:  # a queue: it is emptied all the time
            allowed = max(2 * first, 2000)
        if last > allowed:
            found.append(f"{name}: {first:.1f} after the warm-up, {last:.1f} at the end")
    return found


def _look(server: Server, series: Series) -> None:
    used = usage.take(server, _WORKERS)
    metrics = server.metrics()
    waiting = sum(value for name, value in metrics.items() if name.startswith("valkey_sidecar_queue_size"))
    found = {f"{role} MB": size for role, size in used.memory_mb.items()}
    found |= {f"{role} descriptors": float(n) for role, n in used.descriptors.items()}
    found["records waiting"] = waiting
    found["commands in flight"] = metrics["valkey_command_in_flight"]
    for name, value in found.items():
        series.setdefault(name, []).append(value)


def soak(folder: Path, minutes: float, clients: int, seed: int, percent: float) -> list[str]:
    """What was wrong, in words."""
    series: Series = {}
    with Receiver() as receiver:
        # fmt: off
        server = launch(
            folder, "--save", "", "--sidecar-workers", str(_WORKERS), wait=False,
            env=environment(receiver.endpoint, OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG="1.0"),
        )
        # fmt: on
        try:
            server.wait_ready()
            address = Address(server.port)
            with Workload([address], clients, seed, think_s=0.03) as workload:
                workload.start()
                workload.wait_served(time.monotonic(), _SERVED_WITHIN_S)
                began = told = time.monotonic()
                while time.monotonic() < began + 60 * minutes:
                    time.sleep(_LOOK_EVERY_S)
                    _look(server, series)
                    if time.monotonic() >= told + 60:
                        told += 60
                        last = ", ".join(f"{name} {values[-1]:.1f}" for name, values in series.items())
                        print(f"{(told - began) / 60:3.0f} min: {workload.findings.replies_checked:,} replies; {last}")
                        sys.stdout.flush()
                workload.pause()
                workload.settle(address)
                wait_until(lambda: server.metric("valkey_command_in_flight") == 0, "nothing is in flight")
                counted = server.calls()
                wrong = differences(counted, workload.tally, {})
                findings = workload.findings
                figures.record(Row.WRITES_ACKNOWLEDGED, findings.writes_acknowledged, "soak")
                figures.record(Row.WRITES_LOST, findings.writes_lost, "soak")
                figures.record(Row.REPLIES_CHECKED, findings.replies_checked, "soak")
                figures.record(Row.REPLIES_SWAPPED, findings.replies_swapped, "soak")
                figures.record(Row.COUNTS_COMPARED, compared(counted, workload.tally), "soak")
                figures.record(Row.COUNT_DIFFERENCES, len(wrong), "soak")
                commands = sum(counted.values())
            server.stop()
            print(f"{commands:,} commands, {receiver.counts()['spans']:,} spans received")
        finally:
            server.kill()
    for name, values in series.items():
        first, last = growth(values)
        share = f" ({100 * (last / first - 1):+.1f} %)" if first else ""
        print(f"{name}: {first:.1f} after the warm-up, {last:.1f} at the end{share}")
    return wrong + findings.words + verdict(series, percent)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaign.soak", description=__doc__.partition(":")[0])
    parser.add_argument("--minutes", type=float, default=20.0, help="default: 20")
    parser.add_argument("--clients", type=int, default=200, help="default: 200")
    parser.add_argument("--seed", type=int, default=1, help="of what the clients do")
    parser.add_argument("--percent", type=float, default=2.0, help="so much may memory grow; default: 2")
    options = parser.parse_args(arguments)
    if options.minutes <= 0 or options.clients < 2 or options.percent < 0:
        parser.error("minutes above 0, at least 2 clients, and no percent below 0")
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        wrong = soak(Path(folder), options.minutes, options.clients, options.seed, options.percent)
    for what in wrong:
        print(f"WRONG: {what}")
    print("held" if not wrong else f"{len(wrong)} things were wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # its servers end with it
    sys.exit(main(sys.argv[1:]))
