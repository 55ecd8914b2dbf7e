from __future__ import annotations

from typing import Any

from sidecar.journal import Journal
from sidecar.settings import SidecarSettings
from sidecar.span_budgets import SpanBudgets
from tests.conftest import Start
from tests.sidecar.relay.traced import T, command
from tests.telemetry.otlp.receivers import GrpcReceiver


def test_a_spent_budget_is_logged_once_and_once_more_when_it_is_over() -> None:
    told: list[tuple[str, str, str, dict[str, Any]]] = []
    journal = Journal()
    journal.attach(lambda _when, *event: told.append(event))
    dropped: dict[str, int] = {"sampler": 7}
    budgets = SpanBudgets(lambda: dropped, SidecarSettings(trace_budget_remote=1000, trace_budget_root=5), journal)
    budgets.look()
    assert told == []
    for lost in (408, 1408):
        dropped["budget_remote"] = lost
        budgets.look()
    ((level, event, message, details),) = told
    assert (level, event) == ("warning", "spans.limited")
    assert message == (
        "408 spans under client spans weren't sent: sidecar-trace-budget-remote allows 1,000 a second, 5,000 at once. "
        "valkey.sidecar.spans.dropped has the running count."
    )
    assert details == {"reason": "budget_remote", "setting": "sidecar-trace-budget-remote", "spans": 408}
    told.clear()
    for _ in range(30):
        budgets.look()
    ((level, event, message, details),) = told
    assert (level, event, details["spans"]) == ("notice", "spans.not_limited", 1408)
    told.clear()
    dropped["budget_remote"] += 1
    dropped["budget_root"] = 3
    budgets.look()
    assert [(level, details["spans"]) for level, _event, _message, details in told] == [("warning", 1), ("notice", 3)]


def test_a_burst_under_a_client_span_is_sent_whole_and_a_larger_one_is_logged(start: Start) -> None:
    """3,000 at once: a page with many lookups."""
    with GrpcReceiver() as receiver:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_TRACES_SAMPLER": "always_on"}
        server = start(env=env)
        one = command("TRACEPARENT", T) + command("GET", "key")
        for burst, lost in ((3000, False), (6000, True)):
            with server.connect() as sock:
                sock.sendall(one * burst + command("ECHO", "the-end"))
                answer = bytearray()
                while not answer.endswith(b"the-end\r\n"):
                    answer += sock.recv(1 << 16)
            if lost:
                event = server.wait_said("spans.limited")
                assert "sidecar-trace-budget-remote allows 1,000 a second, 5,000 at once" in event["message"]
                assert event["spans"] > 0
            else:
                dropped = server.metrics()
                assert not [name for name in dropped if "spans_dropped" in name and "budget_remote" in name]
        assert server.stop() == 0
