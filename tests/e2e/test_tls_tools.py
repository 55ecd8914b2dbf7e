"""TLS with the tools and the engines that people have: redis-cli, redis-benchmark, a Redis built with TLS."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.authority import Authority, Issued
from tests.conftest import PATIENCE_S, Server, Start, free_port, wait_until

pytestmark = pytest.mark.e2e


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def issued(authority: Authority) -> Issued:
    return authority.issue()


def arguments(authority: Authority, issued: Issued, port: int) -> list[str]:
    # fmt: off
    return [
        "--tls-port", str(port), "--tls-cert-file", str(issued.certificate), "--tls-key-file", str(issued.key),
        "--tls-ca-cert-file", str(authority.file), "--save", "", "--repl-diskless-sync-delay", "0",
    ]
    # fmt: on


class Cli:
    """redis-cli over TLS, with a certificate of its own."""

    def __init__(self, authority: Authority, issued: Issued, port: int) -> None:
        # fmt: off
        self._command = [
            "--tls", "--cacert", str(authority.file), "--cert", str(issued.certificate), "--key", str(issued.key),
            "-h", "127.0.0.1", "-p", str(port),
        ]
        # fmt: on

    def run(self, *words: str, program: str = "redis-cli", stdin: bytes | None = None) -> str:
        done = subprocess.run(
            [program, *self._command, *words], input=stdin, capture_output=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.decode()


def test_redis_cli_and_redis_benchmark(start: Start, authority: Authority, issued: Issued) -> None:
    port = free_port()
    server = start(*arguments(authority, issued, port))
    cli = Cli(authority, issued, port)
    assert cli.run("set", "a", "1") == "OK\n"
    commands = b"".join(b"SET key:%d %d\r\n" % (n, n) for n in range(20_000))
    assert "errors: 0, replies: 20000" in cli.run("--pipe", stdin=commands)
    assert cli.run("dbsize") == "20001\n"
    report = cli.run("-q", "-n", "20000", "-P", "16", "-t", "get,lrange_600", program="redis-benchmark")
    assert "LRANGE_600" in report
    assert server.metrics()['valkey_command_calls_total{db_operation_name="GET",error_type=""}'] == 20_000


@pytest.fixture
def redis_with_tls(tmp_path: Path, authority: Authority, issued: Issued) -> Iterator[int]:
    """A bare redis-server that speaks only TLS, to replicas and to its primary too."""
    port = free_port()
    folder = tmp_path / "redis"
    folder.mkdir()
    program = shutil.which("redis-server")
    assert program is not None
    words = [program, "--port", "0", "--tls-replication", "yes", *arguments(authority, issued, port)]
    with (folder / "log").open("wb") as log:
        process = psutil.Popen(words, cwd=folder, stdout=log, stderr=log)
    try:
        wait_until(lambda: _listens(port), "redis-server listens")
        yield port
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def test_replication_by_tls_in_both_directions(
    start: Start, authority: Authority, issued: Issued, redis_with_tls: int
) -> None:
    """The engine is a Redis, because the one that comes with us has no TLS."""
    port = free_port()
    password = "s3cret-of-the-key"
    mine = authority.issue("mine", password=password)
    # fmt: off
    server: Server = start(
        *arguments(authority, mine, port), "--tls-key-file-pass", password, "--tls-replication", "yes",
        "--replicaof", "127.0.0.1", str(redis_with_tls),
        env={"SIDECAR_ENGINE_BINARY": str(shutil.which("redis-server"))},
    )
    # fmt: on
    ours, theirs = Cli(authority, issued, port), Cli(authority, issued, redis_with_tls)
    theirs.run("set", "from", "redis")
    wait_until(lambda: ours.run("get", "from") == "redis\n", "we replicate from it")
    assert f"port={port}," in theirs.run("info", "replication")

    # A new certificate is the engine's too.
    new = authority.issue("renewed", password=password)
    for source, target in ((new.certificate, mine.certificate), (new.key, mine.key)):
        source.replace(target)
    server.wait_said("tls.reloaded")
    wait_until(
        lambda: ssl.get_server_certificate(("127.0.0.1", port)) == mine.certificate.read_text(), "clients see it"
    )
    assert server.said("engine.setting_failed") == []

    assert ours.run("replicaof", "no", "one") == "OK\n"
    assert theirs.run("replicaof", "127.0.0.1", str(port)) == "OK\n"
    wait_until(lambda: "state=online" in ours.run("info", "replication"), "it replicates from us")
    ours.run("set", "from", "us")
    wait_until(lambda: theirs.run("get", "from") == "us\n", "it has what we have")
    assert password not in server.log_text()
    assert password not in _arguments_of(server)


def _arguments_of(server: Server) -> str:
    processes: list[Any] = [server.process, *server.process.children(recursive=True)]
    return " ".join(word for process in processes for word in process.cmdline())
