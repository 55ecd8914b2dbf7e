from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from telemetry.outlet import Outlet
from tests.conftest import PATIENCE_S

_BACKLOG_BYTES = 1 << 20


class Pipe:
    """A pipe with its outlet, and a reader that reads when it is told to."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self.outlet = Outlet(self.writing, lambda lost: b"lost %d\n" % lost)
        self._rest = b""

    def write(self, *lines: bytes) -> None:
        """From a thread: if the outlet waited for the reader, this test would fail and not hang."""
        thread = threading.Thread(target=lambda: [self.outlet.write(line) for line in lines], daemon=True)
        thread.start()
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "a write waits for the reader"

    def read_line(self) -> bytes:
        while b"\n" not in self._rest:
            assert select.select([self.reading], [], [], PATIENCE_S)[0], "nothing arrives any more"
            data = os.read(self.reading, 1 << 16)
            assert data, "the pipe was closed"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line + b"\n"

    def is_empty(self) -> bool:
        return not self._rest and not select.select([self.reading], [], [], 0)[0]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    with contextlib.suppress(OSError):
        os.close(pipe.reading)
    pipe.outlet.close(PATIENCE_S)
    os.close(pipe.writing)


def numbered(first: int, end: int, size: int = 200) -> list[bytes]:
    return [b"%d %b\n" % (i, b"x" * size) for i in range(first, end)]


def test_a_line_is_there_at_once_while_the_reader_reads(pipe: Pipe) -> None:
    for line in numbered(0, 1000):
        pipe.outlet.write(line)
        assert os.read(pipe.reading, 1 << 16) == line


def test_a_reader_that_stops_is_waited_for_by_nobody_and_gets_all_in_order_later(pipe: Pipe) -> None:
    lines = numbered(0, 4000)
    pipe.write(*lines[:2000])
    assert [pipe.read_line() for _ in range(1000)] == lines[:1000]
    pipe.write(*lines[2000:])
    assert [pipe.read_line() for _ in range(3000)] == lines[1000:]
    assert pipe.is_empty()


def test_lines_that_nobody_reads_are_lost_and_counted(pipe: Pipe) -> None:
    lines = numbered(0, 20_000)
    pipe.write(*lines)
    received = []
    while not (line := pipe.read_line()).startswith(b"lost "):
        received.append(line)
    assert received == lines[: len(received)]
    assert line == b"lost %d\n" % (len(lines) - len(received))
    assert _BACKLOG_BYTES < sum(map(len, received)) < 2 * _BACKLOG_BYTES
    assert pipe.outlet.flush(PATIENCE_S)
    assert pipe.is_empty()
    pipe.write(b"again\n")
    assert pipe.read_line() == b"again\n"


def test_a_line_that_is_longer_than_the_pipe_and_the_backlog_comes_whole(pipe: Pipe) -> None:
    long = b"x" * 3 * _BACKLOG_BYTES + b"\n"
    pipe.write(long, b"lost, because the backlog is full\n")
    assert pipe.read_line() == long
    assert pipe.read_line() == b"lost 1\n"


def test_a_descriptor_that_somebody_made_non_blocking_loses_no_line(pipe: Pipe) -> None:
    os.set_blocking(pipe.writing, False)
    lines = numbered(0, 3000)
    pipe.write(*lines)
    assert [pipe.read_line() for _ in lines] == lines


def test_a_reader_that_went_away_ends_the_waiting(pipe: Pipe) -> None:
    pipe.write(*numbered(0, 2000))
    os.close(pipe.reading)
    assert pipe.outlet.flush(PATIENCE_S)


def test_who_closes_it_gives_up_what_waits_longer_than_said(pipe: Pipe) -> None:
    lines = numbered(0, 2000)
    pipe.write(*lines)
    assert not pipe.outlet.flush(0.01)
    pipe.outlet.close(0.01)
    received = [pipe.read_line()]
    assert pipe.outlet.flush(PATIENCE_S)
    while not pipe.is_empty():
        received.append(pipe.read_line())
    assert received == lines[: len(received)]
    assert len(received) < 1000


@pytest.mark.parametrize("of", [lambda file: file, lambda file: os.open(file, os.O_WRONLY)], ids=["name", "descriptor"])
def test_a_file_gets_every_line_at_once(tmp_path: Path, of: Callable[[Path], int | Path]) -> None:
    file = tmp_path / "log"
    file.touch()
    target = of(file)
    outlet = Outlet(target, lambda lost: b"lost %d\n" % lost)
    for line in (b"x" * 3 * _BACKLOG_BYTES + b"\n", b"short\n"):
        before = file.read_bytes()
        outlet.write(line)
        assert file.read_bytes() == before + line
    if isinstance(target, int):
        os.close(target)
