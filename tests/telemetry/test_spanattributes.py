from __future__ import annotations

from dataclasses import replace

import pytest

from telemetry import spanpacket
from telemetry.spanattributes import attributes, failure
from telemetry.spanpacket import Identity, Span

_SPAN = Span("GET", 1_000, 2_000, bytes(15) + b"\1", bytes(7) + b"\2", request_bytes=22, response_bytes=5)


def test_a_plain_command_has_what_the_contract_asks_for_and_nothing_empty() -> None:
    assert attributes(_SPAN) == {
        "db.system.name": "valkey",
        "db.operation.name": "GET",
        "db.namespace": "0",
        "network.transport": "tcp",
        "network.peer.address": "127.0.0.1",
        "valkey.request.size": 22,
        "valkey.response.size": 5,
    }
    assert failure(_SPAN) is None


def test_everything_that_is_known_is_an_attribute() -> None:
    who = Identity("tcp", "::1", 5000, 3, "api-1", "SE.Redis/3.4.35", "bob")
    flags = spanpacket.HIT | spanpacket.BLOCKED | spanpacket.KEPT_SLOW
    full = replace(_SPAN, identity=who, flags=flags, batch_size=300, omitted=172, omitted_errors=1, key=b"user:1")
    full = replace(full, engine_us=12_500)
    assert (
        attributes(full).items()
        >= {
            "db.namespace": "3",
            "db.operation.batch.size": 300,
            "network.peer.address": "::1",
            "network.peer.port": 5000,
            "valkey.client.name": "api-1",
            "valkey.client.lib": "SE.Redis/3.4.35",
            "enduser.id": "bob",
            "valkey.cache.hit": True,
            "valkey.blocked": True,
            "valkey.kept": "slow",
            "valkey.engine.duration": 0.0125,
            "valkey.pipeline.omitted": 172,
            "valkey.pipeline.omitted.errors": 1,
            "valkey.key": "user:1",
        }.items()
    )


def test_a_miss_is_told_from_no_answer_to_the_question() -> None:
    assert attributes(replace(_SPAN, flags=spanpacket.MISS))["valkey.cache.hit"] is False
    assert "valkey.cache.hit" not in attributes(_SPAN)


@pytest.mark.parametrize(
    ("reply", "code", "shown"),
    [
        (b"WRONGTYPE Operation", "WRONGTYPE", "WRONGTYPE Operation"),
        (b"ERR unknown command 'x y'", "ERR", "ERR unknown command '?'"),
        (b"NOT_1 busy", "NOT_1", "NOT_1 busy"),
        (b"my own words", "_OTHER", "my own words"),
        (b"A" * 33 + b" x", "_OTHER", "A" * 33 + " x"),
        (b"\xff broken", "_OTHER", "\ufffd broken"),
    ],
)
def test_an_error_reply_gives_code_and_redacted_text(reply: bytes, code: str, shown: str) -> None:
    span = replace(_SPAN, flags=spanpacket.ERROR_REPLY | spanpacket.KEPT_ERROR, error=reply)
    found = attributes(span)
    assert (found["error.type"], found["db.response.status_code"], found["valkey.kept"]) == (code, code, "error")
    assert failure(span) == shown


def test_a_command_without_a_reply_has_a_type_and_no_code() -> None:
    span = replace(_SPAN, error=b"connection_lost")
    found = attributes(span)
    assert found["error.type"] == "connection_lost"
    assert "db.response.status_code" not in found
    assert failure(span) == ""


def test_a_key_that_is_no_text_shows_as_hexadecimal_digits() -> None:
    assert attributes(replace(_SPAN, key=b"\xff\x00"))["valkey.key"] == "ff00"
