"""Clients of four languages do with us what they are made for, and go on after a crash of the engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaign import clients_page
from tests.campaign.figures import Row, record
from tests.e2e.clients import runs
from tests.e2e.clients.programs import CHECKS, CLIENTS, Client
from tests.e2e.clients.runs import Told

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def folders() -> dict[str, Path]:
    return runs.build_all()


@pytest.fixture(scope="module")
def through(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Told]:
    return runs.through_us(folders, tmp_path_factory.mktemp("through"))


@pytest.fixture(scope="module")
def directly(
    folders: dict[str, Path], engine_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Told]:
    return runs.directly(folders, engine_binary, tmp_path_factory.mktemp("directly"))


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.program)
def test_a_client_does_everything_it_offers(client: Client, through: dict[str, Told]) -> None:
    told = through[client.name]
    assert sorted(told.checks) == sorted(CHECKS), told.text
    assert set(told.checks.values()) <= {"ok", "not offered"}, told.text
    record(Row.CLIENT_CHECKS, sum(said == "ok" for said in told.checks.values()), client.name)


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.program)
def test_it_does_the_same_directly(client: Client, directly: dict[str, Told], through: dict[str, Told]) -> None:
    ours = {check: said for check, said in through[client.name].checks.items() if check != "TLS"}
    assert directly[client.name].checks == ours, directly[client.name].text


def test_the_page_says_what_was_seen(through: dict[str, Told]) -> None:
    assert clients_page.table(through) in clients_page.PAGE.read_text(encoding="utf-8")
