"""The whole server and its receivers: exact figures, nothing lost, faults of a receiver, the end, secrets."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import Start, free_port, receive, wait_until
from tests.sidecar.exported import (
    attributes,
    calls_in_otlp,
    command_spans,
    context,
    dropped_in_otlp,
    environment,
    mixed_workload,
    traced,
    wait_equal,
)
from tests.sidecar.relay.test_counts import difference, engine_calls, our_calls
from tests.sidecar.relay.traced import command
from tests.telemetry.azure.stand_in_ingestion import KEY, StandInIngestion
from tests.telemetry.otlp.receivers import Answer, GrpcReceiver, HttpReceiver, Receiver, make_authority

_KINDS = {"grpc": GrpcReceiver, "http/protobuf": HttpReceiver}
_TINY = ("--sidecar-trace-budget-remote", "5", "--sidecar-trace-budget-root", "5", "--sidecar-trace-budget-kept", "2")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with GrpcReceiver() as made:
        yield made


@pytest.mark.parametrize(
    ("arguments", "variables", "reasons"),
    [
        (
            (),
            {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.3"},
            {"sampler", "budget_kept"},
        ),
        (_TINY, {"OTEL_TRACES_SAMPLER": "always_on"}, {"budget_root", "budget_remote", "budget_kept"}),
    ],
    ids=["ratio", "budgets"],
)
def test_every_command_is_a_span_or_a_counted_drop_and_all_figures_agree(
    start: Start, receiver: Receiver, arguments: tuple[str, ...], variables: dict[str, str], reasons: set[str]
) -> None:
    env = environment(receiver.endpoint, **variables)
    server = start("--save", "", "--sidecar-workers", "2", *arguments, env=env).wait_ready()
    with server.client() as client:
        client.config_resetstat()  # what our own connection asked at its start
    before = our_calls(server)
    mixed_workload(server)
    calls = wait_equal(server, receiver)
    ours = difference(our_calls(server), before)
    assert ours.pop("_OTHER") == (20, 20)
    assert ours == difference(engine_calls(server), {})
    assert server.stop() == 0
    sent, expected, dropped = command_spans(receiver), traced(calls), dropped_in_otlp(receiver)
    assert sent.total() + sum(dropped.values()) == expected.total(), (sent, dropped, expected)
    assert sent <= expected
    assert sent.total() > 0
    assert reasons <= dropped.keys()
    ids = [span.span_id for span in receiver.spans]
    assert len(ids) == len(set(ids))
    assert server.said("export.failed") == []


def test_nothing_is_lost_below_the_budgets(start: Start, receiver: Receiver) -> None:
    """40 roots and 500 below clients' spans a second, for 2 seconds."""
    server = start("--save", "", "--sidecar-workers", "2", env=environment(receiver.endpoint)).wait_ready()
    sockets = [server.connect() for _ in range(4)]
    began = time.monotonic()
    for tick in range(20):
        for sock in sockets:
            sock.sendall(command("GET", "a"))
            assert sock.recv(100) == b"$-1\r\n"
            for _ in range(12):
                sock.sendall(command(*context(sampled=True)) + command("INCR", "n"))
                assert receive(sock, b"\r\n").count(b":") == 1
        time.sleep(max(0.0, began + 0.1 * (tick + 1) - time.monotonic()))  # the rate is what is tested
    assert server.stop() == 0
    assert command_spans(receiver) == {"GET": 80, "INCR": 960}
    assert dropped_in_otlp(receiver) == {}


def test_what_was_done_last_arrives_at_the_end(start: Start, receiver: Receiver) -> None:
    slowly = {"OTEL_BSP_SCHEDULE_DELAY": "60000", "OTEL_METRIC_EXPORT_INTERVAL": "60000"}
    slowly |= {"OTEL_BLRP_SCHEDULE_DELAY": "60000"}
    server = start("--save", "", env=environment(receiver.endpoint, **slowly)).wait_ready()
    with server.connect() as sock:
        for _ in range(30):
            sock.sendall(command("INCR", "n"))
            receive(sock, b"\r\n")
        assert server.terminate() == 0
    assert command_spans(receiver) == {"INCR": 30}
    assert calls_in_otlp(receiver)["INCR", ""] == 30
    assert "server.stopping" in {record.event_name for record in receiver.log_records}


# ---- TLS, as Aspire gives it


def _aspire(tmp_path: Path, endpoint: str, protocol: str, key: str) -> dict[str, str]:
    trusted = tmp_path / "certs"
    trusted.mkdir()
    shutil.copy(tmp_path / "ca" / "ca.pem", trusted / "1a2b3c4d.0")
    return environment(
        endpoint.replace("127.0.0.1", "localhost"),
        protocol,
        OTEL_EXPORTER_OTLP_HEADERS=f"x-otlp-api-key={key}",
        SSL_CERT_DIR=str(trusted),
        SSL_CERT_FILE="",  # Aspire sets none; this machine may
    )


@pytest.mark.parametrize("protocol", _KINDS)
def test_tls_as_aspire_injects_it(start: Start, tmp_path: Path, protocol: str) -> None:
    with _KINDS[protocol](key="a-good-key", tls=make_authority(tmp_path / "ca")) as receiver:
        server = start("--save", "", env=_aspire(tmp_path, receiver.endpoint, protocol, "a-good-key")).wait_ready()
        with server.client() as client:
            client.set("a", 1)
        receiver.wait_for(lambda: command_spans(receiver) == {"SET": 1}, "the span")
        receiver.wait_for(lambda: calls_in_otlp(receiver).get(("SET", "")) == 1, "the metric")
        receiver.wait_for(lambda: receiver.log_records, "a log record")
        assert server.stop() == 0
        assert server.said("export.failed") == []


@pytest.mark.parametrize("protocol", _KINDS)
def test_a_wrong_key_is_counted_and_said_once_and_never_shown(start: Start, tmp_path: Path, protocol: str) -> None:
    with _KINDS[protocol](key="a-good-key", tls=make_authority(tmp_path / "ca")) as receiver:
        env = _aspire(tmp_path, receiver.endpoint, protocol, "a-wrong-key-of-ours")
        server = start("--save", "", "--loglevel", "debug", env=env).wait_ready()
        failures = "valkey_sidecar_export_failures_total"
        with server.client() as client:
            for _ in range(3):
                before = server.metric(f'{failures}{{signal="traces"')
                client.set("a", 1)
                wait_until(lambda b=before: server.metric(f'{failures}{{signal="traces"') > b, "it is counted")
        page = server.get("/metrics")[1]
        assert server.metric('valkey_sidecar_spans_dropped_total{reason="export_failed"}') == 3
        assert server.stop() == 0
        told = Counter(event["signal"] for event in server.said("export.failed"))
        assert told == {"traces": 1, "metrics": 1, "logs": 1}
        assert {request.signal for request in receiver.requests} == {"traces", "metrics", "logs"}
        assert receiver.accepted == []
        assert "a-wrong-key-of-ours" not in page + server.log_text()


# ---- a receiver that fails


@pytest.mark.parametrize(
    ("answer", "protocol"),
    [
        (Answer(code="PERMISSION_DENIED"), "grpc"),
        (Answer(code=503), "http/protobuf"),
        (Answer(code=200, body=b"<html>hello</html>"), "http/protobuf"),
        (Answer(hang=True), "grpc"),
        (Answer(hang=True), "http/protobuf"),
        (None, "grpc"),
        (None, "http/protobuf"),
    ],
    ids=["refuses", "unavailable", "garbage", "hangs-grpc", "hangs-http", "absent-grpc", "absent-http"],
)
def test_a_failing_receiver_is_said_once_and_found_again(start: Start, answer: Answer | None, protocol: str) -> None:
    port = free_port()
    env = environment(f"http://127.0.0.1:{port}", protocol, OTEL_EXPORTER_OTLP_TIMEOUT="300")
    receiver = _KINDS[protocol](port=port) if answer else None
    try:
        if receiver and answer:
            receiver.answer = answer
        server = start("--save", "", env=env).wait_ready()
        with server.client() as client:
            for round_ in range(3):
                dropped = server.metric("valkey_sidecar_spans_dropped_total")
                assert client.incr("n") == round_ + 1
                wait_until(lambda d=dropped: server.metric("valkey_sidecar_spans_dropped_total") > d, "it is counted")
            if receiver is None:
                receiver = _KINDS[protocol](port=port)
            receiver.release.set()
            receiver.answer = Answer()
            wait_until(lambda: client.get("n") and "GET" in command_spans(receiver), "spans come again")
            wait_until(lambda: "valkey.command.calls" in {m.name for m in receiver.metrics}, "metrics come again")
            wait_until(lambda: {e["signal"] for e in server.said("export.recovered")} >= {"traces"}, "it is said")
        assert server.stop() == 0
        assert Counter(e["signal"] for e in server.said("export.failed"))["traces"] == 1
        assert Counter(e["signal"] for e in server.said("export.recovered"))["traces"] == 1
    finally:
        if receiver is not None:
            receiver.close()


@pytest.mark.parametrize("protocol", _KINDS)
def test_a_receiver_that_hangs_does_not_hold_up_the_end(start: Start, tmp_path: Path, protocol: str) -> None:
    with _KINDS[protocol]() as receiver:
        receiver.answer = Answer(hang=True)
        server = start(env=environment(receiver.endpoint, protocol), folder=tmp_path).wait_ready()
        with server.client() as client:
            client.set("kept", "yes")
        receiver.wait_for(lambda: {"traces", "metrics", "logs"} <= {r.signal for r in receiver.requests}, "requests")
        began = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - began < 6
    server = start(folder=tmp_path)
    with server.client() as client:
        assert client.get("kept") == b"yes"


# ---- nothing to send


@pytest.mark.parametrize(
    ("variables", "signals"),
    [
        ({"OTEL_SDK_DISABLED": "true"}, set()),
        ({"OTEL_TRACES_EXPORTER": "none"}, {"metrics", "logs"}),
        ({"OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}, {"traces"}),
        ({f"OTEL_{s}_EXPORTER": "none" for s in ("TRACES", "METRICS", "LOGS")}, set()),
    ],
    ids=["disabled", "no-traces", "traces-only", "none"],
)
def test_what_is_switched_off_is_not_sent(
    start: Start, receiver: Receiver, variables: dict[str, str], signals: set[str]
) -> None:
    server = start("--save", "", env=environment(receiver.endpoint, **variables)).wait_ready()
    with server.client() as client:
        client.set("a", 1)
    if signals:
        receiver.wait_for(lambda: {r.signal for r in receiver.requests} >= signals, "the others come")
    assert server.metric("valkey_sidecar_spans_dropped_total") == 0
    assert server.stop() == 0
    assert {r.signal for r in receiver.requests} == signals
    assert [e for e in server.events if e["event_name"].startswith(("export.", "supervisor.fault"))] == []


# ---- a worker that dies


def test_counts_stay_and_spans_go_on_when_a_worker_is_killed(start: Start, receiver: Receiver) -> None:
    server = start("--save", "", env=environment(receiver.endpoint)).wait_ready()
    with server.client() as client:
        for _ in range(20):
            client.incr("n")
    receiver.wait_for(lambda: command_spans(receiver)["INCRBY"] == 20, "the spans")
    receiver.wait_for(lambda: calls_in_otlp(receiver).get(("INCRBY", "")) == 20, "the counts")
    server.worker.send_signal(signal.SIGKILL)
    server.wait_said("worker.restarted")
    wait_until(server.answers, "a new worker serves")
    with server.client() as client:
        assert client.incr("n") == 21
    receiver.wait_for(lambda: command_spans(receiver)["INCRBY"] == 21, "a span of the new worker")
    receiver.wait_for(lambda: calls_in_otlp(receiver).get(("INCRBY", "")) == 21, "its count")
    told = [
        point.as_int
        for metric in receiver.metrics
        if metric.name == "valkey.command.calls"
        for point in metric.sum.data_points
        if attributes(point)["db.operation.name"] == "INCRBY"
    ]
    assert told == sorted(told)


# ---- secrets

_SECRET = "hunter2-of-the-test"


def test_no_secret_leaves_the_server(start: Start) -> None:
    with GrpcReceiver(key=f"{_SECRET}-otlp") as receiver, closing(StandInIngestion()) as stand_in:
        instrumentation = stand_in.connection_string.replace(KEY, "dddddddd-5ec2-e700-0000-444455556666")
        env = environment(
            receiver.endpoint,
            OTEL_EXPORTER_OTLP_HEADERS=f"x-otlp-api-key={_SECRET}-otlp",
            APPLICATIONINSIGHTS_CONNECTION_STRING=instrumentation,
        )
        arguments = ("--save", "", "--loglevel", "debug", "--sidecar-slow-threshold", "0.001")
        arguments += ("--slowlog-log-slower-than", "0", "--commandlog-execution-slower-than", "0")
        server = start(*arguments, "--requirepass", _SECRET, env=env, password=_SECRET).wait_ready()
        with server.connect() as sock:
            for words in _secret_commands():
                sock.sendall(command(*words))
                receive(sock, b"\r\n")
            sock.sendall(b"".join(command(*words) for words in _secret_commands()) + command("ECHO", "the-last"))
            receive(sock, b"the-last\r\n")
        wait_until(lambda: server.said("command.slow"), "a slow command is told")
        pages = "".join(server.get(path)[1] for path in ("/metrics", "/readyz", "/healthz", "/"))
        assert server.stop() == 0
        sent = "".join(str(request.message) for request in receiver.accepted)
        insights = json.dumps([item["data"] for item in stand_in.taken] + [item.get("tags") for item in stand_in.taken])
    assert {"EVAL", "ACL SETUSER", "CONFIG SET", "SET", "GET"} <= command_spans(receiver).keys()
    assert stand_in.envelopes("Request")
    for where, text in {"OTLP": sent, "pages": pages, "log": server.log_text(), "insights": insights}.items():
        assert _SECRET not in text, where
        assert "dddddddd-5ec2" not in text, where


def _secret_commands() -> list[tuple[str, ...]]:
    secret = _SECRET
    return [
        ("AUTH", f"{secret}-wrong"),
        ("AUTH", "nobody", f"{secret}-wrong"),
        ("HELLO", "3", "AUTH", f"{secret}-user", f"{secret}-wrong"),
        ("AUTH", secret),
        ("HELLO", "2", "AUTH", "default", secret),
        ("ACL", "SETUSER", "bob", "on", f">{secret}", "~*", "+@all"),
        ("ACL", "SETUSER", "bob", f"{secret}"),
        ("CONFIG", "SET", "requirepass", secret),
        ("CONFIG", "SET", f"{secret}", "1"),
        ("EVAL", f"return '{secret}'", "1", f"{secret}-key", f"{secret}-arg"),
        ("EVAL", "return redis.call('GET')", "1", f"{secret}-key"),
        ("EVAL", f"return redis.error_reply('ERR {secret}')", "0"),
        ("EVAL", f"return redis.call('{secret}', '{secret}')", "0"),
        (secret, "x"),
        ("NOSUCHCOMMAND", f"{secret}-argument"),
        ("CONFIG", f"{secret}-subcommand"),
        ("SET", f"{secret}-key", f"{secret}-value"),
        ("GET", f"{secret}-key"),
        ("LPUSH", f"{secret}-key", f"{secret}-value"),
        ("SET", f"{secret}-key", "value", f"{secret}-option"),
        ("MIGRATE", "127.0.0.1", "1", f"{secret}-key", "0", "10", "AUTH", f"{secret}"),
    ]


# ---- Application Insights beside OTLP


def test_application_insights_gets_the_same_beside_otlp(start: Start, receiver: Receiver) -> None:
    with closing(StandInIngestion()) as stand_in:
        env = environment(receiver.endpoint, APPLICATIONINSIGHTS_CONNECTION_STRING=stand_in.connection_string)
        server = start("--save", "", env=env | {"OTEL_SERVICE_NAME": "cache"}).wait_ready()
        with server.client() as client:
            for _ in range(10):
                client.set("a", 1)
        wait_until(lambda: stand_in.envelopes("Request"), "the requests")
        assert server.stop() == 0
        requests = [item["data"]["baseData"] for item in stand_in.envelopes("Request")]
        ids = {request["id"] for request in requests}
        roles = {item["tags"]["ai.cloud.role"] for item in stand_in.taken}
    assert command_spans(receiver) == {"SET": 10}
    assert Counter(request["name"] for request in requests) == {"SET": 10}
    assert ids == {span.span_id.hex() for span in receiver.spans}
    assert roles == {"cache"}
    metrics = {m["name"] for item in stand_in.envelopes("Metric") for m in item["data"]["baseData"]["metrics"]}
    assert {"valkey.command.calls", "valkey.command.duration"} <= metrics
    assert any("Shutting down" in item["data"]["baseData"]["message"] for item in stand_in.envelopes("Message"))
