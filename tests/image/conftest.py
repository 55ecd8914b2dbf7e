"""The image, built once from this checkout, and containers of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.image.bases import base_images
from tests.image.docker import Container, Docker, NoDockerError, docker_engine

StartContainer = Callable[..., Container]

_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def docker() -> Iterator[Docker]:
    try:
        with docker_engine() as engine:
            yield engine
    except NoDockerError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def bases(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The images that ours is built on, by build argument."""
    try:
        return base_images(docker, tmp_path_factory.mktemp("bases"))
    except NoDockerError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def image(docker: Docker, bases: dict[str, str]) -> str:
    """The name of the image."""
    arguments = [word for name, base in bases.items() for word in ("--build-arg", f"{name}={base}")]
    docker.build("valkey-sidecar-test", _ROOT, *arguments, "--build-arg", "REVISION=of-a-test")
    return "valkey-sidecar-test"


@pytest.fixture
def start(docker: Docker, image: str) -> Iterator[StartContainer]:
    """Starts containers, and removes them and their volumes after the test.

    options: of `docker create`; command: what follows the image's name. Port 6379 is published on loopback unless the
    options name a network. files: copied in before the start (Container.put). Waits until it serves unless told not to.
    """
    containers: list[Container] = []

    def start_one(
        *options: str,
        command: tuple[str, ...] = (),
        password: str | None = None,
        files: dict[str, bytes | str] | None = None,
        wait: bool = True,
    ) -> Container:
        ports = () if "--network" in options else ("--publish", "127.0.0.1::6379", "--publish", "127.0.0.1::9121")
        created = docker.run("create", *ports, *options, image, *command)
        containers.append(Container(docker, created, password))
        container = containers[-1]
        if files:
            container.put(files)
        container.start()
        return container.wait() if wait else container

    yield start_one
    for container in containers:
        container.remove()


@pytest.fixture
def volume(docker: Docker) -> Iterator[str]:
    """The name of a named volume."""
    name = docker.run("volume", "create")
    yield name
    docker.attempt("volume", "rm", "--force", name)
