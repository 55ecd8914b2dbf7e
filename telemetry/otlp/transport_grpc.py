"""OTLP over gRPC, with grpcio. Owns the channel and the meaning of status codes; bytes go as they are."""

from __future__ import annotations

import threading
from typing import Any, Final
from urllib.parse import urlsplit

import grpc  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from telemetry.otlp import trust
from telemetry.otlp.messages import SERVICES, BadAnswerError, rejected
from telemetry.otlp.settings import Signal, SignalSettings
from telemetry.otlp.stats import ExportStats
from telemetry.otlp.transport import Outcome, RetryingTransport

_AGAIN: Final = frozenset(
    {"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"}
)  # OTLP specification, "Failures"; RESOURCE_EXHAUSTED only with RetryInfo
_REASONS: Final = {
    "UNAVAILABLE": "unavailable",
    "DEADLINE_EXCEEDED": "deadline",
    "UNAUTHENTICATED": "unauthenticated",
    "PERMISSION_DENIED": "refused",
}
_TLS: Final = ("SSL_ERROR", "CERTIFICATE_VERIFY_FAILED", "Ssl handshake", "TLS handshake")
# A channel waits between its own attempts to connect, up to two minutes by default: a collector that comes back is
# found sooner. Everything else is ours to repeat.
_OPTIONS: Final = (
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 5000),
    ("grpc.enable_retries", 0),
    ("grpc.primary_user_agent", "valkey-sidecar"),
)


class GrpcTransport(RetryingTransport):
    """Raises trust.TrustError when a certificate cannot be read."""

    def __init__(self, signal: Signal, settings: SignalSettings, stats: ExportStats) -> None:
        super().__init__(signal, settings, stats)
        url = urlsplit(settings.endpoint)
        self._target = url.netloc if url.port else f"{url.netloc.rstrip(':')}:{443 if settings.secure else 80}"
        # Said either way: gRPC has its own idea of the environment.
        proxy = ("grpc.enable_http_proxy", 0) if settings.proxy is None else ("grpc.http_proxy", settings.proxy.url)
        self._options = (*_OPTIONS, proxy)
        self._metadata = tuple(settings.headers.items())
        self._compression = grpc.Compression.Gzip if settings.gzip else grpc.Compression.NoCompression
        self._credentials: Any = None
        if settings.secure:
            found = trust.load(settings)
            key, certificate = found.pair()
            self._credentials = grpc.ssl_channel_credentials(found.authorities or None, key, certificate)
        self._lock = threading.Lock()
        self._channel: Any = None

    def attempt(self, request: bytes, timeout_s: float) -> Outcome:
        """See RetryingTransport."""
        export = self._open().unary_unary(SERVICES[self.signal].method)
        try:
            answer = export(request, timeout=timeout_s, metadata=self._metadata, compression=self._compression)
        except grpc.RpcError as error:
            return self._failure(error)
        try:
            return Outcome(rejected=rejected(self.signal, answer))
        except BadAnswerError:
            return Outcome("bad_answer")

    def abort(self) -> None:
        """See RetryingTransport: closing the channel cancels its calls."""
        with self._lock:
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def _open(self) -> Any:
        with self._lock:
            if self._channel is None and not self._closed.is_set():
                if self._credentials is None:
                    self._channel = grpc.insecure_channel(self._target, self._options)
                else:
                    self._channel = grpc.secure_channel(self._target, self._credentials, self._options)
            if self._channel is None:
                raise grpc.RpcError
            return self._channel

    def _failure(self, error: Any) -> Outcome:
        code = error.code().name
        after_s = _retry_info(error)
        if code == "DEADLINE_EXCEEDED":
            # A connection whose other end vanished without a word would stay open for a quarter of an hour.
            self.abort()
        reason = _REASONS.get(code, f"grpc_{code.lower()}")
        if code == "UNAVAILABLE" and any(word in (error.details() or "") for word in _TLS):
            reason = "tls"
        again = code in _AGAIN or (code == "RESOURCE_EXHAUSTED" and after_s is not None)
        return Outcome(reason, again, after_s or 0.0)


def _retry_info(error: Any) -> float | None:
    """Seconds that the receiver asks us to wait; None when it says nothing."""
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            try:
                for detail in Status.FromString(value).details:
                    info = RetryInfo()
                    if detail.Unpack(info):
                        return max(0.0, float(info.retry_delay.ToTimedelta().total_seconds()))
            except (DecodeError, OverflowError, ValueError):
                return None
    return None
