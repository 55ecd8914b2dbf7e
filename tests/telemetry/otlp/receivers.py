"""Real OTLP receivers for tests: a gRPC server and an HTTP server that keep what they are sent.

    with GrpcReceiver() as receiver:
        ...  # export to receiver.endpoint
        receiver.wait_for(lambda: len(receiver.spans) == 3, "three spans arrived")

Both answer well until told otherwise: `receiver.answer = Answer(...)`. Requests are kept as parsed protobuf messages,
headers (gRPC: metadata) beside them. With `key=` a request without `x-otlp-api-key: <key>` is refused, as the Aspire
dashboard does it. With `tls=` (a `Certificate` of `make_authority`) they speak TLS.
"""

from __future__ import annotations

import gzip
import http.server
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToJson
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from tests.authority import Authority

PATIENCE_S = 30.0
_REQUESTS = {
    "traces": (trace_service_pb2.ExportTraceServiceRequest, trace_service_pb2.ExportTraceServiceResponse),
    "metrics": (metrics_service_pb2.ExportMetricsServiceRequest, metrics_service_pb2.ExportMetricsServiceResponse),
    "logs": (logs_service_pb2.ExportLogsServiceRequest, logs_service_pb2.ExportLogsServiceResponse),
}
_REJECTED = {"traces": "rejected_spans", "metrics": "rejected_data_points", "logs": "rejected_log_records"}


@dataclass
class Answer:
    """What a receiver says. Unset: all is well.

    code: a gRPC status code's name, or an HTTP status. retry_after_s: RetryInfo, or Retry-After. rejected: items of a
    partial success. body: what an HTTP receiver answers instead. times: after so many answers, all is well again.
    hang: it takes the request and says nothing until it is closed or `release` is set.
    """

    code: str | int | None = None
    retry_after_s: float | None = None
    rejected: int = 0
    body: bytes | None = None
    content_type: str = "text/html"
    times: int | None = None
    hang: bool = False


@dataclass
class Request:
    """One request that came in, whatever the answer was."""

    signal: str
    message: Any
    headers: dict[str, str]
    size: int
    at: float = field(default_factory=time.monotonic)


class Receiver(ABC):
    """What both kinds have in common."""

    def __init__(self, key: str | None = None, tls: Certificate | None = None) -> None:
        self.key, self.tls = key, tls
        self.answer = Answer()
        self.requests: list[Request] = []
        self.port = 0
        self.release = threading.Event()
        self._changed = threading.Condition()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Listen no more."""

    @property
    def endpoint(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def accepted(self) -> list[Request]:
        """Requests with the right key."""
        return [r for r in list(self.requests) if self.key is None or r.headers.get("x-otlp-api-key") == self.key]

    @property
    def spans(self) -> list[Any]:
        """Every span that came, in order."""
        return [
            span
            for request in self.accepted
            if request.signal == "traces"
            for resource in request.message.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def metrics(self) -> list[Any]:
        """Every metric of every request, in order."""
        return [
            metric
            for request in self.accepted
            if request.signal == "metrics"
            for resource in request.message.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]

    @property
    def log_records(self) -> list[Any]:
        """Every log record that came, in order."""
        return [
            record
            for request in self.accepted
            if request.signal == "logs"
            for resource in request.message.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    def wait_for(self, condition: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> Any:
        """The condition's first true value, looked at after each request."""
        with self._changed:
            value = self._changed.wait_for(condition, timeout_s)
        assert value, f"not within {timeout_s} s: {what}"
        return value

    def _keep(self, request: Request) -> Answer:
        """What to say to this request."""
        with self._changed:
            self.requests.append(request)
            answer = self.answer
            if answer.times is not None:
                answer.times -= 1
                if answer.times <= 0:
                    self.answer = Answer()
            self._changed.notify_all()
        return answer


class GrpcReceiver(Receiver):
    """A real gRPC server with the three OTLP services."""

    def __init__(self, key: str | None = None, tls: Certificate | None = None, port: int = 0) -> None:
        super().__init__(key, tls)
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        for signal, module, name in (
            ("traces", trace_service_pb2_grpc, "TraceService"),
            ("metrics", metrics_service_pb2_grpc, "MetricsService"),
            ("logs", logs_service_pb2_grpc, "LogsService"),
        ):
            servicer = type(name, (), {"Export": staticmethod(self._export(signal))})()
            getattr(module, f"add_{name}Servicer_to_server")(servicer, self._server)
        address = f"127.0.0.1:{port}"
        if tls:
            credentials = grpc.ssl_server_credentials([(tls.key_pem, tls.certificate_pem)])
            self.port = self._server.add_secure_port(address, credentials)
        else:
            self.port = self._server.add_insecure_port(address)
        self._server.start()

    def _export(self, signal: str) -> Callable[[Any, grpc.ServicerContext], Any]:
        def export(message: Any, context: grpc.ServicerContext) -> Any:
            headers = {str(k): str(v) for k, v in context.invocation_metadata()}
            answer = self._keep(Request(signal, message, headers, message.ByteSize()))
            if self.key is not None and headers.get("x-otlp-api-key") != self.key:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "no key")
            if answer.hang:
                self.release.wait(PATIENCE_S)
            if answer.code is not None:
                code = grpc.StatusCode[str(answer.code)]
                if answer.retry_after_s is not None:
                    status = Status(code=code.value[0], message="later")
                    delay = Duration()
                    delay.FromMilliseconds(int(answer.retry_after_s * 1000))
                    status.details.add().Pack(RetryInfo(retry_delay=delay))
                    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
                context.abort(code, "as told")
            return _response(signal, answer.rejected)

        return export

    def close(self) -> None:
        self.release.set()
        self._server.stop(0).wait()


class HttpReceiver(Receiver):
    """A real HTTP server with /v1/traces, /v1/metrics and /v1/logs; anything else is 404."""

    def __init__(self, key: str | None = None, tls: Certificate | None = None, port: int = 0) -> None:
        super().__init__(key, tls)
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                receiver._handle(self)

            def log_message(self, *_: object) -> None:
                """Silent."""

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """A client that went away, or no TLS, is what some tests are about."""

        self._server = Server(("127.0.0.1", port), Handler)
        if tls:
            self._server.socket = tls.server_context().wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def _handle(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        if handler.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        headers = {name.lower(): value for name, value in handler.headers.items()}
        signal = handler.path.partition("?")[0].removeprefix("/v1/")
        if signal not in _REQUESTS:
            return _reply(handler, 404, b"", "text/plain")
        if headers.get("content-type") == "application/json":
            message: Any = body
        else:
            message = _REQUESTS[signal][0].FromString(body)
        answer = self._keep(Request(signal, message, headers, len(body)))
        if self.key is not None and headers.get("x-otlp-api-key") != self.key:
            return _reply(handler, 401, b"", "text/plain")
        if answer.hang:
            self.release.wait(PATIENCE_S)
        extra = {} if answer.retry_after_s is None else {"Retry-After": f"{answer.retry_after_s:g}"}
        if answer.body is not None:
            return _reply(handler, int(answer.code or 200), answer.body, answer.content_type, extra)
        if answer.code is not None:
            return _reply(handler, int(answer.code), b"", "text/plain", extra)
        response = _response(signal, answer.rejected)
        if isinstance(message, bytes):
            return _reply(handler, 200, MessageToJson(response).encode(), "application/json")
        return _reply(handler, 200, response.SerializeToString(), "application/x-protobuf")

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _response(signal: str, rejected: int) -> Any:
    response = _REQUESTS[signal][1]()
    if rejected:
        setattr(response.partial_success, _REJECTED[signal], rejected)
    return response


def _reply(
    handler: http.server.BaseHTTPRequestHandler,
    status: int,
    body: bytes,
    content_type: str,
    extra: dict[str, str] | None = None,
) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", content_type)
    handler.send_header("Content-Length", str(len(body)))
    for name, value in (extra or {}).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


@dataclass(frozen=True)
class Certificate:
    """A server's certificate for 127.0.0.1 and localhost, and the authority that made it; all PEM."""

    authority_pem: bytes
    certificate_pem: bytes
    key_pem: bytes
    folder: Path

    def server_context(self) -> Any:
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.pem", self.folder / "server.key")
        return context


def make_authority(folder: Path) -> Certificate:
    """A made-up authority and a certificate of its, written into the folder: server.pem, server.key, ca.pem."""
    authority = Authority(folder)
    issued = authority.issue()
    return Certificate(
        authority.file.read_bytes(), issued.certificate.read_bytes(), issued.key.read_bytes(), authority.folder
    )
