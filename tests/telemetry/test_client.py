"""The helper for applications, with both libraries, sync and asyncio, RESP2 and RESP3, each parser that is here."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
from types import ModuleType
from typing import Any

import pytest
import redis
import redis.asyncio
import valkey
import valkey.asyncio
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState, use_span

from telemetry.client import trace, untrace
from tests.conftest import PATIENCE_S, Server, Start
from tests.telemetry.clients import Kind, Spans, done, opened, under
from tests.telemetry.traceparent_relay import Relay


async def everything(client: Any) -> list[Any]:
    """What an application gets of its own when it uses nearly everything."""
    got = [await done(client.set("text", "é")), await done(client.get("text")), await done(client.get("absent"))]
    pipe = client.pipeline(transaction=False)
    pipe.incr("number").ping().config_get("maxmemory").get("number").lpush("text", 1)
    got += [repr(item) for item in await done(pipe.execute(raise_on_error=False))]
    pipe = client.pipeline()
    pipe.incr("number").lpush("text", 1).get("number")
    got += [repr(item) for item in await done(pipe.execute(raise_on_error=False))]
    pipe = client.pipeline()
    await done(pipe.watch("number"))
    got.append(await done(pipe.get("number")))
    pipe.multi()
    got += await done(pipe.set("number", 5).execute())
    await done(pipe.watch("number"))
    await done(client.set("number", 6))  # by another connection
    pipe.multi()
    pipe.set("number", 7)
    try:
        got.append(await done(pipe.execute()))
    except (valkey.WatchError, redis.WatchError) as error:
        got.append(type(error))
    await done(pipe.aclose() if hasattr(pipe, "aclose") else pipe.reset())
    try:
        await done(client.lpush("text", 1))
    except (valkey.ResponseError, redis.ResponseError) as error:
        got.append(str(error))
    got.append(await done(client.register_script("return {KEYS[1], ARGV[1]}")(["key"], ["value"])))
    got.append(await done(client.blpop(["nothing"], 0.01)))
    await done(client.set("big", b"x" * 1_000_000))
    got.append(len(await done(client.get("big"))))
    got.append(await done(client.mget(["text", "absent"])))
    got.append(await done(client.ping()))
    got.append([key async for key in client.scan_iter("te*")] if hasattr(client, "__anext__") else None)
    return got


def test_an_application_gets_the_same_with_and_without_it(
    kind: Kind, traced_server: Relay, bare: Server, spans: Spans
) -> None:
    async def run(port: int, is_traced: bool) -> list[Any]:
        async with opened(kind, port) as client:
            await done(client.flushall())
            if is_traced:
                trace(client)
            with under(spans):
                return await everything(client)

    plain = asyncio.run(run(bare.port, False))
    assert asyncio.run(run(traced_server.port, True)) == plain
    assert traced_server.given == 15
    assert traced_server.apart <= 1, "a context and its command are one write, but for a megabyte"
    assert not traced_server.misplaced
    given = traced_server.given
    assert asyncio.run(run(bare.port, True)) == plain, "a server that does not know the command"
    assert asyncio.run(run(traced_server.port, False)) == plain
    assert traced_server.given == given


def test_each_command_is_given_the_current_span_and_no_other_is(kind: Kind, traced_server: Relay, spans: Spans) -> None:
    async def run() -> None:
        async with opened(kind, traced_server.port, db=3, client_name="me") as client:
            trace(client)
            with under(spans) as first:
                await done(client.set("a", 1))
            await done(client.get("a"))
            with under(spans) as second:
                await done(client.get("a"))
                await done(client.ping())
            await done(client.get("a"))
        assert traced_server.parents("SET", 1) == [first]
        assert traced_server.parents("GET", 3) == ["", second, ""]
        assert traced_server.given == 2

    asyncio.run(run())


def test_a_pipeline_and_a_transaction_are_covered_to_their_ends(kind: Kind, traced_server: Relay, spans: Spans) -> None:
    async def run() -> None:
        async with opened(kind, traced_server.port) as client:
            trace(client)
            with under(spans) as parent:
                pipe = client.pipeline(transaction=False)
                await done(pipe.ping().set("a", 1).config_get("port").get("a").echo("x").incr("a").execute())
            await done(client.strlen("a"))
            assert traced_server.parents("SET", 1) + traced_server.parents("GET", 1) == [parent, parent]
            assert traced_server.parents("INCRBY", 1) == [parent]
            assert traced_server.given == 1
            with under(spans) as parent:
                pipe = client.pipeline(transaction=True)
                await done(pipe.hset("h", "f", 1).hget("h", "f").execute())
            await done(client.strlen("a"))
            for name in ("MULTI", "HSET", "HGET"):
                assert traced_server.parents(name, 1) == [parent]
            assert traced_server.parents("STRLEN", 2) == ["", ""], "a context reached a neighbour"
            assert traced_server.given == 2

    asyncio.run(run())


def test_subscriptions_are_given_a_context_once_and_messages_arrive(
    kind: Kind, traced_server: Relay, spans: Spans
) -> None:
    async def message(pubsub: Any) -> Any:
        while True:
            got = await done(pubsub.get_message(timeout=PATIENCE_S))
            if got is not None:
                return got["type"], got["channel"], got["data"]

    async def run() -> None:
        async with opened(kind, traced_server.port) as client:
            trace(client)
            pubsub = client.pubsub()
            with under(spans) as parent:
                await done(pubsub.subscribe("one", "two"))
                assert await message(pubsub) == ("subscribe", b"one", 1)
                assert await message(pubsub) == ("subscribe", b"two", 2)
                await done(client.publish("one", "hello"))
                assert await message(pubsub) == ("message", b"one", b"hello")
                await done(pubsub.psubscribe("t*"))
                assert await message(pubsub) == ("psubscribe", b"t*", 3)
                await done(client.publish("two", "again"))
                assert {await message(pubsub), await message(pubsub)} == {
                    ("message", b"two", b"again"),
                    ("pmessage", b"two", b"again"),
                }
            await done(pubsub.aclose() if kind.is_async else pubsub.close())
            assert traced_server.parents("SUBSCRIBE", 1) == [parent]
            assert traced_server.parents("PSUBSCRIBE", 1) == [""]
            assert traced_server.parents("PUBLISH", 2) == [parent, parent]
            assert not traced_server.misplaced

    asyncio.run(run())


def test_a_connection_made_anew_gets_its_context_again(kind: Kind, traced_server: Relay, spans: Spans) -> None:
    async def run() -> None:
        async with opened(kind, traced_server.port) as client:
            trace(client)
            with under(spans) as parent:
                await done(client.set("a", 1))
                traced_server.drop()
                with contextlib.suppress(valkey.ConnectionError, redis.ConnectionError):
                    await done(client.get("a"))
                assert await done(client.get("a")) == b"1"
            assert set(traced_server.parents("GET", 1)) == {parent}

    asyncio.run(run())


def test_a_server_that_does_not_know_it_is_asked_once_per_connection(kind: Kind, bare: Server, spans: Spans) -> None:
    def rejected() -> int:
        with bare.client() as client:
            return int(client.info("errorstats").get("errorstat_ERR", {"count": 0})["count"])

    async def run() -> None:
        async with opened(kind, bare.port) as client:
            trace(client)
            await done(client.ping())
            before = rejected()
            with under(spans):
                for number in range(5):
                    assert await done(client.incr("n")) == number + 1
                assert rejected() == before + 1
                await done(client.connection_pool.disconnect())
                assert await done(client.client_info())  # a new connection, housekeeping only
                made = rejected()
                assert await done(client.get("n")) == b"5"
                assert rejected() == made + 1

    asyncio.run(run())


@pytest.mark.parametrize("library", [valkey, redis])
def test_threads_that_share_a_pool_keep_their_contexts_apart(
    library: ModuleType, traced_server: Relay, spans: Spans
) -> None:
    client = trace(Kind(library, False, 2, False).client(traced_server.port))
    expected: dict[str, list[str]] = {}

    def work(name: str, *args: Any) -> None:
        expected[name] = []
        for _ in range(50):
            with under(spans) as parent:
                expected[name].append(parent)
                client.execute_command(name, *args)

    commands = ["GET", "STRLEN", "LLEN", "SCARD", "HLEN", "ZCARD", "TTL", "EXISTS"]
    threads = [threading.Thread(target=work, args=(name, "k")) for name in commands]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert {name: traced_server.parents(name, 50) for name in commands} == expected
    client.close()


@pytest.mark.parametrize("library", [valkey, redis])
def test_tasks_that_share_a_pool_keep_their_contexts_apart(
    library: ModuleType, traced_server: Relay, spans: Spans
) -> None:
    expected: dict[str, list[str]] = {}

    async def work(client: Any, name: str) -> None:
        expected[name] = []
        for _ in range(50):
            with under(spans) as parent:
                expected[name].append(parent)
                await client.execute_command(name, "k")

    async def run() -> None:
        async with opened(Kind(library, True, 3, False), traced_server.port) as client:
            trace(client)
            await asyncio.gather(*(work(client, name) for name in commands))

    commands = ["GET", "STRLEN", "LLEN", "SCARD", "HLEN", "ZCARD", "TTL", "EXISTS"]
    asyncio.run(run())
    assert {name: traced_server.parents(name, 50) for name in commands} == expected


def test_tracestate_and_the_decision_not_to_sample_travel_along(traced_server: Relay) -> None:
    state = TraceState([("vendor", "1"), ("other", "x:y")])
    context = SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(0), trace_state=state)
    with trace(valkey.Valkey(port=traced_server.port)) as client, use_span(NonRecordingSpan(context)):
        client.get("a")
    (seen,) = traced_server.seen
    assert seen.value == b"00-00000000000000000000000000000abc-0000000000000def-00"
    assert seen.state == b"vendor=1,other=x:y"


def test_monitor_and_replies_switched_off_are_left_alone(traced_server: Relay, bare: Server, spans: Spans) -> None:
    with trace(valkey.Valkey(port=traced_server.port, socket_timeout=PATIENCE_S)) as client, under(spans):
        with client.monitor() as monitor, bare.client() as other:
            other.get("watched")
            assert "GET watched" in (line["command"] for line in monitor.listen())
        connection = client.connection_pool.get_connection("x")
        connection.send_command("CLIENT", "REPLY", "SKIP")
        connection.send_command("SET", "skipped", 1)
        connection.send_command("GET", "skipped")
        assert connection.read_response() == b"1"
        client.connection_pool.release(connection)
    assert traced_server.parents("MONITOR") == [""]
    assert not traced_server.misplaced


def test_several_commands_under_way_at_once_get_their_own_replies(traced_server: Relay, spans: Spans) -> None:
    with trace(redis.Redis(port=traced_server.port, socket_timeout=PATIENCE_S)) as client:
        connection = client.connection_pool.get_connection()
        with under(spans) as first:
            connection.send_command("SET", "a", 1)
            connection.send_command("PING")
        with under(spans) as second:
            connection.send_command("INCR", "a")
        assert [connection.read_response() for _ in range(3)] == [b"OK", b"PONG", 2]
        client.connection_pool.release(connection)
    assert (traced_server.parents("SET"), traced_server.parents("INCR")) == ([first], [second])


def test_a_transaction_by_hand_survives_a_server_that_does_not_know_it(bare: Server, spans: Spans) -> None:
    with trace(valkey.Valkey(port=bare.port, single_connection_client=True)) as client:
        client.execute_command("MULTI")
        with under(spans):
            client.execute_command("SET", "a", 1)
        assert client.execute_command("EXEC") == [b"OK"]


def test_errors_of_a_connection_without_its_password_are_the_applications(start_bare: Start, spans: Spans) -> None:
    server = start_bare("--requirepass", "secret")
    server.password = "secret"
    with trace(valkey.Valkey(port=server.port)) as client, under(spans), pytest.raises(valkey.AuthenticationError):
        client.get("a")
    with trace(valkey.Valkey(port=server.port, password="secret")) as client, under(spans):
        assert client.set("a", 1)


def test_untrace_ends_it_and_trace_without_a_client_reaches_every_later_one(traced_server: Relay, spans: Spans) -> None:
    with valkey.Valkey(port=traced_server.port) as client, under(spans):
        client.get("a")
        trace(client)
        client.get("a")
        untrace(client)
        client.get("a")
        assert traced_server.given == 1
    trace()
    try:
        with redis.Redis(port=traced_server.port) as client, under(spans):
            client.get("a")
            assert traced_server.given == 2
            untrace()
            client.get("a")
        with valkey.Valkey(port=traced_server.port) as client, under(spans):
            client.get("a")
    finally:
        untrace()
    assert traced_server.given == 2


def test_a_client_without_a_pool_is_told_what_to_do() -> None:
    with pytest.raises(TypeError, match="without argument"):
        trace(object())


def test_it_imports_neither_library_nor_an_sdk() -> None:
    code = "import sys, telemetry.client; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    modules = set(done.stdout.split())
    assert "opentelemetry.trace" in modules
    assert not {"valkey", "redis", "opentelemetry.sdk", "sidecar"} & modules
