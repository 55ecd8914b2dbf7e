"""The HTTP control plane: is it alive, is it ready, what has it counted.

Owns three paths, `/livez`, `/readyz` and `/metrics`, and the server that answers on sockets somebody else has bound.
Never decides what ready means, never counts anything itself, and takes no signals: they are the supervisor's.
Whoever connects is a stranger: how many there are, how long they take and how much they send is limited here.

    app = create_app(state, token)
    await serve(app, sockets)        # until cancelled
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import socket
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from sidecar.secret import SecretStr
from telemetry.logs import get_logger

if TYPE_CHECKING:
    from prometheus_client.registry import CollectorRegistry

_REFRESH_LIMIT_S = 0.5
_SHUTDOWN_LIMIT_S = 1
# Scrapers and probes are few and quick. More would take descriptors that a new worker or the engine may need.
_MOST_CONNECTIONS = 100
_MOST_HEADER_BYTES = 16 * 1024
_EXCHANGE_LIMIT_S = 10.0
"""From the connection, or the first byte of a further request, to the last byte of the answer."""
# No page of ours is for a browser to guess at, to keep, to run or to show within another.
_HEADERS = [
    ("x-content-type-options", "nosniff"),
    ("cache-control", "no-store"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
]
_PROBES = frozenset({"/livez", "/readyz"})

_log = get_logger().bind(role="supervisor")


class State(Protocol):
    """What the control plane asks the supervisor."""

    @property
    def registry(self) -> CollectorRegistry:
        """Where `/metrics` gets its families from. Asked for at scrapes only, so it may be made at the first one."""

    def ready(self) -> tuple[bool, str]:
        """Whether clients can be served now, and one sentence that says so or why not."""

    async def refresh(self) -> None:
        """Have every worker send its latest snapshot; returns when they are merged. Cancelled when it takes long."""


def create_app(state: State, token: SecretStr | None = None) -> Starlette:
    """The application. Every answer but the metrics is plain text.

    token: who asks for anything but a probe's page must have it.
    """
    refresh = _SharedRefresh(state)

    async def livez(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_request: Request) -> Response:
        ready, reason = state.ready()
        return PlainTextResponse(f"{reason}\n", status_code=200 if ready else 503)

    async def metrics(request: Request) -> Response:
        # Imported by the first scrape, not by the start: 5 MB and 0.1 s for whoever never scrapes.
        from telemetry import prometheus

        await refresh.wait()
        body, content_type = prometheus.render(state.registry, request.headers.getlist("accept"))
        return Response(body, headers={"content-type": content_type, "vary": "accept"})

    routes = [Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", metrics)]
    app = Starlette(routes=routes, middleware=[Middleware(_Guard, token=token)] if token is not None else [])
    app.router.redirect_slashes = False  # a path is right or it is not found
    return app


async def serve(app: ASGIApp, sockets: Sequence[socket.socket]) -> None:
    """Answer HTTP on bound sockets until cancelled, then end within about a second. The sockets are closed then."""
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        headers=_HEADERS,
        h11_max_incomplete_event_size=_MOST_HEADER_BYTES,
        proxy_headers=False,
        timeout_graceful_shutdown=_SHUTDOWN_LIMIT_S,
    )
    server = _Server(config)
    running = asyncio.create_task(server.serve(list(sockets)), name="http")
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        server.should_exit = True
        await running
        raise


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Protocol(H11Protocol):
    """Keeps connections few and exchanges short: who connects and says hardly anything shuts nobody out."""

    _limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._began = self.loop.time()
        self._begin_exchange()
        if len(self.connections) > _MOST_CONNECTIONS:
            oldest = min((c for c in self.connections if isinstance(c, _Protocol)), key=lambda c: c._began)
            oldest.transport.abort()
            self.connections.discard(oldest)

    def data_received(self, data: bytes) -> None:
        self._begin_exchange()
        super().data_received(data)

    def on_response_complete(self) -> None:
        self._end_exchange()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_exchange()
        super().connection_lost(exc)

    def _begin_exchange(self) -> None:
        if self._limit is None:
            self._limit = self.loop.call_later(_EXCHANGE_LIMIT_S, self.transport.abort)

    def _end_exchange(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None


class _SharedRefresh:
    """One refresh for all scrapes that wait for one.

    A scrape never joins a refresh that was already under way when it came: the workers may have answered that one
    before the commands that the scrape wants to see. Those that come meanwhile share the next.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._running: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None
        self._failing = False

    async def wait(self) -> None:
        """Return when the figures are fresh, or after the time limit as they were: never raises for the workers."""
        if self._next is None:
            self._next = asyncio.create_task(self._refresh(self._running), name="refresh")
        # A scraper that hangs up takes the refresh from nobody else.
        await asyncio.shield(self._next)

    async def _refresh(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        self._running, self._next = self._next, None
        try:
            async with asyncio.timeout(_REFRESH_LIMIT_S):
                await self._state.refresh()
        except TimeoutError:
            self._failed(f"they did not answer within {_REFRESH_LIMIT_S} s")
        except Exception as exception:  # the last figures are better than none
            self._failed(str(exception) or type(exception).__name__)
        else:
            self._failing = False

    def _failed(self, reason: str) -> None:
        if not self._failing:
            _log.warning("metrics.stale", "Metrics show the workers' last figures.", reason=reason)
        self._failing = True


class _Guard:
    """Asks for the token, but for the pages of probes: a kubelet has none."""

    def __init__(self, app: ASGIApp, token: SecretStr) -> None:
        self._app = app
        self._token = token.get_secret_value().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in _PROBES or self._has_token(Headers(scope=scope)):
            await self._app(scope, receive, send)
        else:
            headers = {"www-authenticate": 'Bearer realm="valkey-sidecar"'}
            await PlainTextResponse("Unauthorized", status_code=401, headers=headers)(scope, receive, send)

    def _has_token(self, headers: Headers) -> bool:
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        # Compared in a time that does not say how much of it was right.
        is_right = hmac.compare_digest(credentials.strip().encode("latin-1"), self._token)
        return is_right and scheme.lower() == "bearer"
