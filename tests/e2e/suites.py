"""The test suites of valkey-py and redis-py, run against any server.

Owns the way from the locked versions to outcomes: fetches the source distributions that `requirements.lock` names by
version and hash, unpacks them with a server's port and a free one in place of the ports they take for granted, and runs
their standalone tests. It judges nothing.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.conftest import free_port

ROOT = Path(__file__).parents[2]
REQUIREMENTS = Path(__file__).with_name("suites-requirements.txt")
CLIENTS = ("valkey", "redis")

_RUN_S = 900
_TEST_S = 30
_SERVER_PORTS = re.compile(r"(?<!\d)(6379|6380)(?!\d)")
_PROXY_PORT = re.compile(r"(?<!\d)5380(?!\d)")
"""Where test_cwe_404 listens: two suites cannot both at the same time."""
_MARKS = "not onlycluster and not ssl and not valkeymod and not redismod"

# What no standalone server without TLS and modules takes part in.
_IGNORED = {
    "valkey": ["test_ssl.py", "**/*cluster*.py"],
    "redis": [
        "**/test_ssl.py",
        "**/*cluster*.py",
        "**/*sentinel*.py",
        "**/*search*.py",
        "**/test_auth",
        "**/test_http",
        "**/test_multidb",
        "**/test_observability",
        "**/test_scenario",
        "**/test_vsets.py",
        "**/maint_notifications",
    ],
}


@dataclass(frozen=True)
class Sources:
    """What was downloaded: the packages that the suites need, and the suites' archives."""

    packages: Path
    archives: Path


@dataclass(frozen=True)
class Outcome:
    """How one test ended, such as `call:passed`, and what it said if it failed."""

    text: str
    report: str


Outcomes = dict[str, Outcome]
"""By test id, with PORT for the server's port."""


def fetch(folder: Path) -> Sources:
    """Download everything, each file checked against its locked hash."""
    sources = Sources(folder / "packages", folder / "archives")
    clients = folder / "clients.txt"
    clients.write_text("".join(_locked(client) for client in CLIENTS))
    _pip("install", "--requirement", REQUIREMENTS, "--target", sources.packages)
    # pip asks an archive's build backend for its metadata; it is one of those packages, so nothing else is downloaded.
    options = ("--no-binary", ",".join(CLIENTS), "--no-build-isolation", "--dest", sources.archives)
    _pip("download", "--requirement", clients, *options, packages=sources.packages)
    return sources


class AnySuite(Protocol):
    """A client's test suite, set up for one server."""

    def start(self, tests: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Begin a run of the tests with these ids, as an earlier run's outcomes have them; without ids, of all."""

    def finish(self, process: subprocess.Popen[bytes]) -> Outcomes:
        """Wait for the end of a run."""

    def run(self, tests: Sequence[str]) -> Outcomes:
        """These tests, and nothing beside them."""


class Suite:
    """One client's test suite, unpacked for one server."""

    def __init__(self, sources: Sources, client: str, protocol: str, port: int, folder: Path) -> None:
        self._packages = sources.packages
        self._port = port
        self._options = [f"--{client}-url", f"{client}://localhost:{port}/0", "--protocol", protocol]
        if client == "redis":
            self._options += ["--redis-mod-url", "redis://localhost:1"]
        (archive,) = sources.archives.glob(f"{client}-*.tar.gz")
        folder.mkdir()
        _call(["tar", "-xzf", str(archive), "-C", str(folder)])
        (self._root,) = folder.iterdir()
        self._outcomes = folder / "outcomes.json"
        self._log = folder / "log"
        # Some tests use the default ports whatever the URL says, and could empty a server that is not ours.
        proxy_port = free_port()
        for path in self._root.rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            ours = _PROXY_PORT.sub(str(proxy_port), _SERVER_PORTS.sub(str(port), text))
            if ours != text:
                path.write_text(ours, encoding="utf-8")
        tests = self._root / "tests"
        for pattern in _IGNORED[client]:
            self._options += [f"--ignore={path.relative_to(self._root)}" for path in sorted(tests.glob(pattern))]

    def start(self, tests: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Begin a run of the tests with these ids, as an earlier run's outcomes have them; without ids, of all."""
        self._outcomes.unlink(missing_ok=True)
        plugins = ("pytest_asyncio.plugin", "pytest_timeout", "suite_outcomes", "no:cacheprovider")
        command = [sys.executable, "-m", "pytest", "-q", *(f"-p{plugin}" for plugin in plugins)]
        command += [f"--timeout={_TEST_S}", "-m", _MARKS, *self._options]
        command += [test.replace(":PORT", f":{self._port}") for test in tests] or ["tests"]
        environment = {
            **os.environ,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": os.pathsep.join([str(self._packages), str(Path(__file__).parent)]),
            "SUITE_OUTCOMES": str(self._outcomes),
        }
        environment.pop("PYTEST_ADDOPTS", None)
        with self._log.open("wb") as log:
            return subprocess.Popen(
                command, cwd=self._root, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def run(self, tests: Sequence[str]) -> Outcomes:
        """These tests, and nothing beside them."""
        process = self.start(tests)
        try:
            return self.finish(process)
        finally:
            process.wait()

    def finish(self, process: subprocess.Popen[bytes]) -> Outcomes:
        """Wait for the end of a run."""
        try:
            code = process.wait(_RUN_S)
        finally:
            process.kill()
        if code not in {0, 1} or not self._outcomes.exists():  # 1: tests failed, which the caller judges
            end = self._log.read_text(errors="replace")[-4000:]
            raise AssertionError(f"the suite did not run (exit code {code}):\n{end}")
        found = json.loads(self._outcomes.read_text())
        return {test.replace(f":{self._port}", ":PORT"): Outcome(*entry) for test, entry in found.items()}


def run_both(first: AnySuite, second: AnySuite) -> tuple[Outcomes, Outcomes]:
    """All tests of both at the same time: most of the time they wait."""
    processes = [first.start(), second.start()]
    try:
        return first.finish(processes[0]), second.finish(processes[1])
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _locked(package: str) -> str:
    """The lines of requirements.lock that name the package's version and hashes."""
    lock = (ROOT / "requirements.lock").read_text()
    match = re.search(rf"^{package}==.*\n(?:    --hash=.*\n)+", lock, re.MULTILINE)
    assert match, f"requirements.lock has no {package}"
    return match[0]


def _pip(command: str, *arguments: object, packages: Path | None = None) -> None:
    options = ["--disable-pip-version-check", "--quiet", "--no-input", "--no-deps", "--require-hashes"]
    environment = {**os.environ, "PYTHONPATH": str(packages)} if packages else None
    _call([sys.executable, "-m", "pip", command, *options, *map(str, arguments)], environment)


def _call(command: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
