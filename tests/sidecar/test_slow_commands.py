"""Slow commands of a whole server: one record each, with our duration and the engine's."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Server, Start, receive, wait_until
from tests.sidecar.relay.traced import command

_TIMES = 20
_SCRIPT = "local x = 0 for i = 1, 6000000 do x = x + i end return x"


def slow(server: Server) -> list[dict[str, Any]]:
    return [event for event in server.events if event["event_name"] in ("command.slow", "engine.slow_command")]


def summary(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(event["event_name"], event.get("db.operation.name", "")) for event in events]


def after_the_engines_own(server: Server, *, times: int, name: str) -> list[dict[str, Any]]:
    """The records of `name`, once the engine's own have been told, too: a command that only it knows is the last."""
    wait_until(lambda: len(slow(server)) >= times, f"{times} slow commands are told")
    with server.client() as client:
        client.config_set("slowlog-log-slower-than", 0)
        client.execute_command("LOLWUT")
        client.config_set("slowlog-log-slower-than", 10_000)
    wait_until(lambda: ("engine.slow_command", "LOLWUT") in summary(slow(server)), "the engine's own are told")
    return [event for event in slow(server) if event.get("db.operation.name") == name]


def test_a_slow_script_is_one_record_with_both_durations(start: Start) -> None:
    server = start()
    with server.client() as client:
        client.client_setname("api-1")
        before = time.monotonic()
        client.eval(_SCRIPT, 0)
        took = time.monotonic() - before
    (event,) = after_the_engines_own(server, times=1, name="EVAL")
    details = event
    assert event["event_name"] == "command.slow"
    assert 0.01 <= details["valkey.engine.duration"] <= details["duration"] <= took
    assert details["valkey.client.name"] == "api-1"
    assert event["message"].endswith(" ms of it in the engine.")


@pytest.mark.parametrize("transaction", [True, False])
def test_a_pipeline_of_a_client_blames_the_script(start: Start, transaction: bool) -> None:
    server = start()
    with server.client() as client:
        for _ in range(_TIMES):
            pipeline = client.pipeline(transaction=transaction)
            pipeline.get("a").eval(_SCRIPT, 0).get("b").execute()
    name = "EXEC" if transaction else "EVAL"
    found = after_the_engines_own(server, times=_TIMES, name=name)
    assert [event["event_name"] for event in found] == ["command.slow"] * _TIMES
    assert all(event["valkey.engine.duration"] >= 0.01 for event in found)
    assert {name for _event, name in summary(slow(server))} <= {name, "LOLWUT", "CONFIG SET", "CONFIG GET"}


# ---- what the engine logs --------------------------------------------------------------------------------------------


def logged_from(server: Server) -> dict[str, str]:
    with server.client() as client:
        return dict(client.config_get("*log*slower-than"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "10000"),
        (("--sidecar-slow-threshold", "2ms"), "2000"),
        (("--sidecar-slow-threshold", "50ms"), "10000"),
        (("--sidecar-slow-threshold", "off"), "10000"),
        (("--sidecar-slow-threshold", "2ms", "--slowlog-log-slower-than", "7000"), "7000"),
        (("--sidecar-slow-threshold", "2ms", "--commandlog-execution-slower-than", "7000"), "7000"),
    ],
)
def test_the_engine_logs_what_is_slow_by_our_threshold_unless_the_user_says_otherwise(
    start: Start, arguments: tuple[str, ...], expected: str
) -> None:
    found = logged_from(start(*arguments))
    assert found["slowlog-log-slower-than"] == found["commandlog-execution-slower-than"] == expected


def test_a_rewrite_does_not_write_what_the_user_has_not_set(start: Start, tmp_path: Path) -> None:
    conf = tmp_path / "valkey.conf"
    conf.write_text("sidecar-slow-threshold 2ms\n")
    with start(str(conf)).client() as client:
        client.config_set("maxmemory", "200mb")
        assert client.config_rewrite()
        assert "maxmemory" in conf.read_text()
        assert "slower-than" not in conf.read_text()
        client.config_set("slowlog-log-slower-than", 3000)
        assert client.config_rewrite()
        assert "slower-than 3000" in conf.read_text()


# ---- large replies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3])
def test_what_was_pushed_to_a_subscriber_is_no_large_reply_of_its_next_command(start: Start, protocol: int) -> None:
    server = start()
    with server.connect() as sock, server.client() as client:
        sock.sendall(command("HELLO", str(protocol)) + command("SUBSCRIBE", "news"))
        receive(sock, b":1\r\n")
        message = b"x" * 50_000
        for _ in range(60):
            client.publish("news", message)
            receive(sock, b"x\r\n")
        sock.sendall(command("PING", "the-end"))
        receive(sock, b"the-end\r\n")
        client.set("large", b"y" * 2_000_000)
        client.get("large")
    event = server.wait_said("engine.large_reply")
    assert event["db.operation.name"] == "GET"
    assert len(server.said("engine.large_reply")) == 1
