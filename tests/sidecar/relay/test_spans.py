"""Which commands become spans, and how they look: the compiled route in front of a real engine."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from typing import Any

import pytest
import uvloop

from sidecar.relay.commands import CommandTable
from telemetry import spanpacket
from telemetry.otlp.settings import Sampler
from tests.conftest import Server
from tests.sidecar.relay.traced import PARENT_ID, T, Talk, Tracing, command, lines


def test_a_command_is_a_root_span_with_who_sent_it_and_what_it_moved(talk: Talk) -> None:
    conversation = talk("SET key value")
    span = conversation.one("SET")
    assert len(conversation.spans) == 1
    assert span.kind == spanpacket.SERVER
    assert span.flags == spanpacket.SAMPLED
    assert span.parent_id == bytes(8)
    assert 0 < span.end_ns - span.start_ns < 30_000_000_000
    assert (span.request_bytes, span.response_bytes) == (len(command("SET", "key", "value")), 5)
    assert (span.identity.address, span.identity.port, span.identity.transport) == ("192.0.2.1", 5000, "tcp")
    assert span.batch_size == 0


def test_what_clients_say_about_themselves_is_on_the_spans_that_follow(talk: Talk) -> None:
    conversation = talk(
        "GET a",
        "CLIENT SETNAME worker-7\nCLIENT SETINFO lib-name py\nCLIENT SETINFO lib-ver 6.1\nSELECT 3",
        "GET b",
        "SELECT 99999\nMULTI\nSELECT 4\nEXEC",
        "GET c",
        "RESET",
        "GET d",
    )
    first, second, third, fourth = (span.identity for span in conversation.named("GET"))
    assert (first.database, first.client_name, first.client_lib) == (0, "", "")
    assert (second.database, second.client_name, second.client_lib, second.user) == (3, "worker-7", "py/6.1", "")
    assert third.database == 4
    assert (fourth.database, fourth.client_name, fourth.client_lib) == (0, "", "py/6.1")


def test_the_user_is_the_one_that_the_engine_accepted(traced_engine: Server, talk: Talk) -> None:
    with traced_engine.client() as client:
        client.execute_command("ACL", "SETUSER", "bob", "on", ">pw", "~*", "+@all")
    conversation = talk(
        "GET a\nAUTH bob wrong", "GET b", "AUTH bob pw", "GET c", "HELLO 3 AUTH bob pw SETNAME x", "GET d"
    )
    a, b, c, d = (span.identity for span in conversation.named("GET"))
    assert [a.user, b.user, c.user, d.user] == ["", "", "bob", "bob"]
    assert d.client_name == "x"
    assert "pw" not in repr(conversation.spans)


def test_housekeeping_has_no_span(talk: Talk) -> None:
    conversation = talk("PING\nHELLO 3\nCLIENT SETNAME x\nCONFIG GET maxmemory\nINFO\nSELECT 0\nCOMMAND COUNT\nECHO x")
    assert conversation.spans == []
    assert conversation.drops == {}


def test_stackexchange_redis_own_keys_and_channels_have_no_span(talk: Talk) -> None:
    conversation = talk("GET __Booksleeve_TieBreak", "GET __Booksleev", "HELLO 3\nSUBSCRIBE __Booksleeve_MasterChanged")
    assert [span.name for span in conversation.spans] == ["GET"]


_OF_ITS_OWN = [
    "GET __Booksleeve_TieBreak",
    "SET __Booksleeve_TieBreak endpoint",
    "DEL __Booksleeve_TieBreak",
    "SETEX __Booksleeve_TieBreak 60 endpoint",
    "PUBLISH __Booksleeve_MasterChanged host:6379",
    "SUBSCRIBE __Booksleeve_MasterChanged",
    "UNSUBSCRIBE __Booksleeve_MasterChanged",
]


@pytest.mark.parametrize("inline", [False, True], ids=["RESP", "inline"])
@pytest.mark.parametrize("text", _OF_ITS_OWN)
def test_they_have_none_wherever_a_segment_ends(talk: Talk, text: str, inline: bool) -> None:
    """And they use up no context. A request may be cut anywhere, and its beginning be at the engine when the rest comes."""
    request = text.encode() + b"\r\n" if inline else lines(text)
    cuts = [part for at in range(1, len(request)) for part in (request[:at], request[at:])]
    single_bytes = [request[at : at + 1] for at in range(len(request))]
    conversation = talk("HELLO 3", f"TRACEPARENT {T}", *cuts, *single_bytes, "GET a")
    assert [(span.name, span.parent_id) for span in conversation.spans] == [("GET", PARENT_ID)]


@pytest.mark.parametrize("inline", [False, True], ids=["RESP", "inline"])
@pytest.mark.parametrize("key", ["__Booksleev", "__booksleeve_x", "x__Booksleeve_", "a", '""'])
def test_keys_of_others_have_one_wherever_a_segment_ends(talk: Talk, key: str, inline: bool) -> None:
    key_bytes = b"" if key == '""' else key.encode()
    request = b"GET " + key.encode() + b"\r\n" if inline else command("GET", key_bytes)
    cuts = [part for at in range(1, len(request)) for part in (request[:at], request[at:])]
    assert [span.name for span in talk(*cuts).spans] == ["GET"] * (len(request) - 1)


def test_the_list_of_housekeeping_can_be_changed(talk: Talk) -> None:
    conversation = talk("PING", "GET a", "CLIENT ID", trace_exclude=("GET", "CLIENT *"))
    assert [span.name for span in conversation.spans] == ["PING"]


def test_a_changed_list_changes_nothing_for_whom_a_context_is(talk: Talk) -> None:
    """The client cannot know it: a neighbour must not get what was meant for an excluded command."""
    conversation = talk(f"TRACEPARENT {T}\nPING\nGET a\nSET b 1", trace_exclude=("GET",))
    assert [(s.name, bool(s.flags & spanpacket.HAS_PARENT)) for s in conversation.spans] == [
        ("PING", True),
        ("SET", True),
        ("PIPELINE", False),
    ]


def test_a_hit_and_a_miss(talk: Talk) -> None:
    conversation = talk("SET a 1", "GET a", "GET b", "MGET a a", "MGET a b", "EXISTS a", "SET c d")
    flags = [s.flags & (spanpacket.HIT | spanpacket.MISS) for s in conversation.spans]
    assert flags == [0, spanpacket.HIT, spanpacket.MISS, spanpacket.HIT, spanpacket.MISS, spanpacket.HIT, 0]


def test_an_error_has_the_replys_text(talk: Talk) -> None:
    span = talk("SET a 1\nECHO x", "LPUSH a 1").one("LPUSH")
    assert span.flags & spanpacket.ERROR_REPLY
    assert span.error == b"WRONGTYPE Operation against a key holding the wrong kind of value"


def test_commands_of_one_read_are_a_pipeline(talk: Talk) -> None:
    conversation = talk("SET a 1\nPING\nGET a\nLPUSH a 1")
    pipeline = conversation.one("PIPELINE")
    children = conversation.spans[:-1]
    assert conversation.spans[-1] is pipeline
    assert [span.name for span in children] == ["SET", "GET", "LPUSH"]
    assert {span.parent_id for span in children} == {pipeline.span_id}
    assert {span.kind for span in children} == {spanpacket.INTERNAL}
    assert {span.trace_id for span in conversation.spans} == {pipeline.trace_id}
    assert (pipeline.kind, pipeline.batch_size, pipeline.flags) == (spanpacket.SERVER, 3, spanpacket.SAMPLED)
    assert pipeline.start_ns <= min(s.start_ns for s in children)
    assert pipeline.end_ns == max(s.end_ns for s in children)
    assert pipeline.request_bytes == sum(s.request_bytes for s in children)
    assert pipeline.error == b""


def test_a_long_pipeline_sums_up_what_is_beyond_128_children(talk: Talk) -> None:
    conversation = talk("SET a 1\n" * 200)
    pipeline = conversation.one("PIPELINE")
    assert len(conversation.named("SET")) == 128
    assert (pipeline.batch_size, pipeline.omitted, pipeline.omitted_errors) == (200, 72, 0)
    assert conversation.drops == {"omitted": 72}
    assert pipeline.response_bytes == 200 * 5


def test_a_transaction_is_one_span_around_its_commands(talk: Talk) -> None:
    conversation = talk("MULTI\nSET a 1\nLPUSH a 2\nGET a\nEXEC")
    assert conversation.tree == ["MULTI > SET", "MULTI > LPUSH", "MULTI > GET", "MULTI"]
    multi = conversation.one("MULTI")
    assert (multi.kind, multi.batch_size, multi.error) == (spanpacket.SERVER, 3, b"")
    assert conversation.one("LPUSH").error.startswith(b"WRONGTYPE")
    assert {s.end_ns for s in conversation.spans} == {multi.end_ns}
    assert conversation.one("GET").flags & spanpacket.HIT


def test_a_transaction_over_several_reads_with_a_command_refused_at_queueing(talk: Talk) -> None:
    conversation = talk("MULTI", "SET a 1", "SET a", "EXEC")
    assert conversation.tree == ["MULTI > SET", "MULTI"]
    assert conversation.one("SET").error.startswith(b"ERR wrong number")
    assert conversation.one("MULTI").error.startswith(b"EXECABORT")


@pytest.mark.parametrize(
    "parts",
    [
        ["SET a 1\nGET a\nINCR a\nGET b\nINCR a"],
        ["MULTI\nSET a 1\nGET a\nINCR a\nGET b\nINCR a\nEXEC"],
        ["MULTI", "SET a 1\nGET a\nINCR a", "GET b", "INCR a", "EXEC"],
        [f"TRACEPARENT {T} COUNT 5\nSET a 1\nGET a", "INCR a\nGET b\nINCR a"],
    ],
)
def test_children_begin_in_the_order_in_which_they_ran(talk: Talk, parts: list[str]) -> None:
    """Viewers sort by that. A queued command ends with EXEC all the same: its duration is not made up."""
    conversation = talk(*parts)
    (parent,) = [span for span in conversation.spans if span.kind == spanpacket.SERVER]
    children = sorted((s for s in conversation.spans if s is not parent), key=lambda span: span.start_ns)
    assert [span.name for span in children] == ["SET", "GET", "INCR", "GET", "INCR"]
    starts = [span.start_ns for span in children]
    assert parent.start_ns <= starts[0]
    assert all(span.start_ns <= span.end_ns <= parent.end_ns for span in children)
    room_ns = (parent.end_ns - parent.start_ns) // 6
    assert all(after - before >= min(1000, room_ns) > 0 for before, after in itertools.pairwise(starts))
    if parent.name == "MULTI":
        assert {span.end_ns for span in children} == {parent.end_ns}


@pytest.mark.parametrize(
    ("parts", "tree"),
    [
        (["MULTI\nSET a 1\nDISCARD", "GET a"], ["MULTI", "GET"]),
        (["MULTI", "MULTI", "SET a 1", "EXEC"], ["MULTI > MULTI", "MULTI"]),
        (["EXEC"], ["EXEC"]),
        (["DISCARD"], ["DISCARD"]),
        (["MULTI", "SET a 1", "RESET", "GET a"], ["MULTI", "GET"]),
        (["WATCH a\nMULTI\nSET a 1\nEXEC", "UNWATCH"], ["MULTI > SET", "MULTI"]),
        (
            ["GET x\nMULTI\nSET a 1\nEXEC\nGET y"],
            ["PIPELINE > GET", "MULTI > SET", "MULTI", "PIPELINE > GET", "PIPELINE"],
        ),
    ],
)
def test_transactions_of_every_kind(talk: Talk, parts: list[str], tree: list[str]) -> None:
    conversation = talk(*parts)
    if conversation.lane:  # a read of which a part goes by lane and a part goes home is no one pipeline
        tree = [name.removeprefix("PIPELINE > ") for name in tree if name != "PIPELINE"]
        assert [name.removeprefix("PIPELINE > ") for name in conversation.tree if name != "PIPELINE"] == tree
    else:
        assert conversation.tree == tree
    assert conversation.drops == {}


def test_a_blocking_command_says_that_it_blocked_and_is_never_slow(talk: Talk) -> None:
    span = talk("BLPOP none 0.05\nPING", slow_threshold=0.001).one("BLPOP")
    assert span.flags == spanpacket.SAMPLED | spanpacket.BLOCKED
    assert span.end_ns - span.start_ns >= 50_000_000


def test_a_script_and_a_subscription_are_one_span_each(talk: Talk) -> None:
    conversation = talk(command("EVAL", "return redis.call('GET','a')", "0"), "PUBLISH c m", "HELLO 3\nSUBSCRIBE a b")
    assert [span.name for span in conversation.spans] == ["EVAL", "PUBLISH", "SUBSCRIBE"]


def test_commands_without_replies_have_spans(talk: Talk) -> None:
    conversation = talk("CLIENT REPLY OFF\nSET a 1\nMULTI\nSET b 1\nEXEC\nCLIENT REPLY ON", "GET a")
    assert [s.name for s in conversation.spans][-1] == "GET"
    assert sorted(conversation.tree) == ["GET", "MULTI", "MULTI > SET", "SET"]
    assert not any(s.error for s in conversation.spans)


def test_a_slow_command_is_marked(talk: Talk) -> None:
    conversation = talk("DEBUG SLEEP 0.03", "GET a", slow_threshold=0.02)
    assert conversation.one("DEBUG").flags == spanpacket.SAMPLED | spanpacket.SLOW
    assert conversation.one("GET").flags & spanpacket.SLOW == 0


def test_no_command_is_slow_for_those_before_it_in_a_pipeline(talk: Talk) -> None:
    conversation = talk("DEBUG SLEEP 0.03\nGET a\nGET b", slow_threshold=0.02, watched=True)
    assert [s.name for s in conversation.spans if s.flags & spanpacket.SLOW] == ["DEBUG"]


# ---- sampling --------------------------------------------------------------------------------------------------------


def test_always_off_keeps_errors_and_slow_commands(talk: Talk) -> None:
    sampler = Sampler(root="off", parent_based=False)
    conversation = talk("SET a 1", "LPUSH a 1", "DEBUG SLEEP 0.03", sampler=sampler, slow_threshold=0.02)
    assert [(s.name, s.flags) for s in conversation.spans] == [
        ("LPUSH", spanpacket.ERROR_REPLY | spanpacket.KEPT_ERROR),
        ("DEBUG", spanpacket.SLOW | spanpacket.KEPT_SLOW),
    ]
    assert conversation.drops == {"sampler": 1}


def test_an_error_in_an_unsampled_pipeline_is_kept_with_its_parent(talk: Talk) -> None:
    conversation = talk("SET a 1\nLPUSH a 1\nGET a", sampler=Sampler(root="off", parent_based=False))
    assert conversation.tree == ["PIPELINE > LPUSH", "PIPELINE"]
    assert conversation.one("PIPELINE").flags & spanpacket.KEPT_ERROR
    assert conversation.drops == {"sampler": 2}


def test_an_error_in_an_unsampled_transaction_is_kept_with_its_parent(talk: Talk) -> None:
    conversation = talk("MULTI\nSET a 1\nLPUSH a 1\nEXEC", sampler=Sampler(root="off", parent_based=False))
    assert conversation.tree == ["MULTI > LPUSH", "MULTI"]


def test_a_ratio_samples_about_that_many_roots_without_a_budget(talk: Talk) -> None:
    conversation = talk(*["GET a"] * 1000, sampler=Sampler(root=0.25, parent_based=False))
    assert 150 < len(conversation.spans) < 350
    assert conversation.drops == {"sampler": 1000 - len(conversation.spans)}
    assert all(int.from_bytes(s.trace_id[8:], "big") < 2**62 for s in conversation.spans)


def test_a_ratio_of_one_samples_everything(talk: Talk) -> None:
    assert len(talk(*["GET a"] * 600, sampler=Sampler(root=1.0, parent_based=False)).spans) == 600


@pytest.mark.parametrize(
    ("root", "parent_based", "flags", "sampled"),
    [
        ("on", True, "01", True),
        ("on", True, "00", False),
        ("off", True, "01", True),
        ("on", False, "00", True),
        ("off", False, "01", False),
        (0.0, False, "01", False),
    ],
)
def test_the_samplers_of_the_specification(
    talk: Talk, root: Any, parent_based: bool, flags: str, sampled: bool
) -> None:
    sampler = Sampler(root=root, parent_based=parent_based)
    conversation = talk(f"TRACEPARENT {T[:-2]}{flags}\nGET a", sampler=sampler)
    assert len(conversation.spans) == sampled
    assert conversation.drops == ({} if sampled else {"sampler": 1})


def test_spans_and_drops_are_all_commands_when_budgets_are_spent(talk: Talk) -> None:
    parts = ["GET a"] * 300 + [f"TRACEPARENT {T}\nGET a"] * 50 + ["GET a extra"] * 30
    conversation = talk(*parts, trace_budget_root=10, trace_budget_remote=5, trace_budget_kept=5)
    assert len(conversation.spans) + sum(conversation.drops.values()) == 380
    roots = [s for s in conversation.spans if not s.flags & (spanpacket.HAS_PARENT | spanpacket.KEPT_ERROR)]
    remote = [s for s in conversation.spans if s.flags & spanpacket.HAS_PARENT]
    kept = [s for s in conversation.spans if s.flags & spanpacket.KEPT_ERROR]
    assert 40 <= len(roots) < 300
    assert 20 <= len(remote) < 50
    assert 7 <= len(kept) < 30
    assert conversation.drops.keys() == {"budget_root", "budget_remote", "budget_kept"}


def test_children_of_roots_have_a_budget_of_their_own(talk: Talk) -> None:
    conversation = talk("SET a 1\n" * 100, trace_budget_remote=8)
    pipeline = conversation.one("PIPELINE")
    assert 40 <= len(conversation.named("SET")) < 100
    assert pipeline.omitted == conversation.drops["budget_children"] == 100 - len(conversation.named("SET"))


def test_without_an_exporter_only_slow_commands_are_told(talk: Talk) -> None:
    conversation = talk("GET a", "GET a b", "DEBUG SLEEP 0.6", exported=False, slow_threshold=0.5)
    assert [s.name for s in conversation.spans] == ["DEBUG"]
    assert conversation.drops == {}


def test_without_an_exporter_and_a_threshold_nothing_is_told(talk: Talk) -> None:
    assert talk("GET a", "DEBUG SLEEP 0.03", exported=False, slow_threshold=None).spans == []


# ---- keys ------------------------------------------------------------------------------------------------------------


def test_keys_are_not_shown_unless_asked_for(talk: Talk) -> None:
    assert {s.key for s in talk("GET secret\nSET secret 1").spans} == {b""}


def test_whole_and_hashed_keys(talk: Talk) -> None:
    parts = ["SET secret 1\nBITOP AND to from\nOBJECT ENCODING secret\nDBSIZE", "MULTI\nGET k\nEXEC"]
    whole = talk(*parts, trace_keys="whole")
    assert {s.name: s.key for s in whole.spans} == {
        "SET": b"secret", "BITOP": b"to", "OBJECT ENCODING": b"secret", "DBSIZE": b"", "PIPELINE": b"", "GET": b"k", "MULTI": b"",
    }  # fmt: skip
    hashed = talk("SET secret 1", trace_keys="hash").one("SET")
    assert hashed.key == hashlib.sha256(b"secret").hexdigest()[:16].encode()


def test_a_request_that_came_in_parts_shows_its_own_key_or_none(talk: Talk) -> None:
    """Its beginning is not kept: at home it may be at the engine when the rest comes. A lane gets whole requests only."""
    request = command("SET", "secret", "value")
    cuts = range(1, len(request))
    conversation = talk(*(part for at in cuts for part in (request[:at], request[at:])), trace_keys="whole")
    keys = [span.key for span in conversation.named("SET")]
    if conversation.lane:
        assert keys == [b"secret"] * len(cuts)
    else:
        first = request.index(b"$6")
        assert keys == [b"secret" if at < first else b"" for at in cuts]


# ---- endings ---------------------------------------------------------------------------------------------------------


def test_a_command_whose_client_leaves_or_whose_engine_dies(
    traced_engine: Server, socket_path: str, traced_table: CommandTable
) -> None:
    async def run() -> list[spanpacket.Span]:
        traced = Tracing(socket_path, traced_table)
        with traced.connect() as gone, traced.connect() as cut, traced_engine.client() as admin:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(gone, lines("BLPOP none 0"))
            await traced.say(cut, lines("CLIENT SETNAME victim\nMULTI\nSET a 1"))
            while "blpop" not in {entry["cmd"] for entry in admin.client_list()}:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            gone.close()
            victim = next(entry["id"] for entry in admin.client_list() if entry["name"] == "victim")
            admin.client_kill_filter(_id=victim)
            await traced.settle()
        traced.end()
        return traced.spans()

    spans = {span.name: span for span in uvloop.run(run())}
    assert spans.keys() == {"BLPOP", "MULTI"}
    assert spans["BLPOP"].error == b"client_gone"
    assert not spans["BLPOP"].flags & spanpacket.ERROR_REPLY
    assert spans["MULTI"].error == b"connection_lost"
