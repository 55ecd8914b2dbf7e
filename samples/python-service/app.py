"""A small service that keeps its answers in the cache, and whose own spans go to the same OTLP endpoint as the cache's.

OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_SERVICE_NAME are read as everywhere; CACHE_URL is the cache (default
valkey://localhost:6379). Run it: `python app.py [seconds]`.
"""

from __future__ import annotations

import os
import random
import sys
import time

import valkey
from opentelemetry import trace as otel
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from telemetry.client import trace

_EXPIRY_S = 5
_PAUSE_S = 0.1


def service_spans(name: str = "shop") -> TracerProvider:
    """The spans of this service, exported over OTLP; OTEL_SERVICE_NAME goes before `name`."""
    provider = TracerProvider(resource=Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", name)}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=500))
    otel.set_tracer_provider(provider)
    return provider


def price_of(client: valkey.Valkey, product: int) -> int:
    """From the cache, or else worked out and kept."""
    key = f"price:{product}"
    kept = client.get(key)
    if kept is not None:
        return int(kept)
    price = random.randint(1, 500)
    client.set(key, price, ex=_EXPIRY_S)
    return price


def place_order(client: valkey.Valkey, products: list[int]) -> None:
    """A pipeline of reads, then a transaction."""
    with client.pipeline(transaction=False) as pipe:
        for product in products:
            pipe.get(f"price:{product}")
        pipe.execute()
    with client.pipeline(transaction=True) as pipe:
        pipe.incr("orders").lpush("recent", *products).ltrim("recent", 0, 99)
        pipe.execute()


def traffic(client: valkey.Valkey, seconds: float) -> int:
    """Requests until the time is over, about ten a second, with a mistake now and then; how many there were.

    client: one that `telemetry.client.trace` was called for.
    """
    tracer = otel.get_tracer("shop")
    requests = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        requests += 1
        products = random.sample(range(20), 3)
        with tracer.start_as_current_span("GET /products", kind=otel.SpanKind.SERVER):
            for product in products:
                price_of(client, product)
        if requests % 3 == 0:
            with tracer.start_as_current_span("POST /orders", kind=otel.SpanKind.SERVER):
                place_order(client, products)
        if requests % 20 == 0:
            with tracer.start_as_current_span("GET /broken", kind=otel.SpanKind.SERVER):
                try:
                    client.incr("recent")  # a list: WRONGTYPE
                except valkey.ResponseError as error:
                    otel.get_current_span().record_exception(error)
        time.sleep(_PAUSE_S)
    return requests


def main() -> None:
    provider = service_spans()
    client = trace(valkey.Valkey.from_url(os.environ.get("CACHE_URL", "valkey://localhost:6379")), client_spans=True)
    try:
        traffic(client, float(sys.argv[1]) if len(sys.argv) > 1 else 60)
    finally:
        client.close()
        provider.shutdown()


if __name__ == "__main__":
    main()
