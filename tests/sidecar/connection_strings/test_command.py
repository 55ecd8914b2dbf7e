"""The command as a person meets it: what is printed where, and with which exit code."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from sidecar.cli import main
from sidecar.commandline import mode
from sidecar.connection_strings import command
from tests.conftest import wait_until
from tests.sidecar.connection_strings.samples import HARD

_ROOT = Path(__file__).parents[3]
BEHIND = "valkey-server's options come behind --"
_OURS = ("SIDECAR_", "VALKEY_PASSWORD", "CACHE_", "ConnectionStrings__")


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def connection_string(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> Run:
    """Runs the command in this process, in the test's folder."""
    # What ps shows of pytest is not the command's to change.
    monkeypatch.setattr("sidecar.process_arguments.replace_arguments", lambda _arguments: True)
    monkeypatch.chdir(tmp_path)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}

    def run(*argv: str, environment: Mapping[str, str] | None = None, stdin: str = "") -> Done:
        monkeypatch.setattr("os.environ", {**inherited, **(environment or {})})
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        try:
            code = main(["connection-string", *argv])
        except SystemExit as end:
            code = int(end.code or 0)
        told = capsysbinary.readouterr()
        return Done(code, told.out.decode(), told.err.decode())

    return run


def printed(done: Done) -> str:
    assert (done.code, done.err) == (0, "")
    return done.out


def refused(done: Done, code: int = 1) -> str:
    """The one line that says why."""
    assert (done.code, done.out) == (code, "")
    (line,) = done.err.splitlines()
    return line.removeprefix("valkey-sidecar connection-string: ").removeprefix("valkey-sidecar: ")


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "valkey.conf"
    quoted = HARD.replace("\\", "\\\\").replace('"', '\\"')
    path.write_text(f'port 7000\nrequirepass "{quoted}"\n')
    return path


def test_everything_is_printed_of_the_server_that_a_conf_file_describes(connection_string: Run, conf: Path) -> None:
    assert printed(connection_string(str(conf))) == (
        "# stackexchange: .NET, by StackExchange.Redis\n"
        f"localhost:7000,password={HARD}\n"
        "\n# uri: Python, Node, Java, Go\n"
        "redis://:p%40ss%3Aw%2Frd%23%25%3F%26%2B%3D%C3%A9%201%27%22%24x%5B%5D%21@localhost:7000\n"
        "\n# env: as Aspire names variables; for docker run --env-file\n"
        f"ConnectionStrings__cache=localhost:7000,password={HARD}\n"
        "CACHE_HOST=localhost\n"
        "CACHE_PORT=7000\n"
        f"CACHE_PASSWORD={HARD}\n"
        "CACHE_URI=redis://:p%40ss%3Aw%2Frd%23%25%3F%26%2B%3D%C3%A9%201%27%22%24x%5B%5D%21@localhost:7000\n"
        "\n# dotnet-user-secrets: a .NET project on the machine of its developer\n"
        f'dotnet user-secrets set "ConnectionStrings:cache" {shlex.quote(f"localhost:7000,password={HARD}")}\n'
        "\n# valkey-cli: a shell; with redis-cli the variable is REDISCLI_AUTH\n"
        f"VALKEYCLI_AUTH={shlex.quote(HARD)} valkey-cli -h localhost -p 7000\n"
    )


def test_the_mask_hides_the_password_everywhere(connection_string: Run, conf: Path) -> None:
    masked = printed(connection_string("--mask", str(conf)))
    assert "p@ss" not in masked
    assert "p%40ss" not in masked
    assert masked.count("***") == 7


def test_the_server_is_described_by_its_own_arguments_and_environment(connection_string: Run, tmp_path: Path) -> None:
    uri = ("--format", "uri")
    assert printed(connection_string(*uri)) == "redis://localhost:6379\n"
    assert printed(connection_string(*uri, "--", "--port", "7000", "--requirepass", "x y")) == (
        "redis://:x%20y@localhost:7000\n"
    )
    (tmp_path / "my.conf").write_text("port 1\nbind 10.1.2.3\nrequirepass x\n")
    for separator in ([], ["--"]):
        done = connection_string(*uri, "my.conf", *separator, "--port", "7001")
        assert printed(done) == "redis://:x@10.1.2.3:7001\n"
    given = {"VALKEY_PASSWORD": "p,w"}
    assert printed(connection_string(*uri, environment=given)) == "redis://:p%2Cw@localhost:6379\n"
    assert printed(connection_string(*uri, "my.conf", environment=given)) == "redis://:x@10.1.2.3:1\n"
    (tmp_path / "secret").write_text("from a file\n")
    from_file = {"VALKEY_PASSWORD_FILE": str(tmp_path / "secret")}
    assert printed(connection_string(*uri, environment=from_file)) == "redis://:from%20a%20file@localhost:6379\n"
    done = connection_string(*uri, "--", "--port", "0", "--unixsocket", "v.sock")
    assert printed(done) == f"unix://{tmp_path}/v.sock\n"
    assert printed(connection_string(*uri, "--", "-", stdin="port 7002\n")) == "redis://localhost:7002\n"


def test_clients_may_know_the_server_by_another_address(connection_string: Run, conf: Path) -> None:
    done = connection_string(
        *("--format", "stackexchange", "--host", "cache.example.com", "--port", "6380", "--tls", "--database", "3"),
        *("--user", "bob", "--password-stdin", str(conf)),
        stdin="b0b\n",
    )
    assert printed(done) == "cache.example.com:6380,user=bob,password=b0b,ssl=true,defaultDatabase=3\n"


def test_another_users_password_is_not_requirepass(connection_string: Run, tmp_path: Path) -> None:
    conf = tmp_path / "my.conf"
    conf.write_text("requirepass x\n")
    uri = ("--format", "uri")
    assert printed(connection_string(*uri, "--user", "bob", str(conf))) == "redis://bob:@localhost:6379\n"
    given = {"VALKEY_PASSWORD": "b"}
    assert printed(connection_string(*uri, "--user", "bob", str(conf), environment=given)) == (
        "redis://bob:b@localhost:6379\n"
    )
    assert printed(connection_string(*uri, "--user", "default", str(conf), environment=given)) == (
        "redis://default:x@localhost:6379\n"
    )


def test_users_of_the_engine_are_mentioned(connection_string: Run, tmp_path: Path) -> None:
    conf = tmp_path / "my.conf"
    conf.write_text("user default on >Hunter2 ~* +@all\n")
    done = connection_string("--format", "uri", str(conf))
    assert (done.code, done.out) == (0, "redis://localhost:6379\n")
    assert done.err == (
        "valkey-sidecar connection-string: note: the server has users of its own: give --user, and the password by "
        "VALKEY_PASSWORD or --password-stdin\n"
    )


def test_a_connection_string_is_converted(connection_string: Run) -> None:
    azure = "c.redis.cache.windows.net:6380,password=k=,ssl=True,abortConnect=False,connectTimeout=5000,zzz=Hunter2"
    for argv, stdin in (((azure,), ""), (("-",), f"{azure}\n")):
        done = connection_string("--format", "uri", *argv, stdin=stdin)
        assert (done.code, done.out) == (0, "rediss://:k%3D@c.redis.cache.windows.net:6380\n")
        assert done.err == (
            "valkey-sidecar connection-string: note: options of StackExchange.Redis that are left out: abortConnect, "
            "connectTimeout\n"
            "valkey-sidecar connection-string: note: unknown options that are left out: 1\n"
        )
    done = connection_string("--format", "stackexchange", "valkeys://bob:x%20y@cache/2?timeout=3")
    assert (done.code, done.out) == (0, "cache:6379,user=bob,password=x y,ssl=true,defaultDatabase=2\n")
    assert done.err == "valkey-sidecar connection-string: note: query parameters of the URI that are left out: 1\n"
    assert printed(connection_string("--format", "uri", "--scheme", "valkey", "[::1]:7000")) == "valkey://[::1]:7000\n"
    assert printed(connection_string("--format", "valkey-cli", "--host", "b", "a:1,user=x y")) == (
        "valkey-cli -h b -p 1 --user 'x y'\n"
    )


def test_what_aspire_gave_is_converted(connection_string: Run) -> None:
    given = {"ConnectionStrings__my-cache": "cache:6379,password=x,ssl=true"}
    done = connection_string("--format", "uri", "--name", "my-cache", "--from-environment", environment=given)
    assert printed(done) == "rediss://:x@cache:6379\n"
    assert refused(connection_string("--from-environment", environment=given)) == (
        "--from-environment: there is neither ConnectionStrings__cache nor a variable of Aspire's for its URI or host"
    )


def test_a_form_that_cannot_be_written_is_an_error_and_only_told_among_all(connection_string: Run) -> None:
    sentinel = "a:26379,b:26379,serviceName=mymaster,password=x"
    assert refused(connection_string("--format", "uri", sentinel)) == (
        "service name: a URI cannot ask Sentinel for a server"
    )
    everything = printed(connection_string(sentinel))
    assert (
        f"# stackexchange: .NET, by StackExchange.Redis\n{sentinel.replace(',serviceName=mymaster', '')}" in everything
    )
    assert "\n# cannot be written: service name: a URI cannot ask Sentinel for a server\n" in everything
    assert "\n# left out: CACHE_URI: service name: a URI cannot ask Sentinel for a server\n" in everything
    done = connection_string("--format", "env", "redis://:a%2Cb@cache")
    assert done.err == (
        "valkey-sidecar connection-string: note: left out: ConnectionStrings__cache: password: StackExchange.Redis' "
        "form cannot hold a comma: choose one without\n"
    )


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["Hunter2"], "argument: it is no file, and no connection string: those are like host:6379 or redis://host"),
        (
            ["cache,password=a,Hunter2"],
            "argument: part 3: it has no equals sign, and part 2 may be a password: ",
        ),
        (["redis://:Hunter2/@cache"], "argument: an @ stands behind the server: "),
        (["--port", "Hunter2"], "--port: the port must be a number between 1 and 65535"),
        (["--host", "Hunter2 Xyzzy"], "--host: the host has characters that no host name has, or is too long"),
        (["--database", "Hunter2"], "--database: the database must be a number, 0 or more"),
        (
            ["--name", "Hunter2 Xyzzy"],
            "name: it must have letters, digits, - . and _ only, and begin with none of these",
        ),
        (["--tls"], "TLS: the server has no tls-port"),
        (["--host", "a", "a:1,b:2"], "--host, --port: there are several servers: change the string itself"),
        (["--port", "1", "!/run/v.sock"], "--host, --port: there is a Unix socket only: give both"),
        (["a:1", "Hunter2"], "a connection string is the last argument: options of ours come before it"),
        (["--from-environment", "a:1"], "--from-environment: leave out the conf file or connection string"),
        (["--password-stdin", "-"], "--password-stdin: standard input cannot be the connection string too"),
        (["--password-stdin"], "--password-stdin: there is no password"),
        (["none.conf"], 'conf file: "'),
        (["--", "--port", "Hunter"], 'port: "Hunter" (from argument --port) must be a number between 0 and 65535'),
        (["--", "--port", "0"], "server: it listens nowhere: port is 0 and there is no unixsocket"),
        (["-"], "standard input: it is empty: give a server, as in localhost:6379"),
    ],
)
def test_a_mistake_is_one_line_without_the_password(
    connection_string: Run, tmp_path: Path, argv: list[str], problem: str
) -> None:
    line = refused(connection_string(*argv))
    assert line.startswith(problem)
    assert "Hunter2" not in line


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["--requirepass", "Hunter2"], f"--requirepass is no option of this command; {BEHIND}"),
        (["--requirepass=Hunter2"], f"--requirepass is no option of this command; {BEHIND}"),
        (["-aHunter2"], f"an argument is not understood; {BEHIND}"),
        (["--format", "Hunter2"], "--format: choose one of stackexchange, uri, env, dotnet-user-secrets, valkey-cli"),
        (["--format"], "--format: it needs a value"),
        (["--tls=Hunter2"], "--tls: it takes no value"),
    ],
)
def test_an_option_that_is_not_understood_is_named_without_its_value(
    connection_string: Run, argv: list[str], problem: str
) -> None:
    assert refused(connection_string(*argv), code=2) == f"{problem} (see --help)"


def test_a_password_file_that_is_not_there_is_told(connection_string: Run) -> None:
    done = connection_string(environment={"VALKEY_PASSWORD_FILE": "/none"})
    assert refused(done) == "VALKEY_PASSWORD_FILE: it cannot be read: No such file or directory"


def test_help_says_that_the_password_is_shown(connection_string: Run) -> None:
    told = printed(connection_string("--help"))
    assert told.startswith("usage: valkey-sidecar connection-string [options] [STRING | -]\n")
    assert "The password is printed in full, because you asked for it; --mask hides it." in told
    assert "--password-stdin" in told


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["--format", "uri", "redis://:x@a"], ["--format", "uri", "***"]),
        (["--mask", "-"], ["--mask", "-"]),
        (["--", "--requirepass", "x", "--port", "1"], ["--", "--requirepass", "***", "--port", "1"]),
        (["my.conf", "--", "--requirepass", "x"], ["my.conf", "--", "--requirepass", "***"]),
        (["my.conf", "--requirepass", "x"], ["my.conf", "--requirepass", "***"]),
    ],
)
def test_no_process_list_shows_a_password(
    argv: list[str], shown: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.conf").touch()
    seen: list[list[str]] = []

    class Stop(Exception):  # noqa: N818 - no error: the rest of the command is not wanted here
        pass

    def show(arguments: list[str]) -> None:
        seen.append(arguments)
        raise Stop

    with pytest.raises(Stop):
        command.run(argv, {}, show)
    assert seen == [["connection-string", *shown]]


def test_ps_shows_no_connection_string_while_the_command_waits() -> None:
    argv = [
        sys.executable,
        "-m",
        "sidecar",
        "connection-string",
        "--format",
        "uri",
        "--password-stdin",
        "cache:1,user=x",
    ]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(_ROOT)}
    ) as process:
        seen = Path(f"/proc/{process.pid}/cmdline")
        wait_until(lambda: b"--password-stdin\0***\0" in seen.read_bytes(), "the argument is masked")
        assert b"user=x" not in seen.read_bytes()
        out, _ = process.communicate(b"y\n", timeout=60)
    assert out == b"redis://x:y@cache:1\n"


def test_a_password_beyond_ascii_is_printed_whatever_the_locale() -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(_ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "sidecar", "connection-string", "--format", "stackexchange"],
        env={**os.environ, **ascii_only, "VALKEY_PASSWORD": "é"},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "localhost:6379,password=é\n".encode()


def test_only_the_first_argument_is_the_command() -> None:
    assert mode(["connection-string", "--sentinel"]) == "connection-string"
    assert mode(["./connection-string"]) == "serve"
    assert mode(["--port", "connection-string"]) == "serve"
    assert mode(["my.conf", "connection-string"]) == "serve"
