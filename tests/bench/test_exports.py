from __future__ import annotations

import os
from typing import cast

import pytest

from bench import exports, process, standing
from bench.peers import Peer
from bench.process import Cpu, ProcessError
from bench.receiver import Receiver

_METRICS = """valkey_sidecar_spans_dropped_total{reason="queue"} 30
valkey_sidecar_spans_dropped_total{reason="sampler"} 5000
valkey_sidecar_spans_dropped_total{reason="export"} 10
valkey_command_calls_total{db_operation_name="GET"} 7
"""


class _Came:
    """A receiver to which so many spans have come."""

    def __init__(self, spans: int) -> None:
        self._spans = spans

    def counts(self) -> dict[str, int]:
        return {"spans": self._spans}


def _peer(spans: int) -> Peer:
    receiver = cast(Receiver, _Came(spans))
    return Peer("ours", 1, "1.0", {"supervisor": [os.getpid()]}, http_port=2, receiver=receiver)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "_LAST_SPANS_S", 0.0)
    monkeypatch.setattr(exports, "_QUIET_WINDOW_S", 0.01)
    monkeypatch.setattr(standing, "scrape", lambda _port: _METRICS)


def test_what_the_sampler_left_out_is_not_lost() -> None:
    assert exports.arrived([_peer(960), Peer("bare", 3, "9.1")]) == {"ours": 0.96}


def test_a_server_whose_spans_do_not_come_is_an_error() -> None:
    with pytest.raises(ProcessError, match="ours: no span arrived"):
        exports.arrived([_peer(0)])


def test_a_run_is_over_when_the_supervisor_has_nothing_more_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    spent = iter([0.0, 0.009, 0.01, 0.0101, 0.02])
    monkeypatch.setattr(process, "cpu", lambda _pid: Cpu(next(spent), 0.0))
    exports.settle(_peer(1))
    assert next(spent) == 0.02


def test_a_supervisor_that_never_gets_quiet_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    spent = iter(range(1000))
    monkeypatch.setattr(process, "cpu", lambda _pid: Cpu(next(spent), 0.0))
    monkeypatch.setattr(exports, "_QUIET_LIMIT_S", 0.0)
    with pytest.raises(ProcessError, match="ours: the supervisor still works"):
        exports.settle(_peer(1))
