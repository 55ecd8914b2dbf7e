"""OTLP over HTTP, with urllib3: http/protobuf and http/json. Owns the connection and the meaning of statuses.

Never follows a redirect: the headers, which may hold a key, belong to the endpoint that was given.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import logging
import socket
import threading
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    DecodeError,
    HTTPError,
    InvalidHeader,
    NewConnectionError,
    ProtocolError,
    SSLError,
    TimeoutError,  # noqa: A004
)

from telemetry.otlp import trust
from telemetry.otlp.messages import BadAnswerError, rejected, to_json
from telemetry.otlp.settings import Signal, SignalSettings
from telemetry.otlp.stats import ExportStats
from telemetry.otlp.transport import Outcome, RetryingTransport

_AGAIN: Final = (429, 502, 503, 504)  # OTLP specification, "Retryable Response Codes"
_REASONS: Final = {401: "unauthenticated", 403: "refused", 413: "too_large"}
_ANSWER_BYTES_MAX: Final = 1 << 20
_CHUNK_BYTES: Final = 1 << 14

# It would log each request's path and query at debug level, and a query may hold a key.
logging.getLogger("urllib3.connectionpool").setLevel(logging.WARNING)


class HttpTransport(RetryingTransport):
    """Raises trust.TrustError when a certificate cannot be read."""

    def __init__(self, signal: Signal, settings: SignalSettings, stats: ExportStats) -> None:
        super().__init__(signal, settings, stats)
        self._json = settings.protocol == "http/json"
        self._headers = {
            "User-Agent": "valkey-sidecar",
            "Content-Type": "application/json" if self._json else "application/x-protobuf",
            **({"Content-Encoding": "gzip"} if settings.gzip else {}),
            **(urllib3.make_headers(basic_auth=settings.user) if settings.user else {}),
            **settings.headers,
        }
        self._connection: Any = None
        self._manager = self._make_manager()

    def attempt(self, request: bytes, timeout_s: float) -> Outcome:
        """See RetryingTransport."""
        body = to_json(self.signal, request) if self._json else request
        if self.settings.gzip:
            body = gzip.compress(body, 6)
        overdue = threading.Event()

        def give_up() -> None:
            overdue.set()
            self._hang_up()

        # A timeout of urllib3 begins anew with each byte that comes.
        watch = threading.Timer(timeout_s, give_up)
        watch.daemon = True
        watch.start()
        try:
            outcome = self._exchange(body, timeout_s)
        finally:
            watch.cancel()
        # An answer that was cut off may look whole.
        return Outcome("deadline", again=True) if overdue.is_set() else outcome

    def abort(self) -> None:
        """See RetryingTransport."""
        self._hang_up()
        self._manager.clear()

    def _exchange(self, body: bytes, timeout_s: float) -> Outcome:
        try:
            response = self._manager.request(
                "POST",
                self.settings.endpoint,
                body=body,
                headers=self._headers,
                timeout=urllib3.Timeout(total=timeout_s),
                retries=False,
                redirect=False,
                preload_content=False,
            )
            answer = None
            try:
                answer = _read(response)
            finally:
                if answer is None:  # the rest of it is not read
                    response.close()
                response.release_conn()
        except TimeoutError as error:  # which urllib3 makes of "connection refused", too
            return Outcome("unavailable" if isinstance(error, NewConnectionError) else "deadline", again=True)
        except SSLError:
            return Outcome("tls", again=True)
        except ProtocolError as error:
            garbage = any(isinstance(cause, http.client.HTTPException) for cause in _causes(error))
            gone = any(isinstance(cause, ConnectionError) for cause in _causes(error))
            return Outcome("bad_answer") if garbage and not gone else Outcome("unavailable", again=True)
        except (DecodeError, InvalidHeader):
            return Outcome("bad_answer")
        except HTTPError:
            return Outcome("unavailable", again=True)
        return self._judge(response, answer)

    def _hang_up(self) -> None:
        """From another thread: the one that uses the connection finds its end."""
        sock = getattr(self._connection, "sock", None)
        if sock is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _judge(self, response: Any, answer: bytes | None) -> Outcome:
        status = response.status
        if not 200 <= status < 300:
            reason = _REASONS.get(status, f"http_{status}" if 100 <= status < 600 else "bad_answer")
            again = status in _AGAIN
            return Outcome(reason, again, _retry_after(response.headers.get("Retry-After")) if again else 0.0)
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if answer is None or (answer and kind.startswith("text/")):
            return Outcome("bad_answer")
        try:
            as_json = kind == "application/json" or (self._json and not kind)
            return Outcome(rejected=rejected(self.signal, answer, as_json=as_json))
        except BadAnswerError:
            return Outcome("bad_answer")

    def _make_manager(self) -> urllib3.PoolManager:
        """A pool of one connection that `abort` can reach; through a proxy where the settings name one."""
        transport = self

        class Plain(HTTPConnection):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                transport._connection = self

        class Tls(HTTPSConnection):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                transport._connection = self

        class PlainPool(urllib3.HTTPConnectionPool):
            ConnectionCls = Plain

        class TlsPool(urllib3.HTTPSConnectionPool):
            ConnectionCls = Tls

        proxy = self.settings.proxy
        options: dict[str, Any] = {"maxsize": 1}
        if self.settings.secure:
            options["ssl_context"] = trust.load(self.settings).context()
        manager: urllib3.PoolManager
        if proxy is not None:
            headers = urllib3.make_headers(proxy_basic_auth=proxy.basic_auth) if proxy.basic_auth else None
            manager = urllib3.ProxyManager(proxy.shown, proxy_headers=headers, **options)
        else:
            manager = urllib3.PoolManager(**options)
        manager.pool_classes_by_scheme = {"http": PlainPool, "https": TlsPool}
        return manager


def _read(response: Any) -> bytes | None:
    """The answer's body; None when it is longer than any answer to us can be."""
    body = bytearray()
    while chunk := response.read(_CHUNK_BYTES):
        body += chunk
        if len(body) > _ANSWER_BYTES_MAX:
            return None
    return bytes(body)


def _causes(error: BaseException) -> list[object]:
    """The exception and those that urllib3 has wrapped in it."""
    return [error, error.__cause__, error.__context__, *error.args]


def _retry_after(value: str | None) -> float:
    """Seconds to wait: the header has a number of them, or a date."""
    if value is None:
        return 0.0
    try:
        return max(0.0, float(value)) if value.strip().isdigit() else _until(parsedate_to_datetime(value))
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _until(when: datetime) -> float:
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
