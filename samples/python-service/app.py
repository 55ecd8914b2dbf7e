"""A shop that keeps its prices in the cache. One trace leads from the HTTP request to the command in the server.

Run it with `python app.py`. PORT is where it listens (8000), HOST on which address (127.0.0.1); cache.py says how it
finds its cache, and the OTEL_* variables where its spans go.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
import valkey.asyncio as valkey
from cache import cache_url
from fastapi import FastAPI
from opentelemetry import trace as otel
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from telemetry.client import trace

_PRICE_LASTS_S = 5
_WORK_S = 0.02

# OpenTelemetry, as in any service: its spans go where OTEL_EXPORTER_OTLP_ENDPOINT says, under OTEL_SERVICE_NAME.
os.environ.setdefault("OTEL_SERVICE_NAME", "shop")
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
otel.set_tracer_provider(provider)

# The one line that is about valkey-sidecar: each command has a span, and the server makes its own below it.
cache = trace(valkey.from_url(cache_url(), decode_responses=True), client_spans=True)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
    await cache.aclose()
    await asyncio.to_thread(provider.shutdown)  # sends what is left


app = FastAPI(lifespan=lifespan)


@app.get("/health")
async def health() -> dict[str, bool]:
    return {"ok": True}


@app.get("/products/{number}")
async def product(number: int) -> dict[str, int]:
    """From the cache, or else worked out and kept."""
    key = f"price:{number}"
    price = await cache.get(key)
    if price is None:
        await asyncio.sleep(_WORK_S)
        price = random.randint(1, 500)
        await cache.set(key, price, ex=_PRICE_LASTS_S)
    return {"number": number, "price": int(price)}


@app.get("/products")
async def products() -> list[int]:
    """Those with a known price: ten reads in one pipeline."""
    async with cache.pipeline(transaction=False) as pipeline:
        for number in range(10):
            pipeline.get(f"price:{number}")
        prices = await pipeline.execute()
    return [number for number, price in enumerate(prices) if price is not None]


@app.post("/orders/{number}")
async def order(number: int) -> dict[str, int]:
    """Counted and remembered in one transaction."""
    async with cache.pipeline(transaction=True) as transaction:
        transaction.incr("orders").lpush("recent", number).ltrim("recent", 0, 99)
        orders, *_ = await transaction.execute()
    return {"orders": orders}


@app.post("/reviews/{number}")
async def review(number: int) -> None:
    """The bug that every demonstration needs: a list where a number stands. The answer is 500."""
    await cache.set(f"review:{number}", 5)
    await cache.lpush(f"review:{number}", "five stars")


# exclude_spans: without it every request also has a span for each message between server and framework.
FastAPIInstrumentor.instrument_app(app, excluded_urls="/health$", exclude_spans=["receive", "send"])

if __name__ == "__main__":
    uvicorn.run(app, host=os.environ.get("HOST", "127.0.0.1"), port=int(os.environ.get("PORT", "8000")))
