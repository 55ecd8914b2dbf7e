"""AddValkey and AddRedis, WithImage(ours) and WithOtlpExporter(): the same command lines, environments and files."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import valkey

from tests.conftest import wait_until
from tests.image.aspire import FOLDER, AppHost, DeveloperCertificate, app_host
from tests.image.conftest import StartContainer
from tests.image.docker import Container, Docker

pytestmark = pytest.mark.image

_FIRST_TRACE_S = 5.0
_STOP_S = 3.0
_SECRET = "AspireMakesPasswordsLikeThis1"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> DeveloperCertificate:
    return DeveloperCertificate.make(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def plain(docker: Docker) -> Iterator[AppHost]:
    """An AppHost of the http profile."""
    with app_host(docker.gateway(), None) as host:
        yield host


@pytest.fixture(scope="module")
def secure(docker: Docker, certificate: DeveloperCertificate) -> Iterator[AppHost]:
    """An AppHost of the https profile, whose developer certificate is trusted."""
    with app_host(docker.gateway(), certificate) as host:
        yield host


def first_trace(container: Container, app: AppHost, name: str, **options: object) -> None:
    """A healthy server whose first command is a trace in the dashboard."""
    client = container.client(**options)
    began = time.monotonic()
    assert client.set("a", "1")
    wait_until(lambda: "SET" in [s.name for s in app.dashboard.api.spans(name)], "the trace", _FIRST_TRACE_S)
    assert time.monotonic() - began < _FIRST_TRACE_S
    container.wait_health("healthy")


def end(container: Container) -> None:
    """It is PID 1, so SIGTERM reaches it through /bin/sh; it runs as root, and has told nobody its password."""
    assert "valkey-server" in container.processes()["1"] or "redis-server" in container.processes()["1"]
    assert container.users() == {"0"}
    assert _SECRET not in " ".join(container.processes().values())
    seconds, code = container.stop()
    assert code == 0
    assert seconds < _STOP_S
    logs = container.logs()
    assert "server.ended" in logs
    assert _SECRET not in logs


@pytest.mark.parametrize("persistence", ["", " --save 60 1"])
def test_add_valkey(start: StartContainer, plain: AppHost, volume: str, persistence: str) -> None:
    name = f"valkey{len(persistence)}"
    options = ["--entrypoint", "/bin/sh", *plain.options(name, VALKEY_PASSWORD=_SECRET)]
    if persistence:
        options += ["--volume", f"{volume}:/data"]
    command = ("-c", f"valkey-server --requirepass $VALKEY_PASSWORD{persistence}")
    container = start(*options, command=command, password=_SECRET)
    with pytest.raises(valkey.AuthenticationError):
        container.client(password=None).ping()
    first_trace(container, plain, name)
    end(container)
    if persistence:
        container.remove()
        again = start(*options, command=command, password=_SECRET)
        assert again.client().get("a") == b"1"


def test_add_valkey_on_an_app_host_with_https(
    start: StartContainer, secure: AppHost, certificate: DeveloperCertificate
) -> None:
    options = secure.options("valkey", VALKEY_PASSWORD=_SECRET)
    command = ("-c", "valkey-server --requirepass $VALKEY_PASSWORD")
    container = start("--entrypoint", "/bin/sh", *options, command=command, password=_SECRET, files=certificate.files())
    first_trace(container, secure, "valkey")
    end(container)


def test_a_hosting_library_needs_no_shell(
    start: StartContainer, secure: AppHost, certificate: DeveloperCertificate
) -> None:
    options = secure.options("library", VALKEY_PASSWORD=_SECRET)
    container = start(*options, password=_SECRET, files=certificate.files())
    first_trace(container, secure, "library")
    assert container.users() == {"999"}
    assert container.stop()[1] == 0


def test_add_redis_without_a_certificate(start: StartContainer, plain: AppHost) -> None:
    options = plain.options("redis", REDIS_PASSWORD=_SECRET)
    command = ("-c", "redis-server --requirepass $REDIS_PASSWORD")
    container = start("--entrypoint", "/bin/sh", *options, command=command, password=_SECRET)
    first_trace(container, plain, "redis")
    end(container)


def test_add_redis_with_a_trusted_certificate(
    start: StartContainer, secure: AppHost, certificate: DeveloperCertificate
) -> None:
    options = secure.options("redis", REDIS_PASSWORD=_SECRET)
    tls = (
        f"--tls-port 6379 --port 6380 --tls-ca-cert-file {FOLDER}/cert.pem --tls-cert-file "
        f"{certificate.server_certificate} --tls-key-file {certificate.server_key} --tls-auth-clients no"
    )
    container = start(
        "--entrypoint", "/bin/sh", "--publish", "127.0.0.1::6380", *options,
        command=("-c", f"redis-server --requirepass $REDIS_PASSWORD {tls}"),
        password=_SECRET,
        files=certificate.files(),
        wait=False,
    )  # fmt: skip
    container.wait_health("healthy")
    trusting = {"host": "localhost", "ssl": True, "ssl_ca_certs": str(certificate.certificate)}
    first_trace(container, secure, "redis", **trusting)
    beside = valkey.Valkey(port=container.port(6380), password=_SECRET)
    assert beside.get("a") == b"1"
    end(container)
