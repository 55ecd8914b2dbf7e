"""What the workers count of their clients, in the memory that they share."""

from __future__ import annotations

import os
import time

from sidecar.counts import ClientCount, ConnectionCounts
from sidecar.info_view import Tally


def test_every_worker_sees_what_all_have_counted() -> None:
    counts = ConnectionCounts()
    one, two = (ClientCount(os.dup(counts.fd), worker) for worker in (0, 63))
    one.add(5)
    two.add(7)
    two.add(-1)
    one.add_received()
    two.add_received()
    two.add_rejected()
    one.set_unmatched(-2)
    two.set_unmatched(5)
    assert one.total() == two.total() == 11
    assert one.tally() == two.tally() == counts.tally() == Tally(received=2, rejected=1, unmatched=3)


def test_only_the_dead_workers_clients_are_forgotten() -> None:
    counts = ConnectionCounts()
    one, two = (ClientCount(os.dup(counts.fd), worker) for worker in (0, 1))
    for count in (one, two):
        count.add(3)
        count.set_unmatched(2)
        count.add_received()
    counts.clear(0)
    assert two.total() == 3
    assert counts.tally() == Tally(received=2, rejected=0, unmatched=2)


def test_a_reset_forgets_what_was_received_and_refused_by_all() -> None:
    counts = ConnectionCounts()
    one, two = (ClientCount(os.dup(counts.fd), worker) for worker in (0, 1))
    for count in (one, two):
        count.add(1)
        count.add_received()
        count.add_rejected()
        count.set_unmatched(1)
    before = time.time_ns()
    one.reset()
    assert one.total() == 2
    cleared = counts.tally().cleared_unix_ns
    assert before <= cleared <= time.time_ns()
    assert two.tally() == Tally(received=0, rejected=0, unmatched=2, cleared_unix_ns=cleared)
