from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sidecar.counts import ConnectionCounts
from sidecar.journal import Journal
from sidecar.processes import Children
from sidecar.workers import Workers


class Recorder:
    """Stands for the answers and for the figures."""

    def __init__(self) -> None:
        self.gone: list[int] = []

    async def answer(self, kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return {"kind": kind, **body}

    def notice(self, kind: str, body: Mapping[str, Any]) -> None:
        pass

    def apply(self, worker: int, frame: bytes) -> None:
        pass

    def worker_gone(self, worker: int) -> None:
        self.gone.append(worker)


def failing_program(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """What every worker runs: it ends at once."""
    program = folder / "worker"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))
    return program


async def one_worker(recorder: Recorder, journal: Journal, enough: asyncio.Event) -> tuple[Workers, Children]:
    """The life of workers that fail, until there is enough of it."""
    children = Children()
    children.attach(asyncio.get_running_loop())
    workers = Workers(1, children, journal, lambda _index: ({}, []), recorder, recorder, ConnectionCounts())
    workers.spawn()
    workers.attach()
    await enough.wait()
    await workers.stop()
    return workers, children


def test_a_worker_that_cannot_be_started_is_tried_again_with_growing_delay(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = failing_program(monkeypatch, tmp_path)

    async def main() -> None:
        recorder, journal = Recorder(), Journal()
        heard: list[tuple[str, float]] = []
        enough = asyncio.Event()

        def hear(_when: float, _level: str, event: str, _message: str, _attributes: dict[str, Any]) -> None:
            program.unlink(missing_ok=True)  # it cannot be started any more
            heard.append((event, asyncio.get_running_loop().time()))
            if len(heard) == 4:
                enough.set()

        journal.attach(hear)
        await one_worker(recorder, journal, enough)
        assert [event for event, _ in heard] == ["worker.restarted", *["worker.not_started"] * 3]
        waits = [later[1] - earlier[1] for earlier, later in itertools.pairwise(heard)]
        assert all(waited >= least for waited, least in zip(waits, (0.1, 0.2, 0.4), strict=True))
        assert sum(waits) < 5.0

    asyncio.run(main())


def test_a_worker_that_dies_before_it_is_ready_is_replaced_with_growing_delay(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    failing_program(monkeypatch, tmp_path)

    async def main() -> None:
        recorder, journal = Recorder(), Journal()
        waits: list[str] = []
        enough = asyncio.Event()

        def hear(_when: float, _level: str, _event: str, message: str, _attributes: dict[str, Any]) -> None:
            waits.append(message)
            if len(waits) == 4:
                enough.set()

        journal.attach(hear)
        workers, children = await one_worker(recorder, journal, enough)
        assert [wait.rpartition(" in ")[2] for wait in waits] == ["0.1 s.", "0.2 s.", "0.4 s.", "0.8 s."]
        assert recorder.gone == [1, 2, 3, 4]  # each incarnation has a number of its own
        assert not workers.ready
        assert children.alive == []

    asyncio.run(main())
