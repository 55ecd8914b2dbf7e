"""Telemetry end to end: the OpenTelemetry Collector takes everything, and one that hangs under load disturbs nobody."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest

from tests.conftest import Server, Start, receive, wait_until
from tests.e2e.collector.peer import Collector
from tests.sidecar.exported import command_spans, dropped_in_otlp, environment
from tests.sidecar.relay.traced import command
from tests.telemetry.otlp.receivers import Answer, GrpcReceiver

pytestmark = pytest.mark.e2e

_HANG_S = 60.0
_QUEUE = {"OTEL_BSP_MAX_QUEUE_SIZE": "1000", "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1"}


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_the_collector_gets_everything(start: Start, collector: Collector, protocol: str) -> None:
    port = collector.grpc_port if protocol == "grpc" else collector.http_port
    server = start("--save", "", env=environment(f"http://127.0.0.1:{port}", protocol)).wait_ready()
    with server.client() as client:
        for _ in range(50):
            client.set("a", 1)
    assert server.stop() == 0
    collector.stop()
    names = Counter(
        span["name"]
        for resource in collector.received("traces")
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    )
    assert names == {"SET": 50}
    metrics = [m for r in collector.received("metrics") for scope in r["scopeMetrics"] for m in scope["metrics"]]
    points = [m["sum"]["dataPoints"] for m in metrics if m["name"] == "valkey.command.calls"][-1]
    sets = [p for p in points if {"key": "db.operation.name", "value": {"stringValue": "SET"}} in p["attributes"]]
    assert [point["asInt"] for point in sets] == ["50"]
    logs = [r for e in collector.received("logs") for scope in e["scopeLogs"] for r in scope["logRecords"]]
    assert "server.stopping" in {record["eventName"] for record in logs}


def _load(server: Server, seconds: float) -> tuple[int, float]:
    """Commands for so long, one after another: how many, and the p99 in milliseconds."""
    times = []
    with server.connect() as sock:
        end = time.monotonic() + seconds
        while (began := time.monotonic()) < end:
            sock.sendall(command("INCR", "n"))
            receive(sock, b"\r\n")
            times.append(time.monotonic() - began)
            threading.Event().wait(0.001)
    times.sort()
    return len(times), times[len(times) * 99 // 100] * 1000


def test_a_receiver_that_hangs_under_load_costs_spans_and_nothing_else(start: Start) -> None:
    with GrpcReceiver() as receiver:
        env = environment(receiver.endpoint, OTEL_EXPORTER_OTLP_TIMEOUT="5000", **_QUEUE)
        server = start("--save", "", env=env).wait_ready()
        count, before = _load(server, 5)
        receiver.answer = Answer(hang=True)
        memory = server.process.memory_info().rss
        more, during = _load(server, _HANG_S)
        grown = (server.process.memory_info().rss - memory) / 2**20
        print(f"p99 before {before:.2f} ms, during {during:.2f} ms; {count} + {more} commands; {grown:.1f} MB more")  # noqa: T201
        assert during < 5 * before + 5
        assert grown < 15
        receiver.answer = Answer()
        receiver.release.set()
        wait_until(lambda: server.said("export.recovered"), "it works again")
        last, _ = _load(server, 1)
        assert server.stop() == 0
        dropped = dropped_in_otlp(receiver)
        print(dropped)  # noqa: T201
        assert dropped.keys() == {"queue_full", "export_failed"}
        # What a request held that timed out has come all the same.
        sent = command_spans(receiver)["INCR"]
        assert sent + dropped["queue_full"] <= count + more + last <= sent + sum(dropped.values())
        assert Counter(e["signal"] for e in server.said("export.failed"))["traces"] == 1
