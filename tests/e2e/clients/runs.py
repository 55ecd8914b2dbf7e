"""One run of the clients' programs, all at the same time, with one crash of the engine in it.

Owns what a program is told in its environment and how the run goes: all do their checks, say `ready`, the crash is
made, and each has to go on. Owns the two servers that they are run against, too. It judges no program.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.authority import Authority
from tests.conftest import PATIENCE_S, Server, free_port, launch, launch_bare
from tests.e2e.clients.programs import CLIENTS, Client, build, command

PASSWORD = "default's p@ssword"
USER = "application"
USER_PASSWORD = "application's p@ssword"

# fmt: off
_SETTINGS = (
    "--requirepass", PASSWORD, "--appendonly", "yes", "--appendfsync", "always",
    "--user", USER, "on", f">{USER_PASSWORD}", "~*", "&*", "+@all", "-config",
)
# fmt: on
_RUN_S = 150
_LINE = re.compile(r"(ok|FAILED|not offered) ([^:\n]+)(?:: (.*))?\n")


@dataclass
class Told:
    """What a program said: by check "ok", "not offered" or why it failed; and everything, for a person."""

    checks: dict[str, str] = field(default_factory=dict)
    text: str = ""


def build_all() -> dict[str, Path]:
    """The languages' folders, made beside each other where they are not in the cache."""
    languages = list(dict.fromkeys(client.language for client in CLIENTS))
    with ThreadPoolExecutor() as pool:
        return dict(zip(languages, pool.map(build, languages), strict=True))


def through_us(folders: dict[str, Path], folder: Path) -> dict[str, Told]:
    """What they say of our server, with two workers, lanes and TLS; it has to have come through it well."""
    authority = Authority(folder / "authority")
    issued = authority.issue()
    port = free_port()
    # fmt: off
    server = launch(
        folder, *_SETTINGS, "--sidecar-workers", "2", "--tls-port", str(port), "--tls-auth-clients", "no",
        "--tls-cert-file", str(issued.certificate), "--tls-key-file", str(issued.key),
    )
    # fmt: on

    def crash() -> None:
        engine = server.engine
        engine.kill()
        engine.wait(PATIENCE_S)

    try:
        told = run(folders, server, crash, folder, tls=(port, authority.file))
        assert server.metric("valkey_sidecar_engine_restarts_total") == 1
        assert "worker.fault" not in server.log_text()
        assert server.stop() == 0
    finally:
        server.kill()
    return told


def directly(folders: dict[str, Path], engine: Path, folder: Path) -> dict[str, Told]:
    """What they say of a bare engine, which has no TLS: it shows whether they are right."""
    servers = [launch_bare(engine, folder, *_SETTINGS)]

    def crash() -> None:
        servers[0].kill()
        servers.append(launch_bare(engine, folder, *_SETTINGS, port=servers[0].port))

    try:
        return run(folders, servers[0], crash, folder)
    finally:
        for server in servers:
            server.kill()


def run(
    folders: dict[str, Path],
    server: Server,
    crash: Callable[[], None],
    folder: Path,
    *,
    tls: tuple[int, Path] | None = None,
) -> dict[str, Told]:
    """What the clients' programs said, by client; crash: kills the engine and returns when it is gone.

    tls: the port and the certificate of the authority.
    """
    environment = {
        **os.environ,
        "PORT": str(server.port),
        "PASSWORD": PASSWORD,
        "CLIENT_USER": USER,
        "CLIENT_PASSWORD": USER_PASSWORD,
    }
    environment |= {"TLS_PORT": str(tls[0]), "CA_FILE": str(tls[1])} if tls else {}
    environment.pop("PYTHONPATH", None)
    programs = [_Program(client, folders[client.language], folder, environment) for client in CLIENTS]
    try:
        end = time.monotonic() + _RUN_S
        for program in programs:
            program.ready_or_ended.wait(max(0.0, end - time.monotonic()))
        crash()
        for program in programs:
            program.go_on()
        return {program.client.name: program.told(max(0.0, end - time.monotonic())) for program in programs}
    finally:
        for program in programs:
            program.kill()


class _Program:
    """A running program."""

    def __init__(self, client: Client, built: Path, folder: Path, environment: dict[str, str]) -> None:
        self.client = client
        self.ready_or_ended = threading.Event()
        self._lines: list[str] = []
        own = folder / client.program
        own.mkdir()
        self._errors = own / "stderr"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                command(client, built),
                cwd=own,
                env={**environment, "PREFIX": f"{client.program}:"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line)
            if line == "ready\n":
                self.ready_or_ended.set()
        self.ready_or_ended.set()

    def go_on(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then it has ended, and its lines say why
            self._process.stdin.write("go on\n")
            self._process.stdin.close()

    def told(self, within: float) -> Told:
        self._reader.join(within)
        text = "".join(self._lines)
        told = Told(text=f"{self.client.name}:\n{text}{self._errors.read_text(errors='replace')[-3000:]}")
        for match in _LINE.finditer(text):
            told.checks[match[2]] = match[3] or "failed" if match[1] == "FAILED" else match[1]
        return told

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
