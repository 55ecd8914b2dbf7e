from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from telemetry import spanpacket
from telemetry.azure.delivery import Pace
from telemetry.otlp.stats import ExportStats
from telemetry.spanpacket import Identity, Span, pack
from tests.conftest import PATIENCE_S, free_port, wait_until
from tests.telemetry.azure.conftest import QUICK, RESOURCE, Make
from tests.telemetry.azure.stand_in_ingestion import KEY, Answer, StandInIngestion

Records = list[dict[str, Any]]

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
PARENT = "00f067aa0ba902b7"
START_NS = 1_772_319_723_456_001_000

GET = Span(
    "GET",
    START_NS,
    START_NS + 123_456,
    bytes.fromhex(TRACE),
    bytes.fromhex(SPAN),
    flags=spanpacket.HIT | spanpacket.SAMPLED,
    identity=Identity("tcp", "10.0.0.1", 5000, 2, "api-1", "SE.Redis/3.4.35", "bob"),
    request_bytes=22,
    response_bytes=105,
)


def spans(count: int) -> bytes:
    return pack(replace(GET, span_id=(number + 1).to_bytes(8, "big")) for number in range(count))


def record(message: str = "Look.", **attributes: Any) -> dict[str, Any]:
    head = {"timestamp": "2026-02-28T23:02:03.456001Z", "level": "warning", "severity_number": 13}
    return {**head, "event_name": "test.event", "message": message, **attributes}


def point(value: float, **attributes: Any) -> NumberDataPoint:
    return NumberDataPoint(attributes, START_NS, START_NS + 60_000_000_000, value)


def histogram(count: int, total: float, **attributes: Any) -> HistogramDataPoint:
    ends = START_NS + 60_000_000_000
    return HistogramDataPoint(attributes, START_NS, ends, count, total, [count, 0], [0.1], float("inf"), float("-inf"))


def metrics(calls: int, hits: float = 0.75) -> MetricsData:
    sums = Sum([point(calls, **{"db.operation.name": "GET"})], AggregationTemporality.CUMULATIVE, True)
    open_now = Sum([point(7)], AggregationTemporality.CUMULATIVE, False)
    times = Histogram(
        [histogram(calls, calls * 0.001, **{"db.operation.name": "GET"})], AggregationTemporality.CUMULATIVE
    )
    found = [
        Metric("valkey.command.calls", "", "{call}", sums),
        Metric("valkey.client.connections", "", "{connection}", open_now),
        Metric("valkey.command.duration", "", "s", times),
        Metric("valkey.cache.hit_ratio", "", "1", Gauge([point(hits)])),
    ]
    scope = ScopeMetrics(InstrumentationScope("valkey.commands"), found, "")
    return MetricsData([ResourceMetrics(Resource(RESOURCE), [scope], "")])


def wait_envelopes(stand_in: StandInIngestion, kind: str, count: int = 1) -> list[dict[str, Any]]:
    wait_until(lambda: len(stand_in.envelopes(kind)) >= count, f"{count} of {kind}")
    return stand_in.envelopes(kind)


# ---- what one sees


def test_a_command_is_a_request_of_the_role_with_exact_duration(make: Make, stand_in: StandInIngestion) -> None:
    make().take(pack([GET]))
    (envelope,) = wait_envelopes(stand_in, "Request")
    assert stand_in.requests[0][0] == "/v2.1/track"
    assert envelope["iKey"] == KEY
    assert envelope["time"] == "2026-02-28T23:02:03.456001Z"
    tags, data = envelope["tags"], envelope["data"]["baseData"]
    assert envelope["data"]["baseType"] == "RequestData"
    assert tags["ai.cloud.role"] == "cache"
    assert tags["ai.cloud.roleInstance"] == "cache-abc"
    assert tags["ai.application.ver"] == "1.2.3"
    assert tags["ai.operation.id"] == TRACE
    assert tags["ai.operation.name"] == "GET"
    assert tags["ai.user.authUserId"] == "bob"
    assert "ai.operation.parentId" not in tags
    assert data["id"] == SPAN
    assert data["name"] == "GET"
    assert data["duration"] == "0.00:00:00.000123"
    assert data["success"] is True
    assert data["responseCode"] == "0"
    assert data["properties"] == {
        "db.system.name": "valkey",
        "db.operation.name": "GET",
        "db.namespace": "2",
        "network.transport": "tcp",
        "network.peer.address": "10.0.0.1",
        "network.peer.port": "5000",
        "valkey.client.name": "api-1",
        "valkey.client.lib": "SE.Redis/3.4.35",
        "enduser.id": "bob",
        "valkey.request.size": "22",
        "valkey.response.size": "105",
        "valkey.cache.hit": "True",
    }


def test_a_parent_joins_the_applications_dependency(make: Make, stand_in: StandInIngestion) -> None:
    flags = spanpacket.HAS_PARENT | spanpacket.REMOTE_PARENT | spanpacket.SAMPLED
    make().take(pack([replace(GET, flags=flags, parent_id=bytes.fromhex(PARENT), tracestate=b"az=1")]))
    (envelope,) = wait_envelopes(stand_in, "Request")
    assert envelope["tags"]["ai.operation.id"] == TRACE
    assert envelope["tags"]["ai.operation.parentId"] == PARENT


def test_an_error_is_a_failed_request_with_its_code_and_no_argument(make: Make, stand_in: StandInIngestion) -> None:
    flags = spanpacket.ERROR_REPLY | spanpacket.KEPT_ERROR
    make().take(pack([replace(GET, flags=flags, error=b"ERR unknown command 'secret'")]))
    (envelope,) = wait_envelopes(stand_in, "Request")
    data = envelope["data"]["baseData"]
    assert (data["success"], data["responseCode"]) == (False, "ERR")
    assert data["properties"]["error.type"] == "ERR"
    assert data["properties"]["db.response.status_code"] == "ERR"
    assert data["properties"]["otel.status_description"] == "ERR unknown command '?'"
    assert data["properties"]["valkey.kept"] == "error"
    assert "secret" not in str(envelope)


def test_a_pipelines_commands_are_its_children(make: Make, stand_in: StandInIngestion) -> None:
    parent = replace(GET, name="PIPELINE", batch_size=2, end_ns=START_NS + 90_061_000_002_000)
    child = replace(
        GET,
        kind=spanpacket.INTERNAL,
        span_id=bytes(7) + b"\1",
        parent_id=GET.span_id,
        flags=spanpacket.HAS_PARENT | spanpacket.ERROR_REPLY,
        error=b"WRONGTYPE Operation",
    )
    make().take(pack([parent, child]))
    (request,), (dependency,) = wait_envelopes(stand_in, "Request"), wait_envelopes(stand_in, "RemoteDependency")
    assert request["data"]["baseData"]["name"] == "PIPELINE"
    assert request["data"]["baseData"]["duration"] == "1.01:01:01.000002"
    data = dependency["data"]["baseData"]
    assert (data["type"], data["name"], data["resultCode"], data["success"]) == ("InProc", "GET", "WRONGTYPE", False)
    assert data["duration"] == "0.00:00:00.000123"
    assert dependency["tags"]["ai.operation.parentId"] == SPAN
    assert dependency["tags"]["ai.cloud.role"] == "cache"


def test_a_log_record_is_a_trace_that_belongs_to_its_request(make: Make, stand_in: StandInIngestion) -> None:
    export = make()
    export.log(record("GET took 12.3 ms.", trace_id=TRACE, span_id=SPAN, duration=0.0123))
    export.log(record("Started.", level="notice", severity_number=9))
    slow, started = wait_envelopes(stand_in, "Message", 2)
    assert slow["tags"]["ai.operation.id"] == TRACE
    assert slow["tags"]["ai.operation.parentId"] == SPAN
    assert slow["tags"]["ai.cloud.role"] == "cache"
    assert slow["time"] == "2026-02-28T23:02:03.456001Z"
    data = slow["data"]["baseData"]
    assert (data["message"], data["severityLevel"]) == ("GET took 12.3 ms.", 2)
    assert data["properties"] == {"event_name": "test.event", "duration": "0.0123", "logger_name": "valkey.sidecar"}
    assert started["data"]["baseData"]["severityLevel"] == 1
    assert not {"ai.operation.id", "ai.operation.parentId"} & started["tags"].keys()


def test_an_exception_is_one_of_the_role(make: Make, stand_in: StandInIngestion) -> None:
    details = {"exception.type": "ValueError", "exception.message": "no", "exception.stacktrace": "Traceback"}
    make().log(record("It broke.", **details))
    (envelope,) = wait_envelopes(stand_in, "Exception")
    (exception,) = envelope["data"]["baseData"]["exceptions"]
    assert (exception["typeName"], exception["message"]) == ("ValueError", "It broke.")
    assert envelope["tags"]["ai.cloud.role"] == "cache"
    assert envelope["data"]["baseData"]["properties"]["event_name"] == "test.event"


def values(stand_in: StandInIngestion, name: str) -> list[tuple[float, int]]:
    found = []
    for envelope in stand_in.envelopes("Metric"):
        (data,) = envelope["data"]["baseData"]["metrics"]
        if data["name"] == name:
            found.append((data["value"], data["count"]))
    return found


def test_metrics_arrive_as_what_came_since_the_last_time(make: Make, stand_in: StandInIngestion) -> None:
    export = make()
    export.metrics(metrics(100))
    wait_until(lambda: len(stand_in.requests) == 1, "the first request")
    export.metrics(metrics(130))
    wait_until(lambda: len(stand_in.requests) == 2, "the second request")
    export.metrics(metrics(130, float("nan")))
    wait_until(lambda: len(stand_in.requests) == 3, "the third request")
    export.stop(PATIENCE_S)
    assert values(stand_in, "valkey.command.calls") == [(100, 1), (30, 1)]
    assert values(stand_in, "valkey.command.duration") == [(pytest.approx(0.1), 100), (pytest.approx(0.03), 30)]
    assert values(stand_in, "valkey.client.connections") == [(7, 1)] * 3
    assert values(stand_in, "valkey.cache.hit_ratio") == [(0.75, 1)] * 2
    envelope = stand_in.envelopes("Metric")[0]
    assert envelope["data"]["baseData"]["properties"] == {"db.operation.name": "GET"}
    assert envelope["tags"]["ai.cloud.role"] == "cache"


def test_metrics_are_collected_at_the_interval_and_at_the_end(make: Make, stand_in: StandInIngestion) -> None:
    calls = iter(range(1, 1_000_000))
    export = make(collect=lambda: metrics(next(calls)), interval_s=0.02)
    wait_until(lambda: len(values(stand_in, "valkey.command.calls")) >= 3, "three intervals")
    export.stop(PATIENCE_S)
    assert sum(value for value, _ in values(stand_in, "valkey.command.calls")) == next(calls) - 1


# ---- what goes wrong


def test_throttling_is_waited_for_and_costs_nothing(
    make: Make, stand_in: StandInIngestion, stats: ExportStats, records: Records
) -> None:
    stand_in.answers.append(Answer(429, {"Retry-After": "1"}))
    export = make()
    began = time.monotonic()
    export.take(spans(3))
    wait_envelopes(stand_in, "Request", 3)
    assert time.monotonic() - began >= 1
    assert stats.failures() == {}
    assert stats.dropped() == {}
    assert not [entry for entry in records if entry["event_name"].startswith("export.")]


def test_a_used_up_quota_drops_and_is_told_once_and_its_end_too(
    make: Make, stand_in: StandInIngestion, stats: ExportStats, records: Records
) -> None:
    stand_in.always = Answer(439)
    export = make()
    for tries in range(1, 4):
        export.take(spans(10))
        wait_until(lambda tries=tries: stats.failures() == {("azure_traces", "http_439"): tries}, "it is counted")
    assert len(stand_in.requests) == 3, "a quota that is used up is not asked again for the same spans"
    assert stats.dropped() == {"azure_export_failed": 30}
    stand_in.always = None
    export.take(spans(1))
    wait_envelopes(stand_in, "Request")
    told = wait_until(lambda: [entry for entry in records if entry["event_name"] == "export.recovered"], "it is told")
    failed = [entry for entry in records if entry["event_name"] == "export.failed"]
    assert [entry["message"] for entry in failed + told] == [
        "Spans cannot be sent to Application Insights at 127.0.0.1: it answers 439, the quota is used up.",
        "Spans are sent to Application Insights again.",
    ]
    assert (failed[0]["level"], failed[0]["signal"], failed[0]["reason"]) == ("warning", "azure_traces", "http_439")


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_is_followed_and_remembered(
    make: Make, stand_in: StandInIngestion, stats: ExportStats, status: int
) -> None:
    elsewhere = StandInIngestion()
    try:
        stand_in.answers.append(Answer(status, {"Location": f"{elsewhere.url}/v2.1/track"}))
        export = make()
        for count in (1, 2):
            export.take(spans(1))
            wait_envelopes(elsewhere, "Request", count)
        assert len(stand_in.requests) == 1
        assert stats.failures() == {}
    finally:
        export.stop(PATIENCE_S)
        elsewhere.close()


def test_of_a_partial_success_what_may_come_again_does(
    make: Make, stand_in: StandInIngestion, stats: ExportStats
) -> None:
    stand_in.answers.append(Answer(206, errors={0: 429, 2: 400, 3: 503}))
    make().take(spans(5))
    envelopes = wait_envelopes(stand_in, "Request", 4)
    assert [items for _, items in stand_in.requests] == [5, 2]
    assert [int(envelope["data"]["baseData"]["id"], 16) for envelope in envelopes] == [2, 5, 1, 4]
    assert stats.failures() == {("azure_traces", "rejected"): 1}
    assert stats.dropped() == {"azure_rejected": 1}


def test_metrics_that_were_partly_taken_do_not_come_twice(make: Make, stand_in: StandInIngestion) -> None:
    stand_in.answers.append(Answer(206, errors={1: 429}))
    export = make()
    export.metrics(metrics(100))
    wait_until(lambda: stand_in.requests, "the first request")
    export.metrics(metrics(130))
    wait_until(lambda: len(stand_in.requests) == 2, "the second request")
    export.stop(PATIENCE_S)
    assert values(stand_in, "valkey.command.calls") == [(100, 1), (30, 1)]


def test_metrics_that_failed_are_part_of_the_next(make: Make, stand_in: StandInIngestion, stats: ExportStats) -> None:
    stand_in.answers.extend([Answer(500)] * QUICK.attempts)
    export = make()
    export.metrics(metrics(100))
    wait_until(lambda: stats.failures() == {("azure_metrics", "http_500"): 1}, "it is given up")
    export.metrics(metrics(130))
    wait_until(lambda: values(stand_in, "valkey.command.calls"), "the second arrives")
    assert values(stand_in, "valkey.command.calls") == [(130, 1)]


def test_a_dead_endpoint_is_survived_and_told_once_for_each_signal(
    make: Make, stats: ExportStats, records: Records
) -> None:
    export = make(f"InstrumentationKey={KEY};IngestionEndpoint=http://127.0.0.1:{free_port()}")
    for _ in range(2):
        export.take(spans(5))
        export.log(record())
        export.metrics(metrics(1))
    signals = ("azure_traces", "azure_metrics", "azure_logs")
    wait_until(lambda: all(stats.failures().get((signal, "unreachable")) for signal in signals), "all are counted")
    export.stop(PATIENCE_S)
    told = [entry["signal"] for entry in records if entry["event_name"] == "export.failed"]
    assert sorted(told) == sorted(signals)
    assert stats.dropped() == {"azure_export_failed": 10}


def test_an_endpoint_that_hangs_costs_spans_and_no_time(
    make: Make, stand_in: StandInIngestion, stats: ExportStats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetry.azure.export._SPANS_AT_MOST", 2_000)  # the library takes 0.8 ms a span
    stand_in.open.clear()
    export = make()
    began = time.monotonic()
    for _ in range(30):
        export.take(spans(100))
    assert time.monotonic() - began < PATIENCE_S / 3
    dropped = stats.dropped()["azure_queue_full"]
    assert 500 <= dropped <= 1_000  # a batch of 500 may have left the queue
    assert stats.queue_sizes()["azure_traces"] <= 2_000
    stand_in.open.set()
    wait_envelopes(stand_in, "Request", 3_000 - dropped)


def test_the_end_sends_what_waits(make: Make, stand_in: StandInIngestion) -> None:
    export = make(pace=Pace(delay_s=PATIENCE_S))
    export.take(spans(1_200))
    export.log(record())
    export.stop(PATIENCE_S)
    assert len(stand_in.envelopes("Request")) == 1_200
    assert len(stand_in.envelopes("Message")) == 1


def test_the_end_does_not_wait_for_an_endpoint_that_hangs(make: Make, stand_in: StandInIngestion) -> None:
    export = make()
    stand_in.open.clear()
    export.take(spans(1))
    began = time.monotonic()
    export.stop(0.1)
    assert time.monotonic() - began < PATIENCE_S / 3


def test_a_broken_packet_costs_only_itself(make: Make, stand_in: StandInIngestion, stats: ExportStats) -> None:
    export = make()
    export.take(spans(1)[:-3])
    export.take(spans(1))
    wait_envelopes(stand_in, "Request")
    assert stats.failures() == {("azure_traces", "PacketError"): 1}


# ---- what must not happen


@pytest.mark.parametrize("answer", [Answer(400), Answer(401), Answer(429), Answer(206, errors={0: 400, 1: 429})])
def test_the_key_is_never_in_the_log(
    make: Make,
    stand_in: StandInIngestion,
    stats: ExportStats,
    records: Records,
    answer: Answer,
    capfd: pytest.CaptureFixture[str],
) -> None:
    stand_in.always = answer
    export = make()
    export.take(spans(2))
    export.log(record("one"))
    export.log(record("two"))
    wait_until(lambda: {signal for signal, _ in stats.failures()} >= {"azure_traces", "azure_logs"}, "both failed")
    export.stop(PATIENCE_S)
    assert KEY not in json.dumps(records)
    assert KEY not in "".join(capfd.readouterr())


def test_nobody_but_the_endpoint_is_called_and_nothing_is_kept_on_disk(
    stand_in: StandInIngestion, tmp_path: Any
) -> None:
    script = """
import os, socket, sys, threading
called = []
real = socket.getaddrinfo
def getaddrinfo(host, *args, **kwargs):
    called.append(host)
    if host != "127.0.0.1":
        raise socket.gaierror(f"not {host}")
    return real(host, *args, **kwargs)
socket.getaddrinfo = getaddrinfo
from telemetry.azure.export import open_export
from telemetry.otlp.stats import ExportStats
from telemetry.spanpacket import Span, pack
stats = ExportStats()
export = open_export(os.environ["APPLICATIONINSIGHTS_CONNECTION_STRING"], {"service.name": "cache"}, stats)
export.start()
export.take(pack([Span("GET", 1, 2, bytes(15) + b"1", bytes(7) + b"1")]))
threads = sorted(thread.name for thread in threading.enumerate())
export.stop(20)
print(sorted(set(called)), threads, stats.failures(), sep="\\n")
"""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("APPLICATIONINSIGHTS", "OTEL_"))}
    environment = {**kept, "APPLICATIONINSIGHTS_CONNECTION_STRING": stand_in.connection_string, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    hosts, threads, failures = done.stdout.splitlines()
    assert hosts == "['127.0.0.1']"
    assert threads == "['MainThread', 'OtelBatchLogRecordProcessor', 'azure-metrics', 'azure-traces']"
    assert failures == "{}"
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []
    assert len(stand_in.envelopes("Request")) == 1
