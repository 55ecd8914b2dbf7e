from __future__ import annotations

import pytest

from sidecar.relay.blame import judge

A, B, C = 1, 2, 3


@pytest.mark.parametrize(
    ("sessions", "took_long", "known", "slow", "together"),
    [
        # one client's own connection
        ([A], [], False, {0}, []),
        ([A, A], [1], True, {1}, []),
        ([A, A, A], [0, 2], True, {0, 2}, []),
        ([A, A, A], [], True, set(), [[0, 1, 2]]),
        ([A, A, A], [], False, set(), [[0, 1, 2]]),
        # a shared one
        ([A, B, C], [1], True, {1, 2}, []),
        ([A, B, C], [], True, {0, 1, 2}, []),
        ([A, B, C], [], False, {2}, []),
        ([A, B, A, A], [1], True, {1, 2}, []),
        ([B, B, A], [0], True, {0, 2}, []),
        ([A, B, B], [], True, {0}, [[1, 2]]),
        ([A, B, B], [], False, set(), [[1, 2]]),
    ],
)
def test_who_was_slow(
    sessions: list[int], took_long: list[int], known: bool, slow: set[int], together: list[list[int]]
) -> None:
    assert judge(sessions, [True] * len(sessions), took_long, known) == (slow, together)


def test_a_command_that_is_not_told_can_be_the_culprit_and_spares_those_before_it() -> None:
    assert judge([A, A, B], [True, False, True], [1], True) == ({2}, [])


def test_the_elements_of_a_transaction_are_no_commands_beside_it() -> None:
    assert judge([A, A, A], [False, False, True], [], False) == ({2}, [])
