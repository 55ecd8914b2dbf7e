"""The real Aspire dashboard shows what the server tells it, started as an AppHost would start it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from samples.demo import application, aspire_cli
from samples.demo.application import Tracing
from samples.demo.dashboard import Dashboard, Protocol
from samples.demo.telemetry_api import KIND_CLIENT, KIND_INTERNAL, KIND_SERVER, Log, Span
from tests.conftest import Server, Start, launch, wait_until
from tests.e2e.dashboard_workload import BATCH, BLOCKED_S, EXPECTED, SECRET, SLOW_S, TRANSACTION, Workload

pytestmark = pytest.mark.e2e

_INSTANCE = "abcd1234"
_FIRST_TRACE_S = 5.0

_MS = 1_000_000
_CLOCKS_MS = 20
"""The server converts a clock that never jumps, the client reads the one that may."""

_ATTRIBUTES = {
    "db.namespace",
    "db.operation.batch.size",
    "db.operation.name",
    "db.response.status_code",
    "db.system.name",
    "enduser.id",
    "error.type",
    "network.peer.address",
    "network.peer.port",
    "network.transport",
    "valkey.blocked",
    "valkey.cache.hit",
    "valkey.client.lib",
    "valkey.client.name",
    "valkey.engine.duration",
    "valkey.kept",
    "valkey.request.size",
    "valkey.response.size",
}
"""All that the contract allows on a span, besides what it says of a PIPELINE's omitted children."""

_WRONGTYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"


@dataclass
class Told:
    """A server, what was sent to it, and what the dashboard knows of it since."""

    dashboard: Dashboard
    server: Server
    workload: Workload
    spans: list[Span]
    logs: list[Log]

    def under(self, step: str) -> Span:
        """The one span of the server's whose parent is the client's span of this step."""
        parent = self.workload.parents[step]
        (span,) = [span for span in self.spans if span.parent_id == f"{parent.span_id:016x}"]
        assert span.trace_id == f"{parent.trace_id:032x}"
        return span

    def plain(self, name: str) -> list[Span]:
        """The root spans of this name that came from the client that sends no context."""
        return [s for s in self.spans if s.name == name and not s.parent_id and _client(s) == "plain"]

    def children(self, parent: Span) -> list[Span]:
        """In the order in which they began."""
        return sorted((s for s in self.spans if s.parent_id == parent.span_id), key=lambda span: span.start_ns)


def _client(span: Span) -> str | None:
    return span.attributes.get("valkey.client.name")


@pytest.fixture(scope="module", params=["grpc", "http/protobuf"])
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """Everything is there: as many spans as there must be, and the log of the slow commands."""
    protocol: Protocol = request.param
    arguments = ("--save", "", "--enable-debug-command", "yes", "--sidecar-workers", "2")
    with Dashboard() as dashboard:
        environment = dashboard.environment_for("cache", _INSTANCE, protocol)
        server = launch(tmp_path_factory.mktemp("told"), *arguments, env=environment)
        try:
            with Tracing(dashboard.grpc_endpoint, dashboard.key) as tracing:
                workload = Workload.run(server, tracing)
            api = dashboard.api
            wait_until(
                lambda: len(api.spans("cache")) >= EXPECTED.total(), f"{EXPECTED.total()} spans in the dashboard"
            )
            wait_until(lambda: len(_slow_logs(api.logs("cache"))) >= 2, "the slow commands' logs in the dashboard")
            wait_until(lambda: all(r.has_metrics for r in api.resources() if r.name == "cache"), "metrics")
            yield Told(dashboard, server, workload, api.spans("cache"), api.logs("cache"))
            assert server.stop() == 0
        finally:
            server.kill()


def _slow_logs(logs: list[Log]) -> list[Log]:
    return [log for log in logs if log.event_name == "command.slow" and log.span_id]


def test_there_is_one_resource_under_the_name_and_instance_that_aspire_gave(told: Told) -> None:
    (cache,) = [r for r in told.dashboard.api.resources() if r.name == "cache"]
    assert cache.instance_id == _INSTANCE
    assert cache.has_traces
    assert cache.has_logs
    assert cache.has_metrics


def test_the_resource_says_what_it_is(told: Told) -> None:
    attributes = told.spans[0].resource_attributes
    with told.server.client() as client:
        assert attributes["valkey.version"] == client.info("server")["valkey_version"]
    assert attributes["db.system.name"] == "valkey"
    assert attributes["server.port"] == str(told.server.port)
    assert attributes["process.pid"] == str(told.server.process.pid)


def test_every_command_is_one_span_and_housekeeping_is_none(told: Told) -> None:
    assert Counter(span.name for span in told.spans) == EXPECTED


def test_a_command_is_a_server_span_under_the_clients(told: Told) -> None:
    span = told.under("GET")
    assert (span.name, span.kind, span.is_error) == ("GET", KIND_SERVER, False)
    attributes = dict(span.attributes)
    assert attributes.pop("valkey.client.lib").startswith("valkey-py")
    assert attributes == {
        "db.namespace": "0",
        "db.operation.name": "GET",
        "db.system.name": "valkey",
        "network.peer.address": "127.0.0.1",
        "network.peer.port": str(told.workload.ports["traced"]),
        "network.transport": "tcp",
        "valkey.cache.hit": "true",
        "valkey.client.name": "traced",
        "valkey.request.size": str(len("*2\r\n$3\r\nGET\r\n$7\r\ncounter\r\n")),
        "valkey.response.size": str(len(f"${len(SECRET)}\r\n{SECRET}\r\n")),
    }


def test_the_trace_holds_the_clients_span_and_the_servers_within_its_time(told: Told) -> None:
    trace = told.dashboard.api.trace(told.under("GET").trace_id)
    client, server = sorted(trace, key=lambda span: span.kind, reverse=True)
    assert (client.resource, client.kind) == (application.NAME, KIND_CLIENT)
    assert (server.resource, server.kind) == ("cache", KIND_SERVER)
    assert client.start_ns - _CLOCKS_MS * _MS <= server.start_ns <= server.end_ns <= client.end_ns + _CLOCKS_MS * _MS


def test_a_command_without_context_begins_a_trace(told: Told) -> None:
    assert len(told.plain("SET")) == 1
    hit, miss = sorted(told.plain("GET"), key=lambda span: span.start_ns)
    assert hit.attributes["valkey.cache.hit"] == "true"
    assert miss.attributes["valkey.cache.hit"] == "false"
    assert len({span.trace_id for span in (hit, miss, *told.plain("SET"))}) == 3


def test_a_pipeline_is_one_span_with_its_commands_inside(told: Told) -> None:
    (plain,) = told.plain("PIPELINE")
    for pipeline in (told.under("PIPELINE"), plain):
        assert (pipeline.name, pipeline.kind) == ("PIPELINE", KIND_SERVER)
        assert pipeline.attributes["db.operation.batch.size"] == str(BATCH)
        children = told.children(pipeline)
        assert [(child.name, child.kind) for child in children] == [("GET", KIND_INTERNAL)] * BATCH
        assert {child.trace_id for child in children} == {pipeline.trace_id}
        assert all(pipeline.start_ns <= c.start_ns <= c.end_ns <= pipeline.end_ns for c in children)


def test_a_transaction_is_one_span_with_its_commands_and_their_own_results(told: Told) -> None:
    (plain,) = told.plain("MULTI")
    for transaction in (told.under("MULTI"), plain):
        assert (transaction.name, transaction.kind) == ("MULTI", KIND_SERVER)
        children = told.children(transaction)
        assert sorted(child.name for child in children) == sorted(TRANSACTION)
        assert {child.kind for child in children} == {KIND_INTERNAL}
        (failed,) = [child for child in children if child.is_error]
        assert (failed.name, failed.attributes["error.type"]) == ("LPUSH", "WRONGTYPE")


def test_an_error_has_its_code_and_the_servers_own_words(told: Told) -> None:
    (plain,) = told.plain("LPUSH")
    for span in (told.under("error"), plain):
        assert (span.name, span.is_error, span.status_message) == ("LPUSH", True, _WRONGTYPE)
        assert span.attributes["error.type"] == "WRONGTYPE"
        assert span.attributes["db.response.status_code"] == "WRONGTYPE"
    failed = Counter(span.name for span in told.spans if span.is_error)
    assert failed == Counter({"LPUSH": 4})  # two alone, two in the transactions


def test_a_slow_command_has_a_log_with_its_ids(told: Told) -> None:
    (plain,) = told.plain("DEBUG")
    for span in (told.under("slow"), plain):
        assert span.end_ns - span.start_ns >= SLOW_S * 1000 * _MS
        (log,) = [log for log in _slow_logs(told.logs) if log.span_id == span.span_id]
        assert log.trace_id == span.trace_id
        assert "DEBUG" in log.body
        assert 9 <= log.severity <= 16  # information or warning: red badges are for our own faults


def test_a_blocking_command_is_not_slow(told: Told) -> None:
    (plain,) = told.plain("BLPOP")
    for span in (told.under("BLPOP"), plain):
        assert span.attributes["valkey.blocked"] == "true"
        assert span.end_ns - span.start_ns >= BLOCKED_S * 1000 * _MS
        assert "valkey.kept" not in span.attributes
        assert span.span_id not in {log.span_id for log in told.logs}


def test_spans_have_no_attribute_that_the_contract_does_not_know(told: Told) -> None:
    strange = {name for span in told.spans for name in span.attributes if name not in _ATTRIBUTES}
    assert strange == set()


def test_no_value_and_no_key_of_ours_reaches_the_dashboard(told: Told) -> None:
    texts = [repr(span) for span in told.spans] + [repr(log) for log in told.logs]
    assert [text for text in texts if SECRET in text or told.dashboard.key in text] == []
    assert told.dashboard.key not in told.server.log_text()


def test_the_log_of_the_start_is_there_and_nothing_is_worse_than_a_warning(told: Told) -> None:
    assert "engine.started" in {log.event_name for log in told.logs}
    assert all(1 <= log.severity <= 16 for log in told.logs), [log for log in told.logs if log.severity > 16]


def test_nothing_was_lost_on_the_way(told: Told) -> None:
    assert told.server.metric("valkey_sidecar_spans_dropped_total") == 0
    assert told.server.metric("valkey_sidecar_export_failures_total") == 0


def test_the_first_trace_is_visible_within_five_seconds_of_the_first_command(start: Start) -> None:
    with Dashboard() as dashboard:
        server = start("--save", "", wait=False, env=dashboard.environment_for("cache", _INSTANCE))
        wait_until(server.answers, "the server answers")
        with server.client() as client:
            began = time.monotonic()
            client.set("a", "1")
        wait_until(lambda: [s.name for s in dashboard.api.spans("cache")] == ["SET"], "the trace", _FIRST_TRACE_S)
        assert time.monotonic() - began < _FIRST_TRACE_S


def test_without_npm_the_message_says_what_to_install(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path_factory.mktemp("empty")
    monkeypatch.setattr(aspire_cli, "home", lambda: empty / "aspire")
    monkeypatch.setenv("PATH", str(empty))
    with pytest.raises(aspire_cli.AspireError, match="npm, which is not on PATH"):
        aspire_cli.install()
