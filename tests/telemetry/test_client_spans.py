"""The CLIENT spans that the helper for applications makes when asked."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest
import redis
import redis.asyncio
import valkey
import valkey.asyncio

from telemetry.client import trace
from tests.conftest import PATIENCE_S, Server
from tests.telemetry.clients import Kind, Spans, done, opened, under
from tests.telemetry.traceparent_relay import Relay


def test_client_spans_have_the_names_and_attributes_of_the_contract(
    kind: Kind, traced_server: Relay, spans: Spans
) -> None:
    async def run() -> None:
        async with opened(kind, traced_server.port, db=2) as client:
            trace(client, client_spans=True, tracer_provider=spans.provider)
            with under(spans) as request:
                await done(client.set("a", "text"))
                await done(client.config_get("port"))
                await done(client.script_exists("0" * 40))
                with pytest.raises((valkey.ResponseError, redis.ResponseError)):
                    await done(client.lpush("a", "secret"))
                pipe = client.pipeline(transaction=False)
                await done(pipe.get("a").ping().strlen("a").execute())
                pipe = client.pipeline()
                await done(pipe.llen("l").lpush("a", "secret").execute(raise_on_error=False))
        found = {span.name: span for span in spans.finished}
        assert list(found) == ["SET", "SCRIPT EXISTS", "LPUSH", "PIPELINE", "MULTI", "request"]
        one = found["SET"]
        assert one.kind.name == "CLIENT"
        assert one.parent is not None
        assert f"{one.parent.span_id:016x}" == request
        assert dict(one.attributes or {}) == {
            "db.system": "valkey",
            "db.system.name": "valkey",
            "db.operation.name": "SET",
            "db.namespace": "2",
            "server.address": "localhost",
            "server.port": traced_server.port,
        }
        for name, error in (("LPUSH", "WRONGTYPE"), ("MULTI", "WRONGTYPE")):
            attributes = found[name].attributes or {}
            assert attributes["error.type"] == attributes["db.response.status_code"] == error
            assert found[name].status.status_code.name == "ERROR"
            assert "secret" not in found[name].to_json()
        assert one.status.status_code.name == "UNSET"
        for name, size in (("PIPELINE", 2), ("MULTI", 2)):
            assert (found[name].attributes or {})["db.operation.batch.size"] == size
        for name, command in (("PIPELINE", "GET"), ("MULTI", "LLEN"), ("SET", "SET")):
            assert traced_server.parents(command, 1) == [f"{found[name].context.span_id:016x}"]

    asyncio.run(run())


def test_client_spans_show_connections_that_fail(spans: Spans, traced_server: Relay) -> None:
    client = trace(valkey.Valkey(port=traced_server.port), client_spans=True, tracer_provider=spans.provider)
    client.get("a")

    def wait_in_vain() -> None:
        with contextlib.suppress(valkey.ConnectionError):
            client.blpop(["nothing"])

    reading = threading.Thread(target=wait_in_vain)
    reading.start()
    traced_server.parents("BLPOP", 1)
    traced_server.drop()
    reading.join(PATIENCE_S)
    assert [span.name for span in spans.finished] == ["GET", "BLPOP"]
    assert (spans.finished[1].attributes or {})["error.type"] == "ConnectionError"
    client.close()
    nobody = trace(redis.Redis(port=1, retry=None), client_spans=True, tracer_provider=spans.provider)
    with pytest.raises(redis.ConnectionError):
        nobody.get("a")
    failed = spans.finished[-1]
    assert (failed.name, (failed.attributes or {})["error.type"]) == ("CONNECT", "ConnectionError")


def test_what_an_error_quotes_stays_out_of_the_span(bare: Server, spans: Spans) -> None:
    client = trace(valkey.Valkey(port=bare.port), client_spans=True, tracer_provider=spans.provider)
    with pytest.raises(valkey.ResponseError):
        client.execute_command("NOSUCH", "secret")
    (span,) = spans.finished
    assert span.status.description == "ERR unknown command"
    assert "secret" not in span.to_json()
    client.close()


def test_without_an_sdk_client_spans_cost_nothing_and_send_nothing(traced_server: Relay) -> None:
    with trace(valkey.Valkey(port=traced_server.port), client_spans=True) as client:
        assert client.set("a", 1)
    assert traced_server.given == 0
