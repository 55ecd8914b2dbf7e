"""TRACEPARENT: which commands get a client's context, and what it is answered. The rules are those of docs/trace-context.md."""

from __future__ import annotations

import asyncio
import random
import re
from pathlib import Path
from typing import Any

import pytest
import uvloop

from sidecar.relay.commands import CommandTable
from sidecar.relay.context import BAD_SYNTAX, INVALID_CONTEXT, parse
from telemetry import spanpacket
from tests.conftest import Server
from tests.sidecar.relay.traced import PARENT_ID, TRACE_ID, T, Talk, Tracing, command, lines

OK = b"+OK\r\n"
INVALID = b"-ERR invalid traceparent\r\n"
SYNTAX = b"-ERR syntax error\r\n"


def context(n: int) -> str:
    return f"00-{n + 1:032x}-{n + 1:016x}-01"


@pytest.mark.parametrize("protocol", ["HELLO 2", "HELLO 3"])
def test_the_next_command_is_a_child_and_no_other(talk: Talk, protocol: str) -> None:
    conversation = talk(protocol, f"TRACEPARENT {T}\nSET a 1", "GET a")
    child, root = conversation.spans
    assert (child.trace_id, child.parent_id, child.kind) == (TRACE_ID, PARENT_ID, spanpacket.SERVER)
    assert child.flags == spanpacket.HAS_PARENT | spanpacket.REMOTE_PARENT | spanpacket.SAMPLED
    assert root.trace_id != TRACE_ID
    assert not root.flags & spanpacket.HAS_PARENT
    assert conversation.replies[1] == OK + OK


def test_it_is_answered_at_once_when_nothing_follows(talk: Talk) -> None:
    conversation = talk(f"TRACEPARENT {T}", "GET a")
    assert conversation.replies == [OK, b"$-1\r\n"]
    assert conversation.one("GET").parent_id == PARENT_ID


def test_answers_stand_where_they_belong_in_a_pipeline(talk: Talk) -> None:
    text = "".join(f"TRACEPARENT {context(n)}\nSET k{n} v{n}\nGET k{n}\n" for n in range(50))
    conversation = talk(text)
    expected = b"".join(b"+OK\r\n+OK\r\n$%d\r\nv%d\r\n" % (len(str(n)) + 1, n) for n in range(50))
    assert conversation.replies == [expected]
    sets = conversation.named("SET")
    assert [int.from_bytes(s.trace_id, "big") for s in sets] == [n + 1 for n in range(50)]
    assert all(s.kind == spanpacket.SERVER for s in sets)
    # Those without a context came together, and are a pipeline.
    assert conversation.one("PIPELINE").batch_size == 50


def test_a_count_makes_a_pipeline_below_the_context_even_over_several_reads(talk: Talk) -> None:
    conversation = talk(f"TRACEPARENT {T} COUNT 3\nSET a 1", "PING\nGET a", "LPUSH a 1\nGET b")
    pipeline = conversation.one("PIPELINE")
    assert (pipeline.trace_id, pipeline.parent_id, pipeline.batch_size) == (TRACE_ID, PARENT_ID, 3)
    children = [s for s in conversation.spans if s.parent_id == pipeline.span_id]
    assert [s.name for s in children] == ["SET", "GET", "LPUSH"]
    assert {s.trace_id for s in children} == {TRACE_ID}
    assert conversation.spans[-1].trace_id != TRACE_ID


def test_a_tracestate_is_passed_on(talk: Talk) -> None:
    state = "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"
    conversation = talk(f"TRACEPARENT {T} STATE {state}\nGET a", f"traceparent {T} state =bad\nGET b")
    assert [s.tracestate for s in conversation.spans] == [state.encode(), b""]
    assert {s.trace_id for s in conversation.spans} == {TRACE_ID}


def test_housekeeping_does_not_get_it_and_does_not_consume_it(talk: Talk) -> None:
    handshake = "PING\nCLIENT SETNAME x\nSELECT 0\nGET __Booksleeve_TieBreak\nINFO server\nECHO y"
    conversation = talk(f"TRACEPARENT {T}\n{handshake}", handshake, "GET a")
    assert [(s.name, s.parent_id) for s in conversation.spans] == [("GET", PARENT_ID)]


def test_subcommands_that_the_engine_does_not_know_are_housekeeping_as_those_that_it_knows(talk: Talk) -> None:
    """As redis-py's CLIENT MAINT_NOTIFICATIONS: the client counts by the list of names, too."""
    conversation = talk(f"TRACEPARENT {T} COUNT 2\nCLIENT NONESUCH x\nGET a\nGET b\nGET c", "CONFIG NONESUCH")
    assert conversation.tree == ["PIPELINE > GET", "PIPELINE > GET", "remote > PIPELINE", "GET", "_OTHER"]
    inline = talk(b"client nonesuch\r\nget a\r\n")
    assert [s.name for s in inline.spans] == ["GET"]


def test_a_new_one_replaces_a_pending_one_and_none_clears_it(talk: Talk) -> None:
    conversation = talk(f"TRACEPARENT {T}\nTRACEPARENT {context(7)}\nGET a", f"TRACEPARENT {T}\nTRACEPARENT\nGET b")
    assert conversation.replies == [OK + OK + b"$-1\r\n"] * 2
    assert int.from_bytes(conversation.spans[0].trace_id, "big") == 8
    assert not conversation.spans[1].flags & spanpacket.HAS_PARENT


def test_before_multi_it_covers_the_transaction(talk: Talk) -> None:
    conversation = talk(f"TRACEPARENT {T}\nMULTI\nSET a 1\nGET a\nEXEC\nGET b")
    multi = conversation.one("MULTI")
    assert (multi.trace_id, multi.parent_id) == (TRACE_ID, PARENT_ID)
    assert conversation.tree[:3] == ["MULTI > SET", "MULTI > GET", "remote > MULTI"]
    assert conversation.spans[-1].trace_id != TRACE_ID


def test_a_transaction_is_one_of_several_commands_of_a_context(talk: Talk) -> None:
    conversation = talk(f"TRACEPARENT {T} COUNT 3\nSET a 1\nMULTI\nSET b 1\nGET b\nEXEC\nGET a\nGET c")
    assert conversation.tree == [
        "PIPELINE > SET",
        "MULTI > SET",
        "MULTI > GET",
        "remote > MULTI",
        "PIPELINE > GET",
        "remote > PIPELINE",
        "GET",
    ]
    assert conversation.one("MULTI").parent_id == conversation.one("PIPELINE").parent_id == PARENT_ID
    assert conversation.one("PIPELINE").batch_size == 2


def test_inside_multi_it_belongs_to_the_next_queued_command_and_is_not_queued(talk: Talk) -> None:
    conversation = talk(f"MULTI\nSET a 1\nTRACEPARENT {T}\nGET a\nGET b\nEXEC")
    queued = b"+QUEUED\r\n"
    assert conversation.replies == [OK + queued + OK + queued + queued + b"*3\r\n+OK\r\n$1\r\n1\r\n$-1\r\n"]
    assert conversation.tree == ["MULTI > SET", "remote > GET", "MULTI > GET", "MULTI"]
    assert conversation.named("GET")[0].parent_id == PARENT_ID


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ("garbage", INVALID),
        (T.upper(), INVALID),
        (T + "-00", INVALID),
        ("ff" + T[2:], INVALID),
        ("00-" + "0" * 32 + T[35:], INVALID),
        (T[:36] + "0" * 16 + "-01", INVALID),
        (T[:-1], INVALID),
        (f"{T} COUNT", SYNTAX),
        (f"{T} COUNT 0", SYNTAX),
        (f"{T} COUNT x", SYNTAX),
        (f"{T} FOO 1", SYNTAX),
    ],
)
def test_a_malformed_one_is_refused_and_clears(talk: Talk, arguments: str, answer: bytes) -> None:
    conversation = talk(f"TRACEPARENT {T}\nTRACEPARENT {arguments}\nGET a")
    assert conversation.replies == [OK + answer + b"$-1\r\n"]
    assert not conversation.one("GET").flags & spanpacket.HAS_PARENT


def test_a_later_version_may_have_more_fields() -> None:
    assert parse([b"01" + T[2:].encode() + b"-what-else"]) == (TRACE_ID, PARENT_ID, 1, b"", 1)
    assert parse([]) is None
    assert parse([b"\xff" * 55]) is INVALID_CONTEXT
    assert parse([T.encode(), b"STATE", b"a=b", b"COUNT", b"9"]) == (TRACE_ID, PARENT_ID, 1, b"a=b", 9)
    assert parse([T.encode(), b"COUNT", b"9" * 30]) is BAD_SYNTAX


def test_inline_and_in_pieces(talk: Talk, traced_table: CommandTable, socket_path: str) -> None:
    assert talk(b"traceparent " + T.encode() + b"\r\nget a\r\n").one("GET").parent_id == PARENT_ID

    async def run() -> list[spanpacket.Span]:
        traced = Tracing(socket_path, traced_table)
        data = lines(f"TRACEPARENT {T} COUNT 1\nGET a\nTRACEPARENT {T}\nGET b")
        for cut in range(1, len(data)):
            with traced.connect() as client:
                assert (
                    await traced.say(client, data[:cut]) + await traced.say(client, data[cut:]) == (OK + b"$-1\r\n") * 2
                )
        await traced.settle()
        traced.end()
        return traced.spans()

    assert {s.parent_id for s in uvloop.run(run())} == {PARENT_ID}


def test_in_subscribed_mode_it_is_refused_as_valkey_does_but_not_with_resp3(talk: Talk) -> None:
    refused = talk("SUBSCRIBE c", f"TRACEPARENT {T}", "UNSUBSCRIBE c", f"TRACEPARENT {T}")
    assert refused.replies[1].startswith(b"-ERR Can't execute 'traceparent': only (P|S)SUBSCRIBE / ")
    assert refused.replies[3] == OK
    assert talk("HELLO 3\nSUBSCRIBE c", f"TRACEPARENT {T}\nGET a").replies[1] == OK + b"_\r\n"


def test_without_replies_it_has_none_and_works(talk: Talk) -> None:
    conversation = talk(f"CLIENT REPLY OFF\nTRACEPARENT {T}\nSET a 1\nCLIENT REPLY ON")
    assert conversation.replies == [OK]
    assert conversation.one("SET").parent_id == PARENT_ID
    skipped = talk(f"CLIENT REPLY SKIP\nTRACEPARENT {T}\nGET a\nGET b")
    assert skipped.replies == [b"$1\r\n1\r\n$-1\r\n"]
    assert skipped.named("GET")[0].parent_id == PARENT_ID


@pytest.mark.parametrize("talk", ["home"], indirect=True)  # by lane goes nobody before it
def test_before_a_required_auth_it_is_refused(traced_engine: Server, talk: Talk) -> None:
    with traced_engine.client() as client:
        client.config_set("requirepass", "pw")
        conversation = talk("GET a", f"TRACEPARENT {T}", f"AUTH pw\nTRACEPARENT {T}\nGET a")
        client.config_set("requirepass", "")
    assert conversation.replies[1] == b"-NOAUTH Authentication required.\r\n"
    assert conversation.replies[2] == OK + OK + b"$-1\r\n"


def test_answers_wait_for_a_reply_that_is_written_anew(socket_path: str, traced_table: CommandTable) -> None:
    async def run() -> bytes:
        traced = Tracing(socket_path, traced_table)
        text = f"CLIENT LIST\nTRACEPARENT {T}\nGET none\nCONFIG GET port\nTRACEPARENT {T}\nGET none\nECHO last-of-all"
        answer = b""
        with traced.connect() as client:
            await traced.say(client, lines(text))
            while not answer.endswith(b"last-of-all\r\n"):
                answer += await asyncio.get_running_loop().sock_recv(client, 1 << 16)
        await traced.settle()
        traced.end()
        assert [s.parent_id for s in traced.spans()] == [PARENT_ID, PARENT_ID]
        return answer

    reply = uvloop.run(run())
    assert reply.startswith(b"$")
    end = rb"\n\r\n\+OK\r\n\$-1\r\n\*2\r\n\$4\r\nport\r\n\$\d\r\n\d+\r\n\+OK\r\n\$-1\r\n\$11\r\nlast-of-all\r\n"
    assert re.search(end + b"$", reply)


def test_a_blocked_command_does_not_hold_the_answer_back(socket_path: str, traced_table: CommandTable) -> None:
    async def run() -> None:
        traced = Tracing(socket_path, traced_table)
        with traced.connect() as client:
            assert await traced.say(client, lines(f"TRACEPARENT {T}\nBLPOP none 0")) == OK
        await traced.settle()
        traced.end()

    uvloop.run(run())


def test_32_users_of_one_connection_get_their_own_parents(
    traced_engine: Server, socket_path: str, traced_table: CommandTable
) -> None:
    """Each sends its context and command in one write, mixed with housekeeping, transactions and commands without any."""

    async def run() -> list[spanpacket.Span]:
        traced = Tracing(socket_path, traced_table, trace_budget_remote=100_000, trace_budget_root=100_000)
        rng = random.Random(7)
        loop = asyncio.get_running_loop()
        with traced.connect() as client:
            for turn in range(60):
                for user in rng.sample(range(32), 32):
                    n = turn * 32 + user
                    key = f"u:{n}"
                    form = rng.randrange(5)
                    if form == 0:
                        data = lines(f"TRACEPARENT {context(n)}\nMULTI\nSET {key} 1\nEXEC")
                    elif form == 1:
                        data = lines(f"TRACEPARENT {context(n)} COUNT 2\nSET {key} 1\nGET {key}")
                    elif form == 2:
                        data = lines(f"PING\nTRACEPARENT {context(n)}\nSELECT 0\nSET {key} 1")
                    elif form == 3:
                        data = lines(f"DEL none\nTRACEPARENT {context(n)}\nSET {key} 1\nDEL none")
                    else:
                        data = lines(f"TRACEPARENT {context(n)}\nSET {key} 1")
                    await loop.sock_sendall(client, data)
                    if rng.random() < 0.3:
                        await traced.say(client, b"")
            await traced.say(client, lines("PING"))
        await traced.settle()
        traced.end()
        return traced.spans()

    spans = uvloop.run(run())
    parents = {span.span_id: span for span in spans}
    seen = set()
    for span in spans:
        if span.name in ("SET", "GET"):
            n = int.from_bytes(span.trace_id, "big")
            top = span if span.flags & spanpacket.REMOTE_PARENT else parents[span.parent_id]
            assert top.trace_id == span.trace_id
            assert int.from_bytes(top.parent_id, "big") == n
            seen.add(n)
        elif span.name == "DEL":
            assert not span.flags & spanpacket.REMOTE_PARENT
    assert seen == set(range(1, 60 * 32 + 1))
    assert sum(span.name == "SET" for span in spans) == 60 * 32


def test_it_is_no_command_when_switched_off(socket_path: str) -> None:
    async def run() -> None:
        table = CommandTable()
        table.update([("get", [])])
        traced = Tracing(socket_path, table)
        with traced.connect() as client:
            answer = await traced.say(client, command("TRACEPARENT", T))
            assert answer.startswith(b"-ERR unknown command 'TRACEPARENT'")
        await traced.settle()
        traced.end()

    uvloop.run(run())


def test_what_follows_without_a_reply_does_not_hold_the_answer_back(talk: Talk) -> None:
    conversation = talk(f"TRACEPARENT {T}\nCLIENT REPLY SKIP\nSET a 1", f"TRACEPARENT {T}\nCLIENT REPLY OFF", "GET a")
    assert conversation.replies == [OK, OK, b""]


def test_the_answer_does_not_fall_into_a_message_that_is_half_out(
    socket_path: str, traced_table: CommandTable, tmp_path: Path
) -> None:
    class Engine(asyncio.Protocol):
        """One whose replies the test writes."""

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            engines.set_result(transport)

        def data_received(self, data: bytes) -> None:
            self.asked = data

    engines: asyncio.Future[Any]

    async def run() -> None:
        nonlocal engines
        loop = asyncio.get_running_loop()
        engines = loop.create_future()
        path = str(tmp_path / "engine.sock")
        server = await loop.create_unix_server(Engine, path)
        traced = Tracing(path, traced_table)
        with traced.connect() as client:
            await loop.sock_sendall(client, lines("HELLO 3"))
            engine = await engines
            engine.write(b"%1\r\n$5\r\nproto\r\n:3\r\n")
            await received(client, b":3\r\n")
            await loop.sock_sendall(client, lines("SUBSCRIBE c"))
            engine.write(b">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n>3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$4\r\nha")
            got = await received(client, b"ha")
            await loop.sock_sendall(client, lines(f"TRACEPARENT {T}"))
            while not traced.relay.in_flight:  # noqa: ASYNC110
                await asyncio.sleep(0)
            engine.write(b"lf\r\n")
            got += await received(client, b"+OK\r\n")
            assert got.endswith(b"$4\r\nhalf\r\n+OK\r\n")
        server.close()

    async def received(client: Any, end: bytes) -> bytes:
        got = b""
        while not got.endswith(end):
            got += await asyncio.get_running_loop().sock_recv(client, 1 << 16)
        return got

    uvloop.run(run())


def test_a_client_that_reads_nothing_is_not_read_for_ever(socket_path: str, traced_table: CommandTable) -> None:
    async def run() -> None:
        traced = Tracing(socket_path, traced_table)
        data = memoryview(b"*2\r\n$11\r\nTRACEPARENT\r\n$1\r\nx\r\n" * 500_000)
        sent = idle = 0
        with traced.connect() as client:
            while idle < 1000 and sent < len(data):
                try:
                    sent += client.send(data[sent : sent + 65536])
                    idle = 0
                except BlockingIOError:
                    idle += 1
                await asyncio.sleep(0)
            assert sent < len(data)
            rest = asyncio.create_task(asyncio.get_running_loop().sock_sendall(client, data[sent:]))
            got = 0
            while got < 500_000 * len(b"-ERR invalid traceparent\r\n"):
                got += len(await asyncio.get_running_loop().sock_recv(client, 1 << 16))
            await rest
        await traced.settle()
        traced.end()

    uvloop.run(run())
