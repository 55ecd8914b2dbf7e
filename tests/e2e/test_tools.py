"""The tools that people have at hand work as with any Valkey."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conftest import Server, Start, wait_until

pytestmark = pytest.mark.e2e


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


def test_redis_benchmark_counts_equal_commandstats(start: Start) -> None:
    server = start("--save", "")
    run("redis-benchmark", "-p", str(server.port), "-q", "-n", "100000", "-P", "16", "-t", "set,get,lpush,zadd", "-3")
    with server.client() as client:
        stats = client.info("commandstats")
    calls = server.calls()
    for name in ("SET", "GET", "LPUSH", "ZADD"):
        assert calls[(name, "")] == stats[f"cmdstat_{name.lower()}"]["calls"] >= 100_000
    wait_until(lambda: server.metrics()["valkey_command_in_flight"] == 0, "nothing is in flight")
