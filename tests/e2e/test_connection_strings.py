"""Clients that are given what `valkey-sidecar connection-string` prints get in, whatever the password is."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import valkey

from tests.conftest import PATIENCE_S, Server, launch
from tests.sidecar.connection_strings.samples import HARD

pytestmark = pytest.mark.e2e

_ROOT = Path(__file__).parents[2]
_BOBS = "b@b:1,"

Client = redis.Redis | valkey.Valkey


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose users have passwords, with a Unix socket, on both loopback addresses; its conf file says so."""
    folder = tmp_path_factory.mktemp("locked")
    quoted = HARD.replace('"', '\\"')
    (folder / "valkey.conf").write_text(
        f'bind 127.0.0.1 -::1\nsave ""\nunixsocket v.sock\nrequirepass "{quoted}"\nuser bob on >{_BOBS} ~* &* +@all\n'
    )
    server = launch(folder, "valkey.conf", wait=False, password=HARD)
    try:
        server.wait_ready()
        yield server
    finally:
        server.kill()


def printed(server: Server, *options: str, port: int | None = None, stdin: str = "") -> str:
    """What the command prints in the folder of the server, from its conf file and arguments."""
    port = server.port if port is None else port
    done = subprocess.run(
        [sys.executable, "-m", "sidecar", "connection-string", *options, "valkey.conf", "--port", str(port)],
        input=stdin,
        capture_output=True,
        text=True,
        cwd=server.log.parent,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.removesuffix("\n")


def who_and_where(client: Client) -> tuple[str, int]:
    """The user and the database."""
    with client:
        return str(client.acl_whoami()), int(client.client_info()["db"])


@pytest.mark.parametrize("library", [redis.Redis, valkey.Valkey])
def test_python_takes_the_uri(locked: Server, library: type[Client]) -> None:
    def arrives(uri: str) -> tuple[str, int]:
        return who_and_where(library.from_url(uri, socket_timeout=PATIENCE_S))

    uri = ("--format", "uri")
    bob = ("--user", "bob", "--password-stdin")
    assert arrives(printed(locked, *uri)) == ("default", 0)
    assert arrives(printed(locked, *uri, *bob, "--database", "3", stdin=_BOBS)) == ("bob", 3)
    assert arrives(printed(locked, *uri, *bob, "--database", "2", port=0, stdin=_BOBS)) == ("bob", 2)
    assert arrives(printed(locked, *uri, "--host", "::1")) == ("default", 0)


def test_valkey_py_takes_the_scheme_valkey(locked: Server) -> None:
    client = valkey.Valkey.from_url(printed(locked, "--format", "uri", "--scheme", "valkey"))
    assert who_and_where(client) == ("default", 0)


@pytest.mark.parametrize("port", [None, 0])
def test_the_line_for_valkey_cli_can_be_pasted_into_a_shell(locked: Server, port: int | None) -> None:
    line = printed(locked, "--format", "valkey-cli", "--database", "3", port=port)
    assert all(HARD not in word for word in shlex.split(line)[1:])
    # Debian has redis-cli, whose options are the same.
    pasted = line.replace("VALKEYCLI_AUTH=", "REDISCLI_AUTH=").replace("valkey-cli", "redis-cli")
    done = subprocess.run(["sh", "-c", f"{pasted} client info"], capture_output=True, text=True, timeout=60, check=True)
    assert " db=3 " in done.stdout
    assert " user=default " in done.stdout


def test_the_env_lines_are_those_that_docker_hands_on_as_they_are(locked: Server) -> None:
    lines = printed(locked, "--format", "env", "--name", "my-cache").splitlines()
    environment = dict(line.partition("=")[::2] for line in lines)
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    seen = json.loads(done.stdout)
    assert seen["ConnectionStrings__my-cache"] == f"127.0.0.1:{locked.port},password={HARD}"
    host, port, password = (seen[f"MY_CACHE_{part}"] for part in ("HOST", "PORT", "PASSWORD"))
    assert who_and_where(valkey.Valkey(host=host, port=int(port), password=password)) == ("default", 0)
    assert who_and_where(valkey.Valkey.from_url(seen["MY_CACHE_URI"])) == ("default", 0)
