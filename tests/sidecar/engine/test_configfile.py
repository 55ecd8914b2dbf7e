from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sidecar.configuration import is_ours
from sidecar.engine.configfile import SIGNATURE, PrivateConfiguration, replace_file

OURS = {"port": ("port 7000", False), "bind": (None, True), "timeout": ("timeout 0", True)}


def private(tmp_path: Path, text: str, extra: str = "", **included: str) -> PrivateConfiguration:
    folder = tmp_path / "private"
    folder.mkdir(exist_ok=True)
    return PrivateConfiguration(folder, text, extra, is_ours, {f"{tmp_path}/{k}.conf": v for k, v in included.items()})


def lines_of(configuration: PrivateConfiguration) -> list[str]:
    return configuration.path.read_text().splitlines()


def test_the_engine_sees_none_of_our_directives(tmp_path: Path) -> None:
    configuration = private(tmp_path, "port 7000\n SIDECAR-workers 2\n\nMaxMemory 1mb\n# port\n", "bind *\nhz 20\n")
    configuration.write()
    active = [line for line in lines_of(configuration) if line and not line.startswith("#")]
    assert active[0] == "MaxMemory 1mb"
    assert len(active) == 2
    extra = Path(active[1].removeprefix('include "').removesuffix('"')).read_text()
    assert [line for line in extra.splitlines() if not line.startswith("#")] == ["hz 20"]


def test_line_numbers_in_the_engines_errors_are_the_users(tmp_path: Path) -> None:
    text = "port 1\n\ninclude other.conf\n# x\nbad directive\n"
    (tmp_path / "other.conf").touch()
    configuration = private(tmp_path, text)
    configuration._directory = str(tmp_path)
    configuration.write()
    assert lines_of(configuration)[4] == "bad directive"


def test_nobody_else_reads_the_files(tmp_path: Path) -> None:
    configuration = private(tmp_path, "requirepass a\n", "requirepass b\n")
    configuration.write()
    configuration.path.chmod(0o644)  # so does the engine when it rewrites it
    configuration.write()
    for path in configuration.path.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_what_the_engine_left_alone_comes_back_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "one.conf").write_text("port 1\nhz 20\n")
    text = f"# mine\nport   7000\n\ninclude {tmp_path}/one.conf\nsidecar-workers 2\nhz 30\n"
    configuration = private(tmp_path, text, "maxmemory 1mb\n")
    configuration.write()
    assert configuration.restored(OURS, {}) == text


def test_our_changed_values_take_their_lines_and_others_are_appended(tmp_path: Path) -> None:
    configuration = private(tmp_path, "timeout 30\nport 6379\nport 6380\nbind 127.0.0.1\nhz 20\n")
    configuration.write()
    assert (
        configuration.restored({**OURS, "maxclients": ("maxclients 5", False)}, {})
        == f"timeout 0\nport 7000\n\nhz 20\n\n{SIGNATURE}\nmaxclients 5\n"
    )


def test_nothing_of_the_private_engine_gets_into_the_users_file(tmp_path: Path) -> None:
    configuration = private(tmp_path, "hz 20\n", "port 7000\n")
    configuration.write()
    with configuration.path.open("a") as file:
        file.write(f"\n{SIGNATURE}\nport 0\nunixsocket /x\nmaxclients 1\nreplica-announce-port 7000\n")
    assert configuration.restored({}, {"replica-announce-port": "7000"}) == "hz 20\n"


def test_an_injected_directive_that_was_changed_is_the_users(tmp_path: Path) -> None:
    configuration = private(tmp_path, "hz 20\n")
    configuration.write()
    with configuration.path.open("a") as file:
        file.write(f"\n{SIGNATURE}\nreplica-announce-port 9000\n")
    restored = configuration.restored({}, {"replica-announce-port": "7000"})
    assert restored == f"hz 20\n\n{SIGNATURE}\nreplica-announce-port 9000\n"


def test_wildcards_include_the_same_files_in_the_same_order(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.conf").write_text(f"hz {ord(name)}\n")
    configuration = private(tmp_path, f"include {tmp_path}/*.conf\n")
    configuration.write()
    copies = Path(lines_of(configuration)[0].removeprefix('include "').removesuffix('/*.conf"'))
    assert [path.read_text() for path in sorted(copies.iterdir())] == ["hz 97\n", "hz 98\n"]


def test_an_include_is_found_where_dir_has_led(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "more.conf").write_text("hz 20\n")
    configuration = private(tmp_path, f"dir {tmp_path}/data\ninclude more.conf\n")
    configuration.write()
    assert [p.read_text() for p in configuration.path.parent.rglob("0000.conf")] == ["hz 20\n"]


def test_a_file_that_includes_itself_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "loop.conf").write_text(f"include {tmp_path}/loop.conf\n")
    with pytest.raises(OSError, match="does a file include itself"):
        private(tmp_path, f"include {tmp_path}/loop.conf\n").write()


def test_included_files_are_taken_as_they_were_first_read(tmp_path: Path) -> None:
    configuration = private(tmp_path, f"include {tmp_path}/gone.conf\n", gone="hz 20\n")
    configuration.write()
    assert [p.read_text() for p in configuration.path.parent.rglob("0000.conf")] == ["hz 20\n"]


def test_writing_again_leaves_no_old_copies(tmp_path: Path) -> None:
    (tmp_path / "one.conf").write_text("hz 20\n")
    configuration = private(tmp_path, f"include {tmp_path}/one.conf\n")
    configuration.write()
    before = sorted(path.name for path in configuration.path.parent.rglob("*.conf"))
    configuration.write()
    assert sorted(path.name for path in configuration.path.parent.rglob("*.conf")) == before


def test_bytes_that_are_no_text_survive(tmp_path: Path) -> None:
    text = "# caf\udce9 \x0b \x85\nport 1\n"
    configuration = private(tmp_path, text)
    configuration.write()
    assert b"# caf\xe9 \x0b \xc2\x85\n" in configuration.path.read_bytes()
    assert configuration.restored({}, {}) == text


def test_the_last_value_in_the_file_is_found(tmp_path: Path) -> None:
    configuration = private(tmp_path, 'requirepass a\n# requirepass x\nRequirePass "b c"\n')
    assert configuration.value("requirepass") == "b c"
    assert configuration.value("masterauth") is None


def test_what_a_rewrite_has_collected_is_not_given_twice(tmp_path: Path) -> None:
    text, extra = f"include {tmp_path}/one.conf\n", "loadmodule a.so\nhz 20\n"
    configuration = private(tmp_path, text, extra, one="user bob on nopass\n")

    def everything() -> str:
        configuration.write()
        return "".join(path.read_text() for path in configuration.path.parent.rglob("*.conf"))

    assert {"user bob on nopass", "loadmodule a.so"} <= set(everything().splitlines())
    configuration.adopt(f"{text}user bob on nopass ~*\nloadmodule a.so\n")
    assert everything().count("user bob") == everything().count("loadmodule") == everything().count("hz 20") == 1


def test_a_file_is_replaced_in_one_step_with_its_mode(tmp_path: Path) -> None:
    path, link = tmp_path / "real.conf", tmp_path / "valkey.conf"
    path.write_text("old\n")
    path.chmod(0o640)
    link.symlink_to(path)
    replace_file(str(link), "new\n")
    assert path.read_text() == "new\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert link.is_symlink()
    assert sorted(tmp_path.iterdir()) == [path, link]


def test_a_file_that_cannot_be_replaced_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "valkey.conf"
    path.write_text("old\n")

    def full(_descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(str(path), "new\n")
    assert path.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [path]
