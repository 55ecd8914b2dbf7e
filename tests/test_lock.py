"""requirements.lock holds exactly what may be installed: every package of ours, each version with its hashes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_PINNED = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)(?: ; [^\\]+)?(?P<hashes>(?: --hash=sha256:[0-9a-f]{64})+)"
)


def requirements() -> list[str]:
    """Every requirement as one line, without comments."""
    text = (_ROOT / "requirements.lock").read_text().replace("\\\n", "")
    lines = [re.sub(r" +", " ", line).strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def normalized(requirement: str) -> str:
    """The package's name as indexes compare it (PEP 503), of "Some.Package>=1; marker" or a name."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None, requirement
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def test_every_requirement_is_one_version_with_hashes() -> None:
    assert requirements()
    assert [line for line in requirements() if not _PINNED.fullmatch(line)] == []


def test_the_lock_names_no_index_and_no_host() -> None:
    text = (_ROOT / "requirements.lock").read_text()
    assert re.findall(r"^.*(?:://|--(?:extra-)?index|--find-links|--trusted|@ ).*$", text, re.MULTILINE) == []


def test_everything_that_we_depend_on_is_in_the_lock() -> None:
    with (_ROOT / "pyproject.toml").open("rb") as file:
        configuration = tomllib.load(file)
    project, extras = configuration["project"], configuration["project"]["optional-dependencies"]
    wanted = [*project["dependencies"], *configuration["build-system"]["requires"]]
    wanted += [requirement for extra in extras.values() for requirement in extra]
    assert {normalized(requirement) for requirement in wanted} <= {normalized(line) for line in requirements()}
