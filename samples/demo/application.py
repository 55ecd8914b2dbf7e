"""An application that uses the cache: a small web shop, with an OpenTelemetry span for each request that it serves.

Owns its spans, which it sends to the dashboard as resource `api`, and the requests that people would make. Never knows
what the cache itself tells.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable
from typing import Any, Final, Self

import valkey
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Tracer

from telemetry.client import trace

NAME: Final = "api"

_EXPORT_DELAY_MS: Final = 500
_PRODUCTS: Final = 40
_SLOW_SCRIPT: Final = "local n = 0 for i = 1, 3000000 do n = n + i end return n"
"""About 20 ms: more than the 10 ms from which the cache calls a command slow."""


class Tracing:
    """The OpenTelemetry SDK of one application, sending to a dashboard's gRPC endpoint with its key."""

    def __init__(self, endpoint: str, key: str) -> None:
        self._provider = TracerProvider(resource=Resource({"service.name": NAME, "service.instance.id": "demo-api"}))
        exporter = OTLPSpanExporter(endpoint=endpoint, insecure=True, headers={"x-otlp-api-key": key})
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=_EXPORT_DELAY_MS))

    @property
    def tracer(self) -> Tracer:
        return self._provider.get_tracer("shop")

    def trace(self, cache: valkey.Valkey) -> valkey.Valkey:
        """The client, which from now on makes a span of each command and tells the cache of it."""
        return trace(cache, client_spans=True, tracer_provider=self._provider)

    def flush(self) -> None:
        """Return when the dashboard has every span that has ended."""
        self._provider.force_flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._provider.shutdown()


class Shop:
    """The requests of a web shop, each with a span of its own and commands for the cache under it."""

    def __init__(self, cache: valkey.Valkey, tracer: Tracer) -> None:
        self._cache = cache
        self._tracer = tracer
        self._random = random.Random(6379)
        usual = (self._show_product, self._show_product, self._fill_cart, self._show_product, self._list_products)
        rare = (self._check_out, self._report, self._break)
        self._requests: itertools.cycle[Callable[[], Any]] = itertools.cycle(
            request for seldom in rare for request in (*usual, seldom)
        )

    def serve_one(self) -> None:
        """Serve the next request."""
        next(self._requests)()

    def _product(self) -> str:
        return f"product:{self._random.randrange(_PRODUCTS)}"

    def _show_product(self) -> None:
        with self._tracer.start_as_current_span("GET /products/{id}", kind=SpanKind.SERVER):
            key = self._product()
            if self._cache.get(key) is None:
                self._cache.set(key, "a thing that people want" * 8, ex=20)

    def _list_products(self) -> None:
        with self._tracer.start_as_current_span("GET /products", kind=SpanKind.SERVER):
            pipeline = self._cache.pipeline(transaction=False)
            for number in range(10):
                pipeline.get(f"product:{number}")
            pipeline.execute()  # type: ignore[no-untyped-call]

    def _fill_cart(self) -> None:
        with self._tracer.start_as_current_span("POST /cart", kind=SpanKind.SERVER):
            self._cache.hincrby("cart:7", self._product(), 1)
            self._cache.publish("carts", "7")

    def _check_out(self) -> None:
        with self._tracer.start_as_current_span("POST /orders", kind=SpanKind.SERVER):
            transaction = self._cache.pipeline(transaction=True)
            transaction.incr("orders")
            transaction.rpush("to-pack", "cart:7")
            transaction.delete("cart:7")
            transaction.execute()  # type: ignore[no-untyped-call]

    def _report(self) -> None:
        with self._tracer.start_as_current_span("GET /report", kind=SpanKind.SERVER):
            self._cache.eval(_SLOW_SCRIPT, 0)

    def _break(self) -> None:
        """The bug that every demonstration needs: a list where a counter stands."""
        with self._tracer.start_as_current_span("POST /reviews", kind=SpanKind.SERVER):
            self._cache.set("reviews", "0")
            with contextlib.suppress(valkey.ResponseError):
                self._cache.lpush("reviews", "five stars")
