"""VALKEY_PASSWORD and VALKEY_PASSWORD_FILE stand for requirepass where nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest
import valkey

from sidecar.conf import split_args
from tests.conftest import Server, Start
from tests.sidecar.test_settings import load, refused

SECRET = "s3cret of the environment"


def password_of(server: Server) -> str:
    """The one that the default user has, as far as CONFIG GET says."""
    return str(server.client().config_get("requirepass")["requirepass"])


def test_the_environment_sets_the_password() -> None:
    configuration = load(environment={"VALKEY_PASSWORD": SECRET})
    assert configuration.requirepass is not None
    assert configuration.requirepass.get_secret_value() == SECRET
    assert split_args(configuration.extra_text) == ["requirepass", SECRET]
    (directive,) = configuration.directives
    assert str(directive.origin) == "environment variable VALKEY_PASSWORD"
    assert SECRET not in repr(configuration)


def test_an_argument_the_file_and_standard_input_count_more(tmp_path: Path) -> None:
    conf = tmp_path / "valkey.conf"
    (tmp_path / "included.conf").write_text("RequirePass other\n")
    conf.write_text(f"include {tmp_path}/included.conf\n")
    environment = {"VALKEY_PASSWORD": SECRET}
    for configuration in (
        load("--requirepass", "other", environment=environment),
        load("-", stdin=b"requirepass other", environment=environment),
        load(str(conf), environment=environment),
    ):
        assert configuration.requirepass is not None
        assert configuration.requirepass.get_secret_value() == "other"
        assert SECRET not in configuration.extra_text


def test_an_argument_may_ask_for_no_password_at_all() -> None:
    assert load("--requirepass", "", environment={"VALKEY_PASSWORD": SECRET}).requirepass is None


def test_empty_variables_are_not_set() -> None:
    configuration = load(environment={"VALKEY_PASSWORD": "", "VALKEY_PASSWORD_FILE": ""})
    assert configuration.directives == ()
    assert load(environment={"VALKEY_PASSWORD": SECRET, "VALKEY_PASSWORD_FILE": ""}).requirepass is not None


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_file_holds_it_with_or_without_a_newline(tmp_path: Path, end: str) -> None:
    path = tmp_path / "password"
    path.write_bytes(f" {SECRET}\n{end}".encode())
    configuration = load(environment={"VALKEY_PASSWORD_FILE": str(path)})
    assert configuration.requirepass is not None
    expected = f" {SECRET}\n" if end else f" {SECRET}"
    assert configuration.requirepass.get_secret_value() == expected


def test_mistakes_are_told_without_the_password(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text(SECRET)
    both = refused(environment={"VALKEY_PASSWORD": SECRET, "VALKEY_PASSWORD_FILE": str(path)})
    assert both == "VALKEY_PASSWORD and VALKEY_PASSWORD_FILE are both set: keep one of them"
    missing = refused(environment={"VALKEY_PASSWORD_FILE": "/no/such/file"})
    assert missing == "VALKEY_PASSWORD_FILE: it cannot be read: No such file or directory"
    path.write_text(f"{SECRET}\0")
    nul = refused(environment={"VALKEY_PASSWORD_FILE": str(path)})
    assert "NUL" in nul
    assert SECRET not in nul
    path.write_text("\n")
    assert "is empty" in refused(environment={"VALKEY_PASSWORD_FILE": str(path)})


@pytest.mark.parametrize("variable", ["VALKEY_PASSWORD", "VALKEY_PASSWORD_FILE"])
def test_a_server_takes_it_and_shows_it_to_nobody(start: Start, tmp_path: Path, variable: str) -> None:
    path = tmp_path / "secret file"
    path.write_text(f"{SECRET}\n")
    value = SECRET if variable == "VALKEY_PASSWORD" else str(path)
    server = start("--save", "", env={variable: value}, password=SECRET).wait_ready()
    with pytest.raises(valkey.AuthenticationError):
        server.client(password=None).ping()
    assert password_of(server) == SECRET
    for child in server.process.children(recursive=True):
        assert variable not in child.environ()
        assert SECRET not in " ".join([*child.cmdline(), *child.environ().values()])
    server.engine.kill()  # what starts it again knows the password too
    server.wait_said("engine.restarted")
    server.wait_ready()
    assert server.client().ping()
    assert SECRET not in server.log_text()
    assert SECRET not in server.get("/metrics")[1]


def test_a_rewrite_treats_it_as_one_given_beside_the_file(start: Start, tmp_path: Path) -> None:
    files = []
    for name, arguments, environment in (
        ("argument", ("--requirepass", SECRET), {}),
        ("environment", (), {"VALKEY_PASSWORD": SECRET}),
    ):
        folder = tmp_path / name
        folder.mkdir()
        conf = folder / "valkey.conf"
        conf.write_text("# mine\nmaxmemory 100mb\n")
        server = start("valkey.conf", *arguments, "--save", "", "--appendonly", "yes", folder=folder, env=environment,
                       password=SECRET).wait_ready()  # fmt: skip
        client = server.client()
        assert client.config_set("requirepass", "changed")
        server.password = "changed"
        assert server.client().config_rewrite()
        server.engine.kill()
        server.wait_said("engine.restarted")
        server.wait_ready()
        assert server.client().ping()
        assert server.stop() == 0
        rewritten = [line for line in conf.read_text().splitlines() if not line.startswith(("port", "dir"))]
        files.append(sorted(rewritten))  # the engine appends lines in the order of a hash table
    assert files[0] == files[1]
    assert "requirepass changed" in "\n".join(files[1]).replace('"', "")


def test_protected_mode_off_by_default_is_the_default_for_a_rewrite_too(start: Start, tmp_path: Path) -> None:
    conf = tmp_path / "valkey.conf"
    conf.write_text("maxmemory 100mb\n")
    server = start("valkey.conf", "--save", "", folder=tmp_path, env={"SIDECAR_PROTECTED_MODE": "no"}).wait_ready()
    client = server.client()
    assert client.config_get("protected-mode") == {"protected-mode": "no"}
    assert client.config_rewrite()
    assert "protected-mode" not in conf.read_text()
    assert client.config_set("protected-mode", "yes")
    assert client.config_rewrite()
    assert "protected-mode yes" in conf.read_text()
