from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from sidecar.processes import Children, open_files_limit, raise_open_files

ROOT = Path(__file__).resolve().parents[2]


def test_the_end_of_a_child_is_its_code_or_128_and_the_signal() -> None:
    async def main() -> None:
        children = Children()
        early = children.spawn("early", ["sh", "-c", "exit 3"])
        children.attach(asyncio.get_running_loop())
        late = children.spawn("late", ["sleep", "60"])
        assert children.alive
        assert await early.wait() == 3
        late.send_signal(signal.SIGTERM)
        assert await late.wait() == 128 + signal.SIGTERM
        assert await late.wait() == 128 + signal.SIGTERM
        late.send_signal(signal.SIGTERM)  # nobody is hit
        assert children.alive == []

    asyncio.run(main())


def test_a_child_has_nothing_but_what_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd")

    async def main() -> None:
        children = Children()
        children.attach(asyncio.get_running_loop())
        given, other = os.pipe()
        script = "echo $NOTIFY_SOCKET; ls /proc/self/fd; echo error >&2"
        child = children.spawn("child", ["sh", "-c", script], pass_fds=(given,), output=True)
        await child.wait()
        assert child.stdout is not None
        words = child.stdout.read().decode().split()
        assert "/run/systemd" not in words
        assert str(given) in words
        assert str(other) not in words
        assert words[-1] == "error"
        child.stdout.close()
        os.close(given)
        os.close(other)

    asyncio.run(main())


def test_a_program_that_cannot_run_is_an_oserror() -> None:
    with pytest.raises(FileNotFoundError):
        Children().spawn("nobody", ["/no/such/program"])


def test_a_child_dies_with_us() -> None:
    code = "import sidecar.processes as p, os; print(p.Children().spawn('x', ['sleep', '60']).pid, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        assert child.wait(10) is None


def test_the_soft_limit_of_open_files_goes_up_to_the_hard_one() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, before[1]))
    try:
        assert raise_open_files(50) == before[1]
        assert open_files_limit() == before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
