"""The test suite of go-redis, from its module as published, run against any server.

Owns the way from the module that clients/go/go.mod and go.sum name to outcomes: a program is built of it in which the
server's port comes from the environment, and runs what needs one plain server. It judges nothing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.e2e.go_programs import Go, built
from tests.e2e.suites import Outcome, Outcomes

MODULE = "github.com/redis/go-redis/v9"
_PINS = Path(__file__).parent / "clients" / "go"
_RUN_S = 400
_SPECS = "TestGinkgoSuite"
"""The Go test that runs all of Ginkgo's specs; a spec's id is what its report calls it, a Go test's its name."""

# What needs more than one plain server without TLS and modules; by file, by spec or by test.
_OTHER_FILES = "sentinel|cluster|ring_test|search|json_test|timeseries|probabilistic|vectorset|universal|tls_"
_OTHER_SPECS = "[Cc]luster|[Ss]entinel|TLS"
_OTHER_TESTS = re.compile("Cluster|Sentinel|TLS|Search")
# Go tests of the client's own housekeeping, which repeat one thing for long or wait for deadlines.
_LONG_TESTS = re.compile("Leak|Soak|Backlog|Drain")

_NEEDS_SERVER = re.compile(r'":6379"|\b(?:apTest\w+|cscNativeAddr|fdTestClient|redisOptions)\(')
_TEST = re.compile(r"func (Test\w+)\(t \*testing\.T\)")
_NUMBER = re.compile(r" \(\d+\)$")
_ENDED = re.compile(r"^--- (PASS|FAIL|SKIP): (\w+)", re.MULTILINE)


def pinned() -> tuple[str, str]:
    """The module's version and the hash of its sources."""
    match = re.search(rf"^{MODULE} (\S+) (h1:\S+)$", (_PINS / "go.sum").read_text(), re.MULTILINE)
    assert match, f"go.sum has no {MODULE}"
    return match[1], match[2]


def build() -> Path:
    """A folder with the program and the names of its Go tests; made now if it is not in the cache."""
    return built("go-redis-suite", " ".join(pinned()).encode() + Path(__file__).read_bytes(), _make)


def _make(folder: Path, go: Go) -> Path:
    version, checksum = pinned()
    found = json.loads(go("mod", "download", "-json", f"{MODULE}@{version}"))
    assert found["Sum"] == checksum, f"{MODULE} {version} is {found['Sum']}, go.sum says {checksum}"
    source, program = folder / "source", folder / "program"
    shutil.copytree(found["Dir"], source, copy_function=shutil.copyfile)
    for path in (source, *(p for p in source.rglob("*") if p.is_dir())):
        path.chmod(0o755)  # a module's folders are read-only
    for path in source.glob("*bench*_test.go"):
        path.unlink()
    tests: list[str] = []
    for path in sorted(source.glob("*_test.go")):
        text = path.read_text(encoding="utf-8")
        if not re.search(_OTHER_FILES, path.name):
            tests += _tests_of_servers(text)
        path.write_text(_with_port_from_environment(text), encoding="utf-8")
    for package in ("redis", "redis_test"):
        (source / f"port_of_{package}_test.go").write_text(
            f'package {package}\n\nimport "os"\n\nvar suiteAddr = ":" + os.Getenv("REDIS_PORT")\n'
        )
    program.mkdir()
    go("-C", "source", "test", "-vet=off", "-ldflags=-s -w", "-c", "-o", "../program/suite.test", ".")
    (program / "tests.json").write_text(json.dumps(tests))
    return program


def _tests_of_servers(text: str) -> list[str]:
    """The Go tests of a file in whose own lines the server is used; the specs are another matter."""
    functions = [(_TEST.match(function), function) for function in re.split(r"^(?=func )", text, flags=re.MULTILINE)]
    names = [match[1] for match, function in functions if match and _NEEDS_SERVER.search(function)]
    return [name for name in names if not _OTHER_TESTS.search(name) and not _LONG_TESTS.search(name)]


def _with_port_from_environment(text: str) -> str:
    """A test's source in which no port is taken for granted, and only the plain server is connected to at the start."""
    text = text.replace('":6379"', "suiteAddr").replace('redisStackPort = "6379"', "redisStackPort = suiteAddr[1:]")
    text = text.replace('redisSecondaryPort = "6381"', 'redisSecondaryPort = "1"')
    return text.replace("\tif !RECluster {\n\t\tringShard1, err", "\tif false {\n\t\tringShard1, err").replace(
        "\tif !RECluster {\n\t\tExpect(cluster.Close", "\tif false {\n\t\tExpect(cluster.Close"
    )


class GoSuite:
    """The suite, for one server."""

    def __init__(self, program: Path, port: int, folder: Path) -> None:
        folder.mkdir()
        self._program = program / "suite.test"
        self._tests: list[str] = json.loads((program / "tests.json").read_text())
        self._port = port
        self._folder = folder
        self._report = folder / "specs.json"
        self._log = folder / "log"

    def start(self, tests: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Begin a run of the tests with these ids, as an earlier run's outcomes have them; without ids, of all."""
        self._report.unlink(missing_ok=True)
        plain = [test for test in tests if test in self._tests] if tests else self._tests
        specs = [test for test in tests if test not in self._tests]
        names = [*plain, *([_SPECS] if specs or not tests else [])]
        command = [str(self._program), "-test.v", f"-test.run=^({'|'.join(names)})$", f"-test.timeout={_RUN_S}s"]
        command += ["-ginkgo.no-color", "-ginkgo.succinct", "-ginkgo.seed=1", f"-ginkgo.json-report={self._report}"]
        command += [f"-ginkgo.focus={re.escape(_NUMBER.sub('', spec))}" for spec in specs]
        command += [f"-ginkgo.skip-file={_OTHER_FILES}", f"-ginkgo.skip={_OTHER_SPECS}"]
        environment = {**os.environ, "REDIS_PORT": str(self._port)}
        with self._log.open("wb") as log:
            return subprocess.Popen(
                command, cwd=self._folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def run(self, tests: Sequence[str]) -> Outcomes:
        """These tests, and nothing beside them."""
        process = self.start(tests)
        try:
            outcomes = self.finish(process)
        finally:
            process.wait()
        return {test: outcome for test, outcome in outcomes.items() if test in tests}

    def finish(self, process: subprocess.Popen[bytes]) -> Outcomes:
        """Wait for the end of a run."""
        try:
            code = process.wait(_RUN_S)
        finally:
            process.kill()
        said = self._log.read_text(errors="replace")
        outcomes = {
            match[2]: Outcome(match[1], _before(said, match.start()) if match[1] == "FAIL" else "")
            for match in _ENDED.finditer(said)
            if match[2] != _SPECS
        }
        if self._report.exists():
            outcomes |= _specs(json.loads(self._report.read_text()))
        # 1: tests failed, which the caller judges. A panic or a deadline ends with 2, and the rest did not run.
        ran = code in {0, 1} and bool(outcomes)
        assert ran, f"the suite did not run (exit code {code}):\n{said[-4000:]}"
        return outcomes


def _before(said: str, end: int) -> str:
    return said[max(0, end - 2000) : end + 2000]


def _specs(report: list[dict[str, Any]]) -> Outcomes:
    outcomes: Outcomes = {}
    times: Counter[str] = Counter()
    for spec in (spec for suite in report for spec in suite["SpecReports"]):
        failure = spec.get("Failure")  # also what a spec said that skipped itself
        if spec["LeafNodeType"] == "It" and (spec["State"] != "skipped" or failure):
            test = " ".join([*(spec["ContainerHierarchyTexts"] or ()), spec["LeafNodeText"]])
            times[test] += 1
            name = test if times[test] == 1 else f"{test} ({times[test]})"
            outcomes[name] = Outcome(spec["State"], failure["Message"] if failure else "")
    return outcomes
