"""What redis_exporter tells of the engine that INFO does not: settings, the slow log, latency spikes.

Owns the commands that ask for it and the way of their answers into an `Info`. Never asks anybody itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from telemetry.engine.info import Info


class Question(NamedTuple):
    """A command, and what takes its answer over. take raises ValueError, TypeError or LookupError for a strange one."""

    words: tuple[str, ...]
    take: Callable[[Info, Any], None]


def _settings(info: Info, answer: Any) -> None:
    for name, value in zip(answer[::2], answer[1::2], strict=True):
        info.fields[f"config:{name}"] = str(value)


def _slowlog_length(info: Info, answer: Any) -> None:
    info.fields["slowlog:length"] = str(int(answer))


def _slowlog_last(info: Info, answer: Any) -> None:
    # As redis_exporter has it: zeros while the log is empty.
    identifier, _, duration_us = answer[0][:3] if answer else (0, 0, 0)
    info.fields["slowlog:last_id"], info.fields["slowlog:last_usec"] = str(int(identifier)), str(int(duration_us))


def _latency(info: Info, answer: Any) -> None:
    spikes = {str(event): {"at": str(int(at_s)), "ms": str(int(ms))} for event, at_s, ms, *_ in answer}
    if spikes:
        info.records["latency:*"] = spikes


QUESTIONS: tuple[Question, ...] = (
    Question(("CONFIG", "GET", "databases", "maxclients", "maxmemory", "io-threads"), _settings),
    Question(("SLOWLOG", "LEN"), _slowlog_length),
    Question(("SLOWLOG", "GET", "1"), _slowlog_last),
    Question(("LATENCY", "LATEST"), _latency),
)
"""Each is asked beside INFO."""
