from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.engine.folder import PrivateFolder, sweep


def test_nobody_else_can_look_into_the_folder(tmp_path: Path) -> None:
    folder = PrivateFolder.create(str(tmp_path))
    try:
        assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    finally:
        folder.remove()
    assert not folder.path.exists()


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's; pytest's own may be too long."""
    with tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp") as path:
        yield Path(path)


def test_a_killed_supervisors_folder_is_swept_by_the_next_start(short_path: Path) -> None:
    dead = short_path / "valkey-sidecar-dead"
    dead.mkdir(mode=0o700)
    (dead / "included-abc").mkdir()
    (dead / "engine.conf").write_text('requirepass "secret"\n')
    living = PrivateFolder.create(str(short_path))
    try:
        assert not dead.exists()
        PrivateFolder.create(str(short_path)).remove()
        assert living.path.exists()
    finally:
        living.remove()


def test_a_folder_that_another_start_sweeps_before_it_is_locked_is_made_again(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = tempfile.mkdtemp
    swept = []

    def make_and_sweep(**options: str) -> str:
        path = make(**options)
        if not swept:
            swept.append(path)
            sweep(str(short_path))
        return path

    monkeypatch.setattr(tempfile, "mkdtemp", make_and_sweep)
    folder = PrivateFolder.create(str(short_path))
    try:
        assert folder.path.exists()
        assert str(folder.path) not in swept
        assert len(swept) == 1
    finally:
        folder.remove()


def test_what_is_not_ours_is_never_swept(short_path: Path) -> None:
    other = short_path / "valkey-sidecar-notes"
    other.mkdir()
    (other / "todo.txt").touch()
    PrivateFolder.create(str(short_path)).remove()
    assert (other / "todo.txt").exists()


def test_a_path_that_is_too_long_for_a_socket_is_not_used(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    folder = PrivateFolder.create(str(deep))
    try:
        assert len(folder.socket) <= 107
        assert deep not in folder.path.parents
    finally:
        folder.remove()


def test_a_read_only_system_has_a_folder_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def access(path: str, _mode: int) -> bool:
        return path in ("/dev/shm", str(tmp_path))

    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # Python's choice then: the working folder, here the data's
    monkeypatch.setattr("sidecar.engine.folder.os.access", access)
    folder = PrivateFolder.create()
    folder.remove()
    assert folder.path.parent == Path("/dev/shm")


def test_a_folder_with_a_blank_is_not_used(short_path: Path) -> None:
    (short_path / "a b").mkdir()
    folder = PrivateFolder.create(str(short_path / "a b"))
    folder.remove()
    assert " " not in folder.socket


def test_who_cleans_old_files_finds_the_folder_locked(short_path: Path) -> None:
    folder = PrivateFolder.create(str(short_path))
    descriptor = os.open(folder.path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(BlockingIOError):  # as systemd-tmpfiles asks
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)
        folder.remove()


def test_the_error_names_the_folders_when_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.engine.folder.os.access", lambda *_: False)
    with pytest.raises(OSError, match=str(tmp_path)):
        PrivateFolder.create(str(tmp_path))
