"""The alert rules and the board of samples/compose leave housekeeping out where telemetry.overview does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from telemetry.commandnames import KNOWN
from telemetry.housekeeping import is_housekeeping

_COMPOSE = Path(__file__).parents[2] / "samples" / "compose"
_EXCLUDED = re.compile(r'db_operation_name!~"([^"]*)"')
_SELECTOR = re.compile(r"valkey_command_(?:calls_total|duration_seconds_bucket)(?:\{[^}]*\})?")


def _alert(name: str) -> str:
    text = (_COMPOSE / "prometheus" / "alerts.yml").read_text()
    rule = text.partition(f"- alert: {name}\n")[2].partition("labels:")[0]
    return " ".join(rule.split())


def _stat(title: str) -> str:
    panels = json.loads((_COMPOSE / "grafana" / "boards" / "valkey.json").read_text())["panels"]
    (panel,) = (panel for panel in panels if panel["title"] == title and panel["type"] == "stat")
    (target,) = panel["targets"]
    return str(target["expr"])


@pytest.mark.parametrize(
    "expression",
    [_alert("ValkeyCommandsFail"), _alert("ValkeySlow"), _stat("Commands"), _stat("p99 duration"), _stat("Failed")],
    ids=["alert: commands fail", "alert: slow", "board: commands", "board: p99", "board: failed"],
)
def test_ratios_and_latency_leave_out_what_clients_send_by_themselves(expression: str) -> None:
    selectors = _SELECTOR.findall(expression)
    assert selectors
    names = KNOWN | {"_OTHER", "COMMANDLOG", "CLIENTS", "PINGX", "CONFIG", "CLUSTER X"}
    for selector in selectors:
        excluded = _EXCLUDED.search(selector)
        assert excluded, selector
        left_out = {name for name in names if re.fullmatch(excluded[1], name)}
        assert left_out == {name for name in names if is_housekeeping(name)}
