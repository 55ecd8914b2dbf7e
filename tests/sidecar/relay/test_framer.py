"""Frames have the same boundaries wherever the bytes are cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.relay.commands import CommandTable
from sidecar.relay.reply_framer import ReplyFramer
from sidecar.relay.request_framer import RequestFramer
from sidecar.relay.special import HELD, TABLE_WITHOUT_ENGINE

TABLE = CommandTable()
TABLE.update([("get", []), ("set", []), ("config", []), ("config|get", []), ("blpop", ["blocking"])])


def request(args: list[bytes]) -> bytes:
    return b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%b\r\n" % (len(a), a) for a in args)


def cut(data: bytes, points: list[int]) -> list[bytes]:
    places = sorted({p % (len(data) + 1) for p in points} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


def feed_all(framer: RequestFramer | ReplyFramer, parts: list[bytes]) -> list[tuple[object, ...]]:
    """Every event with its absolute end offset."""
    events: list[tuple[object, ...]] = []
    offset = 0
    for part in parts:
        events += [(*event[:-1], offset + event[-1]) for event in framer.feed(part)]
        offset += len(part)
        if events and events[-1][0] == "broken":
            break
    return events


names = st.sampled_from([b"GET", b"get", b"SeT", b"CONFIG", b"blpop", b"nosuch", b"x" * 65, b""])
args = st.lists(st.one_of(names, st.binary(max_size=80), st.just(b"GET")), min_size=1, max_size=6)
requests = st.lists(
    st.one_of(
        args.map(request),
        st.sampled_from([b"PING\r\n", b"\r\n", b"*0\r\n", b"*-1\r\n", b"get a\n", b'set "a b" c\r\n']),
    ),
    min_size=1,
    max_size=6,
)


@given(requests, st.lists(st.integers(0, 2000), max_size=12))
@settings(max_examples=400, deadline=None)
def test_requests_end_where_they_end_however_the_bytes_are_cut(parts: list[bytes], points: list[int]) -> None:
    data = b"".join(parts)
    ends = []
    for part in parts:
        ends.append((ends[-1] if ends else 0) + len(part))
    whole = feed_all(RequestFramer(TABLE), [data])
    assert [event[-1] for event in whole] == ends
    assert feed_all(RequestFramer(TABLE), cut(data, points)) == whole
    assert feed_all(RequestFramer(TABLE), [data[i : i + 1] for i in range(len(data))]) == whole


def replies(depth: int = 3) -> st.SearchStrategy[bytes]:
    text = st.text("abc :$*-+", max_size=10).map(str.encode)
    blob = st.binary(max_size=60)
    simple = st.one_of(
        st.builds(lambda c, t: c + t + b"\r\n", st.sampled_from([b"+", b"-", b",", b"("]), text),
        st.integers().map(lambda n: b":%d\r\n" % n),
        st.sampled_from([b"_\r\n", b"#t\r\n", b"#f\r\n", b"$-1\r\n", b"*-1\r\n", b"*0\r\n", b"%0\r\n", b"~0\r\n"]),
        blob.map(lambda b: b"$%d\r\n%b\r\n" % (len(b), b)),
        blob.map(lambda b: b"!%d\r\n%b\r\n" % (len(b), b)),
        blob.map(lambda b: b"=%d\r\ntxt:%b\r\n" % (len(b) + 4, b)),
        st.lists(st.binary(min_size=1, max_size=9), max_size=3).map(
            lambda chunks: b"$?\r\n" + b"".join(b";%d\r\n%b\r\n" % (len(c), c) for c in chunks) + b";0\r\n"
        ),
    )

    def nest(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
        items = st.lists(inner, max_size=4)
        even = items.map(lambda i: i + i)
        return st.one_of(
            items.map(lambda i: b"*%d\r\n" % len(i) + b"".join(i)),
            items.map(lambda i: b"~%d\r\n" % len(i) + b"".join(i)),
            even.map(lambda i: b"%%%d\r\n" % (len(i) // 2) + b"".join(i)),
            items.map(lambda i: b"*?\r\n" + b"".join(i) + b".\r\n"),
            even.map(lambda i: b"%?\r\n" + b"".join(i) + b".\r\n"),
            st.tuples(even, inner).map(lambda t: b"|%d\r\n" % (len(t[0]) // 2) + b"".join(t[0]) + t[1]),
        )

    return st.recursive(simple, nest, max_leaves=10)


@given(
    st.lists(st.one_of(replies(), replies().map(lambda r: b">2\r\n$7\r\nmessage\r\n" + r)), min_size=1, max_size=5),
    st.lists(st.integers(0, 3000), max_size=12),
)
@settings(max_examples=400, deadline=None)
def test_replies_end_where_they_end_however_the_bytes_are_cut(parts: list[bytes], points: list[int]) -> None:
    data = b"".join(parts)
    ends = []
    for part in parts:
        ends.append((ends[-1] if ends else 0) + len(part))
    whole = feed_all(ReplyFramer(), [data])
    assert [event[-1] for event in whole] == ends
    assert feed_all(ReplyFramer(), cut(data, points)) == whole
    assert feed_all(ReplyFramer(), [data[i : i + 1] for i in range(len(data))]) == whole


@pytest.mark.parametrize(
    "bad",
    [b"*1\r\nPING\r\n", b"*x\r\n", b"*1\r\n$-1\r\n", b"*1\r\n$x\r\n", b"*1\r\n$03\r\n", b"*+1\r\n", b"*99999999999\r\n", b"*\r\n", b"*1\r\n$\r\n", b"*-\r\n",
     b"x" * 70_000],
)  # fmt: skip
def test_what_valkey_refuses_is_broken(bad: bytes) -> None:
    assert feed_all(RequestFramer(TABLE), [bad])[-1][0] == "broken"


def test_valkey_skips_two_bytes_after_a_value_whatever_they_are() -> None:
    assert RequestFramer(TABLE).feed(b"*2\r\n$3\r\nGETxx$1\r\naxx") == [("frame", "GET", 2, 20)]


@pytest.mark.parametrize("bad", [b"hello\r\n", b".\r\n", b";3\r\nabc\r\n", b"$x\r\n", b"*1x\r\n"])
def test_bytes_that_are_no_reply_are_broken(bad: bytes) -> None:
    assert feed_all(ReplyFramer(), [bad])[-1][0] == "broken"


@pytest.mark.parametrize(
    ("request_", "name"),
    [([b"get", b"a"], "GET"), ([b"CONFIG", b"get", b"x"], "CONFIG GET"), ([b"config", b"nosuch"], "_OTHER"), ([b"config"], "CONFIG"), ([b"x" * 100], "_OTHER"),
     ([b"CONFIG", b"g" * 500], "_OTHER"), ([b""], "_OTHER")],
)  # fmt: skip
def test_names_are_the_engines_or_other(request_: list[bytes], name: str) -> None:
    data = request(request_)
    for size in (len(data), 1, 3):
        events = feed_all(RequestFramer(TABLE), [data[i : i + size] for i in range(0, len(data), size)])
        assert [event[1] for event in events] == [name]


def test_a_large_value_is_not_kept() -> None:
    framer = RequestFramer(TABLE)
    assert framer.feed(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$536870912\r\n") == []
    chunk = b"x" * (1 << 20)
    for _ in range(512):
        assert framer.feed(chunk) == []
    assert framer.feed(b"\r\n") == [("frame", "SET", 3, 2)]


def test_a_renamed_command_counts_as_what_it_does_and_its_old_name_is_unknown() -> None:
    table = CommandTable()
    table.update([("config", []), ("config|set", []), ("get", [])], {"CONFIG SET"}, {"admin": "config"})
    assert table.lookup(b"ADMIN|SET")[0] == "CONFIG SET"
    assert table.lookup(b"CONFIG|SET")[0] == "_OTHER"
    assert table.lookup(b"GET")[0] == "GET"


def test_ids_stay_when_a_module_brings_commands() -> None:
    table = CommandTable()
    table.update([("get", []), ("set", [])])
    before = list(table.names)
    table.update([("json.get", []), *((f"cmd{i}", []) for i in range(2000)), ("set", []), ("get", [])])
    assert table.names[: len(before)] == before
    assert table.lookup(b"JSON.GET")[0] == "JSON.GET"
    assert table.lookup(b"CMD1999")[0] == "CMD1999"


def test_a_request_that_has_begun_keeps_its_command_while_the_table_grows() -> None:
    table = CommandTable()
    table.update([("a-long-name", [])])
    framer = RequestFramer(table)
    data = request([b"a-long-name", b"value"])
    assert framer.feed(data[:-3]) == []
    table.update([(f"command-{number}", []) for number in range(2000)])
    spoilt = [b"\xff" * size for size in (12_000, 16_300, 16_384, 24_000) for _ in range(50)]
    assert framer.feed(data[-3:]) == [("frame", "A-LONG-NAME", 2, 3)]
    del spoilt


def test_what_must_be_inspected_is_known_without_the_engines_table() -> None:
    table = CommandTable()
    table.update(TABLE_WITHOUT_ENGINE, HELD)
    assert {table.lookup(name.replace(" ", "|").encode())[0] for name in HELD} == HELD
    assert len({table.lookup(name.replace(" ", "|").encode())[1] for name in HELD}) == 1
    assert RequestFramer(table).feed(request([b"config", b"set", b"port", b"7"]))[0][:3] == ("frame", "CONFIG SET", 4)
