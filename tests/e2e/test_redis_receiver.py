"""The OpenTelemetry Collector's redis receiver reads our server and finds what we say ourselves."""

from __future__ import annotations

import time
from typing import Any

import pytest
import valkey

from telemetry.engine.info import Info
from telemetry.engine.points import points
from telemetry.engine.table import ROWS
from tests.conftest import Server, Start, wait_until
from tests.e2e.collector.peer import Collector
from tests.e2e.conftest import StartCollector

pytestmark = pytest.mark.e2e

Key = tuple[str, str, str, frozenset[tuple[str, str]]]
"""Name, kind, unit and attributes of a series."""

_NAMES = sorted({row.point.name for row in ROWS if row.point is not None})

# The receiver takes it from `redis_mode`, which Valkey calls `server_mode`.
_OURS_ALONE = {"redis.mode"}

# They follow what the receiver itself does at this moment.
_MOVING = {"redis.clients.max_input_buffer", "redis.clients.max_output_buffer", "redis.commands"}
_NEARLY = {name for name in _NAMES if name.startswith("redis.memory.")}
_TOLERANCE = 0.25


def _receiver(server: Server) -> dict[str, Any]:
    """Settings of the redis receiver, with every metric on that we have, too."""
    return {
        "endpoint": f"127.0.0.1:{server.port}",
        "collection_interval": "500ms",
        "initial_delay": "0s",
        "metrics": {name: {"enabled": True} for name in _NAMES},
    }


def _theirs(reading: dict[str, Any]) -> dict[Key, float]:
    found: dict[Key, float] = {}
    for scope in reading["scopeMetrics"]:
        for metric in scope["metrics"]:
            monotonic = metric.get("sum", {}).get("isMonotonic", False)
            kind = "gauge" if "gauge" in metric else "counter" if monotonic else "updowncounter"
            for point in metric.get("sum", metric.get("gauge"))["dataPoints"]:
                labels = frozenset((a["key"], a["value"]["stringValue"]) for a in point.get("attributes", []))
                value = float(point.get("asInt", point.get("asDouble", 0)))
                found[metric["name"], kind, metric["unit"], labels] = value
    return found


def _ours(client: valkey.Valkey) -> dict[Key, float]:
    text = client.execute_command("INFO", "ALL")
    return {
        (point.name, point.kind, point.unit, frozenset(point.attributes.items())): point.value
        for point in points(Info.parse(text.decode()))
    }


def _time_ns(reading: dict[str, Any]) -> int:
    metric = reading["scopeMetrics"][0]["metrics"][0]
    return int(metric.get("sum", metric.get("gauge"))["dataPoints"][0]["timeUnixNano"])


def test_the_redis_receiver_says_the_same(start: Start, start_collector: StartCollector) -> None:
    server = start("--save", "").wait_ready()
    replica = start("--save", "", "--replicaof", f"127.0.0.1 {server.port}").wait_ready()
    with server.client() as client:
        wait_until(lambda: client.info("replication")["connected_slaves"] == 1, "the replica is connected")
        client.set("a", "1", ex=1000)
        client.get("a")
        client.get("nothing")
        client.eval("return 1", 0)
    with server.client(db=3) as client:
        client.lpush("l", "1")
    for one in (server, replica):
        with one.client() as client:
            client.set_response_callback("INFO", lambda reply: reply)
            _compare(client, start_collector(_receiver(one)))


def _compare(client: valkey.Valkey, collector: Collector) -> None:
    # Its first commands are new to commandstats, as is ours.
    wait_until(lambda: len(collector.readings()) >= 2, "the receiver has read twice")
    _ours(client)
    before, at_ns = _ours(client), time.time_ns()
    newer = wait_until(lambda: [r for r in collector.readings() if _time_ns(r) > at_ns], "the receiver reads again")
    theirs, after = _theirs(newer[0]), _ours(client)
    assert before.keys() == after.keys()
    assert theirs.keys() == {key for key in after if key[0] not in _OURS_ALONE}
    assert len(theirs) > 60
    for key, value in theirs.items():
        name, _, _, labels = key
        # How long the pollers' own command takes changes with every poll.
        if name in _MOVING or (name == "redis.cmd.latency" and dict(labels)["cmd"] == "info"):
            continue
        low, high = sorted((before[key], after[key]))
        if name in _NEARLY:
            low, high = low * (1 - _TOLERANCE), high * (1 + _TOLERANCE)
        assert low <= value <= high, key
