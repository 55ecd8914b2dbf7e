"""Which commands of a late read were slow.

Owns the rule for replies that arrived in one read of one connection to the engine: the engine runs a connection's
commands one after another, and the replies show the order. Blaming the wrong command is worse than blaming none.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence


def judge(
    sessions: Sequence[int], may_be_slow: Sequence[bool], took_long: Collection[int], known: bool
) -> tuple[set[int], list[list[int]]]:
    """The rows that were slow, and for each session whose pipeline was slow without a known culprit, its rows.

    sessions: the session of each late reply, in order. may_be_slow: whether the reply's command can be reported.
    took_long: the rows that took the time, according to the engine. known: whether it would have named every one.

    A culprit was slow, and so was a command that waited for another session's culprit. Commands before it were in
    time, and later commands of the same session were answered right away. If the engine names no culprit, they all
    waited for something else: a session's only command was slow, and of several, their pipeline was. If the engine
    can't say, only the last command certainly waited.
    """
    rows_of: dict[int, list[int]] = {}
    for row, session in enumerate(sessions):
        rows_of.setdefault(session, []).append(row)
    if took_long:
        return _in_order(sessions, may_be_slow, took_long), []
    slow: set[int] = set()
    together: list[list[int]] = []
    for rows in rows_of.values():
        if not known and rows[-1] != len(sessions) - 1:
            continue
        told = [row for row in rows if may_be_slow[row]]
        if len(told) > 1:
            together.append(told)
        elif told and (known or told[0] == rows[-1]):
            slow.update(told)
    return slow, together


def _in_order(sessions: Sequence[int], may_be_slow: Sequence[bool], took_long: Collection[int]) -> set[int]:
    slow: set[int] = set()
    culprits: list[int] = []
    answered: dict[int, int] = {}  # session: its latest row
    for row, session in enumerate(sessions):
        waited = any(sessions[c] != session and c > answered.get(session, -1) for c in culprits)
        if may_be_slow[row] and (row in took_long or waited):
            slow.add(row)
        if row in took_long:
            culprits.append(row)
        answered[session] = row
    return slow
