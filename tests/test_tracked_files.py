"""What is in the repository tells nothing about the machine that it was written on."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]
# Where packages come from is for whoever installs them to say.
_SOURCE = re.compile(
    r"^\s*(?:--find-links|--(?:extra-)?index-url|--trusted-host|-[fi]\s)|://|\s@\s|\"resolved\":", re.MULTILINE
)
_OF_A_PERSON = re.compile(r"(?:/home/|/Users/|[A-Z]:\\Users\\)[A-Za-z0-9]")
_HOST = re.compile(r"://(?:[^@/\s]*@)?([A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+)")


@pytest.fixture(scope="module")
def tracked() -> dict[str, str]:
    """Every text that git knows of, by its path."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=_ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    found = {}
    for name in filter(None, listed.stdout.split("\0")):
        path = _ROOT / name
        if path.is_file() and b"\0" not in (content := path.read_bytes()):
            found[name] = content.decode("utf-8", "replace")
    return found


def _is_lock(name: str) -> bool:
    return bool(re.search(r"requirements[^/]*\.(?:txt|lock)$|\.lock$|package-lock\.json$", name))


def test_no_lock_says_where_its_packages_come_from(tracked: dict[str, str]) -> None:
    locks = {name: text for name, text in tracked.items() if _is_lock(name)}
    assert {"requirements.lock", "tests/e2e/suites-requirements.txt"} <= locks.keys()
    uncommented = {name: re.sub(r"#.*", "", text) for name, text in locks.items()}
    assert {name: found for name, text in uncommented.items() if (found := _SOURCE.findall(text))} == {}


def test_no_file_names_a_folder_of_somebodys(tracked: dict[str, str]) -> None:
    assert {name: found[0] for name, text in tracked.items() if (found := _OF_A_PERSON.findall(text))} == {}


def test_no_file_names_what_this_machine_installs_from(tracked: dict[str, str]) -> None:
    """The folders and hosts of pip's, npm's and Go's settings here. Elsewhere they are others, and looked for there."""
    names = ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "NPM_CONFIG_REGISTRY", "GOPROXY")
    values = [os.environ.get(name, "") for name in names]
    looked_for = {host for value in values for host in _HOST.findall(value)}
    looked_for |= {folder for folder in values[0].split() if folder.startswith("/") and folder.count("/") > 1}
    assert {name: each for name, text in tracked.items() for each in looked_for if each in text} == {}


@pytest.mark.parametrize("name", ["dump.rdb", "appendonlydir/x", ".valkey-sidecar.lock"])
def test_git_takes_no_notice_of_what_a_server_leaves_behind(tracked: dict[str, str], name: str) -> None:
    assert subprocess.run(["git", "check-ignore", "-q", name], cwd=_ROOT, check=False).returncode == 0
