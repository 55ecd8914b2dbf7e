"""Both transports against real receivers, well and ill."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from telemetry.otlp.envelope import Envelope
from telemetry.otlp.settings import SignalSettings
from telemetry.otlp.span_encoder import SpanEncoder
from telemetry.otlp.stats import ExportStats
from telemetry.otlp.transport import REQUEST_BYTES_MAX, ExportError, Transport, make_transport
from telemetry.otlp.trust import TrustError
from tests.conftest import PATIENCE_S, free_port
from tests.telemetry.otlp.conftest import Receive
from tests.telemetry.otlp.helpers import KEY, Log, packet, signal_for
from tests.telemetry.otlp.receivers import Answer, GrpcReceiver, make_authority

PROTOCOLS = ("grpc", "http/protobuf", "http/json")
BINARY = PROTOCOLS[:2]
REQUEST = Envelope({"service.name": "cache"}, "scope", "1").wrap([SpanEncoder().encode(packet(2)).data])

Connect = Callable[[SignalSettings], Transport]


@pytest.fixture
def stats() -> ExportStats:
    return ExportStats()


@pytest.fixture
def connect(stats: ExportStats) -> Iterator[Connect]:
    transports: list[Transport] = []

    def make(settings: SignalSettings) -> Transport:
        transports.append(make_transport("traces", settings, stats))
        return transports[-1]

    yield make
    for transport in transports:
        transport.close()


def reason_of(transport: Transport, request: bytes = REQUEST) -> str:
    with pytest.raises(ExportError) as caught:
        transport.send(request, 2)
    return caught.value.reason


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("protocol", BINARY)
def test_bytes_arrive_as_they_are(protocol: str, compression: str, receive: Receive, connect: Connect) -> None:
    receiver = receive(protocol, key=KEY)
    headers = f"x-otlp-api-key={KEY},x-other=a%20b"
    transport = connect(
        signal_for(receiver.endpoint, protocol, EXPORTER_OTLP_HEADERS=headers, EXPORTER_OTLP_COMPRESSION=compression)
    )
    for _ in range(2):
        transport.send(REQUEST, 2)
    first, second = receiver.accepted
    assert first.message == second.message == ExportTraceServiceRequest.FromString(REQUEST)
    assert first.headers["x-other"] == "a b"
    if protocol != "grpc":
        assert first.headers["content-type"] == "application/x-protobuf"
        assert first.headers.get("content-encoding", "none") == compression


def test_json_has_hexadecimal_ids_and_numbers_for_enums(receive: Receive, connect: Connect) -> None:
    import json

    receiver = receive("http")
    connect(signal_for(receiver.endpoint, "http/json")).send(REQUEST, 2)
    (span, _) = ExportTraceServiceRequest.FromString(REQUEST).resource_spans[0].scope_spans[0].spans
    (request,) = receiver.requests
    sent = json.loads(request.message)["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    assert (sent["traceId"], sent["spanId"]) == (span.trace_id.hex(), span.span_id.hex())
    assert (sent["kind"], sent["name"], sent["startTimeUnixNano"]) == (2, "GET", "1000")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_missing_key_is_unauthenticated_and_not_tried_again(
    protocol: str, receive: Receive, connect: Connect, stats: ExportStats, log: Log
) -> None:
    receiver = receive(protocol, key=KEY)
    headers, endpoint = "x-otlp-api-key=wrong-secret", f"{receiver.endpoint}/v1/traces?token=query-secret"
    transport = connect(
        signal_for(endpoint, protocol, EXPORTER_OTLP_HEADERS=headers, EXPORTER_OTLP_TRACES_ENDPOINT=endpoint)
    )
    for _ in range(3):
        assert reason_of(transport) == "unauthenticated"
    assert stats.failures() == {("traces", "unauthenticated"): 3}
    assert len(receiver.requests) == 3
    (event,) = log.events("export.failed")  # once, not per request
    assert (event["level"], event["signal"], event["reason"]) == ("warning", "traces", "unauthenticated")
    assert event["endpoint"].startswith(receiver.endpoint)
    assert "secret" not in log.text


@pytest.mark.parametrize(
    ("protocol", "code"),
    [
        *(("grpc", c) for c in ("UNAVAILABLE", "CANCELLED", "ABORTED", "OUT_OF_RANGE", "DATA_LOSS")),
        *(("http/protobuf", c) for c in (429, 502, 503, 504)),
    ],
)
def test_what_may_pass_is_tried_again(
    protocol: str, code: str | int, receive: Receive, connect: Connect, stats: ExportStats
) -> None:
    receiver = receive(protocol)
    receiver.answer = Answer(code=code, times=1)
    connect(signal_for(receiver.endpoint, protocol)).send(REQUEST, 2)
    assert len(receiver.requests) == 2
    assert stats.failures() == {}


@pytest.mark.parametrize(
    ("protocol", "code", "reason"),
    [
        ("grpc", "INVALID_ARGUMENT", "grpc_invalid_argument"),
        ("grpc", "PERMISSION_DENIED", "refused"),
        ("grpc", "UNIMPLEMENTED", "grpc_unimplemented"),
        ("grpc", "RESOURCE_EXHAUSTED", "grpc_resource_exhausted"),
        ("http/protobuf", 400, "http_400"),
        ("http/protobuf", 403, "refused"),
        ("http/protobuf", 404, "http_404"),
        ("http/protobuf", 413, "too_large"),
        ("http/protobuf", 500, "http_500"),
        ("http/protobuf", 307, "http_307"),
    ],
)
def test_what_will_not_pass_is_tried_once(
    protocol: str, code: str | int, reason: str, receive: Receive, connect: Connect, stats: ExportStats
) -> None:
    receiver = receive(protocol)
    receiver.answer = Answer(code=code)
    assert reason_of(connect(signal_for(receiver.endpoint, protocol))) == reason
    assert len(receiver.requests) == 1
    assert stats.failures() == {("traces", reason): 1}


@pytest.mark.parametrize(
    ("protocol", "code"), [("grpc", "RESOURCE_EXHAUSTED"), ("grpc", "UNAVAILABLE"), ("http/protobuf", 429)]
)
def test_a_receiver_that_says_when_is_not_asked_before(
    protocol: str, code: str | int, receive: Receive, connect: Connect
) -> None:
    receiver = receive(protocol)
    receiver.answer = Answer(code=code, retry_after_s=1 if protocol != "grpc" else 0.9, times=1)
    connect(signal_for(receiver.endpoint, protocol)).send(REQUEST, 2)
    first, second = receiver.requests
    assert second.at - first.at >= 0.9


@pytest.mark.parametrize(("protocol", "code"), [("grpc", "UNAVAILABLE"), ("http/protobuf", 503)])
def test_a_wait_longer_than_the_deadline_is_not_begun(
    protocol: str, code: str | int, receive: Receive, connect: Connect
) -> None:
    receiver = receive(protocol)
    receiver.answer = Answer(code=code, retry_after_s=3600)
    began = time.monotonic()
    assert reason_of(connect(signal_for(receiver.endpoint, protocol))) in ("unavailable", "http_503")
    assert time.monotonic() - began < 5
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("protocol", BINARY)
def test_closing_ends_a_wait_between_two_tries_at_once(
    protocol: str, receive: Receive, connect: Connect, stats: ExportStats, log: Log
) -> None:
    receiver = receive(protocol)
    answer = {"grpc": "UNAVAILABLE"}.get(protocol, 503)
    receiver.answer = Answer(code=answer, retry_after_s=60)
    transport = connect(
        signal_for(receiver.endpoint, protocol, EXPORTER_OTLP_TIMEOUT="100000", BSP_EXPORT_TIMEOUT="100000")
    )
    assert_closing_interrupts(transport, lambda: receiver.wait_for(lambda: receiver.requests, "a request"))
    assert stats.failures() == {("traces", "shutdown"): 2}
    assert log.events("export.failed") == []


@pytest.mark.parametrize("protocol", BINARY)
def test_closing_ends_a_request_that_hangs(protocol: str, receive: Receive, connect: Connect) -> None:
    receiver = receive(protocol)
    receiver.answer = Answer(hang=True)
    transport = connect(
        signal_for(receiver.endpoint, protocol, EXPORTER_OTLP_TIMEOUT="100000", BSP_EXPORT_TIMEOUT="100000")
    )
    assert_closing_interrupts(transport, lambda: receiver.wait_for(lambda: receiver.requests, "a request"))


def assert_closing_interrupts(transport: Transport, wait: Callable[[], object]) -> None:
    reasons: list[str] = []
    thread = threading.Thread(target=lambda: reasons.append(reason_of(transport)))
    thread.start()
    wait()
    began = time.monotonic()
    transport.close()
    thread.join(PATIENCE_S)
    assert reasons == ["shutdown"]
    assert time.monotonic() - began < 5
    assert reason_of(transport) == "shutdown"  # nothing is sent after it


@pytest.mark.parametrize("protocol", BINARY)
def test_a_receiver_that_hangs_costs_the_deadline_and_recovers(
    protocol: str, receive: Receive, connect: Connect, stats: ExportStats, log: Log
) -> None:
    receiver = receive(protocol)
    receiver.answer = Answer(hang=True, times=1)
    transport = connect(signal_for(receiver.endpoint, protocol, EXPORTER_OTLP_TIMEOUT="700"))
    began = time.monotonic()
    assert reason_of(transport) == "deadline"
    assert 0.6 < time.monotonic() - began < 5
    transport.send(REQUEST, 2)
    transport.send(REQUEST, 2)
    assert stats.failures() == {("traces", "deadline"): 1}
    assert len(log.events("export.failed")) == len(log.events("export.recovered")) == 1
    assert log.events("export.recovered")[0]["level"] == "notice"


@pytest.mark.parametrize("protocol", BINARY)
def test_nobody_there_is_unavailable_until_somebody_is(
    protocol: str, receive: Receive, connect: Connect, stats: ExportStats, log: Log
) -> None:
    port = free_port()
    transport = connect(signal_for(f"http://127.0.0.1:{port}", protocol, EXPORTER_OTLP_TIMEOUT="800"))
    for _ in range(2):
        assert reason_of(transport) == "unavailable"
    receiver = receive(protocol, port=port)
    deadline = time.monotonic() + PATIENCE_S
    while not receiver.requests and time.monotonic() < deadline:
        with contextlib.suppress(ExportError):
            transport.send(REQUEST, 2)
    assert len(log.events("export.failed")) == len(log.events("export.recovered")) == 1
    assert set(stats.failures()) == {("traces", "unavailable")}


@pytest.mark.parametrize(
    "answer",
    [
        Answer(body=b"<html><body>Welcome to nginx</body></html>"),
        Answer(body=b"OK", content_type="text/plain"),
        Answer(body=b"\x0a\xff\xff\xff\xff\x0f", content_type="application/x-protobuf"),
        Answer(body=b"{broken", content_type="application/json"),
        Answer(body=b"\xff\xfe", content_type="application/json"),
        Answer(body=b"\0" * (3 << 20), content_type="application/x-protobuf"),
    ],
    ids=["html", "text", "protobuf", "json", "no_text", "endless"],
)
def test_an_http_answer_that_is_none_is_a_failure_with_a_reason(
    answer: Answer, receive: Receive, connect: Connect, stats: ExportStats
) -> None:
    receiver = receive("http")
    receiver.answer = answer
    answer.times = 1
    transport = connect(signal_for(receiver.endpoint, "http/protobuf"))
    assert reason_of(transport) == "bad_answer"
    assert stats.failures() == {("traces", "bad_answer"): 1}
    transport.send(REQUEST, 2)


@pytest.mark.parametrize("protocol", BINARY)
@pytest.mark.parametrize("says", [b"", b"-ERR wrong protocol\r\n", b"\x16\x03\x01garbage" * 100])
def test_a_port_of_something_else_is_a_failure_with_a_reason(
    says: bytes, protocol: str, connect: Connect, stats: ExportStats, log: Log
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        connection.recv(1 << 16)
                        connection.sendall(says)

        thread = threading.Thread(target=serve)
        thread.start()
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        transport = connect(signal_for(endpoint, protocol, EXPORTER_OTLP_TIMEOUT="1000"))
        reason = reason_of(transport)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE_S)
    assert reason in ("unavailable", "bad_answer", "deadline")
    assert stats.failures() == {("traces", reason): 1}
    assert log.events("export.fault") == []


_SLOW = {
    "status": (b"", b"H"),
    "header": (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
    "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"x"),
    "error": (b"HTTP/1.1 503 Later\r\nContent-Length: 100000\r\n\r\n", b"x"),
}


@pytest.mark.parametrize(("begins", "drips"), _SLOW.values(), ids=_SLOW)
def test_an_answer_that_comes_byte_by_byte_costs_the_deadline(
    begins: bytes, drips: bytes, connect: Connect, stats: ExportStats
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):  # until it hangs up
                connection.recv(1 << 16)
                connection.sendall(begins)
                while True:
                    connection.sendall(drips)
                    threading.Event().wait(0.05)

        thread = threading.Thread(target=serve)
        thread.start()
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        transport = connect(signal_for(endpoint, "http/protobuf", EXPORTER_OTLP_TIMEOUT="700"))
        began = time.monotonic()
        assert reason_of(transport) == "deadline"
        assert time.monotonic() - began < 5
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert stats.failures() == {("traces", "deadline"): 1}


@pytest.mark.parametrize("header", ["Content-Encoding: gzip", "Content-Length: 1, 2"])
def test_an_answer_that_cannot_be_read_is_not_asked_for_again(
    header: str, connect: Connect, stats: ExportStats
) -> None:
    asked = 0
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            nonlocal asked
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(ConnectionError):
                        asked += 1
                        connection.sendall(f"HTTP/1.1 200 OK\r\n{header}\r\n\r\nno such thing".encode())
                        connection.shutdown(socket.SHUT_WR)
                        while connection.recv(1 << 16):
                            pass

        thread = threading.Thread(target=serve)
        thread.start()
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert reason_of(connect(signal_for(endpoint, "http/protobuf"))) == "bad_answer"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE_S)
    assert asked == 1
    assert stats.failures() == {("traces", "bad_answer"): 1}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_a_receiver_rejects_is_counted_and_logged_once(
    protocol: str, receive: Receive, connect: Connect, stats: ExportStats, log: Log
) -> None:
    receiver = receive(protocol)
    receiver.answer = Answer(rejected=2, times=3)
    transport = connect(signal_for(receiver.endpoint, protocol))
    for _ in range(5):
        transport.send(REQUEST, 2)
    assert stats.failures() == {("traces", "rejected"): 6}
    assert stats.dropped() == {"rejected": 6}
    assert len(receiver.requests) == 5
    assert [event["reason"] for event in log.events("export.failed")] == ["rejected"]
    assert len(log.events("export.recovered")) == 1


@pytest.mark.parametrize("protocol", BINARY)
def test_a_request_that_no_receiver_would_take_is_not_sent(
    protocol: str, receive: Receive, connect: Connect, stats: ExportStats
) -> None:
    receiver = receive(protocol)
    assert reason_of(connect(signal_for(receiver.endpoint, protocol)), bytes(REQUEST_BYTES_MAX)) == "too_large"
    assert receiver.requests == []


@pytest.mark.parametrize("protocol", BINARY)
def test_a_made_up_authority_is_trusted_through_ssl_cert_dir_only(
    protocol: str, receive: Receive, connect: Connect, tmp_path: Path
) -> None:
    tls = make_authority(tmp_path / "tls")
    certs = tmp_path / "certs"
    certs.mkdir()
    (certs / "THUMBPRINT.pem").write_bytes(tls.authority_pem)
    (certs / "0a1b2c3d.0").symlink_to("THUMBPRINT.pem")
    receiver = receive(protocol, key=KEY, tls=tls)
    variables = {"EXPORTER_OTLP_HEADERS": f"x-otlp-api-key={KEY}", "EXPORTER_OTLP_TIMEOUT": "3000"}
    stranger = connect(signal_for(receiver.endpoint, protocol, **variables | {"EXPORTER_OTLP_TIMEOUT": "1000"}))
    assert reason_of(stranger) == "tls"
    folders = f"/nonexistent:{certs}:/etc/ssl/certs"
    transport = connect(signal_for(receiver.endpoint, protocol, SSL_CERT_DIR=folders, **variables))
    transport.send(REQUEST, 2)
    named = str(tls.folder / "ca.pem")
    transport = connect(signal_for(receiver.endpoint, protocol, EXPORTER_OTLP_CERTIFICATE=named, **variables))
    transport.send(REQUEST, 2)
    assert len(receiver.accepted) == 2


@pytest.mark.parametrize("protocol", BINARY)
def test_a_certificate_file_that_is_not_there_is_said(protocol: str, stats: ExportStats) -> None:
    settings = signal_for("https://127.0.0.1:1", protocol, EXPORTER_OTLP_CERTIFICATE="/nonexistent.pem")
    with pytest.raises(TrustError, match="OTEL_EXPORTER_OTLP_CERTIFICATE: No such file"):
        make_transport("traces", settings, stats)


def test_a_password_in_the_url_is_sent_by_http_and_never_logged(receive: Receive, connect: Connect, log: Log) -> None:
    receiver = receive("http")
    receiver.answer = Answer(code=400, times=1)
    endpoint = receiver.endpoint.replace("//", "//me:url-secret@")
    transport = connect(signal_for(endpoint, "http/protobuf"))
    assert reason_of(transport) == "http_400"
    assert receiver.requests[0].headers["authorization"].startswith("Basic ")
    assert log.events("export.failed")
    assert "secret" not in log.text


def test_a_channel_that_was_silent_is_not_kept(receive: Receive, connect: Connect) -> None:
    """A collector that moved behind the same address is found although the old connection never ends."""
    first = GrpcReceiver()
    transport = connect(signal_for(first.endpoint, EXPORTER_OTLP_TIMEOUT="400"))
    try:
        first.answer = Answer(hang=True)
        assert reason_of(transport) == "deadline"
        first.answer = Answer()
        transport.send(REQUEST, 2)
        assert len(first.requests) == 2
    finally:
        first.close()


def test_grpc_writes_nothing_to_standard_error(receive: Receive, tmp_path: Path) -> None:
    """Neither about an endpoint that we do not trust nor about children that are started meanwhile."""
    receiver = receive("grpc", tls=make_authority(tmp_path))
    code = f"""
import subprocess, threading
from telemetry.otlp.settings import read
from telemetry.otlp.stats import ExportStats
from telemetry.otlp.transport import ExportError, make_transport
environ = {{"OTEL_EXPORTER_OTLP_ENDPOINT": {receiver.endpoint!r}, "OTEL_EXPORTER_OTLP_TIMEOUT": "1500"}}
transport = make_transport("traces", read(environ)[0].traces, ExportStats())
def send():
    try:
        transport.send(b"", 0)
    except ExportError as error:
        print(error.reason)
thread = threading.Thread(target=send)
thread.start()
while thread.is_alive():
    subprocess.run(["true"], check=True)
thread.join()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    assert done.stdout.splitlines()[-1] == "tls"
    assert done.stderr == ""
