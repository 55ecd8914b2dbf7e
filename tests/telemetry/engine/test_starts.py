"""Since when counters count: what every exporter is told after a restart and after CONFIG RESETSTAT."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.resources import Resource

from telemetry import names
from telemetry.azure.deltas import Deltas
from telemetry.engine.info import Info
from telemetry.engine.points import points
from telemetry.engine.starts import COUNTERS, KEPT, OF_CONNECTIONS, Starts
from telemetry.exemplars import Exemplars
from telemetry.figures import Figures
from telemetry.metricsdata import MetricsSource, Preference
from telemetry.otlp.stats import ExportStats
from telemetry.totals import Totals
from tests.conftest import Start, receive
from tests.sidecar.relay.traced import command
from tests.telemetry.test_prometheus import FakeFacts

_SECOND = 1_000_000_000
_STARTED = 1_700_000_000 * _SECOND
_RESET = "cmdstat_config|resetstat:calls=1,usec={}"


class Watched:
    """An engine's readings, ten seconds apart, and what the exporters make of them: by name, (value, start in s)."""

    def __init__(self) -> None:
        self.starts = Starts()
        self.now = _STARTED
        self.sources: dict[Preference, MetricsSource] = {}
        self.deltas = Deltas()

    def read(self, *lines: str, run: str = "one", started_s: int = 0) -> None:
        self.now += 10 * _SECOND
        info = Info.parse("\n".join([f"run_id:{run}", *lines]))
        info.fields["start_time"] = str(_STARTED // _SECOND + started_s)
        self.starts.read(info, self.now - _SECOND // 10, self.now)
        self.info, self.since = info, self.starts.read_connections(0)

    def reset(self, sent_s: float, done_s: float) -> None:
        self.starts.reset(_STARTED + int(sent_s * _SECOND), _STARTED + int(done_s * _SECOND))

    def exported(self, temporality: Preference) -> dict[str, tuple[float, float]]:
        return _told(self._data(temporality))

    def insights(self) -> dict[str, float]:
        return {name: value for name, (value, _) in _told(self.deltas.since_last(self._data("cumulative"))).items()}

    def _data(self, temporality: Preference) -> MetricsData:
        if temporality not in self.sources:
            self.sources[temporality] = MetricsSource(
                Figures(Totals(), FakeFacts(), ExportStats()),
                Exemplars(),
                lambda: points(self.info, self.since),
                _STARTED,
                temporality,
                clock_ns=lambda: self.now,
            )
        source = self.sources[temporality]
        return source.build(source.take(), Resource({}))


def _told(data: MetricsData) -> dict[str, tuple[float, float]]:
    return {
        metric.name: (point.value, ((point.start_time_unix_nano or _STARTED) - _STARTED) / _SECOND)  # type: ignore[union-attr]
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if scope.scope.name == names.ENGINE
        for point in metric.data.data_points
    }


_COMMANDS, _CPU, _UPTIME = "redis.commands.processed", "redis.cpu.time", "redis.uptime"


def _figures(commands: int, cpu: float) -> tuple[str, str]:
    return f"total_commands_processed:{commands}", f"used_cpu_sys:{cpu}"


def _assert_told(watched: Watched, cumulative: dict[str, Any], delta: dict[str, Any]) -> None:
    """What each of the exporters says now."""
    assert watched.exported("cumulative") == cumulative
    assert watched.exported("delta") == delta
    assert watched.insights() == {name: value for name, (value, _) in delta.items()}


def test_a_restart_is_told_by_the_run_id_and_not_by_the_value() -> None:
    watched = Watched()
    watched.read(*_figures(100, 1))
    _assert_told(watched, first := {_COMMANDS: (100, 0), _CPU: (1, 0)}, first)
    watched.read(*_figures(3_000, 2), run="two", started_s=14)
    _assert_told(watched, second := {_COMMANDS: (3_000, 14), _CPU: (2, 14)}, second)
    watched.read(*_figures(3_100, 2), run="two", started_s=14)
    _assert_told(watched, {_COMMANDS: (3_100, 14), _CPU: (2, 14)}, {_COMMANDS: (100, 20)})


def test_a_reset_that_was_passed_on_is_told_whatever_the_values() -> None:
    watched = Watched()
    watched.read(*_figures(100, 1))
    for temporality in ("cumulative", "delta"):
        watched.exported(temporality)
    watched.insights()
    watched.reset(12, 13)
    watched.read(*_figures(3_000, 3))
    _assert_told(
        watched, {_COMMANDS: (3_000, 13), _CPU: (3, 0)}, {_COMMANDS: (3_000, 13), _CPU: (2, 10)}
    )  # CPU time isn't cleared
    assert not watched.starts.unseen


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("keyspace_hits:5",), ("keyspace_hits:4",)),
        (("cmdstat_get:calls=5,usec=9",), ("cmdstat_get:calls=5,usec=8",)),
        (("errorstat_ERR:count=2",), ("errorstat_ERR:count=1",)),
        ((), (_RESET.format(3),)),
        ((_RESET.format(3),), (_RESET.format(4),)),
    ],
)
def test_a_reset_that_nobody_passed_on_starts_all_over_that_it_clears(
    before: tuple[str, ...], after: tuple[str, ...]
) -> None:
    watched = Watched()
    watched.read(*_figures(100, 1), *before)
    watched.exported("cumulative"), watched.exported("delta"), watched.insights()
    watched.read(*_figures(3_000, 3), *after)
    assert watched.starts.unseen
    for temporality in ("cumulative", "delta"):
        assert watched.exported(temporality)[_COMMANDS] == (3_000, 10)
    assert watched.exported("cumulative")[_CPU] == (3, 0)
    assert watched.insights()[_COMMANDS] == 3_000
    watched.read(*_figures(3_001, 3), *after)
    assert not watched.starts.unseen
    assert watched.exported("cumulative")[_COMMANDS] == (3_001, 10)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("used_cpu_user:5",), ("used_cpu_user:4",)),  # nothing that it clears
        (("used_memory:5", "db0:keys=3"), ("used_memory:4", "db0:keys=2")),  # gauges
        ((_RESET.format(3),), (_RESET.format(3) + ",rejected_calls=1",)),  # one word too many
        (("errorstat_ERR:count=2",), ()),  # the engine lets them go when they are too many
        (
            ("cmdstat_graph.query:calls=9,usec=9", "cmdstat_module|unload:calls=1,usec=5"),
            ("cmdstat_graph.query:calls=1,usec=1", "cmdstat_module|unload:calls=2,usec=9"),
        ),
    ],
)
def test_what_is_no_reset_starts_nothing_over(before: tuple[str, ...], after: tuple[str, ...]) -> None:
    watched = Watched()
    watched.read(*_figures(100, 1), *before)
    watched.exported("delta")
    watched.read(*_figures(3_000, 1), *after)
    assert watched.exported("delta")[_COMMANDS] == (2_900, 10)
    assert not watched.starts.unseen


def test_a_report_that_comes_after_the_reading_that_showed_the_reset_starts_nothing_over_again() -> None:
    watched = Watched()
    watched.read(*_figures(100, 1))
    watched.read(*_figures(7, 1))
    assert watched.exported("cumulative")[_COMMANDS] == (7, 10)
    watched.reset(19.5, 20.5)
    watched.read(*_figures(9, 1))
    assert watched.exported("cumulative")[_COMMANDS] == (9, 10)
    watched.reset(31, 31.5)  # but another one does
    watched.read(*_figures(12, 1))
    assert watched.exported("cumulative")[_COMMANDS] == (12, 31.5)


def test_a_reading_that_was_under_way_decides_by_its_figures_whether_it_is_of_before() -> None:
    watched = Watched()
    watched.read(*_figures(100, 1))
    watched.reset(19, 19.95)  # INFO was asked for at 19.9
    watched.read(*_figures(120, 1))
    assert watched.exported("cumulative")[_COMMANDS] == (120, 0)
    watched.read(*_figures(130, 1))  # all of it counted since
    assert watched.exported("cumulative")[_COMMANDS] == (130, 20)
    watched.reset(39, 39.95)
    watched.read(*_figures(2, 1))
    assert watched.exported("cumulative")[_COMMANDS] == (2, 39)
    watched.read(*_figures(140, 1))
    assert watched.exported("cumulative")[_COMMANDS] == (140, 39)


def test_a_counter_that_is_new_has_its_first_change_since_the_last_reading() -> None:
    watched = Watched()
    watched.read("total_commands_processed:1")
    assert watched.exported("delta") == {_COMMANDS: (1, 0)}
    watched.read("total_commands_processed:1", "cmdstat_get:calls=1,usec=1")
    assert watched.exported("delta") == {"redis.cmd.calls": (1, 10), "redis.cmd.usec": (1, 10)}


def test_no_start_is_before_what_was_shown_last() -> None:
    starts = Starts()
    read = [Info.parse(f"run_id:1\ntotal_commands_processed:{n}") for n in (5, 7)]
    starts.read(read[0], 100, 101)
    starts.reset(110, 112)
    assert starts.read(read[1], 120, 121, 115).stats == 115
    assert starts.read_connections(113).connections == 115


def test_the_engine_clears_what_we_think_it_does(start_bare: Start) -> None:
    """Each counter of INFO, before and after CONFIG RESETSTAT."""
    server = start_bare("--save", "")

    def ask(*words: str) -> bytes:
        with server.connect() as sock:
            sock.sendall(command(*words) + command("QUIT"))
            return receive(sock)

    def told() -> dict[str, float]:
        cells = Info.parse(ask("INFO", "ALL").decode()).cells()
        return {f"{cell.source} {cell.key}": float(cell.value) for cell in cells if cell.source in COUNTERS}

    for words in (("SET", "a", "b"), ("LPUSH", "a", "c"), ("GET", "a"), ("GET", "none"), ("AUTH", "nobody", "wrong")):
        ask(*words)
    ask("SET", "a", "b", "PXAT", "1")
    ask("ACL", "SETUSER", "default", "-publish")
    ask("PUBLISH", "a", "b")
    before = told()
    assert before["acl_access_denied_auth "] == before["acl_access_denied_cmd "] == 1
    ask("CONFIG", "RESETSTAT")
    after = told()
    for name, value in before.items():
        if name.strip() in KEPT:
            assert after[name] >= value, name
        elif value and name.strip() not in OF_CONNECTIONS:
            assert after.get(name, 0) < value, name
