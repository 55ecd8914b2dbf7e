"""The tools that people have at hand work as with any Valkey."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import Server, Start, wait_until

pytestmark = pytest.mark.e2e


_NUMBER = re.compile(r"\d+(\.\d+)?")


def run(*command: str, stdin: bytes | None = None, timeout: float = 60) -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.decode()


def cli(server: Server, *args: str, stdin: bytes | None = None) -> str:
    return run("redis-cli", "-p", str(server.port), *args, stdin=stdin)


@pytest.mark.parametrize("protocol", ["-2", "-3"])
def test_redis_cli_in_both_protocols(server: Server, protocol: str) -> None:
    assert cli(server, protocol, "set", "a", "1") == "OK\n"
    assert cli(server, protocol, "hset", "h", "f", "v") == "1\n"
    assert cli(server, protocol, "hgetall", "h").split() == ["f", "v"]
    assert cli(server, protocol, "-n", "3", "set", "b", "2") == "OK\n"
    assert cli(server, protocol, "-n", "3", "get", "b") == "2\n"
    assert f"tcp_port:{server.port}" in cli(server, protocol, "info", "server")


def test_redis_cli_scans_and_finds_big_keys(server: Server) -> None:
    with server.client() as client:
        client.mset({f"key:{i}": "x" * i for i in range(500)})
    assert len(cli(server, "--scan", "--pattern", "key:*").split()) == 500
    assert "Biggest string found '\"key:499\"' has 499 bytes" in cli(server, "--bigkeys")
    assert "Sampled 500 keys" in cli(server, "--memkeys")


def test_redis_cli_reports_of_keys_what_it_reports_directly(server: Server, bare: Server) -> None:
    lfu = {"maxmemory-policy": "allkeys-lfu"}
    reports = []
    for one in (server, bare):
        with one.client() as client:
            before = client.config_get(*lfu)
            client.config_set("maxmemory-policy", lfu["maxmemory-policy"])
            try:
                client.mset({f"key:{i:03}": "x" * i for i in range(200)})
                client.rpush("list", *range(300))
                for _ in range(2000):
                    client.get("key:007")
                reports.append([cli(one, option) for option in ("--scan", "--bigkeys", "--memkeys", "--hotkeys")])
            finally:
                client.config_set("maxmemory-policy", before["maxmemory-policy"])
    scan, big, memory, hot = zip(*reports, strict=True)
    for ours, directly in (scan, big, hot):
        assert _settled(ours) == _settled(directly)
    # What a string takes is malloc's affair, and with it which is the biggest.
    assert [_NUMBER.sub("N", line) for line in _settled(memory[0])] == [
        _NUMBER.sub("N", line) for line in _settled(memory[1])
    ]
    assert "Sampled 201 keys" in memory[0]
    hottest = [line for line in reports[0][3].splitlines() if line.startswith("hot key found with counter")]
    assert 'keyname: "key:007"' in hottest[0]


def _settled(report: str) -> list[str]:
    """The lines of a summary, in an order of ours: SCAN's own, and with it what is seen on the way, is random."""
    return sorted(line for line in report.splitlines() if "so far" not in line and not line.startswith("hot key"))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--latency", "-i", "1"), r"\d+ \d+ \d+\.\d+ \d+"),
        (("--latency-history", "-i", "1"), r"\d+ \d+ \d+\.\d+ \d+"),
        (("--stat", "-i", "0.1"), r"\d+ +\S+ +\d+ +\d+ +\d+ \(\+\d+\) +\d+ *"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_redis_cli_watches(server: Server, options: Sequence[str], line: str) -> None:
    """It does so for ever, and is interrupted; --latency alone ends by itself where it has no terminal."""
    command = ["timeout", "--signal=INT", "2.5", "stdbuf", "-oL", "redis-cli", "-p", str(server.port), *options]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert re.fullmatch(line, done.stdout.splitlines()[-1]), done.stdout


def test_redis_cli_pipes_a_mass_of_commands(server: Server) -> None:
    commands = b"".join(b"*3\r\n$3\r\nSET\r\n$%d\r\np%d\r\n$1\r\nx\r\n" % (len(str(i)) + 1, i) for i in range(50_000))
    assert "errors: 0, replies: 50000" in cli(server, "--pipe", stdin=commands)
    assert cli(server, "dbsize") == "50000\n"


def test_redis_cli_fetches_an_rdb(server: Server, tmp_path: Path, engine_binary: Path) -> None:
    with server.client() as client:
        client.set("a", "1")
    target = tmp_path / "copy.rdb"
    cli(server, "--rdb", str(target))
    assert target.read_bytes()[:6] in (b"VALKEY", b"REDIS0")


def test_redis_cli_repeats_and_measures_latency(server: Server) -> None:
    assert cli(server, "-r", "5", "ping").split() == ["PONG"] * 5
    assert "Max latency so far" in cli(server, "--intrinsic-latency", "1")


def test_redis_benchmark_runs_every_test(server: Server) -> None:
    output = run("redis-benchmark", "-p", str(server.port), "-q", "-n", "2000", timeout=120)
    assert output.count("requests per second") >= 20
    assert "error" not in output.lower()


def test_redis_benchmark_in_resp3_with_pipelines_and_many_connections(server: Server) -> None:
    options = ("-3", "-q", "-n", "20000", "-c", "100", "-P", "16", "-t", "ping,set,get,incr,mset")
    output = run("redis-benchmark", "-p", str(server.port), *options, timeout=120)
    assert output.count("requests per second") == 6
    assert "error" not in output.lower()


def test_redis_benchmark_counts_equal_commandstats(start: Start) -> None:
    server = start("--save", "")
    run("redis-benchmark", "-p", str(server.port), "-q", "-n", "100000", "-P", "16", "-t", "set,get,lpush,zadd", "-3")
    with server.client() as client:
        stats = client.info("commandstats")
    calls = server.calls()
    for name in ("SET", "GET", "LPUSH", "ZADD"):
        assert calls[(name, "")] == stats[f"cmdstat_{name.lower()}"]["calls"] >= 100_000
    wait_until(lambda: server.metrics()["valkey_command_in_flight"] == 0, "nothing is in flight")
