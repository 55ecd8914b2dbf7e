"""Which commands of a late read were slow.

Owns the rule, for replies that one connection to the engine brought in one read: the engine executes the commands of a
connection one after the other, and the replies say in which order. A wrong blame is worse than none.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence


def judge(
    sessions: Sequence[int], may_be_slow: Sequence[bool], took_long: Collection[int], known: bool
) -> tuple[set[int], list[list[int]]]:
    """The rows that were slow; and for each session whose pipeline was slow without a known culprit, its rows.

    sessions: whose command each late reply answers, in order. may_be_slow: whether it is told as slow itself.
    took_long: the rows that took the time, as the engine says. known: whether it would have said so of all.

    With a culprit, that command was slow, and so was whatever waited for another session's: what came before it was
    in time, and what came behind it in its own session was answered at once. When the engine knows of none, they have
    waited for something else: a session's only command was slow, several of them together were. When the engine
    cannot say, only the last command has certainly waited for all of it.
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
