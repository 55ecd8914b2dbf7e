"""The board and the alert rules of samples/compose, asked of a real Prometheus that scrapes a real server."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import subprocess
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import valkey

from tests.conftest import PATIENCE_S, Server, free_port, launch, receive, wait_until
from tests.e2e.compose_files.files import ROOT, Files
from tests.e2e.prometheus import Prometheus, program

pytestmark = pytest.mark.e2e

_BOARD = ROOT / "samples" / "compose" / "grafana" / "boards" / "valkey.json"
_RULES_TEST = Path(__file__).with_name("alerts_test.yml")
_METRIC = re.compile(r"\b(?:valkey|redis)_\w+")
_WIDTH = 24
_VARIABLES = {"$instance": ".*", "$command": ".*", "$__rate_interval": "8s"}
"""What Grafana puts in their places when all of a list is chosen."""

_MAXCLIENTS = 12
_UNTIL_EVERYTHING_HAPPENED_S = 90


@dataclass(frozen=True)
class Query:
    """One query of one panel, as Prometheus gets it."""

    panel: str
    expression: str


def _panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(_BOARD.read_text())["panels"] if panel["type"] != "row"]


def _filled_in(text: str) -> str:
    for variable, value in _VARIABLES.items():
        text = text.replace(variable, value)
    return text


def _queries() -> list[Query]:
    return [Query(panel["title"], _filled_in(t["expr"])) for panel in _panels() for t in panel["targets"]]


# ---- the file


def test_grafana_knows_every_field_of_the_board(ready: Files) -> None:
    assert ready.content("board", ready.compose / "grafana" / "boards" / "valkey.json")["uid"] == "valkey-sidecar"


@pytest.mark.parametrize("old", ["drawStyle", "legendFormat", "reduceOptions", "gridPos"])
def test_a_field_that_grafana_does_not_know_is_found(files: Files, old: str) -> None:
    path = files.compose / "grafana" / "boards" / "valkey.json"
    path.write_text(path.read_text().replace(f'"{old}"', '"misspelt"', 1))
    assert "misspelt" in files.read("board", path).stderr


def test_every_panel_says_what_it_shows_in_which_unit_from_the_chosen_source() -> None:
    panels = _panels()
    assert len(panels) > 20
    assert len({panel["title"] for panel in panels} | {"Hit ratio"}) >= len(panels) - 1  # a figure and its history
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert len(panel["description"]) > 20, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources), panel["title"]
        names = [target["refId"] for target in panel["targets"]]
        assert len(set(names)) == len(names), panel["title"]


def test_no_two_panels_are_at_the_same_place() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(_BOARD.read_text())["panels"]:
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        assert columns.stop <= _WIDTH
        cells = set(itertools.product(columns, range(place["y"], place["y"] + place["h"])))
        assert not taken & cells, panel["title"]
        taken |= cells


def test_board_and_alerts_ask_for_documented_metrics_only() -> None:
    documented = set(_METRIC.findall((ROOT / "docs" / "telemetry.md").read_text()))
    alerts = (ROOT / "samples" / "compose" / "prometheus" / "alerts.yml").read_text()
    asked = {name for query in _queries() for name in _METRIC.findall(query.expression)} | set(_METRIC.findall(alerts))
    assert len(asked) > 30
    labels = {"valkey_cache_hit"}
    assert {name.removesuffix("_bucket") for name in asked} - labels <= documented


def test_grafana_finds_its_source_and_its_board_where_the_compose_file_puts_them(ready: Files) -> None:
    provisioning = ready.compose / "grafana" / "provisioning"
    (source,) = ready.content("yaml", provisioning / "datasources" / "prometheus.yaml")["datasources"]
    services = ready.services()
    place = urllib.parse.urlsplit(source["url"])
    assert place.hostname in services
    (port,) = services["prometheus"]["ports"]
    assert place.port == port["target"]
    assert source["isDefault"]
    (destination,) = source["jsonData"]["exemplarTraceIdDestinations"]
    (dashboard,) = [p for p in services["dashboard"]["ports"] if f":{p['published']}/" in destination["url"]]
    assert dashboard["target"] == 18888
    (provider,) = ready.content("yaml", provisioning / "dashboards" / "boards.yaml")["providers"]
    mounts = {m["target"]: Path(m["source"]) for m in services["grafana"]["volumes"] if m["type"] == "bind"}
    assert (mounts[provider["options"]["path"]] / "valkey.json").is_file()
    assert mounts["/etc/grafana/provisioning"] == provisioning
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/valkey.json"
    (variable,) = [v for v in json.loads(_BOARD.read_text())["templating"]["list"] if v["name"] == "datasource"]
    assert (variable["type"], variable["query"]) == ("datasource", source["type"])


# ---- the queries


@dataclass
class Watched:
    """A server with traffic of every kind, and the Prometheus that scrapes it."""

    server: Server
    prometheus: Prometheus


@pytest.fixture(scope="module")
def watched(ready: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """As the Compose file starts both, but for addresses and folders; spans go where nobody listens."""
    services = ready.services()
    cache = services["cache"]
    nobody = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}", "OTEL_EXPORTER_OTLP_TIMEOUT": "500"}
    folder = tmp_path_factory.mktemp("cache")
    password = cache["environment"]["VALKEY_PASSWORD"]
    command = [*cache["command"], "--requirepass", password, "--maxclients", str(_MAXCLIENTS)]
    server = launch(folder, *command, env={**cache["environment"], **nobody}, password=password)
    over = threading.Event()
    failures: list[BaseException] = []

    def traffic() -> None:
        try:
            while not over.wait(0.2):
                _everything_once(server)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=traffic)
    thread.start()
    try:
        place = tmp_path_factory.mktemp("prometheus")
        target = f"127.0.0.1:{server.http_port}"
        with Prometheus(services["prometheus"]["command"], ready.compose / "prometheus", target, place) as prometheus:
            yield Watched(server, prometheus)
    finally:
        over.set()
        thread.join()
        server.kill()
    assert failures == []


def _everything_once(server: Server) -> None:
    """Hits, misses, errors, expiry, pipelines, more spans than are sent, clients that are refused or not followed."""
    with server.client() as client:
        client.set("a", "1")
        client.set("soon gone", "1", px=1)
        client.get("a")
        client.get("nothing")
        with contextlib.suppress(valkey.ResponseError):
            client.lpush("a", "1")
        for _ in range(30):
            pipeline = client.pipeline(transaction=False)
            for _ in range(10):
                pipeline.get("a")
            pipeline.execute()
    with server.connect() as sock:
        sock.sendall(f"AUTH {server.password}\r\nMULTI\r\nSUBSCRIBE a b\r\nEXEC\r\n".encode())
        receive(sock, b"$1\r\nb\r\n:2\r\n")
    with contextlib.ExitStack() as stack:
        for _ in range(_MAXCLIENTS + 1):
            sock = stack.enter_context(server.connect())
            sock.sendall(b"PING\r\n")
            with contextlib.suppress(OSError):
                sock.recv(100)


def test_every_query_of_the_board_has_an_answer(watched: Watched) -> None:
    prometheus = watched.prometheus
    silent: list[Query] = []

    def all_answer() -> bool:
        silent[:] = [query for query in _queries() if not prometheus.figures(query.expression)]
        return not silent

    with contextlib.suppress(AssertionError):
        wait_until(all_answer, "every query has an answer", _UNTIL_EVERYTHING_HAPPENED_S)
    assert silent == []


def _value(watched: Watched, panel: str, index: int = 0) -> float:
    query = [query for query in _queries() if query.panel == panel][index]
    ((_, value),) = wait_until(lambda: watched.prometheus.figures(query.expression), panel)
    return float(value)


def test_what_the_board_shows_is_what_happened(watched: Watched) -> None:
    assert _value(watched, "Engine") == 1
    assert _value(watched, "Commands") > 100
    assert 0 < _value(watched, "p99 duration") < 5
    assert 0 < _value(watched, "Failed") < 0.5
    assert 0.5 < _value(watched, "Hit ratio") < 1
    assert _value(watched, "Memory of the engine", 2) == 256 * 2**20
    (errors,) = [query for query in _queries() if query.panel == "Errors by type"]
    kinds = [labels["error_type"] for labels, _ in watched.prometheus.figures(errors.expression)]
    assert "WRONGTYPE" in kinds


def test_the_lists_of_the_board_have_entries(watched: Watched) -> None:
    variables = {v["name"]: v for v in json.loads(_BOARD.read_text())["templating"]["list"] if v["type"] == "query"}
    assert variables.keys() == {"instance", "command"}
    values = {}
    for name, variable in variables.items():
        match = re.fullmatch(r"label_values\((.*), (\w+)\)", _filled_in(variable["query"]["query"]))
        assert match
        values[name] = watched.prometheus.ask(f"label/{match[2]}/values", **{"match[]": match[1]})
    assert values["instance"] == [f"127.0.0.1:{watched.server.http_port}"]
    assert {"GET", "SET", "LPUSH"} <= set(values["command"])


def test_a_duration_leads_to_its_trace(watched: Watched) -> None:
    (panel,) = [panel for panel in _panels() if panel["title"] == "Duration of commands"]
    (target,) = [target for target in panel["targets"] if target.get("exemplar")]

    def exemplars() -> list[dict[str, str]]:
        query = _filled_in(target["expr"])
        found = watched.prometheus.ask("query_exemplars", query=query, start="0", end="99999999999")
        return [one["labels"] for series in found for one in series["exemplars"]]

    labels = wait_until(exemplars, "there are exemplars")
    assert all(re.fullmatch("[0-9a-f]{32}", label["trace_id"]) for label in labels)


# ---- the alerts


def test_prometheus_evaluates_every_alert(watched: Watched) -> None:
    def evaluated() -> list[dict[str, Any]]:
        rules = [rule for group in watched.prometheus.ask("rules")["groups"] for rule in group["rules"]]
        return rules if all(rule["health"] != "unknown" for rule in rules) else []

    rules = wait_until(evaluated, "every rule was evaluated")
    assert len(rules) == 9
    assert [rule["lastError"] for rule in rules if rule["health"] != "ok"] == []
    assert all(rule["annotations"]["summary"] and rule["annotations"]["description"] for rule in rules)
    (away,) = [rule for rule in rules if rule["name"] == "ValkeyAway"]
    assert away["state"] == "inactive"


@pytest.mark.parametrize(
    "command",
    [("check", "config", "prometheus.yml"), ("check", "rules", "--lint-fatal", "alerts.yml")],
    ids=["configuration", "rules"],
)
def test_promtool_finds_no_fault(ready: Files, command: tuple[str, ...]) -> None:
    _promtool(ready.compose / "prometheus", *command)


def test_alerts_are_raised_by_what_they_are_for_and_by_nothing_else(files: Files) -> None:
    folder = files.compose / "prometheus"
    (folder / _RULES_TEST.name).write_text(_RULES_TEST.read_text())
    _promtool(folder, "test", "rules", _RULES_TEST.name)


def _promtool(folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        [program("promtool"), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
