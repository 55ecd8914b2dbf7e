from __future__ import annotations

import asyncio
import fcntl
import itertools
import os
import subprocess
from collections.abc import Iterator

import pytest

from sidecar.engine.output import Output
from sidecar.journal import Journal
from sidecar.processes import Child

_PIPE_BYTES = 1 << 18
_LINE = b"1:M 23 Nov 2026 09:39:01.099 * Something happened.\n"
_LINES = _PIPE_BYTES // len(_LINE)


@pytest.fixture
def child() -> Iterator[Child]:
    """A process whose output is a pipe of 256 KB."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as popen:
        assert popen.stdout is not None
        fcntl.fcntl(popen.stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        yield Child("engine", popen)


def say(child: Child, text: bytes) -> None:
    """Let the process print this and end."""
    popen = child._popen
    assert popen.stdin is not None
    popen.stdin.write(text)
    popen.stdin.close()
    popen.wait()


def test_an_engine_with_much_to_say_lets_others_have_their_turns(child: Child) -> None:
    heard: list[str] = []
    turns: list[int] = []

    async def listen() -> None:
        loop = asyncio.get_running_loop()
        output = Output(child, Journal(), lambda line: heard.append(line.message))
        output.attach(loop)
        while len(heard) < _LINES:
            turns.append(len(heard))
            await asyncio.sleep(0)
        output.finish()

    say(child, _LINE * _LINES)
    asyncio.run(asyncio.wait_for(listen(), 30))
    turns.append(len(heard))
    taken = [after - before for before, after in itertools.pairwise(turns)]
    assert max(taken) * len(_LINE) <= _PIPE_BYTES / 8
    assert heard == ["Something happened."] * _LINES


def test_what_an_ended_engine_left_is_read_to_its_end(child: Child) -> None:
    heard: list[str] = []

    async def listen() -> None:
        output = Output(child, Journal(), lambda line: heard.append(line.message))
        output.attach(asyncio.get_running_loop())
        output.finish()

    say(child, _LINE * (_LINES - 1) + b"last words without a line's end")
    asyncio.run(listen())
    assert heard == [*["Something happened."] * (_LINES - 1), "last words without a line's end"]


def test_a_pipe_that_somebody_else_still_holds_does_not_delay_the_end() -> None:
    heard: list[str] = []
    reading, writing = os.pipe()
    with subprocess.Popen(["true"]) as popen:
        popen.stdout = os.fdopen(reading, "rb")
        output = Output(Child("engine", popen), Journal(), lambda line: heard.append(line.message))
        os.write(writing, _LINE)
        output.finish()
    os.close(writing)
    assert heard == ["Something happened."]
