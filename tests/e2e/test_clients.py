"""Clients of four languages do with us what they are made for, and go on after a crash of the engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.authority import Authority
from tests.campaign.figures import Row, record
from tests.conftest import PATIENCE_S, Server, free_port, launch, launch_bare
from tests.e2e.clients import runs
from tests.e2e.clients.programs import CHECKS, CLIENTS, Client
from tests.e2e.clients.runs import Told

pytestmark = pytest.mark.e2e

# fmt: off
SETTINGS = (
    "--requirepass", runs.PASSWORD, "--appendonly", "yes", "--appendfsync", "always",
    "--user", runs.USER, "on", f">{runs.USER_PASSWORD}", "~*", "&*", "+@all", "-config",
)
# fmt: on


@pytest.fixture(scope="module")
def folders() -> dict[str, Path]:
    return runs.build_all()


@pytest.fixture(scope="module")
def through(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Told]:
    """What the programs said of us."""
    folder = tmp_path_factory.mktemp("through")
    authority = Authority(folder / "authority")
    issued = authority.issue()
    port = free_port()
    # fmt: off
    server = launch(
        folder, *SETTINGS, "--sidecar-workers", "2", "--tls-port", str(port), "--tls-auth-clients", "no",
        "--tls-cert-file", str(issued.certificate), "--tls-key-file", str(issued.key),
    )
    # fmt: on

    def crash() -> None:
        engine = server.engine
        engine.kill()
        engine.wait(PATIENCE_S)

    try:
        told = runs.run(folders, server, crash, folder, tls=(port, authority.file))
        assert server.metric("valkey_sidecar_engine_restarts_total") == 1
        assert "worker.fault" not in server.log_text()
        assert server.stop() == 0
    finally:
        server.kill()
    return told


@pytest.fixture(scope="module")
def directly(
    folders: dict[str, Path], engine_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Told]:
    """What the programs said of a bare engine, which has no TLS: it shows that they are right."""
    folder = tmp_path_factory.mktemp("directly")
    servers: list[Server] = [launch_bare(engine_binary, folder, *SETTINGS)]

    def crash() -> None:
        servers[0].kill()
        servers.append(launch_bare(engine_binary, folder, *SETTINGS, port=servers[0].port))

    try:
        return runs.run(folders, servers[0], crash, folder)
    finally:
        for server in servers:
            server.kill()


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.program)
def test_a_client_does_everything_it_offers(client: Client, through: dict[str, Told]) -> None:
    told = through[client.name]
    assert list(told.checks) == list(CHECKS), told.text
    assert set(told.checks.values()) <= {"ok", "not offered"}, told.text
    record(Row.CLIENT_CHECKS, sum(said == "ok" for said in told.checks.values()), client.name)


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.program)
def test_it_does_the_same_directly(client: Client, directly: dict[str, Told], through: dict[str, Told]) -> None:
    ours = {check: said for check, said in through[client.name].checks.items() if check != "TLS"}
    assert directly[client.name].checks == ours, directly[client.name].text
