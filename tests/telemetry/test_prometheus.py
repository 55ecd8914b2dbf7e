from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from telemetry import names
from telemetry.exemplars import Exemplars
from telemetry.figures import Figures
from telemetry.otlp.stats import ExportStats
from telemetry.prometheus import registry, render
from telemetry.totals import Totals
from tests.telemetry.frames import command, counter, frame, gauge, outcome

OPENMETRICS = "application/openmetrics-text;version=1.0.0"
FORMATS = pytest.mark.parametrize(
    ("accept", "parse"), [("", parse_text), (OPENMETRICS, parse_openmetrics)], ids=["text", "openmetrics"]
)
Parse = Callable[[str], Iterable[Metric]]


@dataclass
class FakeFacts:
    version: str = "1.2.3"
    valkey_version: str = "9.1.2"
    worker_restarts: int = 0
    engine_restarts: int = 0
    engine_limits: Mapping[str, int] = field(default_factory=dict)
    pids: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def processes(self) -> Mapping[str, Sequence[int]]:
        return self.pids


def figures(totals: Totals, facts: FakeFacts) -> Figures:
    return Figures(totals, facts, ExportStats())


def busy_totals() -> Totals:
    totals = Totals()
    totals.apply(
        1,
        frame(
            outcome("GET", calls=12, sum_ns=1_500_000_000, buckets={0: 1, 1: 2, 32: 3, 33: 4}),
            outcome("GET", "WRONGTYPE", calls=2, sum_ns=5, buckets={0: 2}),
            outcome("SET", calls=7),
            command("GET", sent=100, received=200, hits=8, misses=2),
            command("SET", sent=10, received=20),
            command("BLPOP", sent=1, received=2, blocked_ns=2_000_000_000, blocked={32: 1}),
            counter("connections.opened", 5),
            counter("connections.closed", 3),
            counter("connections.rejected", 1, "maxclients"),
            counter("sessions.raw", 2, 'odd "reason"\\ \n'),
            counter("trace.contexts", 4, "accepted"),
            counter("lanes.broken", 2, "lost"),
            gauge("connections", 2, "tcp"),
            gauge("upstreams", 9, "home"),
            gauge("upstreams", 3, "lane"),
            gauge("commands.in_flight", 1),
        ),
    )
    return totals


def samples(
    totals: Totals, facts: FakeFacts, accept: str, parse: Parse
) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    body, _ = render(registry(figures(totals, facts)), [accept])
    found: list[Sample] = [sample for family in parse(body.decode()) for sample in family.samples]
    result = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in found}
    assert len(result) == len(found), "a series was written twice"
    return result


def at(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


@FORMATS
def test_figures_appear_under_the_names_of_the_contract(accept: str, parse: Parse) -> None:
    found = samples(busy_totals(), FakeFacts(worker_restarts=4, engine_restarts=6), accept, parse)
    expected = {
        at("valkey_command_calls_total", db_operation_name="GET", error_type=""): 12,
        at("valkey_command_calls_total", db_operation_name="GET", error_type="WRONGTYPE"): 2,
        at("valkey_command_calls_total", db_operation_name="SET", error_type=""): 7,
        at("valkey_command_duration_seconds_count", db_operation_name="GET", error_type=""): 10,
        at("valkey_command_duration_seconds_sum", db_operation_name="GET", error_type=""): 1.5,
        at("valkey_command_blocked_duration_seconds_count", db_operation_name="BLPOP"): 1,
        at("valkey_command_blocked_duration_seconds_sum", db_operation_name="BLPOP"): 2,
        at("valkey_command_in_flight"): 1,
        at("valkey_command_request_bytes_total", db_operation_name="GET"): 100,
        at("valkey_command_response_bytes_total", db_operation_name="GET"): 200,
        at("valkey_keyspace_lookups_total", db_operation_name="GET", valkey_cache_hit="true"): 8,
        at("valkey_keyspace_lookups_total", db_operation_name="GET", valkey_cache_hit="false"): 2,
        at("valkey_client_connections", network_transport="tcp", tls="false"): 2,
        at("valkey_client_connections", network_transport="tcp", tls="true"): 0,
        at("valkey_client_connections", network_transport="unix", tls="false"): 0,
        at("valkey_client_connections_opened_total"): 5,
        at("valkey_client_connections_closed_total"): 3,
        at("valkey_client_connections_rejected_total", reason="maxclients"): 1,
        at("valkey_sidecar_upstream_connections", route="home"): 9,
        at("valkey_sidecar_upstream_connections", route="lane"): 3,
        at("valkey_sidecar_lane_broken_total", reason="lost"): 2,
        at("valkey_sidecar_worker_restarts_total"): 4,
        at("valkey_sidecar_engine_restarts_total"): 6,
        at("valkey_sidecar_sessions_raw_total", reason='odd "reason"\\ \n'): 2,
        at("valkey_sidecar_trace_contexts_total", outcome="accepted"): 4,
        at("valkey_sidecar_build_info", version="1.2.3", valkey_version="9.1.2"): 1,
    }
    assert {key: found.get(key) for key in expected} == expected


@FORMATS
def test_buckets_are_cumulative_and_have_the_bounds_of_the_contract(accept: str, parse: Parse) -> None:
    found = samples(busy_totals(), FakeFacts(), accept, parse)
    buckets = {
        float(labels["le"]): value
        for (name, pairs), value in found.items()
        if name == "valkey_command_duration_seconds_bucket"
        and (labels := dict(pairs))["db_operation_name"] == "GET"
        and not labels["error_type"]
    }
    milliseconds = (
        *(0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5),
        *(10, 15, 20, 30, 50, 75, 100, 150, 250, 350, 500, 750, 1_000, 1_500, 2_500, 5_000),
    )
    assert sorted(buckets) == pytest.approx([*(bound / 1_000 for bound in milliseconds), float("inf")])
    assert [buckets[bound] for bound in sorted(buckets)] == [1, *[3] * 31, 6, 10]


@FORMATS
def test_commands_without_durations_or_lookups_show_none(accept: str, parse: Parse) -> None:
    found = samples(busy_totals(), FakeFacts(), accept, parse)
    shown = {name for name, labels in found if ("db_operation_name", "SET") in labels}
    assert shown == {
        "valkey_command_calls_total",
        "valkey_command_request_bytes_total",
        "valkey_command_response_bytes_total",
    }


@FORMATS
def test_a_server_that_has_done_nothing_yet_shows_zeros(accept: str, parse: Parse) -> None:
    found = samples(Totals(), FakeFacts(valkey_version=""), accept, parse)
    assert found == {
        at("valkey_command_in_flight"): 0,
        at("valkey_client_connections", network_transport="tcp", tls="false"): 0,
        at("valkey_client_connections", network_transport="tcp", tls="true"): 0,
        at("valkey_client_connections", network_transport="unix", tls="false"): 0,
        at("valkey_client_connections_opened_total"): 0,
        at("valkey_client_connections_closed_total"): 0,
        at("valkey_sidecar_upstream_connections", route="home"): 0,
        at("valkey_sidecar_upstream_connections", route="lane"): 0,
        at("valkey_sidecar_worker_restarts_total"): 0,
        at("valkey_sidecar_engine_restarts_total"): 0,
        at("valkey_sidecar_build_info", version="1.2.3", valkey_version=""): 1,
    }


@FORMATS
def test_the_text_says_what_the_librarys_own_writer_would_say(accept: str, parse: Parse) -> None:
    metrics = registry(figures(busy_totals(), FakeFacts()))
    body, content_type = render(metrics, [accept])
    encoder, expected_type = choose_encoder(accept)
    assert content_type == expected_type
    assert list(parse(body.decode())) == list(parse(encoder(metrics).decode()))


def test_every_instrument_of_the_table_is_a_family_with_its_type_and_unit() -> None:
    families = {family.name: family for family in registry(figures(busy_totals(), FakeFacts())).collect()}
    shown = [instrument for instrument in names.INSTRUMENTS if instrument.prometheus]
    assert list(families) == [instrument.prometheus for instrument in shown]
    for instrument in shown:
        family = families[instrument.prometheus]
        assert (family.type, family.unit) == (instrument.prometheus_type, instrument.prometheus_unit)
        for sample in family.samples:
            assert sample.labels.keys() - {"le"} == set(instrument.labels)


# What Prometheus 3 and 2 ask for, and Prometheus 3 where it prefers protobuf.
_PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
    "text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
_PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
_WITH_PROTOBUF = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", "text/plain; version=0.0.4"),
        ("text/html", "text/plain; version=0.0.4"),
        ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", "application/openmetrics-text; version=1.0.0"),
        ("application/openmetrics-text;version=nonsense", "text/plain; version=0.0.4"),
        ("application/openmetrics-text;version=7.7.7", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("application/openmetrics-text;version=2.0.0", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("application/openmetrics-text", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("application/openmetrics-text;q=0, text/plain", "text/plain; version=0.0.4"),
        ("application/openmetrics-text; version=1.0.0; q=0.000, */*", "text/plain; version=0.0.4"),
        ("application/openmetrics-text; Q=0; version=1.0.0", "text/plain; version=0.0.4"),
        ("application/openmetrics-text;q=0.05,text/plain;q=0", "application/openmetrics-text; version=1.0.0"),
        ("text/plain, application/openmetrics-text;q=0.001", "text/plain; version=0.0.4"),
        ("application/openmetrics-text;q=0.001, text/plain", "text/plain; version=0.0.4"),
        ("application/openmetrics-text;q=0.5, text/plain;q=0.51, */*;q=1", "text/plain; version=0.0.4"),
        ("text/plain;q=0.1, application/openmetrics-text", "application/openmetrics-text; version=1.0.0"),
        ("text/plain, application/openmetrics-text", "text/plain; version=0.0.4"),
        ("application/openmetrics-text, text/plain", "application/openmetrics-text; version=1.0.0"),
        ("application/openmetrics-text, */*", "application/openmetrics-text; version=1.0.0"),
        ("application/*, text/plain;q=0.9", "application/openmetrics-text; version=1.0.0"),
        ("text/*;q=0.4, application/*;q=0.3", "text/plain; version=0.0.4"),
        ("text/plain;q=0, */*", "application/openmetrics-text; version=1.0.0"),
        ("*/*;q=0", "text/plain; version=0.0.4"),
        ("Application/OpenMetrics-Text; VERSION=1.0.0, TEXT/PLAIN; Q=0.5", "application/openmetrics-text; version=1.0"),
        ('application/openmetrics-text; version="1.0.0"; q=0.6, text/plain;q=0.5', "application/openmetrics-text; ver"),
        (r'application/openmetrics-text; version="1\.0.0"', "application/openmetrics-text; version=1.0.0"),
        ('text/html; x="a, application/openmetrics-text"', "text/plain; version=0.0.4"),
        ('text/html; x="; q=0", application/openmetrics-text', "application/openmetrics-text; version=1.0.0"),
        ("text/plain; version=1.0.0; escaping=allow-utf-8", "text/plain; version=1.0.0; charset=utf-8; escaping=allow"),
        (
            "text/plain; version=0.0.4; q=0.2, text/plain; version=1.0.0; q=0.3",
            "text/plain; version=1.0.0; charset=utf",
        ),
        ("application/openmetrics-text; charset=latin-1", "text/plain; version=0.0.4"),
        ("application/openmetrics-text; version=0.0.1", "text/plain; version=0.0.4"),
        ("application/openmetrics-text; version=1", "text/plain; version=0.0.4"),
        # What doesn't follow the grammar wasn't said.
        ("application/openmetrics-text; q=2, text/plain; q=0.1", "text/plain; version=0.0.4"),
        ("application/openmetrics-text; q=nan, text/plain; q=0.1", "text/plain; version=0.0.4"),
        ('application/openmetrics-text; version="1.0.0', "text/plain; version=0.0.4"),
        (",;,/,*/plain,text,application/openmetrics-text;;q=1;", "application/openmetrics-text; version=1.0.0"),
        (_PROMETHEUS_3, "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=allow-utf-8"),
        (_PROMETHEUS_2, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        (_WITH_PROTOBUF, "text/plain; version=1.0.0; charset=utf-8; escaping=allow-utf-8"),
    ],
)
def test_a_scraper_gets_the_format_it_asks_for_and_plain_text_otherwise(accept: str, content_type: str) -> None:
    body, answered = render(registry(figures(Totals(), FakeFacts())), [accept])
    assert answered.startswith(content_type)
    assert body.endswith(b"# EOF\n") == answered.startswith("application/openmetrics-text")


def test_several_accept_headers_are_one() -> None:
    metrics = registry(figures(Totals(), FakeFacts()))
    assert render(metrics, ["text/plain;q=0.5", "application/openmetrics-text"])[0].endswith(b"# EOF\n")
    assert not render(metrics, ["application/openmetrics-text;q=0.5", "text/plain"])[0].endswith(b"# EOF\n")


@given(st.one_of(st.text(), st.text(alphabet='application/openmetrics-text*;,q=01."\\ v')))
def test_no_accept_header_is_too_strange(accept: str) -> None:
    _, content_type = render(registry(figures(Totals(), FakeFacts())), [accept])
    assert content_type.startswith(("text/plain; version=", "application/openmetrics-text; version=1.0.0"))


def test_a_long_accept_header_takes_no_time() -> None:
    metrics = registry(figures(Totals(), FakeFacts()))
    began = time.process_time()
    for header in (
        '"' * 60_000,
        "a/b;" * 15_000,
        'a/b;c="' + ";" * 60_000,
        "*/*," * 15_000,
        "a/b" + " ;" * 30_000 + "(",
    ):
        render(metrics, [header])
    assert time.process_time() - began < 5


def test_processes_show_memory_and_cpu_time_by_role() -> None:
    own = {"supervisor": [os.getpid()], "worker": [os.getpid(), os.getppid()]}
    found = samples(Totals(), FakeFacts(pids=own), "", parse_text)
    memory = {role: found[at("valkey_sidecar_process_resident_memory_bytes", role=role)] for role in own}
    assert 5_000_000 < memory["supervisor"] < memory["worker"]
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    assert 0 < found[at("valkey_sidecar_process_cpu_seconds_total", role="supervisor")] < sum(os.times()[:2]) + tick_s


def test_cpu_time_never_goes_down_when_a_process_ends() -> None:
    burn = "import time\nwhile time.process_time() < 0.1: pass\nprint('burnt', flush=True)\ninput()"
    facts = FakeFacts()
    metrics = registry(figures(Totals(), facts))

    def cpu_s_and_memory() -> tuple[float, float]:
        found = {
            (sample.name, sample.labels["role"]): sample.value
            for family in parse_text(render(metrics, [])[0].decode())
            for sample in family.samples
            if "role" in sample.labels
        }
        return (
            found["valkey_sidecar_process_cpu_seconds_total", "worker"],
            found["valkey_sidecar_process_resident_memory_bytes", "worker"],
        )

    with subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"burnt\n"
        facts.pids = {"worker": [process.pid]}
        alive_s, alive_bytes = cpu_s_and_memory()
    assert alive_s >= 0.05
    assert alive_bytes > 1_000_000
    assert cpu_s_and_memory() == (alive_s, 0)  # the id is still listed, the process is gone
    facts.pids = {"worker": [os.getpid()]}
    assert cpu_s_and_memory()[0] > alive_s
    facts.pids = {}
    assert cpu_s_and_memory()[1] == 0


@FORMATS
def test_losses_of_export_appear_and_those_of_workers_are_added(accept: str, parse: Parse) -> None:
    totals, stats = Totals(), ExportStats()
    totals.apply(1, frame(counter("spans.dropped", 5, "budget_roots"), counter("spans.dropped", 2, "queue_full")))
    stats.drop("queue_full", 3)
    stats.fail("traces", "unavailable", 4)
    stats.set_queue("logs", 7)
    body, _ = render(registry(Figures(totals, FakeFacts(), stats)), [accept])
    found = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse(body.decode())
        for sample in family.samples
    }
    expected = {
        at("valkey_sidecar_spans_dropped_total", reason="budget_roots"): 5,
        at("valkey_sidecar_spans_dropped_total", reason="queue_full"): 5,
        at("valkey_sidecar_export_failures_total", signal="traces", reason="unavailable"): 4,
        at("valkey_sidecar_queue_size", signal="logs"): 7,
    }
    assert {key: found.get(key) for key in expected} == expected


def marked() -> Exemplars:
    """One exemplar of GET in the bucket up to 20 µs, one of GET in the unbounded bucket."""
    clock_ns = iter(range(10**12, 10**13, 10**9))
    exemplars = Exemplars(clock_ns=lambda: next(clock_ns))
    for duration_ns, end_unix_ns in ((20_000, 1_690_000_000_123_999_999), (5_000_000_001, 1_690_000_000_999_999_999)):
        exemplars.offer("GET", "", duration_ns, end_unix_ns, bytes(range(16)), b"\xff" * 8)
    exemplars.offer("NEVER COUNTED", "", 1, 1, bytes(16), bytes(8))
    return exemplars


def test_openmetrics_shows_exemplars_at_their_buckets_to_every_scrape() -> None:
    exemplars = marked()
    metrics = registry(figures(busy_totals(), FakeFacts()), exemplars)
    for _scrape in range(2):
        text = render(metrics, [OPENMETRICS])[0].decode()
        found = {
            (sample.labels["db_operation_name"], sample.labels["error_type"], sample.labels["le"]): sample.exemplar
            for family in parse_openmetrics(text)
            for sample in family.samples
            if sample.exemplar is not None
        }
        ids = {"trace_id": "000102030405060708090a0b0c0d0e0f", "span_id": "ffffffffffffffff"}
        assert found.keys() == {("GET", "", "2e-05"), ("GET", "", "+Inf")}
        fast, slow = found["GET", "", "2e-05"], found["GET", "", "+Inf"]
        assert (fast.labels, fast.value, float(fast.timestamp)) == (ids, 2e-05, 1_690_000_000.123)
        assert (slow.labels, slow.value, float(slow.timestamp)) == (ids, 5.000000001, 1_690_000_000.999)


def test_the_older_text_format_has_no_exemplars() -> None:
    plain, with_exemplars = (registry(figures(busy_totals(), FakeFacts()), marks) for marks in (None, marked()))
    assert render(with_exemplars, [])[0] == render(plain, [])[0]
    assert b" # " not in render(with_exemplars, [])[0]


def test_exemplars_are_spelt_as_the_librarys_own_writer_spells_them() -> None:
    metrics = registry(figures(busy_totals(), FakeFacts()), marked())
    body = render(metrics, [OPENMETRICS])[0]
    encoder, _ = choose_encoder(OPENMETRICS)
    assert list(parse_openmetrics(body.decode())) == list(parse_openmetrics(encoder(metrics).decode()))


def test_further_collectors_are_shown_after_ours() -> None:
    class Further(Collector):
        def collect(self) -> Iterable[Metric]:
            family = Metric("redis_up", "Whether the engine answers.", "gauge")
            family.add_sample("redis_up", {}, 1)
            yield family

    body, _ = render(registry(figures(Totals(), FakeFacts()), None, Further()), [])
    assert body.endswith(b"# HELP redis_up Whether the engine answers.\n# TYPE redis_up gauge\nredis_up 1\n")
