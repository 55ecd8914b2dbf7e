"""What a span costs once a worker has written it: encoding and sending to a real receiver, ours and the SDK's own way.

Owns the spans that are sent and the two ways. Each run is a process of its own, so that nothing but the sender is in
its processor time. Also runs by itself: python -m bench.span_cost.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from bench.process import ProcessError
from bench.receiver import Receiver
from bench.rounds import Spread
from telemetry import spanpacket
from telemetry.otlp.settings import MAX_QUEUE_SIZE, BatchSettings, SignalSettings
from telemetry.otlp.stats import ExportStats
from telemetry.otlp.transport import Transport, make_transport
from telemetry.spanattributes import attributes
from telemetry.spanpacket import Identity, Span

OURS = "valkey-sidecar"
SDK = "OpenTelemetry SDK"
# What each sends in one to two seconds.
_SPANS = {OURS: 480_000, SDK: 40_000}
_LEAST_SPANS = 5_120
_RUNS = 3
_RUN_LIMIT_S = 60.0
_BATCH = 512
# A worker's packet has up to 48 KiB.
_SPANS_PER_PACKET = 384
_RESOURCE: dict[str, str | int] = {
    "service.name": "cache",
    "service.instance.id": "0c6e3d2a-6d0f-4a8e-9b53-5a1f0e7c9d11",
    "db.system.name": "valkey",
    "server.address": "127.0.0.1",
    "server.port": 6379,
}
_TIMEOUT_S = 10.0  # for one request


@dataclass(frozen=True)
class SpanCost:
    """One way of sending: spans per second of the sender's processor time, and per second on the clock."""

    name: str
    per_cpu_s: Spread
    per_s: Spread


def _spans(count: int) -> list[Span]:
    """What a few applications do with a cache: GETs that hit and miss, SETs, some errors, half below a parent."""
    who = [
        Identity("tcp", "10.1.0.17", 40000 + number, 0, f"shop-{number}", "SE.Redis/3.4.35", "" if number else "shop")
        for number in range(8)
    ]
    trace = bytes.fromhex("4bf92f3577b34da6a3ce929d0e0e4736")
    begin_ns = time.time_ns()
    spans = []
    for number in range(count):
        name, flags, error, sizes = "GET", spanpacket.HIT, b"", (36, 140)
        if number % 10 in (3, 7, 9):
            name, flags, sizes = "SET", 0, (180, 5)
        elif number % 10 == 5:
            name, flags, sizes = "GET", spanpacket.MISS, (36, 5)
        if number % 100 == 98:
            name, error, sizes = "LPUSH", b"WRONGTYPE Operation against a key holding the wrong kind of value", (48, 68)
            flags = spanpacket.ERROR_REPLY
        if number % 2:
            flags |= spanpacket.HAS_PARENT | spanpacket.REMOTE_PARENT
        start_ns = begin_ns + number * 1000
        spans.append(
            Span(
                name,
                start_ns,
                start_ns + 45_000 + number % 1000,
                trace if number % 2 else (number + 1).to_bytes(16, "big"),
                (number + 1).to_bytes(8, "big"),
                b"\x00\xf0\x67\xaa\x0b\xa9\x02\xb7" if number % 2 else bytes(8),
                flags=flags | spanpacket.SAMPLED,
                identity=who[number // 48 % len(who)],
                request_bytes=sizes[0],
                response_bytes=sizes[1],
                error=error,
            )
        )
    return spans


class _Window:
    """Lets so many spans be under way that the queue, as large as by default, never drops one."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._changed = threading.Condition()
        self._under_way = 0

    def enter(self, spans: int) -> None:
        """Waits until so many more have room."""
        with self._changed:
            self._changed.wait_for(lambda: self._under_way + spans <= MAX_QUEUE_SIZE)
            self._under_way += spans

    def wait_empty(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way)

    def send(self, request: bytes, items: int) -> None:
        """See telemetry.otlp.transport.Transport."""
        self._transport.send(request, items)
        with self._changed:
            self._under_way -= items
            self._changed.notify()

    def close(self) -> None:
        """See telemetry.otlp.transport.Transport."""
        self._transport.close()


def _send_ours(endpoint: str, count: int) -> tuple[float, float]:
    """Packets, as a worker makes them, through the product's encoder, queue and transport."""
    from telemetry.otlp.envelope import Envelope
    from telemetry.otlp.spans import Spans

    spans = _spans(_SPANS_PER_PACKET)
    packet = spanpacket.pack(spans)
    stats = ExportStats()
    window = _Window(make_transport("traces", SignalSettings(endpoint, timeout_s=_TIMEOUT_S), stats))
    # A short delay: the last spans of a run, fewer than a batch, are waited for.
    out = Spans(BatchSettings(0.02, MAX_QUEUE_SIZE, _BATCH), stats, export=True)
    out.send_with(window, Envelope(_RESOURCE, "valkey.commands", "1.0"))

    def send(packets: int) -> None:
        for _ in range(packets):
            window.enter(_SPANS_PER_PACKET)
            out.take(packet)
        window.wait_empty()

    send(4)  # connects
    begin_cpu, begin = time.process_time(), time.perf_counter()
    send(count // _SPANS_PER_PACKET)
    taken = time.process_time() - begin_cpu, time.perf_counter() - begin
    out.stop(time.monotonic() + _TIMEOUT_S)
    if stats.dropped() or stats.failures():
        raise ProcessError(f"spans were lost: {stats.dropped()}, {stats.failures()}")
    return taken


def _send_sdk(endpoint: str, count: int) -> tuple[float, float]:
    """The same spans as ReadableSpans through the SDK's exporter; the reading of packets is given to it for nothing."""
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExportResult
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

    ready = [(span, attributes(span)) for span in _spans(_BATCH)]
    resource = Resource(_RESOURCE)
    scope = InstrumentationScope("valkey.commands", "1.0")
    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=True, timeout=_TIMEOUT_S)

    def readable(span: Span, described: object) -> ReadableSpan:
        def context(span_id: bytes, remote: bool) -> SpanContext:
            trace_id = int.from_bytes(span.trace_id, "big")
            return SpanContext(trace_id, int.from_bytes(span_id, "big"), remote, TraceFlags(span.trace_flags))

        return ReadableSpan(
            name=span.name,
            context=context(span.span_id, False),
            parent=context(span.parent_id, True) if span.flags & spanpacket.HAS_PARENT else None,
            resource=resource,
            attributes=described,  # type: ignore[arg-type]
            kind=SpanKind.SERVER,
            status=Status(StatusCode.ERROR) if span.error else Status(),
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=scope,
        )

    def send(batches: int) -> None:
        for _ in range(batches):
            if exporter.export([readable(*one) for one in ready]) is not SpanExportResult.SUCCESS:
                raise ProcessError("the SDK's exporter failed")

    send(2)
    begin_cpu, begin = time.process_time(), time.perf_counter()
    send(count // _BATCH)
    taken = time.process_time() - begin_cpu, time.perf_counter() - begin
    exporter.shutdown()
    return taken


_WAYS = {OURS: _send_ours, SDK: _send_sdk}


def _run(name: str, receiver: Receiver, count: int) -> tuple[float, float]:
    """Spans per second of processor time and per second on the clock, of one process."""
    before = receiver.counts()["spans"]
    argv = [sys.executable, "-m", "bench.span_cost", name, receiver.endpoint, str(count)]
    root = Path(__file__).parents[1]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=_RUN_LIMIT_S, cwd=root)
    except subprocess.TimeoutExpired:
        raise ProcessError(f"{name}: sending {count} spans took more than {_RUN_LIMIT_S:.0f} s") from None
    if done.returncode:
        raise ProcessError(f"{name}: {done.stderr.strip()[-500:]}")
    answer = json.loads(done.stdout)
    arrived = receiver.counts()["spans"] - before
    if arrived < answer["spans"]:
        raise ProcessError(f"{name}: {arrived} of {answer['spans']} spans arrived")
    return answer["spans"] / answer["cpu_s"], answer["spans"] / answer["wall_s"]


def measure(share: float = 1.0) -> list[SpanCost]:
    """Both ways in turns, to one receiver. share: of the usual number of spans, for a shorter run."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in _WAYS}
    with Receiver() as receiver:
        for _ in range(_RUNS if share >= 1 else 2):
            for name, results in found.items():
                results.append(_run(name, receiver, max(_LEAST_SPANS, int(_SPANS[name] * share))))
    return [
        SpanCost(name, Spread.of([cpu for cpu, _ in results]), Spread.of([wall for _, wall in results]))
        for name, results in found.items()
    ]


def main() -> None:
    if len(sys.argv) == 4:
        name, endpoint, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
        size = _SPANS_PER_PACKET if name == OURS else _BATCH
        cpu_s, wall_s = _WAYS[name](endpoint, count)
        print(json.dumps({"spans": count // size * size, "cpu_s": cpu_s, "wall_s": wall_s}))
        return
    for cost in measure():
        cpu = cost.per_cpu_s
        print(f"{cost.name}: {cpu.median:,.0f} spans per CPU second ({cpu.low:,.0f}–{cpu.high:,.0f})", end="")
        print(f", {cost.per_s.median:,.0f} a second on the clock")


if __name__ == "__main__":
    main()
