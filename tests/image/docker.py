"""A Docker engine to test the image with, and containers in it.

Owns finding the engine that runs, or starting one in a folder of its own and ending it by its process id. Never touches
a container or an image that is not ours.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import ipaddress
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import valkey

from tests.conftest import PATIENCE_S, wait_until

_START_LIMIT_S = 60.0
_COMMAND_LIMIT_S = 120.0
_BUILD_LIMIT_S = 900.0


class NoDockerError(Exception):
    """There is no Docker engine, and none may be started: one line for the person who runs the tests."""


class Docker:
    """The docker command line, for one engine."""

    def __init__(self, host: str | None = None) -> None:
        self._environment = {**os.environ, **({"DOCKER_HOST": host} if host else {})}
        if subprocess.run(["docker", "buildx", "version"], capture_output=True, check=False).returncode:
            self._environment["DOCKER_BUILDKIT"] = "0"

    def run(self, *arguments: str, given: bytes | None = None, timeout: float = _COMMAND_LIMIT_S) -> str:
        """What a docker command prints. A failure shows what it said."""
        done = self.attempt(*arguments, given=given, timeout=timeout)
        assert done.returncode == 0, f"docker {' '.join(arguments)}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout.rstrip("\n")

    def attempt(
        self, *arguments: str, given: bytes | None = None, timeout: float = _COMMAND_LIMIT_S
    ) -> subprocess.CompletedProcess[str]:
        """The same for one that may fail."""
        done = subprocess.run(
            ["docker", *arguments],
            env=self._environment,
            input=given or b"",
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )

    def build(self, tag: str, folder: Path, *arguments: str) -> None:
        """Build an image. Packages are fetched as on this machine: its network, index and proxy, none of it written."""
        passed = [
            name
            for name in os.environ
            if name.lower() in ("http_proxy", "https_proxy", "no_proxy")
            or name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST")
        ]
        options = [word for name in passed for word in ("--build-arg", name)]
        self.run(
            "build", "--quiet", "--network", "host", *options, *arguments, "--tag", tag, str(folder),
            timeout=_BUILD_LIMIT_S,
        )  # fmt: skip

    def import_filesystem(self, tag: str, archive: IO[bytes]) -> None:
        """Make an image of one layer from a tar archive."""
        subprocess.run(
            ["docker", "import", "-", tag],
            env=self._environment,
            stdin=archive,
            stdout=subprocess.DEVNULL,
            timeout=_BUILD_LIMIT_S,
            check=True,
        )

    def inspect(self, name: str) -> dict[str, Any]:
        (found,) = json.loads(self.run("inspect", name))
        return dict(found)

    def answers(self) -> bool:
        return self.attempt("version").returncode == 0

    def gateway(self) -> str:
        """The address by which containers reach this machine."""
        return str(next(ipaddress.ip_network(self.inspect("bridge")["IPAM"]["Config"][0]["Subnet"]).hosts()))


@contextlib.contextmanager
def docker_engine() -> Iterator[Docker]:
    """The one that runs, else one of our own for as long as this lasts. Raises NoDockerError."""
    if shutil.which("docker") is None:
        raise NoDockerError("docker is not on PATH (Debian: apt-get install docker.io iptables)")
    running = Docker()
    if running.answers():
        yield running
        return
    dockerd = shutil.which("dockerd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if dockerd is None:
        raise NoDockerError("no Docker engine runs, and dockerd is not installed (Debian: apt-get install docker.io)")
    if os.geteuid() != 0:
        raise NoDockerError("no Docker engine runs, and only root may start one")
    folder = Path(tempfile.mkdtemp(prefix="valkey-sidecar-docker-"))
    host = f"unix://{folder}/docker.sock"
    log = folder / "log"
    with _bridge() as bridge:
        # setpriv: it ends with us, however we end.
        # Published ports need no rule of iptables: docker-proxy carries them. So nothing of the machine's is changed.
        command = [
            "setpriv", "--pdeathsig", "TERM", dockerd, "--host", host, "--data-root", f"{folder}/data",
            "--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/pid", "--bridge", bridge,
            "--iptables=false", "--ip-forward=false", "--ip-masq=false",
        ]  # fmt: skip
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
        docker = Docker(host)
        try:
            deadline = time.monotonic() + _START_LIMIT_S
            while not docker.answers():
                said = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
                assert process.poll() is None, f"dockerd ended with {process.returncode}:\n{said}"
                assert time.monotonic() < deadline, f"dockerd does not answer after {_START_LIMIT_S:.0f} s:\n{said}"
                time.sleep(0.1)
            yield docker
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_START_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _unmount_below(folder)
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _bridge() -> Iterator[str]:
    """The name of a bridge of our own: on one that engines share, containers of both would have the same addresses."""
    name = f"vs-{secrets.token_hex(4)}"
    taken = {
        words[0] for words in map(str.split, _ip("-4", "route").splitlines()) if words and words[0].startswith("10.")
    }
    third = next(n for n in range(os.getpid() % 200, 255) if not any(t.startswith(f"10.231.{n}.") for t in taken))
    _ip("link", "add", name, "type", "bridge")
    try:
        _ip("address", "add", f"10.231.{third}.1/24", "dev", name)
        _ip("link", "set", name, "up")
        yield name
    finally:
        _ip("link", "delete", name)


def _ip(*arguments: str) -> str:
    program = shutil.which("ip", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if program is None:
        raise NoDockerError("no Docker engine runs, and one needs the program ip (Debian: apt-get install iproute2)")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def _unmount_below(folder: Path) -> None:
    """dockerd leaves the name space of its network mounted."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in sorted((mount for mount in mounts if mount.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", mount], check=False)


@dataclass
class Container:
    """One container of ours. `password` is what its clients need."""

    docker: Docker
    id: str
    password: str | None = None

    def start(self) -> None:
        self.docker.run("start", self.id)

    def port(self, inner: int = 6379) -> int:
        """The port of this machine that leads there."""
        return int(self.docker.run("port", self.id, str(inner)).splitlines()[0].rpartition(":")[2])

    def client(self, **options: Any) -> valkey.Valkey:
        options = {"password": self.password, "socket_timeout": PATIENCE_S, **options}
        return valkey.Valkey(port=self.port(), **options)

    def answers(self) -> bool:
        """Whether it answers anything but LOADING; fails when it has ended."""
        assert self.state["Running"], f"the container has ended with {self.state['ExitCode']}:\n{self.logs()}"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port()), timeout=5) as sock:
            sock.sendall(b"PING\r\n")
            reply = sock.recv(100)
            return bool(reply) and not reply.startswith(b"-LOADING")
        return False

    def wait(self) -> Container:
        """Wait until clients are served."""
        wait_until(self.answers, "the container serves")
        return self

    def page(self, path: str) -> str:
        """A page of its HTTP port."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port(9121)}{path}", timeout=PATIENCE_S) as response:
            return str(response.read().decode())

    @property
    def state(self) -> dict[str, Any]:
        return dict(self.docker.inspect(self.id)["State"])

    @property
    def started_at(self) -> float:
        """When its first process was started, in seconds as time.time() has them."""
        text = self.state["StartedAt"]
        return datetime.datetime.fromisoformat(f"{text[:26].rstrip('Z')}+00:00").timestamp()

    @property
    def health(self) -> str:
        """ "starting", "healthy" or "unhealthy"."""
        return str(self.state["Health"]["Status"])

    def wait_health(self, wanted: str) -> str:
        """Wait for this state; what the last check of it said."""
        wait_until(lambda: self.health == wanted, f"the container is {wanted}, not {self.state['Health']}")
        return str(self.state["Health"]["Log"][-1]["Output"])

    def logs(self) -> str:
        done = self.docker.attempt("logs", self.id)
        return done.stdout + done.stderr

    def sh(self, command: str, *options: str) -> str:
        """What a shell inside prints."""
        return self.docker.run("exec", *options, self.id, "sh", "-c", command)

    def processes(self) -> dict[str, str]:
        """Command lines inside by process id."""
        listing = self.sh("for p in /proc/[0-9]*; do echo ${p#/proc/} $(tr '\\0' ' ' <$p/cmdline); done")
        return {pid: words for pid, _, words in (line.partition(" ") for line in listing.splitlines()) if words}

    def engine(self) -> str:
        """The engine's process id inside."""
        (pid,) = [pid for pid, words in self.processes().items() if words.startswith("/opt/valkey/bin/valkey-server")]
        return pid

    def users(self) -> set[str]:
        """Who the server's processes are."""
        pids = [pid for pid, words in self.processes().items() if "sidecar" in words or "/opt/valkey" in words]
        files = " ".join(f"/proc/{pid}/status" for pid in pids)
        return set(self.sh(f"sed -n 's/^Uid:\\t\\([0-9]*\\).*/\\1/p' {files}").split())

    def stop(self) -> tuple[float, int]:
        """`docker stop` as people type it: seconds and exit code. 137 is a container that had to be killed."""
        began = time.monotonic()
        self.docker.run("stop", self.id)
        return time.monotonic() - began, int(self.state["ExitCode"])

    def remove(self) -> None:
        self.docker.attempt("rm", "--force", "--volumes", self.id)

    def put(self, files: Mapping[str, bytes | str]) -> None:
        """Copy files in, root's and readable for all, folders included; text is a symbolic link's target."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            folders = {str(parent) for name in files for parent in Path(name).parents} - {"/", "."}
            for folder in sorted(folders):
                entry = tarfile.TarInfo(folder.lstrip("/"))
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(entry)
            for name, content in files.items():
                entry = tarfile.TarInfo(name.lstrip("/"))
                if isinstance(content, str):
                    entry.type, entry.linkname = tarfile.SYMTYPE, content
                    tar.addfile(entry)
                else:
                    entry.mode, entry.size = 0o644, len(content)
                    tar.addfile(entry, io.BytesIO(content))
        self.docker.run("cp", "-", f"{self.id}:/", given=archive.getvalue())
