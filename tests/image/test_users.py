"""Who runs the server, where it may write, and how it gets its password."""

from __future__ import annotations

import urllib.error
from pathlib import Path

import pytest
import valkey

from tests.image.conftest import StartContainer
from tests.image.docker import Docker

pytestmark = pytest.mark.image

_SECRET = "s3cret-of-the-container"


@pytest.mark.parametrize("user", ["1000", "1000:1000", "123456:0", "valkey"])
def test_any_user_may_run_it(start: StartContainer, user: str) -> None:
    container = start("--user", user)
    client = container.client()
    assert client.set("a", "1")
    assert client.save()
    assert container.users() == {{"valkey": "999"}.get(user, user.partition(":")[0])}
    assert container.docker.attempt("diff", container.id).stdout.count(".pyc") == 0


def test_a_read_only_root_is_enough(start: StartContainer, volume: str) -> None:
    options = ("--read-only", "--tmpfs", "/tmp", "--volume", f"{volume}:/data")
    container = start(*options)
    assert container.client().set("a", "1")
    assert container.client().save()
    container.wait_health("healthy")
    without_tmp = start("--read-only", "--user", "1000")
    assert without_tmp.client().set("a", "1")
    assert without_tmp.client().save()


def test_no_capability_is_needed_by_who_is_not_root(start: StartContainer) -> None:
    container = start("--user", "1000:0", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--read-only")
    assert container.client().set("a", "1")
    container.wait_health("healthy")


def test_a_root_of_few_capabilities_has_a_health_check_too(start: StartContainer) -> None:
    few = [word for name in ("SETUID", "SETGID", "CHOWN") for word in ("--cap-add", name)]
    container = start("--cap-drop", "ALL", *few, "--health-interval", "1s")
    assert container.users() == {"999"}
    assert container.wait_health("healthy") == "ready\n"


def test_no_start_compiles_anything(start: StartContainer) -> None:
    container = start("--entrypoint", "/bin/sh", command=("-c", "valkey-server --save ''"))  # root could write it
    container.page("/metrics")
    changed = container.docker.run("diff", container.id)
    assert [line for line in changed.splitlines() if ".pyc" in line or "/opt" in line or "/usr" in line] == []


def test_a_volume_of_roots_is_given_to_the_user_valkey(start: StartContainer, tmp_path: Path) -> None:
    (tmp_path / "left.txt").write_text("by root")
    container = start("--volume", f"{tmp_path}:/data")
    assert container.client().set("a", "1")
    assert container.client().save()
    assert container.users() == {"999"}
    assert {path.stat().st_uid for path in tmp_path.iterdir()} == {999}
    assert (tmp_path / "dump.rdb").stat().st_mode & 0o777 == 0o600  # by the umask that the entry point sets


def test_a_folder_that_may_not_be_written_is_a_warning(start: StartContainer, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    container = start("--user", "1000", "--volume", f"{tmp_path}:/data", command=("--save", ""))
    assert "directory '/data' is not writable by current user (1000)" in container.logs()


def test_a_password_of_the_environment_needs_no_shell(start: StartContainer) -> None:
    container = start("--env", f"VALKEY_PASSWORD={_SECRET}", password=_SECRET)
    with pytest.raises(valkey.AuthenticationError):
        container.client(password=None).ping()
    assert container.client().ping()
    assert _SECRET not in " ".join(container.processes().values())
    container.wait_health("healthy")
    assert container.stop()[1] == 0
    assert _SECRET not in container.logs()


def test_a_password_of_a_mounted_secret(start: StartContainer) -> None:
    secret = "/run/secrets/password"
    files: dict[str, bytes | str] = {secret: f"{_SECRET}\n".encode()}
    container = start("--env", f"VALKEY_PASSWORD_FILE={secret}", password=_SECRET, files=files)
    assert container.client().ping()
    with pytest.raises(valkey.AuthenticationError):
        container.client(password=None).ping()
    assert _SECRET not in container.logs()


def test_a_token_of_a_mounted_secret_guards_the_metrics_and_no_health_check(start: StartContainer) -> None:
    secret = "/run/secrets/token"
    files: dict[str, bytes | str] = {secret: f"{_SECRET}\n".encode()}
    container = start("--env", f"SIDECAR_HTTP_TOKEN_FILE={secret}", "--health-interval", "1s", files=files)
    assert container.wait_health("healthy") == "ready\n"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        container.page("/metrics")
    assert container.page("/livez") == "ok\n"
    assert _SECRET not in container.logs() + " ".join(container.processes().values())


def test_a_secret_that_is_not_there_is_told_in_one_line(docker: Docker, image: str) -> None:
    done = docker.attempt("run", "--rm", "--env", "VALKEY_PASSWORD_FILE=/run/secrets/none", image)
    assert done.returncode == 1
    # Docker itself may warn about the machine's network.
    told = [line for line in done.stderr.splitlines() if not line.startswith("WARNING: ")]
    assert told == ["valkey-sidecar: VALKEY_PASSWORD_FILE: it cannot be read: No such file or directory"]
