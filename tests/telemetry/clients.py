"""The ways to be a client of the server: both libraries, sync and asyncio, RESP2 and RESP3, each parser there is."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import AsyncIterator, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import redis
import redis.asyncio
import valkey
import valkey.asyncio
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.conftest import PATIENCE_S


class Kind(NamedTuple):
    """One way to be a client."""

    library: ModuleType
    is_async: bool
    protocol: int
    python_parser: bool

    def __str__(self) -> str:
        words = [self.library.__name__, "asyncio" if self.is_async else "sync", f"RESP{self.protocol}"]
        return "-".join([*words, "python"] if self.python_parser else words)

    def client(self, port: int, **options: Any) -> Any:
        """A client; `socket_timeout` shows a reply that went astray as an error, not as a test that hangs."""
        options = {"port": port, "protocol": self.protocol, "socket_timeout": PATIENCE_S, **options}
        name = self.library.__name__
        module = sys.modules[f"{name}.asyncio"] if self.is_async else self.library
        client = getattr(module, name.capitalize())(**options)
        if self.python_parser:  # the library goes on to the one for RESP3 by itself
            parser = valkey._parsers._AsyncRESP2Parser if self.is_async else valkey._parsers._RESP2Parser
            client.connection_pool.connection_kwargs["parser_class"] = parser
        return client


# Without hiredis, redis-py's own parser is its Python one.
KINDS = [
    Kind(library, is_async, protocol, python_parser)
    for library in (valkey, redis)
    for is_async in (False, True)
    for protocol in (2, 3)
    for python_parser in ((False, True) if library is valkey else (False,))
]


@contextlib.asynccontextmanager
async def opened(kind: Kind, port: int, **options: Any) -> AsyncIterator[Any]:
    client = kind.client(port, **options)
    try:
        yield client
    finally:
        await done(client.aclose() if kind.is_async else client.close())


async def done(value: Any) -> Any:
    """The outcome of a call, be it sync or not: one test serves both."""
    return await value if inspect.isawaitable(value) else value


@contextlib.contextmanager
def under(spans: Spans) -> Iterator[str]:
    """A current span; its id in hex."""
    with spans.tracer.start_as_current_span("request") as span:
        yield f"{span.get_span_context().span_id:016x}"


class Spans:
    """The application's spans."""

    def __init__(self) -> None:
        self.provider = TracerProvider()
        self._exporter = InMemorySpanExporter()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("application")

    @property
    def finished(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())
