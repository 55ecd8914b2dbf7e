from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.engine.datalock import DataLock, FolderTakenError
from tests.conftest import PATIENCE_S


def test_a_second_server_is_refused_with_folder_and_pid(tmp_path: Path) -> None:
    lock = DataLock.take(str(tmp_path))
    assert lock is not None
    with pytest.raises(FolderTakenError) as refusal:
        DataLock.take(str(tmp_path))
    assert str(tmp_path) in str(refusal.value)
    assert f"pid {os.getpid()}" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    lock.release()
    again = DataLock.take(str(tmp_path))
    assert again is not None
    again.release()


def test_the_folder_is_as_it_was_after_the_lock_is_released(tmp_path: Path) -> None:
    lock = DataLock.take(str(tmp_path))
    assert lock is not None
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_an_heir_that_lives_on_keeps_the_folder(tmp_path: Path) -> None:
    lock = DataLock.take(str(tmp_path))
    assert lock is not None
    heir = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(lock.fd,))
    try:
        lock.release()
        with pytest.raises(FolderTakenError):
            DataLock.take(str(tmp_path))
    finally:
        assert heir.stdin is not None
        heir.stdin.close()
        heir.wait()
    lock = DataLock.take(str(tmp_path))
    assert lock is not None
    lock.release()


@pytest.fixture
def orphan(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Holds the lock of a server that was killed, until its standard input is closed."""
    lock = DataLock.take(str(tmp_path))
    assert lock is not None
    ended = subprocess.Popen(["true"])
    ended.wait()
    os.ftruncate(lock.fd, 0)
    os.pwrite(lock.fd, f"{ended.pid}\n".encode(), 0)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(lock.fd,)) as heir:
        os.close(lock.fd)
        yield heir


def test_what_is_left_of_a_server_that_was_killed_is_waited_for(
    orphan: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    async def wait() -> DataLock | None:
        waiting = asyncio.create_task(DataLock.take_within(str(tmp_path), PATIENCE_S))
        await asyncio.sleep(0)  # it has looked once
        orphan.communicate()
        return await waiting

    lock = asyncio.run(wait())
    assert lock is not None
    lock.release()


def test_a_refusal_says_when_the_server_has_ended_but_not_its_save(
    orphan: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    pid = int((tmp_path / ".valkey-sidecar.lock").read_text())
    with pytest.raises(FolderTakenError, match=rf"\(pid {pid} has ended, but a save of its engine still runs"):
        DataLock.take(str(tmp_path))


def test_a_wait_that_was_in_vain_says_how_long_it_was(orphan: subprocess.Popen[bytes], tmp_path: Path) -> None:
    with pytest.raises(FolderTakenError, match=r"which did not release it within 0\.2 s; give"):
        asyncio.run(DataLock.take_within(str(tmp_path), 0.2))


def test_a_folder_that_cannot_be_locked_is_left_to_the_engine(tmp_path: Path) -> None:
    assert DataLock.take(str(tmp_path / "missing")) is None
