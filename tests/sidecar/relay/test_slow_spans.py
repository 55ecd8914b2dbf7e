"""Which command of a late read is kept as slow: the compiled route in front of a real engine, whose slow log is asked."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from sidecar.relay.commands import CommandTable
from telemetry import spanpacket
from telemetry.otlp.settings import Sampler
from telemetry.spanpacket import Span
from tests.conftest import Server
from tests.sidecar.relay.traced import ALWAYS_ON, Conversation, Talk, Tracing, command, lines

OFF = Sampler(root="off", parent_based=False)
TIMES = 20

SLOW = command("EVAL", "local x = 0 for i = 1, 6000000 do x = x + i end return x", "0")
"""Two or three times the threshold in the engine. Unlike DEBUG SLEEP, it passes unseen: all of a read goes in one write."""
THRESHOLD = {"slow_threshold": 0.01, "watched": True}


def slow(conversation: Conversation) -> list[Span]:
    """The slow spans of the reads with the script's reply: on a busy machine others may have waited, too."""
    found = [span for span in conversation.spans if span.flags & spanpacket.SLOW]
    late = {span.end_ns for span in found if span.name in ("EVAL", "MULTI", "EXEC", "SORT")}
    return [span for span in found if span.end_ns in late or not late]


def blamed(conversation: Conversation, name: str) -> list[Span]:
    """Those that were called slow though the engine didn't say so: on a busy machine even a short one may take long."""
    return [span for span in slow(conversation) if span.name == name and not span.engine_us]


def check_engine_duration(span: Span) -> None:
    assert 10_000 <= span.engine_us <= (span.end_ns - span.start_ns) / 1000 + 1


@pytest.mark.parametrize("sampler", [ALWAYS_ON, OFF])
@pytest.mark.parametrize(
    "pieces",
    [
        [lines("MULTI"), lines("SET a 1"), SLOW, lines("GET a"), lines("EXEC")],
        [lines("MULTI\nSET a 1") + SLOW + lines("GET a\nEXEC")],
        [lines("MULTI\nSET a 1") + SLOW + lines("BLPOP none 1\nEXEC")],
    ],
    ids=["one by one", "in one read", "with a blocking command"],
)
def test_a_slow_transaction_is_kept_and_told_once(talk: Talk, pieces: list[bytes], sampler: Sampler) -> None:
    conversation = talk(*(pieces * TIMES), sampler=sampler, **THRESHOLD)
    found = slow(conversation)
    assert [span.name for span in found] == ["MULTI"] * TIMES
    for span in found:
        assert bool(span.flags & spanpacket.KEPT_SLOW) == (sampler is OFF)
        check_engine_duration(span)
    assert conversation.told == []


@pytest.mark.parametrize("sampler", [ALWAYS_ON, OFF])
@pytest.mark.parametrize(
    "around",
    [("GET a", ""), ("EVAL_RO return(1) 0", "GET b"), ("SET a 1\nGET a\nEVAL_RO return(1) 0", "LLEN l\nGET a")],
)
def test_of_a_pipeline_the_command_that_took_the_time_is_kept(
    talk: Talk, around: tuple[str, str], sampler: Sampler
) -> None:
    pipeline = lines(around[0]) + SLOW + lines(around[1])
    conversation = talk(*([pipeline] * TIMES), sampler=sampler, **THRESHOLD)
    found = slow(conversation)
    assert [span.name for span in found] == ["EVAL"] * TIMES
    for span in found:
        assert bool(span.flags & spanpacket.KEPT_SLOW) == (sampler is OFF)
        check_engine_duration(span)
    assert conversation.told == []


def test_without_an_exporter_it_is_the_same_command(talk: Talk) -> None:
    conversation = talk(lines("EVAL_RO return(1) 0") + SLOW + lines("GET b"), exported=False, **THRESHOLD)
    assert [span.name for span in conversation.spans] == ["EVAL"]


@pytest.mark.parametrize("exported", [True, False])
def test_a_transaction_of_a_pipeline_is_told_from_what_stands_beside_it(talk: Talk, exported: bool) -> None:
    transaction = lines("GET a\nMULTI\nSET a 1") + SLOW + lines("EXEC\nGET b")
    conversation = talk(transaction, exported=exported, **THRESHOLD)
    (span,) = slow(conversation)
    assert span.name == ("MULTI" if exported else "EXEC")
    check_engine_duration(span)
    assert conversation.told == []


def test_of_commands_that_look_alike_the_one_with_the_large_reply_took_the_time(talk: Talk) -> None:
    """Their names, times and lengths are all that is known of them."""
    filled = command("EVAL", "for i=1,50000 do redis.call('RPUSH', KEYS[1], 'some text to sort '..i) end", "1", "big")
    pipeline = "ECHO home\nMULTI\nEXEC\nSORT abc ALPHA LIMIT 0 9\nSORT big ALPHA LIMIT 0 9\nSORT abd ALPHA LIMIT 0 9"
    conversation = talk(filled, pipeline, slow_threshold=0.01, watched=True)
    (span,) = [span for span in slow(conversation) if span.name == "SORT"]
    assert span.response_bytes > 100


def test_a_command_that_took_the_time_but_has_no_span_spares_the_others(talk: Talk) -> None:
    pipeline = lines("EVAL_RO return(1) 0") + SLOW + lines("GET b")
    conversation = talk(pipeline, trace_exclude=("EVAL",), **THRESHOLD)
    assert not blamed(conversation, "EVAL_RO")
    assert [event for event, _details in conversation.told] == ["engine.slow_command"]


@pytest.mark.parametrize("sampler", [ALWAYS_ON, OFF])
def test_when_the_engine_cannot_say_which_it_was_the_pipeline_is_kept(talk: Talk, sampler: Sampler) -> None:
    conversation = talk("WATCH k", lines("EVAL_RO return(1) 0") + SLOW, sampler=sampler, slow_threshold=0.01)
    assert [span.name for span in slow(conversation)] == ["PIPELINE"]
    assert bool(slow(conversation)[0].flags & spanpacket.KEPT_SLOW) == (sampler is OFF)


@pytest.mark.parametrize("sampler", [ALWAYS_ON, OFF])
def test_a_pipeline_that_there_was_no_budget_for_is_counted_once_for_each_command(talk: Talk, sampler: Sampler) -> None:
    pipelines = [lines("EVAL_RO return(1) 0\nEVAL_RO return(2) 0")] * 60
    conversation = talk("WATCH k", *pipelines, sampler=sampler, slow_threshold=1e-9)
    sent = sum(span.name != "PIPELINE" for span in conversation.spans)
    assert sent + sum(conversation.drops.values()) == 120


def test_without_an_exporter_and_an_answer_the_pipeline_is_told(talk: Talk) -> None:
    conversation = talk(
        "WATCH k", lines("EVAL_RO return(1) 0") + SLOW + lines("GET b"), exported=False, slow_threshold=0.01
    )
    found = [(span.name, span.batch_size) for span in conversation.spans]
    assert found == [("PIPELINE", 3)]


def test_on_a_shared_connection_only_what_came_behind_the_slow_command_has_waited(
    traced_engine: Server, socket_path: str, traced_table: CommandTable
) -> None:
    """What came before it was in time, though its reply arrived together with the slow one."""
    with traced_engine.client() as client:
        client.flushall()
        client.rpush("big", *[f"some text to sort {number}" for number in range(100_000)])

    async def main() -> None:
        traced = Tracing(socket_path, traced_table, slow_threshold=0.01)
        await traced.watch()
        with traced.connect("192.0.2.1:1") as a, traced.connect("192.0.2.1:2") as b, traced.connect("192.0.2.1:3") as c:
            await traced.share(a, b, c)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(a, command("GET", "early"))
            await loop.sock_sendall(b, command("SORT", "big", "ALPHA", "LIMIT", "0", "1"))
            await loop.sock_sendall(c, command("GET", "late"))
            await traced.wrote(3)
        await traced.settle()
        await traced.decided()
        found = {span.identity.port: span for span in traced.spans() if span.identity.port}
        slow_ports = {port for port, span in found.items() if span.flags & spanpacket.SLOW}
        assert set(found) == {1, 2, 3}
        if found[1].end_ns == found[2].end_ns == found[3].end_ns:
            assert slow_ports == {2, 3}
        traced.end()

    uvloop.run(main())


@pytest.mark.parametrize("exported", [True, False])
def test_what_follows_a_blocking_command_in_a_pipeline_is_not_slow_for_it(talk: Talk, exported: bool) -> None:
    conversation = talk("WATCH k", "BLPOP none 0.2\nEVAL_RO return(1) 0\nGET a", exported=exported, slow_threshold=0.1)
    assert slow(conversation) == []


def test_more_late_replies_than_are_kept_are_all_told(talk: Talk) -> None:
    pipeline = lines("EVAL_RO return(1) 0\n" * 600) + SLOW + lines("EVAL_RO return(1) 0\n" * 30)
    conversation = talk("WATCH k", pipeline, slow_threshold=0.01, watched=True)
    scripts = len(conversation.named("EVAL_RO")) + len(conversation.named("EVAL"))
    assert scripts + sum(conversation.drops.values()) == 631
    (around,) = conversation.named("PIPELINE")
    assert around.batch_size == 631
    assert not blamed(conversation, "EVAL_RO")
