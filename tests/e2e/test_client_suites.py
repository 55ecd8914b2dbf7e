"""The clients' own test suites cannot tell valkey-sidecar from a bare Valkey."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.campaign.figures import Row, record
from tests.conftest import Server, Start, launch_bare, wait_until
from tests.e2e import go_suite
from tests.e2e.go_suite import GoSuite
from tests.e2e.suites import AnySuite, Outcome, Outcomes, Sources, Suite, fetch, run_both

pytestmark = pytest.mark.e2e

_SETTINGS = ("--enable-debug-command", "yes", "--enable-module-command", "yes")
_PASSED = {"call:passed", "passed", "PASS"}
_RERUNS = 2
"""Tests that differ get so many second chances, on one server after the other: some depend on timing."""

# SYNC and PSYNC are the only commands in the suites after which a session cannot be measured.
_RAW_REASONS = {"replication"}


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return fetch(tmp_path_factory.mktemp("suites"))


def _differing(bare: Outcomes, ours: Outcomes) -> list[str]:
    """Ids of tests that ended differently, in the order in which they ran."""
    nothing = Outcome("did not run", "")
    return [test for test in {**bare, **ours} if bare.get(test, nothing).text != ours.get(test, nothing).text]


def _describe(tests: list[str], bare: Outcomes, ours: Outcomes) -> str:
    lines = [f"{len(tests)} tests end differently:"]
    for test in tests:
        for name, outcomes in (("bare", bare), ("ours", ours)):
            outcome = outcomes.get(test, Outcome("did not run", ""))
            lines.append(f"{test} {name}: {outcome.text}\n{outcome.report}")
    return "\n".join(lines)


def _nobody_is_connected(server: Server) -> bool:
    metrics = server.metrics()
    connected = sum(value for name, value in metrics.items() if name.startswith("valkey_client_connections{"))
    return connected == 0 and metrics["valkey_command_in_flight"] == 0


@pytest.fixture
def servers(start: Start, engine_binary: Path, tmp_path: Path) -> Iterator[tuple[Server, Server]]:
    """A bare engine and one of ours with its settings; after the test, nothing of ours is the worse for it."""
    folder = tmp_path / "bare"
    folder.mkdir()
    direct = launch_bare(engine_binary, folder, *_SETTINGS)
    try:
        server = start("--save", "", *_SETTINGS)
        yield direct, server
    finally:
        direct.stop()

    wait_until(lambda: _nobody_is_connected(server), "every session has ended with its client")
    raw = {name for name in server.metrics() if name.startswith("valkey_sidecar_sessions_raw_total{")}
    assert raw <= {f'valkey_sidecar_sessions_raw_total{{reason="{reason}"}}' for reason in _RAW_REASONS}
    assert "worker.fault" not in server.log_text()
    assert server.stop() == 0


def _compare(suites: tuple[AnySuite, AnySuite], name: str, at_least: int) -> None:
    """Run both; as many tests have to pass at least, and all have to end in the same way."""
    bare, ours = run_both(*suites)
    assert sum(outcome.text in _PASSED for outcome in ours.values()) > at_least
    differing = _differing(bare, ours)
    record(Row.SUITE_TESTS, len(ours), name)
    for _ in range(_RERUNS):
        if not differing or not bare.keys() & ours.keys() >= set(differing):
            break
        bare, ours = (suite.run(differing) for suite in suites)
        differing = _differing(bare, ours)
    record(Row.SUITE_DIFFERENCES, len(differing))
    assert not differing, _describe(differing, bare, ours)


@pytest.mark.parametrize(("client", "protocol"), [("valkey", "2"), ("valkey", "3"), ("redis", "3")])
def test_every_test_of_a_python_client_ends_as_it_does_directly(
    client: str, protocol: str, sources: Sources, servers: tuple[Server, Server], tmp_path: Path
) -> None:
    direct, server = servers
    suites = (
        Suite(sources, client, protocol, direct.port, tmp_path / "direct"),
        Suite(sources, client, protocol, server.port, tmp_path / "through"),
    )
    _compare(suites, f"{client}-py, RESP{protocol}", 1500)


def test_every_test_of_go_redis_ends_as_it_does_directly(servers: tuple[Server, Server], tmp_path: Path) -> None:
    program = go_suite.build()
    direct, server = servers
    suites = (
        GoSuite(program, direct.port, tmp_path / "direct"),
        GoSuite(program, server.port, tmp_path / "through"),
    )
    _compare(suites, "go-redis", 700)
