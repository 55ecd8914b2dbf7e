"""A fault of ours, or an outage, costs neither data nor service."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import Server, Start, receive, wait_until

_ROOT = Path(__file__).parent.parent.parent

# Python imports a module of this name first: it puts a fault of ours into the supervisor, when a file says so.
_FAULTS = """
import asyncio, os, sys
if "-m" in sys.orig_argv and "sidecar" in sys.orig_argv:
    from sidecar.engine import embedded
    from sidecar.engine.restart import RestartPolicy
    from sidecar.workers import Workers

    def fails(name):
        try:
            os.unlink(name)  # once
        except FileNotFoundError:
            return
        raise RuntimeError("a fault of ours")

    def faulty(cls, method):
        original = getattr(cls, method)
        if asyncio.iscoroutinefunction(original):
            async def wrapped(self, *args):
                fails(method)
                return await original(self, *args)
        else:
            def wrapped(self, *args):
                fails(method)
                return original(self, *args)
        setattr(cls, method, wrapped)

    faulty(RestartPolicy, "saw_info")
    faulty(Workers, "_bury")
    one_life = embedded.Engine._one_life

    async def one_life_or_fault(self):
        life = asyncio.create_task(one_life(self))
        while not life.done():
            await asyncio.wait([life], timeout=0.02)
            fails("_one_life")
        return await life

    embedded.Engine._one_life = one_life_or_fault
"""


@pytest.fixture
def faulty(start_here: Start, tmp_path: Path) -> Server:
    (tmp_path / "faults").mkdir()
    (tmp_path / "faults" / "sitecustomize.py").write_text(_FAULTS)
    environment = {"PYTHONPATH": f"{tmp_path / 'faults'}{os.pathsep}{_ROOT}"}
    return start_here("--save", "3600 1", env=environment).wait_ready()


def _serves(server: Server) -> bool:
    try:
        return bool(server.client().ping())
    except OSError:
        return False


def test_a_supervisor_that_fails_saves_the_data(faulty: Server, start_here: Start, tmp_path: Path) -> None:
    faulty.client().set("kept", "yes")
    (tmp_path / "_one_life").touch()
    assert faulty.wait_end() == 1
    assert not list(tmp_path.glob("temp-*.rdb"))
    assert start_here("--save", "").wait_ready().client().get("kept") == b"yes"


def test_the_engine_is_watched_on_after_a_fault(faulty: Server, tmp_path: Path) -> None:
    (tmp_path / "saw_info").touch()
    faulty.wait_said("engine.watch_failed")
    engine = faulty.engine
    engine.kill()
    engine.wait()
    faulty.wait_ready()
    assert faulty.client().ping()
    assert faulty.terminate() == 0


def test_a_worker_is_replaced_after_a_fault(faulty: Server, tmp_path: Path) -> None:
    (tmp_path / "_bury").touch()
    faulty.worker.kill()
    faulty.wait_said("worker.watch_failed")
    wait_until(lambda: _serves(faulty), "another worker serves")
    assert faulty.terminate() == 0


@pytest.mark.parametrize("code", [1, 130, 139, 255])
def test_any_code_of_an_engine_is_told(start_here: Start, tmp_path: Path, code: int) -> None:
    engine = tmp_path / "engine.sh"
    engine.write_text(f"#!/bin/sh\necho no luck today\nexit {code}\n")
    engine.chmod(0o755)
    server = start_here("--save", "", "--sidecar-engine-binary", str(engine))
    assert server.wait_end() == code
    said = f"valkey-sidecar: the engine ended with code {code} before it was ready; it said:\nno luck today\n"
    assert server.stderr == said


def test_any_signal_that_ends_an_engine_is_told(start_here: Start, tmp_path: Path) -> None:
    engine = tmp_path / "engine.sh"
    engine.write_text("#!/bin/sh\nkill -40 $$\n")
    engine.chmod(0o755)
    server = start_here("--save", "", "--sidecar-engine-binary", str(engine))
    assert server.wait_end() == 168
    assert server.stderr == "valkey-sidecar: the engine was ended by signal 40 before it was ready\n"


def test_a_client_that_was_quiet_through_an_outage_is_served(start_here: Start) -> None:
    server = start_here("--save", "", "--sidecar-engine-timeout", "0.1").wait_ready()
    path = server.private_folder / "engine.sock"
    moved = path.rename(path.with_name("moved"))
    quiet, late = server.connect(), server.connect()
    late.sendall(b"PING\r\n")
    assert receive(late).startswith(b"-LOADING valkey-sidecar:")  # the time of both is over
    moved.rename(path)
    quiet.sendall(b"PING\r\n")
    assert receive(quiet, b"\r\n") == b"+PONG\r\n"


def test_a_worker_that_cannot_be_told_what_to_do_ends_and_is_replaced(start_here: Start, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'sidecar.relay.worker' in sys.orig_argv and not os.path.exists('seen'):\n"
        "    open('seen', 'w').close()\n"
        "    from sidecar.relay import special\n"
        "    special.Special = None\n"
    )
    server = start_here("--save", "", env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{_ROOT}"}).wait_ready()
    assert server.client().ping()
    assert server.wait_said("worker.restarted")["code"] == 1
    assert server.said("worker.fault")
