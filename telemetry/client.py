"""For applications: the OpenTelemetry context of each command goes to the server with it, by one line.

    import valkey
    from telemetry.client import trace

    client = trace(valkey.Valkey())

Works with valkey-py and redis-py, sync and asyncio, through pipelines, transactions, scripts, blocking commands and
subscriptions. `TRACEPARENT` stands in front of the commands of a write, in the same write; its reply never reaches the
application. A server that does not know the command is asked once per connection. docs/trace-context.md says more.

Owns the ways into the libraries' connections. Imports neither library, but for `trace` without a client.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar, overload

from opentelemetry import trace as otel

from telemetry.clientlink import Link, Packed, Tracing

_Client = TypeVar("_Client")

_MODULES = ("valkey.connection", "valkey.asyncio.connection", "redis.connection", "redis.asyncio.connection")


class _Traced:
    """What takes the place of a library's methods, sync or not. `_sidecar_base` is the library's class."""

    _sidecar_tracing: Tracing
    _sidecar_base: Any

    @property
    def _sidecar_link(self) -> Link:
        try:
            link: Link = self.__dict__["_sidecar_link_"]
        except KeyError:
            link = self.__dict__["_sidecar_link_"] = Link(self._sidecar_tracing)
        return link

    def pack_command(self, *args: Any) -> list[Any]:
        return Packed(self._sidecar_base.pack_command(self, *args), (args,))

    def pack_commands(self, commands: Iterable[Any]) -> list[Any]:
        commands = list(commands)
        return Packed(self._sidecar_base.pack_commands(self, commands), commands)

    def send_packed_command(self, command: Any, check_health: bool = True) -> Any:
        pieces = self._sidecar_link.outgoing(command, self)
        return self._sidecar_base.send_packed_command(self, pieces, check_health)

    def disconnect(self, *args: Any, **kwargs: Any) -> Any:
        self._sidecar_link.reset()
        return self._sidecar_base.disconnect(self, *args, **kwargs)


class _Sync(_Traced):
    def send_command(self, *args: Any, **kwargs: Any) -> None:
        self.send_packed_command(self.pack_command(*args), check_health=kwargs.get("check_health", True))

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        link = self._sidecar_link
        while True:
            try:
                reply = self._sidecar_base.read_response(self, *args, **kwargs)
            except Exception as error:
                if not link.keeps(error):
                    raise
            else:
                if not link.keeps(reply, push=bool(kwargs.get("push_request"))):
                    return reply

    def connect(self) -> None:
        began = time.time_ns()
        try:
            self._sidecar_base.connect(self)
        except Exception as error:
            self._sidecar_link.connect_failed(self, error, began)
            raise


class _Async(_Traced):
    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        link = self._sidecar_link
        while True:
            try:
                reply = await self._sidecar_base.read_response(self, *args, **kwargs)
            except Exception as error:
                if not link.keeps(error):
                    raise
            else:
                if not link.keeps(reply, push=bool(kwargs.get("push_request"))):
                    return reply

    async def connect(self) -> None:
        began = time.time_ns()
        try:
            await self._sidecar_base.connect(self)
        except Exception as error:
            self._sidecar_link.connect_failed(self, error, began)
            raise


def _traced_class(cls: Any, tracing: Tracing) -> Any:
    """The library's class of connections with our methods, under the same name.

    They are copied: only a class whose one base is the library's may become the class of a connection that exists.
    """
    found = tracing.classes.get(cls)
    if found is None:
        ours = _Async if inspect.iscoroutinefunction(cls.read_response) else _Sync
        methods = {k: v for k, v in (vars(_Traced) | vars(ours)).items() if k[:2] != "__"}
        names = {"__slots__": (), "__module__": cls.__module__, "__qualname__": cls.__qualname__}
        body = {**names, **methods, "_sidecar_tracing": tracing, "_sidecar_base": cls}
        found = tracing.classes[cls] = type(cls.__name__, (cls,), body)
    return found


def _is_traced(connection: Any) -> bool:
    return hasattr(connection, "_sidecar_tracing")


def _connections(client: Any, pool: Any) -> Iterator[Any]:
    """Those that the pool has made so far."""
    seen = [getattr(client, "connection", None)]
    for name in ("_connections", "_available_connections", "_in_use_connections"):
        seen += list(getattr(pool, name, ()))
    for connection in seen:
        if connection is not None:
            yield getattr(connection, "_conn", connection)  # redis-py wraps them for its client-side cache


def _pool_of(client: Any) -> Any:
    pool = getattr(client, "connection_pool", client)
    if not isinstance(getattr(pool, "connection_class", None), type):
        raise TypeError(
            f"trace: {type(client).__name__} has no connection pool of its own; for a cluster, call trace() without"
            " argument before the client is made"
        )
    return pool


_everywhere: Tracing | None = None
_originals: dict[type, Any] = {}


def _switch_on_everywhere(tracing: Tracing) -> None:
    global _everywhere
    _switch_off_everywhere()
    _everywhere = tracing
    for name in _MODULES:
        if importlib.util.find_spec(name.partition(".")[0]) is None:
            continue
        cls = importlib.import_module(name).AbstractConnection
        _originals[cls] = original = cls.__init__

        @functools.wraps(original)
        def make(self: Any, *args: Any, _original: Any = original, **kwargs: Any) -> None:
            _original(self, *args, **kwargs)
            if not _is_traced(self):
                self.__class__ = _traced_class(type(self), tracing)

        cls.__init__ = make


def _switch_off_everywhere() -> None:
    global _everywhere
    if _everywhere is not None:
        _everywhere.active = False
        _everywhere = None
    for cls, original in _originals.items():
        cls.__init__ = original  # type: ignore[misc]
    _originals.clear()


@overload
def trace(
    client: None = None, *, client_spans: bool = False, tracer_provider: otel.TracerProvider | None = None
) -> None: ...


@overload
def trace(
    client: _Client, *, client_spans: bool = False, tracer_provider: otel.TracerProvider | None = None
) -> _Client: ...


def trace(
    client: _Client | None = None, *, client_spans: bool = False, tracer_provider: otel.TracerProvider | None = None
) -> _Client | None:
    """Send the current context before each command of this client; returns the client.

    client: a `Valkey` or `Redis`, sync or asyncio, or its pool: all clients that share the pool are reached. None:
    every connection that either library makes from now on, those of cluster clients included.
    client_spans: also make a CLIENT span of each command, pipeline and transaction, from its writing to its last reply
    (a connection that cannot be made is one named CONNECT); the server's span is then its child. Without, the server's
    span is a child of the application's current one, and nothing is sent where there is none.
    tracer_provider: whose spans these are; default: the global one.
    Raises TypeError for a client without a pool.
    """
    provider = tracer_provider or otel.get_tracer_provider()
    tracing = Tracing(client_spans, provider.get_tracer("telemetry.client"))
    if client is None:
        _switch_on_everywhere(tracing)
        return None
    pool = _pool_of(client)
    made_of = pool.connection_class
    pool.connection_class = _traced_class(getattr(made_of, "_sidecar_base", made_of), tracing)
    for connection in _connections(client, pool):
        if not _is_traced(connection):
            connection.__class__ = _traced_class(type(connection), tracing)
        connection._sidecar_link.tracing = tracing
    return client


def untrace(client: Any = None) -> None:
    """Undo `trace` for this client, or, without one, for the connections made since `trace()`.

    Replies under way still find their command. Raises TypeError for a client without a pool.
    """
    if client is None:
        _switch_off_everywhere()
        return
    pool = _pool_of(client)
    made_of = pool.connection_class
    pool.connection_class = getattr(made_of, "_sidecar_base", made_of)
    for connection in _connections(client, pool):
        if _is_traced(connection):
            connection._sidecar_link.tracing.active = False
