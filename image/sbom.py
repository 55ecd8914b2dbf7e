"""Writes what the image is made of: sbom.cdx.json (CycloneDX 1.6) and LICENSES.txt (names, then texts).

Owns the reading of three sources, all in the image itself: Python packages (their metadata), Debian packages (dpkg)
and the engine (its --version). Never asks a network and never guesses a licence.

    python sbom.py FOLDER
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

_OURS = "valkey-sidecar"
_DEBIAN_FIELDS = "${binary:Package}\t${Version}\t${Architecture}\t${source:Package}\n"
_SPDX_EXPRESSION = re.compile(r"[A-Za-z0-9.+()-]+( (AND|OR|WITH) [A-Za-z0-9.+()-]+)*")
_VALKEY_NOTICE = "Copyright (c) 2024-present, Valkey contributors. Copyright (c) 2006-2020, Redis Ltd."
_LONGEST_NAME = 120
"""Some packages give a whole text where a licence's name belongs; that text is among the files."""


@dataclass(frozen=True)
class Component:
    """One part of the image. `licence` is an SPDX expression, or the name that its authors gave it."""

    name: str
    version: str
    purl: str
    licence: str = ""
    where: str = ""
    texts: tuple[tuple[str, str], ...] = ()

    def as_cyclonedx(self) -> dict[str, Any]:
        is_ours = self.name == _OURS
        found: dict[str, Any] = {
            "type": "application" if is_ours else "library",
            "bom-ref": self.purl,
            "name": self.name,
            "version": self.version,
            "purl": self.purl,
        }
        if self.licence and _SPDX_EXPRESSION.fullmatch(self.licence):
            found["licenses"] = [{"expression": self.licence}]
        elif self.licence:
            found["licenses"] = [{"license": {"name": self.licence}}]
        return found


def python_packages() -> list[Component]:
    """What is installed where this runs."""
    found = {}
    for distribution in distributions():
        name, version = distribution.metadata["Name"], distribution.version
        key = re.sub(r"[-_.]+", "-", name).lower()
        purl = f"pkg:pypi/{key}@{version}"
        found[key] = Component(name, version, purl, _licence(distribution), texts=_texts(distribution))
    return [found[key] for key in sorted(found)]


def debian_packages() -> list[Component]:
    """What dpkg knows of; each package's licence is in its own copyright file."""
    listing = subprocess.run(
        ["dpkg-query", "--show", f"--showformat={_DEBIAN_FIELDS}"], capture_output=True, text=True, check=True
    ).stdout
    found = []
    for line in listing.splitlines():
        package, version, architecture, _source = line.split("\t")
        name = package.partition(":")[0]
        purl = f"pkg:deb/debian/{name}@{version.replace(':', '%3A').replace('+', '%2B')}?arch={architecture}"
        found.append(Component(name, version, purl, where=f"/usr/share/doc/{name}/copyright"))
    return found


def python_itself() -> Component:
    version = platform.python_version()
    return Component("python", version, f"pkg:generic/python@{version}", "PSF-2.0")


def engine() -> Component:
    """The Valkey that is inside."""
    said = subprocess.run(
        [os.environ["SIDECAR_ENGINE_BINARY"], "--version"], capture_output=True, text=True, check=True
    ).stdout
    version = re.search(r"\bv=(\S+)", said)
    if version is None:
        sys.exit(f"sbom.py: the engine does not say its version: {said.strip()}")
    return Component("valkey", version[1], f"pkg:generic/valkey@{version[1]}", "BSD-3-Clause", where=_VALKEY_NOTICE)


def cyclonedx(components: list[Component]) -> str:
    (ours,) = [component for component in components if component.name == _OURS]
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": ours.as_cyclonedx()},
        "components": [component.as_cyclonedx() for component in components if component is not ours],
    }
    return json.dumps(document, indent=1) + "\n"


def licences(components: list[Component]) -> str:
    lines = ["What is in this image, and its licences. The texts of the Python packages follow.", ""]
    for component in components:
        what = component.licence or "see"
        lines.append(f"{component.name} {component.version}: {what} {component.where}".rstrip())
    for component in components:
        for file, text in component.texts:
            lines += ["", "=" * 100, f"{component.name} {component.version}: {file}", "=" * 100, text.rstrip()]
    return "\n".join(lines) + "\n"


def _licence(distribution: Distribution) -> str:
    metadata = distribution.metadata
    if expressions := metadata.get_all("License-Expression"):
        return str(expressions[0])
    given = str((metadata.get_all("License") or [""])[0])
    if given and "\n" not in given and len(given) <= _LONGEST_NAME:
        return given
    classifiers = metadata.get_all("Classifier") or []
    names = [c.rpartition(" :: ")[2] for c in classifiers if c.startswith("License :: ")]
    return ", ".join(names) or "see its text"


def _texts(distribution: Distribution) -> tuple[tuple[str, str], ...]:
    found = []
    for file in distribution.files or ():
        path = Path(str(distribution.locate_file(file)))
        is_licence = re.match(r"(licen[cs]e|copying|notice|authors)", path.name, re.IGNORECASE)
        if is_licence and ".dist-info" in str(file) and path.is_file():
            found.append((path.name, path.read_text(errors="replace")))
    return tuple(found)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    everything = [*python_packages(), python_itself(), engine(), *debian_packages()]
    (folder / "sbom.cdx.json").write_text(cyclonedx(everything))
    (folder / "LICENSES.txt").write_text(licences(everything))
