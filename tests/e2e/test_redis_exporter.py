"""redis_exporter (Debian's prometheus-redis-exporter) beside our server has nothing that /metrics does not have."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Server, Start, free_port, wait_until

pytestmark = pytest.mark.e2e

Series = tuple[str, frozenset[tuple[str, str]]]

_BOARD = {
    "redis_commands_processed_total",
    "redis_commands_total",
    "redis_connected_clients",
    "redis_db_keys",
    "redis_db_keys_expiring",
    "redis_evicted_keys_total",
    "redis_expired_keys_total",
    "redis_keyspace_hits_total",
    "redis_keyspace_misses_total",
    "redis_memory_max_bytes",
    "redis_memory_used_bytes",
    "redis_net_input_bytes_total",
    "redis_net_output_bytes_total",
    "redis_up",
    "redis_uptime_in_seconds",
}
"""What the exporter's Grafana board (grafana.com's 763) asks for."""

_ABSENT = re.compile(
    r"redis_exporter_.*"  # about the exporter itself
    r"|redis_target_scrape_request_errors_total"  # the same
    r"|redis_last_key_groups_scrape_duration_milliseconds"  # of a search for keys that we do not make
    r"|redis_db_keys_cached"  # it takes the fourth figure of a database for KeyDB's; Valkey's are volatile items
)

_OWN_CONNECTION = {"redis_connected_clients": 1}
"""The exporter counts itself."""

_MOVING = re.compile(
    r"redis_client_recent_max_(input|output)_buffer_bytes"  # the exporter's own requests
    r"|redis_mem_clients_normal|redis_memory_used_overhead_bytes"  # its connection's buffers
    r"|redis_connected_slave_lag_seconds"  # the replica tells once a second: 0 and 1 in turns
    r"|redis_mem_fragmentation_(ratio|bytes)|redis_allocator_.*"  # they follow every allocation
)
_NEARLY = re.compile(r"redis_memory_used_.*|redis_db_avg_ttl_seconds")
_TOLERANCE = 0.25

_POLLED = {"info", "config|get", "slowlog|len", "slowlog|get", "latency|latest", "client|setname"}
"""Commands that both pollers send: how long they take changes with every poll."""

_LINE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def _parse(text: str) -> dict[Series, float]:
    found: dict[Series, float] = {}
    for line in text.splitlines():
        if line.startswith("redis_") and (match := _LINE.fullmatch(line)):
            found[match[1], frozenset(_LABEL.findall(match[2] or ""))] = float(match[3])
    return found


def _types(text: str) -> dict[str, str]:
    """The type of each family, as Prometheus' older text format has it (the exporter speaks no other one)."""
    words = (line.split() for line in text.splitlines() if line.startswith("# TYPE redis_"))
    return {name: kind for _, _, name, kind in words}


Scrape = Callable[[], str]


@pytest.fixture
def start_exporter(tmp_path: Path) -> Iterator[Callable[[Server], Scrape]]:
    """Starts exporters, and gives for each what scrapes it."""
    program = shutil.which("prometheus-redis-exporter")
    assert program, "prometheus-redis-exporter is missing (Debian: apt-get install prometheus-redis-exporter)"
    processes: list[subprocess.Popen[bytes]] = []

    def start_one(server: Server) -> Scrape:
        address = f"127.0.0.1:{free_port()}"
        command = [program, "-redis.addr", f"redis://127.0.0.1:{server.port}", "-web.listen-address", address]
        command += ["-include-system-metrics", "-connection-timeout", "3s"]
        with (tmp_path / f"exporter{len(processes)}.log").open("wb") as log:
            processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))

        def scrape() -> str:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as response:
                return str(response.read().decode())

        def answers() -> bool:
            assert processes[-1].poll() is None, "the exporter ended"
            try:
                return bool(scrape())
            except OSError:
                return False

        wait_until(answers, "the exporter answers")
        return scrape

    yield start_one
    for process in processes:
        process.terminate()
        process.wait()


def _ours(server: Server) -> dict[Series, float]:
    """Figures that are read after this call began: polls are a second apart."""
    polls = ("redis_commands_total", frozenset({("cmd", "info")}))
    seen = _parse(server.get("/metrics")[1]).get(polls, 0)

    def newer() -> dict[Series, float] | None:
        time.sleep(0.05)
        found = _parse(server.get("/metrics")[1])
        return found if found.get(polls, 0) > seen else None

    result: dict[Series, float] = wait_until(newer, "the engine was read again")
    return result


def _use(server: Server) -> None:
    with server.client() as client:
        client.set("a", "1", ex=1000)
        client.get("a")
        client.get("nothing")
        client.lpush("l", "1")
        client.execute_command("CONFIG", "SET", "latency-monitor-threshold", "1")
        client.execute_command("CONFIG", "SET", "slowlog-log-slower-than", "5000")
        client.execute_command("DEBUG", "SLEEP", "0.02")
        with pytest.raises(Exception, match="WRONGTYPE"):
            client.get("l")
    with server.client(db=3) as client:
        client.set("b", "1")


def _compare(server: Server, scrape: Scrape) -> dict[Series, float]:
    """What the exporter has, all of it compared with ours before and after."""
    scrape()
    with server.client() as client:
        client.ping()
        before = _ours(server)
        text = scrape()
        theirs = _parse(text)
        after = _ours(server)
    types, ours = _types(text), _types(server.get("/metrics")[1])
    assert {name: ours.get(name) for name in types if not _ABSENT.fullmatch(name)} == {
        name: kind for name, kind in types.items() if not _ABSENT.fullmatch(name)
    }
    missing = {series for series in theirs if not _ABSENT.fullmatch(series[0])} - after.keys()
    assert not missing
    for series, value in theirs.items():
        name, labels = series
        if _ABSENT.fullmatch(name) or _MOVING.fullmatch(name):
            continue
        if name.startswith("redis_latency_percentiles_usec") and dict(labels)["cmd"] in _POLLED:
            continue
        value -= _OWN_CONNECTION.get(name, 0)
        # A command that came in between (what opens a lane) had no series before.
        low, high = sorted((before.get(series, 0.0), after[series]))
        if _NEARLY.fullmatch(name):
            low, high = low * (1 - _TOLERANCE), high * (1 + _TOLERANCE)
        if name == "redis_start_time_seconds":  # the exporter's clock minus whole seconds of uptime
            low, high = low - 1, high + 1
        rounding = abs(value) * 1e-9
        assert low - rounding <= value <= high + rounding, series
    return theirs


def _names(found: dict[Series, float]) -> set[str]:
    return {name for name, _ in found}


def test_everything_that_redis_exporter_has_is_at_our_metrics(
    start: Start, start_exporter: Callable[[Server], Scrape]
) -> None:
    server = start("--save", "", "--appendonly", "yes", "--enable-debug-command", "yes", "--maxclients", "100")
    replica = start("--save", "", "--replicaof", f"127.0.0.1 {server.port}")
    _use(server)
    with server.client() as client:
        wait_until(lambda: client.info("replication")["connected_slaves"] == 1, "the replica is connected")
        wait_until(lambda: client.info("replication")["slave0"]["state"] == "online", "the replica is online")
    theirs = _compare(server, start_exporter(server))
    assert _names(theirs) >= _BOARD
    assert _names(theirs) >= {
        "redis_aof_current_size_bytes", "redis_connected_slave_offset_bytes", "redis_errors_total",
        "redis_instance_info", "redis_latency_spike_last", "redis_latency_percentiles_usec",
    }  # fmt: skip
    assert theirs["redis_config_maxclients", frozenset()] == 100
    assert theirs["redis_slowlog_length", frozenset()] == 1
    assert _names(_compare(replica, start_exporter(replica))) >= {"redis_slave_info", "redis_master_link_up"}


def test_an_engine_that_does_not_answer_is_down_for_both(
    start: Start, start_exporter: Callable[[Server], Scrape]
) -> None:
    server = start("--save", "").wait_ready()
    scrape = start_exporter(server)
    assert _parse(scrape())["redis_up", frozenset()] == 1
    assert _ours(server)["redis_up", frozenset()] == 1
    server.engine.suspend()
    try:
        theirs = {series: value for series, value in _parse(scrape()).items() if not _ABSENT.fullmatch(series[0])}
        assert theirs == {("redis_up", frozenset()): 0}
        wait_until(lambda: _parse(server.get("/metrics")[1]) == theirs, "the engine is down")
    finally:
        server.engine.resume()
    wait_until(lambda: _parse(scrape())["redis_up", frozenset()] == 1, "it is up for the exporter")
    assert len(_ours(server)) > 100
