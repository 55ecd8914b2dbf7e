"""Stand-ins for the base images of the Dockerfile, made with debootstrap where no registry can be reached.

Owns what they have in common with the official ones: Debian trixie with its own Python, less its bytecode, which the
official image has not; and Valkey's programs in /usr/local/bin. Whoever can pull the official ones sets VALKEY_IMAGE,
BUILD_IMAGE and PYTHON_IMAGE, and nothing is made.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.image.docker import Docker, NoDockerError

IMAGES = ("VALKEY_IMAGE", "BUILD_IMAGE", "PYTHON_IMAGE")

_RELEASE = "trixie"
_LIMIT_S = 900
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
# Debian's Valkey takes from shared libraries what the official one has inside.
_PYTHON_PACKAGES = (
    "ca-certificates", "netbase", "tzdata", "python3", "libatomic1", "libjemalloc2", "liblzf1", "libstdc++6",
    "libsystemd0",
)  # fmt: skip
_MOVE_VALKEY = "RUN for name in server cli benchmark; do cp -L /usr/bin/valkey-$name /usr/local/bin/; done"
# What the slim images leave out too.
_NEEDLESS = ("usr/share/man", "usr/share/locale", "var/cache/apt", "var/lib/apt/lists")


def base_images(docker: Docker, folder: Path) -> dict[str, str]:
    """The build arguments that name the base images: those of the environment, all three, else made in `folder`.

    Raises NoDockerError where they cannot be made.
    """
    given = {name: os.environ[name] for name in IMAGES if os.environ.get(name)}
    if len(given) == len(IMAGES):
        return given
    debootstrap = shutil.which("debootstrap", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if debootstrap is None or os.geteuid() != 0:
        what = "is not installed (Debian: apt-get install debootstrap)" if debootstrap is None else "needs root"
        raise NoDockerError(f"base images: debootstrap {what}; or name images that can be had by {', '.join(IMAGES)}")
    python = _bootstrap(debootstrap, folder / "python")
    for bytecode in (python / "usr/lib").glob("python3*/**/*.pyc"):
        bytecode.unlink()
    _import(docker, "stand-in-python", python)
    _derive(docker, folder / "valkey", "stand-in-valkey", "valkey-server valkey-tools", _MOVE_VALKEY)
    _derive(docker, folder / "build", "stand-in-build", "gcc libc6-dev python3-dev python3-pip python3-venv")
    return {"VALKEY_IMAGE": "stand-in-valkey", "BUILD_IMAGE": "stand-in-build", "PYTHON_IMAGE": "stand-in-python"}


def _derive(docker: Docker, folder: Path, tag: str, packages: str, *lines: str) -> None:
    """With more packages, and the certificates that this machine trusts: pip's index may need them."""
    folder.mkdir()
    certificates = folder / "ca-certificates.crt"
    shutil.copy(_CERTIFICATES, certificates)
    dockerfile = (
        "FROM stand-in-python",
        f"COPY {certificates.name} {_CERTIFICATES}",
        f"ENV PIP_CERT={_CERTIFICATES}",
        f"RUN apt-get update -q && apt-get install -q -y --no-install-recommends {packages}",
        *lines,
    )
    (folder / "Dockerfile").write_text("\n".join(dockerfile) + "\n")
    docker.build(tag, folder)


def _bootstrap(debootstrap: str, folder: Path) -> Path:
    include = f"--include={','.join(_PYTHON_PACKAGES)}"
    command = [debootstrap, "--variant=minbase", include, _RELEASE, str(folder), *_mirror()]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LIMIT_S, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    for needless in _NEEDLESS:
        shutil.rmtree(folder / needless, ignore_errors=True)
    (folder / "var/cache/apt/archives/partial").mkdir(parents=True)
    (folder / "var/lib/apt/lists/partial").mkdir(parents=True)
    return folder


def _mirror() -> list[str]:
    """Where this machine has its Debian packages from; debootstrap's own choice where apt does not say."""
    targets = ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages", "Origin: Debian"]
    done = subprocess.run([*targets, "Label: Debian"], capture_output=True, text=True, check=False)
    return done.stdout.split()[:1]


def _import(docker: Docker, tag: str, folder: Path) -> None:
    with subprocess.Popen(["tar", "-C", str(folder), "-c", "."], stdout=subprocess.PIPE) as tar:
        assert tar.stdout is not None
        docker.import_filesystem(tag, tar.stdout)
    assert tar.returncode == 0
    shutil.rmtree(folder)
