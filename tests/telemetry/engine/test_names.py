"""The engine's figures under the Collector's names and under redis_exporter's, from the real engine's INFO."""

from __future__ import annotations

import math

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as text_string_to_families

from telemetry.engine.beside import QUESTIONS
from telemetry.engine.families import EngineCollector, families
from telemetry.engine.info import Info
from telemetry.engine.points import points
from telemetry.engine.table import ROWS
from telemetry.prometheus import write
from tests.conftest import Server, Start, free_port, wait_until


def _info(server: Server) -> Info:
    with server.client() as client:
        client.set_response_callback("INFO", lambda reply: reply)
        return Info.parse(client.execute_command("INFO", "ALL").decode())


def _points(info: Info) -> dict[tuple[str, str], float]:
    return {(point.name, ",".join(point.attributes.values())): point.value for point in points(info)}


def _samples(info: Info) -> dict[tuple[str, str], float]:
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in families(info)
        for sample in family.samples
    }


@pytest.fixture
def used(bare: Server) -> Server:
    with bare.client() as client:
        client.mset({"a": "1", "b": "2"})
        client.expire("a", 1000)
        client.get("a")
        client.get("nothing")
        with pytest.raises(Exception, match="WRONGTYPE"):
            client.lpush("a", "1")
    with bare.client(db=3) as client:
        client.set("c", "3")
    return bare


def test_points_of_a_primary(used: Server) -> None:
    info = _info(used)
    found = _points(info)
    assert found["redis.keyspace.hits", ""] == 1
    assert found["redis.keyspace.misses", ""] == 1
    assert found["redis.cmd.calls", "get"] == 2
    assert found["redis.db.keys", "0"] == 2
    assert found["redis.db.expires", "0"] == 1
    assert found["redis.db.keys", "3"] == 1
    assert found["redis.role", "primary"] == 1
    assert found["redis.mode", "standalone"] == 1
    assert found["redis.memory.used", ""] == int(info.fields["used_memory"])
    assert found["redis.cpu.time", "user"] == float(info.fields["used_cpu_user"])
    # µs in INFO, seconds here
    p50 = float(info.records["latency_percentiles_usec_*"]["get"]["p50"])
    assert found["redis.cmd.latency", "get,p50"] == p50 / 1_000_000


def test_families_of_a_primary(used: Server) -> None:
    info = _info(used)
    found = _samples(info)
    assert found["redis_commands_total", "get"] == 2
    assert found["redis_commands_failed_calls_total", "lpush"] == 1
    assert found["redis_errors_total", "WRONGTYPE"] == 1
    assert found["redis_db_keys", "db0"] == 2
    assert found["redis_keyspace_misses_total", ""] == 1
    usec = int(info.records["cmdstat_*"]["get"]["usec"])
    assert found["redis_commands_duration_seconds_total", "get"] == usec / 1_000_000
    assert found["redis_latency_percentiles_usec_count", "get"] == 2
    (family,) = (family for family in families(info) if family.name == "redis_instance_info")
    (sample,) = family.samples
    assert sample.labels["role"] == "master"
    assert sample.labels["tcp_port"] == str(used.port)


def test_databases_without_keys_are_shown_where_the_count_is_known(used: Server) -> None:
    info = _info(used)
    assert ("redis_db_keys", "db7") not in _samples(info)
    info.fields["config:databases"] = "16"
    assert _samples(info)["redis_db_keys", "db7"] == 0
    assert ("redis_db_keys", "db16") not in _samples(info)
    assert _samples(info)["redis_db_keys", "db3"] == 1
    assert ("redis.db.keys", "7") not in _points(info)
    info.fields["config:databases"] = "1000000000"
    assert ("redis_db_keys", "db7") not in _samples(info)


def test_a_primary_and_its_replica(start_bare: Start) -> None:
    primary = start_bare()
    replica = start_bare("--replicaof", "127.0.0.1", str(primary.port))
    wait_until(lambda: _info(primary).records.get("slave*", {}).get("0", {}).get("state") == "online", "it is online")
    address = f"127.0.0.1,{replica.port},online"
    assert ("redis_connected_slave_offset_bytes", address) in _samples(_info(primary))
    assert _samples(_info(primary))["redis_connected_slaves", ""] == 1
    link = ("redis_master_link_up", f"127.0.0.1,{primary.port}")
    wait_until(lambda: _samples(_info(replica))[link] == 1, "the link is up")
    assert _samples(_info(replica))["redis_slave_info", f"127.0.0.1,{primary.port},1"] == 1
    assert ("redis.replication.replica_offset", "") in _points(_info(replica))
    assert _points(_info(replica))["redis.role", "replica"] == 1


def test_a_node_of_a_cluster(start_bare: Start) -> None:
    node = start_bare("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    with node.client() as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "99")
    info = _info(node)
    assert _points(info)["redis.cluster.slots_assigned", ""] == 100
    assert _points(info)["redis.cluster.state", "fail"] == 1
    assert _points(info)["redis.cluster.cluster_enabled", ""] == 1
    assert _points(info)["redis.mode", "cluster"] == 1
    assert _samples(info)["redis_cluster_slots_assigned", ""] == 100
    assert _samples(info)["redis_cluster_state", ""] == 0


def test_what_is_asked_beside_info(used: Server) -> None:
    info = Info({}, {})
    with used.client(decode_responses=True) as client:
        for callback in ("CONFIG GET", "SLOWLOG GET", "SLOWLOG LEN", "LATENCY LATEST"):
            client.set_response_callback(callback, lambda reply: reply)
        client.config_set("slowlog-log-slower-than", 1000)
        client.config_set("latency-monitor-threshold", 1)
        client.execute_command("DEBUG", "SLEEP", "0.02")
        for question in QUESTIONS:
            question.take(info, client.execute_command(*question.words))
        client.config_set("latency-monitor-threshold", 0)
        client.config_set("slowlog-log-slower-than", 10000)
    found = _samples(info)
    assert found["redis_config_maxclients", ""] == int(info.fields["config:maxclients"]) > 0
    assert found["redis_config_maxmemory", ""] == 0
    assert found["redis_slowlog_length", ""] >= 1
    assert 0.02 <= found["redis_last_slow_execution_duration_seconds", ""] < 10
    assert 0.02 <= found["redis_latency_spike_duration_seconds", "command"] < 10
    assert found["redis_latency_spike_last", "command"] > 1_700_000_000


def test_the_text_is_openmetrics(used: Server) -> None:
    text = write(EngineCollector(lambda: _info(used)).collect(), openmetrics=True).decode()
    found = {family.name: family for family in text_string_to_metric_families(text)}
    assert found["redis_commands"].type == "counter"
    assert found["redis_up"].samples[0].value == 1
    assert all(math.isfinite(sample.value) for family in found.values() for sample in family.samples)
    assert len(found) > 100


def test_types_in_the_older_format_are_those_of_redis_exporter(used: Server) -> None:
    """It has counters without `_total` and a summary of percentages, which OpenMetrics does not allow."""
    text = write(EngineCollector(lambda: _info(used)).collect(), openmetrics=False).decode()
    found = {family.name: family for family in text_string_to_families(text)}
    assert {name: found[name].type for name in _COUNTERS} == dict.fromkeys(_COUNTERS, "counter")
    summary = found["redis_latency_percentiles_usec"]
    assert summary.type == "summary"
    assert {sample.name.removeprefix(summary.name) for sample in summary.samples} == {"", "_count", "_sum"}
    assert "unknown" not in {family.type for family in found.values()}


_COUNTERS = [
    "redis_dump_payload_sanitizations",
    "redis_io_threaded_reads_processed",
    "redis_io_threaded_writes_processed",
    "redis_total_error_replies",
    "redis_total_reads_processed",
    "redis_total_writes_processed",
    "redis_unexpected_error_replies",
]


def test_an_engine_that_is_away_is_down_and_nothing_else() -> None:
    assert write(EngineCollector(lambda: None).collect(), openmetrics=False).splitlines()[2:] == [b"redis_up 0"]


def test_no_name_is_given_twice() -> None:
    names = [(row.family.name, *sorted(row.family.labels.items())) for row in ROWS if row.family is not None]
    assert len(set(names)) == len(names)
    point_names = [(row.point.name, *sorted(row.point.labels.items())) for row in ROWS if row.point is not None]
    assert len(set(point_names)) == len(point_names)
