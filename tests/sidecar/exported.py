"""A running server that exports, and what its receiver was told: the environment, the sums, the spans.

Owns how the tests of the whole server read OTLP. It judges nothing.
"""

from __future__ import annotations

import contextlib
import secrets
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import valkey

from telemetry.housekeeping import is_housekeeping
from tests.conftest import Server, wait_until
from tests.sidecar.relay.traced import command
from tests.telemetry.otlp.receivers import Receiver

Calls = dict[tuple[str, str], int]
"""Calls by (command, error type)."""

# They end the span of their MULTI and have none of their own.
_ENDS_OF_MULTI = {"EXEC", "DISCARD"}


def environment(endpoint: str, protocol: str = "grpc", **more: str) -> dict[str, str]:
    """Variables for an export to the endpoint without much delay."""
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_BLRP_SCHEDULE_DELAY": "100",
        "OTEL_METRIC_EXPORT_INTERVAL": "300",
        **more,
    }


def attributes(item: Any) -> dict[str, Any]:
    """Attributes of a span, a point or a record."""
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in item.attributes}


def latest(receiver: Receiver, name: str) -> list[Any]:
    """The points of a metric in the latest request that had it."""
    for metric in reversed(receiver.metrics):
        if metric.name == name:
            return list(getattr(metric, metric.WhichOneof("data")).data_points)
    return []


def calls_in_otlp(receiver: Receiver) -> Calls:
    found: Calls = {}
    for point in latest(receiver, "valkey.command.calls"):
        told = attributes(point)
        found[told["db.operation.name"], told.get("error.type", "")] = point.as_int
    return found


def dropped_in_otlp(receiver: Receiver) -> dict[str, int]:
    """Dropped spans by reason."""
    points = latest(receiver, "valkey.sidecar.spans.dropped")
    return {attributes(point)["reason"]: point.as_int for point in points if point.as_int}


def command_spans(receiver: Receiver) -> Counter[str]:
    """How many spans of each command came."""
    return Counter(span.name for span in receiver.spans if span.name != "PIPELINE")


def traced(calls: Calls) -> Counter[str]:
    """How many of the calls have a span, sent or dropped."""
    found: Counter[str] = Counter()
    for (name, _), count in calls.items():
        if not is_housekeeping(name) and name not in _ENDS_OF_MULTI:
            found[name] += count
    return found


def wait_equal(server: Server, receiver: Receiver) -> Calls:
    """Wait until OTLP and /metrics say the same, and all of it."""
    told = wait_until(lambda: (c := server.calls()) and c == calls_in_otlp(receiver) and c, "both say the same")
    return dict(told)


def context(sampled: bool) -> tuple[str, str]:
    """A TRACEPARENT command's words."""
    return "TRACEPARENT", f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-{int(sampled):02x}"


def send_whole(server: Server, commands: Iterable[tuple[str, ...]], last: str) -> None:
    """Send commands in one write on a connection of their own; done when `ECHO last` has been answered."""
    with contextlib.closing(server.connect()) as sock:
        sock.sendall(b"".join(command(*words) for words in commands) + command("ECHO", last))
        data = b""
        while not data.endswith(f"\r\n{last}\r\n".encode()):
            chunk = sock.recv(1 << 16)
            assert chunk, "the server closed the connection"
            data += chunk


def mixed_workload(server: Server, rounds: int = 20) -> None:
    """Everything that a command can be: plain, pipelined, queued, failing, blocking, in RESP3, with a context."""
    for i in range(rounds):
        with server.client(protocol=2 + i % 2) as client:
            client.set("s", i)
            client.get("s")
            client.get("nothing")
            _fails(lambda c=client: c.lpush("s", 1))
            _fails(lambda c=client: c.execute_command("SET", "s"))
            _fails(lambda c=client: c.execute_command("NOSUCHCOMMAND", "x"))
            client.eval("return 1", 0)
            pipeline = client.pipeline(transaction=False)
            for n in range(150 if i == 0 else 10):
                pipeline.incr("n") if n % 5 else pipeline.lpush("s", n)
            pipeline.execute(raise_on_error=False)
            transaction = client.pipeline(transaction=True)
            transaction.incr("n").lpush("s", 1).get("n")
            transaction.execute(raise_on_error=False)
            client.blpop(["empty"], timeout=0.02)
            client.rpush("full", "1")
            client.blpop(["full"], timeout=5)
            client.publish("channel", "message")
        send_whole(server, [("MULTI",), ("GET", "s"), ("DISCARD",)], "a")
        send_whole(server, [("MULTI",), ("GET", "s"), ("SET", "s"), ("EXEC",)], "b")
        send_whole(server, [context(sampled=i % 2 == 0), ("GET", "s"), context(sampled=True), ("LPUSH", "s", "1")], "c")


def _fails(call: Callable[[], Any]) -> None:
    try:
        call()
    except valkey.ResponseError:
        return
    raise AssertionError("this should have failed")
