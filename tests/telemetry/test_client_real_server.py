"""The helper for applications against the server itself: every command's span has the parent it was sent under."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
import valkey
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

from telemetry.client import trace
from tests.conftest import PATIENCE_S, launch
from tests.telemetry.clients import Kind, Spans, done, opened
from tests.telemetry.otlp.receivers import GrpcReceiver, Receiver

_USERS = 8
_ROUNDS = 4
_SERVER, _INTERNAL = 2, 1
_SIZED = ("EVAL", "EVALSHA", "PSUBSCRIBE", "PUBLISH", "SCRIPT LOAD", "SUBSCRIBE")  # what has no key in its span

Tree = Counter[str]
"""The spans of a trace: `parent > NAME what`, the parent being `remote`, a name in the trace, or what should not be."""


@dataclass
class Asked:
    """What was asked for, so what must come: trees by trace id, spans of no context, and traces that must not come."""

    trees: dict[bytes, tuple[int, Tree]] = field(default_factory=dict)  # by trace id: the parent's span id, the spans
    roots: Tree = field(default_factory=Counter)
    never: set[bytes] = field(default_factory=set)  # trace ids
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def under(self, *spans: str, sampled: bool = True) -> Iterator[None]:
        """A trace and a parent of its own for what is done inside; `spans` are to come of it, or nothing."""
        context = SpanContext(secrets.randbits(128) | 1, secrets.randbits(64) | 1, False, TraceFlags(sampled))
        trace_id = context.trace_id.to_bytes(16)
        with self._lock:
            if spans:
                self.trees[trace_id] = context.span_id, Counter(spans)
            else:
                self.never.add(trace_id)
        with use_span(NonRecordingSpan(context)):
            yield

    def root(self, span: str) -> None:
        """This span is to come, with neither parent nor trace of ours."""
        with self._lock:
            self.roots[span] += 1

    @property
    def size(self) -> int:
        return self.roots.total() + sum(spans.total() for _, spans in self.trees.values())

    def update(self, other: Asked) -> None:
        self.trees |= other.trees
        self.roots += other.roots
        self.never |= other.never


def what(span: Any) -> str:
    """Its name, and what tells it from its neighbours': its key, the size of its batch, or its own size."""
    attributes = {a.key: a.value.string_value or a.value.int_value for a in span.attributes}
    if "db.operation.batch.size" in attributes:
        return f"{span.name} of {attributes['db.operation.batch.size']}"
    if span.name in _SIZED:
        return f"{span.name} of {attributes['valkey.request.size']} bytes"
    return f"{span.name} {attributes.get('valkey.key', 'without a key')}"


def sized(name: str, *arguments: str) -> str:
    """What a command of _SIZED is told by."""
    words = [*name.split(), *arguments]
    raw = f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
    return f"{name} of {len(raw)} bytes"


def compare(spans: list[Any], asked: Asked) -> None:
    """Fails unless exactly these spans came, each with its parent, in its trace, of its kind."""
    assert len({span.span_id for span in spans}) == len(spans), "a span came twice"
    traces = defaultdict(list)
    for span in spans:
        traces[span.trace_id].append(span)
    missing = {trace_id: spans for trace_id, (_, spans) in asked.trees.items() if trace_id not in traces}
    assert not missing
    roots: Tree = Counter()
    for trace_id, found in traces.items():
        assert trace_id not in asked.never, [what(span) for span in found]
        if trace_id not in asked.trees:
            assert [span.parent_span_id for span in found] == [b""], [what(span) for span in found]
            roots[what(found[0])] += 1
            continue
        parent, expected = asked.trees[trace_id]
        names = {span.span_id: span.name for span in found} | {parent.to_bytes(8): "remote"}
        tree: Tree = Counter()
        for span in found:
            above = names.get(span.parent_span_id, span.parent_span_id.hex())
            assert span.kind == (_SERVER if above == "remote" else _INTERNAL)
            tree[f"{above} > {what(span)}"] += 1
        assert tree == expected
    assert roots == asked.roots


@dataclass
class User:
    """One thread or task of an application, whose client others use as well; `name` is in its keys."""

    client: Any
    asked: Asked
    number: int
    name: str

    async def run(self) -> None:
        for number in range(_ROUNDS):
            await self.single_commands(f"{self.name}:{number}")
            await self.batches(f"{self.name}:{number}")
            await self.scripts(f"{self.name}:{number}")
            await self.block(self.name[:-1] + f"{self.number // 2}:{number}:queue")
            await self.subscribe(f"{self.name}:{number}:" + "c" * self.number)

    async def single_commands(self, key: str) -> None:
        asked, client = self.asked, self.client
        with asked.under(f"remote > SET {key}"):
            assert await done(client.set(key, key))
        with asked.under(f"remote > GET {key}"):
            assert await done(client.get(key)) == key.encode()
        asked.root(f"STRLEN {key}")
        assert await done(client.strlen(key)) == len(key)
        with asked.under(f"remote > GET {key}", f"remote > TTL {key}"):
            assert await done(client.ping())
            assert await done(client.get(key)) == key.encode()
            assert await done(client.ttl(key)) == -1
        with asked.under(sampled=False):
            assert await done(client.get(key)) == key.encode()
        with asked.under(f"remote > LPUSH {key}"), pytest.raises((valkey.ResponseError, redis.ResponseError)):
            await done(client.lpush(key, 1))

    async def batches(self, key: str) -> None:
        asked, client = self.asked, self.client
        pipe = client.pipeline(transaction=False)
        pipe.ping().set(key + "a", 1).config_get("port").get(key + "a").incr(key + "a")
        with asked.under("remote > PIPELINE of 3", *(f"PIPELINE > {name} {key}a" for name in ("SET", "GET", "INCRBY"))):
            assert [repr(item) for item in await done(pipe.execute())][1::2] == ["True", "b'1'"]
        pipe = client.pipeline()
        pipe.hset(key + "h", "f", 1).hget(key + "h", "f")
        with asked.under("remote > MULTI of 2", f"MULTI > HSET {key}h", f"MULTI > HGET {key}h"):
            assert await done(pipe.execute()) == [1, b"1"]
        asked.root(f"HLEN {key}h")
        assert await done(client.hlen(key + "h")) == 1

    async def scripts(self, key: str) -> None:
        """Each user's have a size of their own."""
        asked, client = self.asked, self.client
        value = "v" * (self.number + 1)
        text = f"return {{KEYS[1], ARGV[1], '{key}{value}'}}"  # the server does not know it yet
        script = client.register_script(text)
        result = [key.encode(), value.encode(), f"{key}{value}".encode()]
        evaluated = f"remote > {sized('EVALSHA', script.sha, '1', key, value)}"
        with asked.under(evaluated, f"remote > {sized('SCRIPT LOAD', text)}", evaluated):
            assert await done(script([key], [value])) == result
        with asked.under(f"remote > {sized('EVAL', text, '1', key, value)}"):
            assert await done(client.eval(text, 1, key, value)) == result

    async def block(self, queue: str) -> None:
        """Of two neighbours one waits for what the other sends."""
        if self.number % 2:
            with self.asked.under(f"remote > BLPOP {queue}"):
                assert await done(self.client.blpop([queue], PATIENCE_S)) in (
                    [queue.encode(), b"x"],
                    (queue.encode(), b"x"),
                )
            with self.asked.under(f"remote > BLPOP {queue}"):
                assert await done(self.client.blpop([queue], 0.01)) is None
        else:
            with self.asked.under(f"remote > RPUSH {queue}"):
                assert await done(self.client.rpush(queue, "x"))

    async def subscribe(self, channel: str) -> None:
        """Nothing of ours is sent on a connection that has subscriptions."""
        asked, pubsub = self.asked, self.client.pubsub()

        async def message() -> tuple[str, Any]:
            while (got := await done(pubsub.get_message(timeout=PATIENCE_S))) is None:
                pass
            return got["type"], got["data"]

        with asked.under(f"remote > {sized('SUBSCRIBE', channel, 'another')}"):
            await done(pubsub.subscribe(channel, "another"))
            assert [await message(), await message()] == [("subscribe", 1), ("subscribe", 2)]
        with asked.under(f"remote > {sized('PUBLISH', channel, 'hello')}"):
            assert await done(self.client.publish(channel, "hello")) == 1
        assert await message() == ("message", b"hello")
        asked.root(sized("PSUBSCRIBE", channel + "*"))
        with asked.under():
            await done(pubsub.psubscribe(channel + "*"))
            assert await message() == ("psubscribe", 3)
        await done(pubsub.aclose() if hasattr(pubsub, "aclose") else pubsub.close())


async def use(kind: Kind, port: int) -> Asked:
    """Eight threads or tasks with one client; what they have asked for."""
    asked = Asked()
    async with opened(kind, port, client_name=str(kind)) as client:
        trace(client)
        users = [User(client, asked, number, f"{kind}:{number}") for number in range(_USERS)]
        if kind.is_async:
            await asyncio.gather(*(user.run() for user in users))
        else:
            with ThreadPoolExecutor(_USERS) as pool:
                list(pool.map(lambda user: asyncio.run(user.run()), users))
    return asked


class Traced:
    """A server with two workers, its receiver, and all that was asked of it."""

    def __init__(self, folder: Path, receiver: Receiver, *args: str) -> None:
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_TRACES_SAMPLER": "parentbased_always_on",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_BSP_MAX_QUEUE_SIZE": "100000",
        }
        budgets = [w for name in ("remote", "root") for w in (f"--sidecar-trace-budget-{name}", "100000")]
        more = ["--sidecar-workers", "2", "--sidecar-trace-keys", "whole", "--sidecar-slow-threshold", "off"]
        self.server = launch(folder, "--save", "", *more, *budgets, *args, env=env)
        self.receiver = receiver
        self.all = Asked()
        self.seen = 0

    def come(self, asked: Asked) -> list[Any]:
        """The spans since the last call; waits until there are as many as were asked for."""
        self.all.update(asked)
        end = self.seen + asked.size
        self.receiver.wait_for(lambda: len(self.receiver.spans) >= end, f"{asked.size} spans")
        spans = self.receiver.spans[self.seen :]
        self.seen += len(spans)
        return spans


@contextlib.contextmanager
def _traced(folder: Path, *args: str) -> Iterator[Traced]:
    with GrpcReceiver() as receiver:
        traced = Traced(folder, receiver, *args)
        try:
            yield traced
        finally:
            traced.server.kill()


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    with _traced(tmp_path_factory.mktemp("traced")) as traced:
        yield traced
        traced.server.stop()
        compare(traced.receiver.spans, traced.all)  # nothing came late


@pytest.fixture(scope="module")
def untraced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    with _traced(tmp_path_factory.mktemp("untraced"), "--sidecar-trace-context", "off") as untraced:
        yield untraced
        untraced.server.stop()
        assert untraced.receiver.spans
        ours = untraced.all.trees.keys() | untraced.all.never
        assert not [what(span) for span in untraced.receiver.spans if span.trace_id in ours]


def test_every_span_has_the_parent_that_its_command_was_sent_under(kind: Kind, traced: Traced) -> None:
    asked = asyncio.run(use(kind, traced.server.port))
    compare(traced.come(asked), asked)


def test_a_client_span_is_the_parent_of_the_servers(kind: Kind, traced: Traced, spans: Spans) -> None:
    expected = {
        "SET": ["remote > SET client"],
        "PIPELINE": ["remote > PIPELINE of 2", "PIPELINE > GET client", "PIPELINE > TTL client"],
        "MULTI": ["remote > MULTI of 2", "MULTI > GET client", "MULTI > TTL client"],
    }

    async def run() -> None:
        async with opened(kind, traced.server.port) as client:
            trace(client, client_spans=True, tracer_provider=spans.provider)
            await done(client.set("client", 1))
            for transaction in (False, True):
                await done(client.pipeline(transaction=transaction).get("client").ttl("client").execute())

    asyncio.run(run())
    assert [span.name for span in spans.finished] == list(expected)
    asked = Asked()
    for span in spans.finished:
        asked.trees[span.context.trace_id.to_bytes(16)] = span.context.span_id, Counter(expected[span.name])
    compare(traced.come(asked), asked)


def test_a_server_that_takes_no_contexts_serves_the_same_and_is_asked_once_a_connection(
    kind: Kind, untraced: Traced
) -> None:
    def count() -> tuple[int, int]:
        with untraced.server.client() as client:
            stats = client.info("everything")
        return stats["total_connections_received"], stats.get("errorstat_ERR", {"count": 0})["count"]

    connections, refused = count()
    asked = asyncio.run(use(kind, untraced.server.port))
    more_connections, more_refused = count()
    # redis-py asks each RESP3 connection for what only Redis has, and is refused, too.
    each = 2 if kind.library is redis and kind.protocol == 3 else 1
    assert 0 < more_refused - refused < each * (more_connections - connections)
    untraced.all.update(asked)


def test_what_redis_py_sends_of_its_own_on_each_connection_is_housekeeping(tmp_path: Path) -> None:
    asked = Asked()
    with _traced(tmp_path) as traced, redis.Redis(port=traced.server.port, protocol=3) as client:
        trace(client)  # CLIENT MAINT_NOTIFICATIONS, which Valkey has not
        with asked.under("remote > GET a"):
            client.get("a")
        pipe = client.pipeline(transaction=False)
        pipe.execute_command("CLIENT", "NONESUCH").get("a").get("b")
        with asked.under("remote > PIPELINE of 2", "PIPELINE > GET a", "PIPELINE > GET b"):
            pipe.execute(raise_on_error=False)
        traced.server.stop()
        compare(traced.receiver.spans, asked)
