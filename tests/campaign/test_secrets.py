"""Whoever gives the server a secret, in whatever way, finds it in nothing that the server puts out."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.campaign import leaks
from tests.campaign.figures import Row, record
from tests.campaign.leaks import Vault
from tests.conftest import PATIENCE_S, Server, Start, receive, wait_until
from tests.sidecar.exported import environment
from tests.sidecar.relay.traced import command, lines
from tests.telemetry.azure.stand_in_ingestion import StandInIngestion
from tests.telemetry.otlp.receivers import Answer, GrpcReceiver, HttpReceiver, Receiver

_ROOT = Path(__file__).parents[2]
_LEVELS = ("debug", "verbose", "notice", "warning")
_KINDS: dict[str, type[Receiver]] = {"grpc": GrpcReceiver, "http/protobuf": HttpReceiver}
_END = command("ECHO", "end-of-part")
_END_REPLY = b"$11\r\nend-of-part\r\n"
_EVERYTHING = (
    *("--appendonly", "yes", "--enable-debug-command", "yes", "--slowlog-log-slower-than", "0"),
    *("--slowlog-max-len", "100000", "--acllog-max-len", "10000"),
)
_OURS = (
    *("--sidecar-slow-threshold", "1us", "--sidecar-trace-exclude", "", "--sidecar-engine-user", "default"),
    *("--sidecar-home-timeout", "0.05"),  # connections to the engine are opened again, with their clients' passwords
)
# What anybody may ask the engine who has the right to.
_ASKED = (
    *("SLOWLOG GET -1", "COMMANDLOG GET -1 large-request", "COMMANDLOG GET -1 large-reply", "ACL LOG 10000"),
    *("CLIENT LIST", "CLIENT INFO", "INFO everything", "LATENCY LATEST", "MEMORY STATS"),
)


@pytest.fixture(params=[("json", "grpc", "whole"), ("console", "http/protobuf", "hash")], ids="-".join)
def kind(request: pytest.FixtureRequest) -> tuple[str, str, str]:
    """The format of the log, the protocol of OTLP, and how a span shows its key."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def receiver(kind: tuple[str, str, str]) -> Iterator[Receiver]:
    with _KINDS[kind[1]]() as made:
        yield made


def test_no_secret_comes_out(start: Start, start_bare: Start, receiver: Receiver, kind: tuple[str, str, str]) -> None:
    log_format, protocol, keys = kind
    vault = Vault()
    with closing(StandInIngestion()) as stand_in:
        given = _environment(vault, receiver, protocol, stand_in)
        # Refused at first: what is said of a failed export shows no header either.
        receiver.answer = Answer(code="UNAUTHENTICATED" if protocol == "grpc" else 401, times=4)
        password = given["VALKEY_PASSWORD"]
        server = start(
            *("--sidecar-log-format", log_format, "--sidecar-trace-keys", keys, *_EVERYTHING, *_OURS),
            *("--logfile", "server.log") * (log_format == "console"),
            *("--user", "carol", "on", f">{vault.new('argument --user')}", "+@all"),
            *("--tls-key-file-pass", vault.new("argument --tls-key-file-pass")),
            *("--sidecar-engine-password", vault.new("argument --sidecar-engine-password", coded=True)),
            env=given,
            password=password,
        ).wait_ready()
        bare = start_bare(*_EVERYTHING)
        bare.client().config_set("requirepass", password)
        bare.password = password
        monitors = {one.port: _monitor(one) for one in (server, bare)}
        idle = [_log_in(server, protocol) for protocol in (2, 3)]
        for level in _LEVELS:
            commands, broken = leaks.commands(vault, password), leaks.broken(vault, password)
            for one in (server, bare):
                with one.client() as client:
                    client.config_set("loglevel", level)
                _say_all(one, commands, broken, whole=level == "debug")
            for sock in idle:
                sock.sendall(command("CLIENT", "GETNAME") + _END)
                receive(sock, _END_REPLY)
        out = _processes(server) | _pages(server, vault, given["SIDECAR_HTTP_TOKEN"]) | _help(given)
        seen = {one.port: _asked(one) | {"MONITOR": _heard(monitors[one.port])} for one in (server, bare)}
        data = {one.port: leaks.files(one.log.parent) for one in (server, bare)}
        _assert_private(server)
        _crash(server, vault)
        out |= {"processes after a crash": b"".join(_processes(server).values())}
        assert server.stop() == 0
        bare.stop()
        out |= {
            f"OTLP {request.signal} {number}": request.message.SerializeToString()
            for number, request in enumerate(receiver.accepted)
        }
        out["Application Insights"] = str([(item["data"], item.get("tags")) for item in stand_in.taken]).encode()
    spans = {span.name for span in receiver.spans}
    assert {"AUTH", "HELLO", "ACL SETUSER", "CONFIG SET", "MIGRATE", "EVAL", "PIPELINE", "MULTI"} <= spans
    assert stand_in.envelopes("Request")
    logs = [name for name in data[server.port] if name.endswith((".log", ".err"))]
    for name in logs:
        del data[server.port][name]
        out[name] = (server.log.parent / name).read_bytes()
    assert b"crashed by signal" in b"".join(out.values())
    found = {name: ways for name, output in out.items() if (ways := vault.found(output))}
    # What the engine itself shows and writes, it shows and writes with us too; and no more.
    for name, output in seen[server.port].items():
        if more := vault.found(output) - vault.found(seen[bare.port][name]):
            found[name] = more
    written = {one.port: vault.found(b"".join(data[one.port].values())) for one in (server, bare)}
    if more := written[server.port] - written[bare.port]:
        found["data folder"] = more
    record(Row.SECRETS_SOUGHT, len(out) + len(seen[server.port]) + len(data[server.port]))
    record(Row.SECRETS_FOUND, len(found))
    assert found == {}


def test_the_search_finds_what_is_there() -> None:
    vault = Vault()
    secret = vault.new("somewhere", coded=True)
    vault.new("elsewhere")
    for shown in (
        secret.encode(),
        secret[:-5].encode(),
        secret[4:].encode(),
        hashlib.sha256(secret.encode()).hexdigest().encode(),
        *(base64.b64encode(f"{user}:{secret}".encode()) for user in ("", "a", "bc", "def")),
    ):
        assert vault.found(b"before " + shown + b" after") == {"somewhere"}
    assert vault.found(b"nothing") == set()


def _environment(vault: Vault, receiver: Receiver, protocol: str, stand_in: StandInIngestion) -> dict[str, str]:
    new = vault.new
    headers = {
        f"OTEL_EXPORTER_OTLP_{signal}HEADERS": f"x-otlp-api-key={new(f'OTLP headers {signal}', coded=True)}"
        for signal in ("", "TRACES_", "METRICS_")
    }
    vault.keep("instrumentation key", stand_in.connection_string.partition("=")[2].partition(";")[0])
    endpoint = receiver.endpoint
    if protocol != "grpc":
        endpoint = endpoint.replace("://", f"://user:{new('password of the endpoint', coded=True)}@")
    connection_string = f"localhost:6379,password={new('ConnectionStrings__cache', coded=True)}"
    return {
        **environment(endpoint, protocol, OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG="1.0"),
        **headers,
        "SIDECAR_HTTP_TOKEN": new("SIDECAR_HTTP_TOKEN", coded=True),
        "VALKEY_PASSWORD": new("VALKEY_PASSWORD", coded=True),
        "ConnectionStrings__cache": connection_string,
        "APPLICATIONINSIGHTS_CONNECTION_STRING": stand_in.connection_string,
        "OTEL_EXPORTER_OTLP_LOGS_HEADERS": f"broken{new('OTLP headers, broken')}",
    }


def _say_all(server: Server, commands: list[tuple[str, ...]], broken: list[bytes], *, whole: bool) -> None:
    """Each alone; whole: all together, in transactions and as lines, too; then what is broken."""
    requests = [command(*words) for words in commands]
    login = command("AUTH", str(server.password))
    plain = [" ".join(words) for words in commands if not any(set(" '\"\n") & set(word) or not word for word in words)]
    parts = [
        [login, *requests],
        [login + b"".join(requests)],
        [login + command("MULTI") + request + command("EXEC") for request in requests],
        [login, "\r\n".join([*plain, ""]).encode()],
    ]
    for part in parts if whole else parts[:1]:
        with closing(server.connect()) as sock:
            for request in part:
                sock.sendall(request + _END)
                receive(sock, _END_REPLY)
    for data in broken:
        with closing(socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                receive(sock)


def _log_in(server: Server, protocol: int) -> socket.socket:
    sock = server.connect()
    sock.sendall(command("HELLO", str(protocol), "AUTH", "default", str(server.password)) + _END)
    receive(sock, _END_REPLY)
    return sock


def _monitor(server: Server) -> socket.socket:
    sock = server.connect()
    sock.sendall(command("AUTH", str(server.password)) + command("MONITOR"))
    receive(sock, b"+OK\r\n+OK\r\n")
    return sock


def _heard(sock: socket.socket) -> bytes:
    """What a MONITOR has heard so far."""
    sock.sendall(command("QUIT"))
    return receive(sock)


def _asked(server: Server) -> dict[str, bytes]:
    shown = {}
    with closing(server.connect()) as sock:
        sock.sendall(command("AUTH", str(server.password)))
        receive(sock, b"+OK\r\n")
        for asked in _ASKED:
            sock.sendall(lines(asked) + _END)
            shown[asked] = receive(sock, _END_REPLY)
    return shown


def _processes(server: Server) -> dict[str, bytes]:
    """What `ps` shows of all of them, and the environment of those that we have started."""
    shown = {}
    for process in (server.process, *server.process.children(recursive=True)):
        folder = Path("/proc") / str(process.pid)
        shown[f"ps {process.pid}"] = b"".join((folder / name).read_bytes() for name in ("cmdline", "comm"))
        if process.pid != server.process.pid:
            shown[f"environment {process.pid}"] = (folder / "environ").read_bytes()
    return shown


def _pages(server: Server, vault: Vault, token: str) -> dict[str, bytes]:
    """What HTTP answers to who has the token, and to who has a wrong one."""
    wrong = vault.new("HTTP path")
    paths = ("/metrics", "/livez", "/readyz", "/", f"/metrics?token={wrong}", f"/{wrong}", "no path")
    shown = {}
    for given in (token, vault.new("HTTP token, wrong")):
        for path in paths:
            request = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {given}\r\n\r\n"
            with socket.create_connection(("127.0.0.1", server.http_port), timeout=PATIENCE_S) as sock:
                sock.sendall(request.encode())
                shown[f"page {path.partition(wrong)[0]} {given == token}"] = receive(sock)
    assert b"valkey_command_calls_total" in shown["page /metrics True"]
    return shown


def _help(given: dict[str, str]) -> dict[str, bytes]:
    env = {**os.environ, **given, "PYTHONPATH": str(_ROOT)}
    return {
        option: subprocess.run(
            [sys.executable, "-m", "sidecar", option], capture_output=True, env=env, check=True, timeout=PATIENCE_S
        ).stdout
        for option in ("--help", "--version")
    }


def _assert_private(server: Server) -> None:
    """The engine's configuration has its passwords: who is not us reads nothing there."""
    folder = server.private_folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.rglob("*.conf"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def _crash(server: Server, vault: Vault) -> None:
    """A worker and the engine end as programs with a fault do, in the middle of clients' secrets."""
    login = command("AUTH", str(server.password))
    with closing(server.connect()) as sock:
        sock.sendall(login + command("MULTI") + command("SET", "key", vault.new("queued before a crash")))
        receive(sock, b"+QUEUED\r\n")
        server.worker.send_signal(signal.SIGABRT)
        receive(sock)
    wait_until(server.answers, "a new worker serves")
    engine = server.engine
    with closing(server.connect()) as sock:
        sock.sendall(login + command("SET", "key", vault.new("before a crash")))
        receive(sock, b"+OK\r\n+OK\r\n")
        sock.sendall(command("AUTH", vault.new("wrong before a crash")) + command("DEBUG", "SEGFAULT"))
        receive(sock)
    engine.wait(PATIENCE_S)
    wait_until(lambda: server.children("engine"), "the engine is started again")
    server.wait_ready()
