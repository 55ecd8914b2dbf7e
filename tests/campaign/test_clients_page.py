"""docs/clients.md names the clients that are run, and gets its table from what they said."""

from __future__ import annotations

import pytest

from tests.campaign.clients_page import PAGE, page, table
from tests.e2e.clients.programs import CHECKS, CLIENTS
from tests.e2e.clients.runs import Told

_ALL_WELL = {client.name: Told(dict.fromkeys(CHECKS, "ok")) for client in CLIENTS}


def test_the_page_names_the_pinned_versions() -> None:
    lines = [[cell.strip() for cell in line.split("|")] for line in PAGE.read_text(encoding="utf-8").splitlines()]
    shown = [line[1:4] for line in lines if len(line) == len(CHECKS) + 5]
    assert shown[2:] == [[client.name, client.language, client.version] for client in CLIENTS]


def test_a_check_that_failed_or_was_not_made_shows() -> None:
    told = {**_ALL_WELL, "go-redis": Told({**dict.fromkeys(CHECKS, "ok"), "RESP3": "not offered", "script": "why"})}
    del told["go-redis"].checks["reconnect"]
    (line,) = [line for line in table(told).splitlines() if line.startswith("| go-redis ")]
    cells = [cell.strip() for cell in line.split("|")[4:-1]]
    shown = dict(zip(CHECKS, cells, strict=True))
    assert (shown["RESP2"], shown["RESP3"], shown["script"], shown["reconnect"]) == ("yes", "–", "FAILED", "FAILED")


def test_only_the_marked_place_changes() -> None:
    text = "before\n<!-- clients -->\nold\n<!-- end -->\nafter\n"
    changed = page(text, _ALL_WELL)
    assert changed.startswith("before\n<!-- clients -->\n| client ")
    assert changed.endswith("|\n<!-- end -->\nafter\n")
    with pytest.raises(ValueError, match="no place for the table"):
        page("nothing\n", _ALL_WELL)
