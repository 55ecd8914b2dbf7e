"""Since when the engine's counters count.

Owns the watch over INFO for what makes counters start over: another run of the engine, which its `run_id` shows, and
CONFIG RESETSTAT. A counter's own value doesn't tell: it may have grown past the old one by the next reading. Never
reads INFO itself.

    starts = Starts()
    starts.reset(sent_ns, done_ns)                  # CONFIG RESETSTAT was passed on, and the engine has done it
    starts.read(info, asked_ns, read_ns)            # at every reading, with INFO as the engine wrote it
    since = starts.read_connections(cleared_ns)
    since.of("keyspace_hits")                       # a Unix time, or None: since the server's start

All times are Unix times in nanoseconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from telemetry.engine.info import Info, number
from telemetry.engine.table import ROWS

OF_CONNECTIONS: Final = frozenset({"total_connections_received", "rejected_connections"})
"""Counters that are ours: the engine doesn't see who connects to our port."""

KEPT: Final = frozenset(
    {
        "uptime_in_seconds",
        "used_cpu_sys",
        "used_cpu_user",
        "used_cpu_sys_children",
        "used_cpu_user_children",
        "used_cpu_sys_main_thread",
        "used_cpu_user_main_thread",
        "acl_access_denied_auth",
        "acl_access_denied_cmd",
        "acl_access_denied_key",
        "acl_access_denied_channel",
        "cluster_stats_messages_sent",
        "cluster_stats_messages_received",
    }
)
"""Counters that CONFIG RESETSTAT leaves as they are."""

COUNTERS: Final = frozenset(
    row.source
    for row in ROWS
    if (row.point is not None and row.point.kind == "counter")
    or (row.family is not None and row.family.kind == "counter")
)
"""Every figure that only grows until it starts over."""

_CLEARED: Final = COUNTERS - KEPT - OF_CONNECTIONS
_CLEARED_FIELDS: Final = tuple(sorted(source for source in _CLEARED if "*" not in source))
_CLEARED_PARTS: Final = tuple(
    (kind, part) for kind, _, part in (source.partition(".") for source in sorted(_CLEARED)) if part
)
_NANOSECONDS: Final = 1_000_000_000


class Since(NamedTuple):
    """When counters were zero last; None while they count since the server's start.

    run: those that only a restart clears. stats: those that CONFIG RESETSTAT clears as well. connections: ours.
    """

    run: int | None
    stats: int | None
    connections: int | None

    def of(self, source: str) -> int | None:
        """The start of one of the table's figures."""
        if source in OF_CONNECTIONS:
            return self.connections
        return self.run if source in KEPT else self.stats


class _Reading(NamedTuple):
    info: Info
    read_ns: int


class Starts:
    """For one engine, over all its runs."""

    def __init__(self) -> None:
        self.unseen = False
        """Whether the last reading shows a CONFIG RESETSTAT that nobody had reported."""
        self._last: _Reading | None = None
        self._floor_ns = 0
        self._since = Since(None, None, None)
        self._reported: list[tuple[int, int]] = []
        self._found_until_ns = 0
        self._connections_cleared_ns = 0

    def reset(self, sent_ns: int, done_ns: int) -> None:
        """CONFIG RESETSTAT was passed on at `sent_ns`, and at `done_ns` the engine had done it."""
        if sent_ns > self._found_until_ns:  # else a reading was quicker than the report, and has shown it
            self._reported.append((sent_ns, done_ns))

    def read(self, info: Info, asked_ns: int, read_ns: int, shown_ns: int = 0) -> Since:
        """What this reading's counters count since, all but ours.

        info: as the engine wrote it. shown_ns: until when the last reading was shown to anybody: counters that start
        over do so after that, lest two points overlap.
        """
        self.unseen = False
        last, since = self._last, self._since
        self._last = _Reading(info, read_ns)
        self._floor_ns = 0 if last is None else max(last.read_ns, shown_ns)

        def later(at_ns: int) -> int:
            return min(max(at_ns, self._floor_ns), read_ns)

        another = last is not None and info.fields.get("run_id") != last.info.fields.get("run_id")
        if another:
            began = later(_began(info))
            since = Since(began, began, since.connections)
        # A reading that was under way meanwhile may be of before or after: its figures have to tell.
        certain = [done for sent, done in self._reported if done < asked_ns and sent >= (since.run or 0)]
        unclear = [sent for sent, done in self._reported if done >= asked_ns and sent <= read_ns]
        self._reported = [(sent, done) for sent, done in self._reported if done >= asked_ns]
        if certain:
            since = since._replace(stats=later(max(certain)))
        elif last is not None and not another and _cleared(last.info, info):
            since = since._replace(stats=later(max(unclear, default=0)))
            self.unseen = not unclear
            self._reported = [(sent, done) for sent, done in self._reported if sent > read_ns]
            self._found_until_ns = read_ns
        self._since = since
        return since

    def read_connections(self, cleared_ns: int) -> Since:
        """The same with ours, which were last cleared at that time; 0 for never."""
        if cleared_ns != self._connections_cleared_ns:
            self._connections_cleared_ns = cleared_ns
            self._since = self._since._replace(connections=max(cleared_ns, self._floor_ns))
        return self._since


def _began(info: Info) -> int:
    """When this run of the engine began, to the second; 0 where INFO doesn't tell."""
    return int(number(info.fields.get("start_time", "")) or 0) * _NANOSECONDS


def _cleared(before: Info, now: Info) -> bool:
    """Whether CONFIG RESETSTAT was called between two readings of one run."""
    # It clears its own count before it's counted: from then on INFO shows one call, and how long that took.
    reset = _call(now, "config|resetstat")
    if reset is not None and reset != _call(before, "config|resetstat"):
        return True
    # The commands of a reloaded module start without any calls.
    modules_kept = _call(before, "module|unload") == _call(now, "module|unload")
    return any(new < old for old, new in _pairs(before, now, records=modules_kept))


def _call(info: Info, command: str) -> tuple[str, str] | None:
    parts = info.records.get("cmdstat_*", {}).get(command, {})
    return (parts["calls"], parts.get("usec", "")) if parts.get("calls", "0") != "0" else None


def _pairs(before: Info, now: Info, *, records: bool) -> Iterator[tuple[float, float]]:
    """The values of every counter that both readings have."""
    texts = [(before.fields.get(name), now.fields.get(name)) for name in _CLEARED_FIELDS]
    for kind, part in _CLEARED_PARTS if records else ():
        of_now = now.records.get(kind, {})
        for key, parts in before.records.get(kind, {}).items():
            texts.append((parts.get(part), of_now.get(key, {}).get(part)))
    for old, new in texts:
        old_value, new_value = number(old or ""), number(new or "")
        if old_value is not None and new_value is not None:
            yield old_value, new_value
