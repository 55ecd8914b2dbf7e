"""This server with nothing measured, with metrics, and with spans: what telemetry costs in throughput.

Owns the settings of each variant, their rounds of load, and the count of spans that arrived. Never judges.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bench import load, peers, process, rounds, standing
from bench.peers import Peer
from bench.process import ProcessError
from bench.receiver import Receiver
from bench.rounds import Rounds

OFF = "telemetry off"
METRICS = "metrics"
SOME_SPANS = "metrics, 1% of spans"
ALL_SPANS = "metrics, every span"
NAMES = (OFF, METRICS, SOME_SPANS, ALL_SPANS)
CELLS = [cell for cell in load.CELLS if cell.connections == 50]

_RATIOS = {SOME_SPANS: "0.01", ALL_SPANS: "1.0"}
# With every span a run of load makes more than can be sent meanwhile; its queue holds a run's.
_QUEUE_SIZE = "1000000"
# A supervisor that still sends would take its processor time from the neighbour's run.
_QUIET_WINDOW_S = 0.1
_QUIET_SHARE = 0.2
_QUIET_LIMIT_S = 20.0
_LAST_SPANS_S = 5.5  # a span waits up to five seconds for others


def _environment(name: str, receiver: Receiver) -> dict[str, str]:
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_TRACES_SAMPLER": "traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": _RATIOS[name],
    }
    if name == ALL_SPANS:
        environment["OTEL_BSP_MAX_QUEUE_SIZE"] = _QUEUE_SIZE
    return environment


def _settle(peer: Peer) -> None:
    """Waits until the supervisor has sent what the last run left. Raises ProcessError when that takes too long."""
    if peer.name not in _RATIOS:
        return
    (supervisor,) = peer.pids["supervisor"]
    deadline = time.monotonic() + _QUIET_LIMIT_S
    while True:
        before = process.cpu(supervisor)
        time.sleep(_QUIET_WINDOW_S)
        spent = process.cpu(supervisor) - before
        if spent.user + spent.system <= _QUIET_SHARE * _QUIET_WINDOW_S:
            return
        if time.monotonic() > deadline:
            raise ProcessError(f"{peer.name}: the supervisor still works {_QUIET_LIMIT_S:.0f} s after the load")


def _lost(http_port: int) -> float:
    """Spans that the sampler wanted and that were not sent, as /metrics counts them."""
    return sum(
        float(line.rpartition(" ")[2])
        for line in standing.scrape(http_port).splitlines()
        if line.startswith("valkey_sidecar_spans_dropped_total{") and 'reason="sampler"' not in line
    )


def measure(
    folder: Path, run_s: float, limit_s: float, progress: Callable[[str], None]
) -> tuple[Rounds, dict[str, float]]:
    """Rounds of all variants with 50 connections; and the share of its spans that arrived, of each that sends some."""
    with ExitStack() as stack:
        running = []
        receivers: dict[str, Receiver] = {}
        http_ports = {name: process.free_port() for name in NAMES}
        for number, name in enumerate(NAMES):
            own = folder / f"variant-{number}"
            own.mkdir()
            options = ["--sidecar-http-port", str(http_ports[name])]
            environment = {}
            if name == OFF:
                options += ["--sidecar-ledger", "off", "--sidecar-slow-threshold", "off"]
            if name in _RATIOS:
                receivers[name] = stack.enter_context(Receiver())
                environment = _environment(name, receivers[name])
            started = stack.enter_context(peers.sidecar_process(own, *options, environment=environment))
            running.append(Peer(name, started.port, "", peers.sidecar_roles(started.pid)))
        measured = rounds.run(running, run_s, limit_s, progress, CELLS, _settle)
        time.sleep(_LAST_SPANS_S)
        arrived = {}
        for name, receiver in receivers.items():
            spans, lost = receiver.counts()["spans"], _lost(http_ports[name])
            if not spans:
                raise ProcessError(f"{name}: no span arrived")
            arrived[name] = spans / (spans + lost)
    return measured, arrived
