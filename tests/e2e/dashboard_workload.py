"""Commands whose telemetry is looked for in the dashboard: one of each sort, under a client's span and without.

Owns what is sent, and what it must become: which spans, under which parents. Sends trace context by hand, as a client
in any language would, so that it relies on nothing of ours.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import valkey
from opentelemetry.trace import SpanContext, SpanKind, Tracer

from samples.demo.application import Tracing
from tests.conftest import Server

SECRET: Final = "a value that nobody else may read"
SLOW_S: Final = 0.05
BLOCKED_S: Final = 0.1
BATCH: Final = 10
CONNECTIONS: Final = 8
"""Beside the two main ones: enough that every worker has some."""

_KEY: Final = "counter"
_Command = tuple[str | bytes | int | float, ...]

# What clients do by themselves: metrics count it, and no span shows it.
_HOUSEKEEPING: Final[tuple[_Command, ...]] = (
    ("PING",),
    ("ECHO", "hello"),
    ("SELECT", "0"),
    ("INFO", "server"),
    ("CLIENT", "ID"),
    ("CONFIG", "GET", "maxmemory"),
    ("COMMAND", "COUNT"),
    ("WATCH", _KEY),
    ("UNWATCH",),
)

# By the name that the tests know them by: what is sent in one write.
_STEPS: Final[dict[str, tuple[_Command, ...]]] = {
    "SET": (("SET", _KEY, SECRET),),
    "GET": (("GET", _KEY),),
    "miss": (("GET", "nothing"),),
    "PIPELINE": tuple(("GET", _KEY) for _ in range(BATCH)),
    "MULTI": (("MULTI",), ("SET", "sum", "1"), ("LPUSH", _KEY, SECRET), ("INCR", "sum"), ("EXEC",)),
    "error": (("LPUSH", _KEY, SECRET),),
    "slow": (("DEBUG", "SLEEP", SLOW_S),),
    "BLPOP": (("BLPOP", "no-list", BLOCKED_S),),
    "PUBLISH": (("PUBLISH", "channel", SECRET),),
}
TRANSACTION: Final = ("SET", "LPUSH", "INCR")
_SPANS_OF_ONE_ROUND: Final = Counter(
    {"SET": 2, "GET": 2 + BATCH, "PIPELINE": 1, "MULTI": 1, "LPUSH": 2, "INCR": 1, "DEBUG": 1, "BLPOP": 1, "PUBLISH": 1}
)
EXPECTED: Final = _SPANS_OF_ONE_ROUND + _SPANS_OF_ONE_ROUND + Counter({"GET": CONNECTIONS})
"""Every span that the server must have told of, by name."""


@dataclass
class Workload:
    """What was sent. parents: the client's span by step; ports: the client's port by client name."""

    parents: dict[str, SpanContext] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)

    @classmethod
    def run(cls, server: Server, tracing: Tracing) -> Workload:
        """Send everything, once under spans of the application and once without; its spans have arrived on return."""
        done = cls()
        with server.client(single_connection_client=True, client_name="traced") as client:
            done._note(client, "traced")
            for name in _STEPS:
                done._send_under_a_span(client, tracing.tracer, name)
        with server.client(single_connection_client=True, client_name="plain") as client:
            done._note(client, "plain")
            for command in _HOUSEKEEPING:
                _send(client, command)
            for commands in _STEPS.values():
                _send(client, *commands)
        for _ in range(CONNECTIONS):
            with server.client(single_connection_client=True, client_name="other") as client:
                client.get(_KEY)
        tracing.flush()
        return done

    def _note(self, client: valkey.Valkey, name: str) -> None:
        connection: Any = client.connection
        self.ports[name] = connection._sock.getsockname()[1]

    def _send_under_a_span(self, client: valkey.Valkey, tracer: Tracer, name: str) -> None:
        attributes = {"db.system": "valkey", "db.system.name": "valkey"}
        with tracer.start_as_current_span(name, kind=SpanKind.CLIENT, attributes=attributes) as span:
            context = span.get_span_context()
            self.parents[name] = context
            traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
            commands = _STEPS[name]
            count: tuple[str | int, ...] = ("COUNT", BATCH) if name == "PIPELINE" else ()
            replies = _send(client, ("TRACEPARENT", traceparent, *count), *commands)
            assert replies[0] == b"OK", replies


def _send(client: valkey.Valkey, *commands: _Command) -> list[Any]:
    """Everything in one write; the replies, errors among them as they are."""
    connection: Any = client.connection
    connection.send_packed_command(connection.pack_commands(commands))
    replies = []
    for _ in commands:
        try:
            replies.append(connection.read_response())
        except valkey.ResponseError as error:
            replies.append(error)
    return replies
