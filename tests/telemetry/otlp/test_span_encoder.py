"""The compiled encoder against the reference reader of packets and OpenTelemetry's own protobuf classes."""

from __future__ import annotations

import re
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans

from telemetry import spanpacket
from telemetry.otlp.encoded import Encoded
from telemetry.otlp.span_encoder import SpanEncoder
from telemetry.redaction import redact, redact_reply
from telemetry.spanpacket import Identity, Span

U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
TIMES = st.integers(0, 2**63 - 1)
IDENTITIES = st.builds(
    Identity,
    transport=st.sampled_from(spanpacket.TRANSPORTS),
    address=TEXT,
    port=st.integers(0, 65535),
    database=st.integers(-(2**31), 2**31 - 1),
    client_name=TEXT,
    client_lib=TEXT,
    user=TEXT,
)
SPANS = st.builds(
    Span,
    name=st.sampled_from(["GET", "CONFIG GET", "PIPELINE", "MULTI", "_OTHER"]) | TEXT,
    start_ns=TIMES,
    end_ns=TIMES,
    trace_id=st.binary(min_size=16, max_size=16),
    span_id=st.binary(min_size=8, max_size=8),
    parent_id=st.binary(min_size=8, max_size=8),
    kind=st.sampled_from([spanpacket.INTERNAL, spanpacket.SERVER]),
    flags=st.integers(0, 1023),
    trace_flags=st.integers(0, 255),
    identity=IDENTITIES,
    request_bytes=U64,
    response_bytes=U64,
    batch_size=U32 | st.integers(0, 3),
    omitted=U32 | st.just(0),
    omitted_errors=U32,
    engine_us=U32 | st.just(0),
    error=st.binary(max_size=60)
    | TEXT.map(str.encode)
    | st.sampled_from([b"WRONGTYPE Operation", b"client_gone", b"ERR unknown command 'get', with args beginning: 'x'"]),
    tracestate=st.binary(max_size=60),
    key=st.binary(max_size=300) | st.sampled_from([b"user:1", b"\xff\x00"]),
)
CODE = re.compile(r"([A-Z][A-Z0-9_]{0,31})(?:[ \r].*)?", re.DOTALL)


def code_of(error: str) -> str:
    match = CODE.fullmatch(error)
    return match[1] if match else "_OTHER"


def expected_attributes(span: Span) -> dict[str, Any]:
    """The contract's table, said once more in plain Python."""
    who, flags, error = span.identity, span.flags, span.error.decode("utf-8", "replace")
    attributes: dict[str, Any] = {
        "db.system.name": "valkey",
        "db.operation.name": span.name,
        "db.namespace": str(who.database),
        "network.transport": who.transport,
        "valkey.request.size": span.request_bytes,
        "valkey.response.size": span.response_bytes,
        "network.peer.address": who.address or None,
        "network.peer.port": who.port or None,
        "valkey.client.name": who.client_name or None,
        "valkey.client.lib": who.client_lib or None,
        "enduser.id": who.user or None,
        "db.operation.batch.size": span.batch_size if span.batch_size >= 2 else None,
        "valkey.pipeline.omitted": span.omitted or None,
        "valkey.pipeline.omitted.errors": span.omitted_errors if span.omitted else None,
        "valkey.cache.hit": True if flags & spanpacket.HIT else False if flags & spanpacket.MISS else None,
        "valkey.blocked": True if flags & spanpacket.BLOCKED else None,
        "valkey.engine.duration": span.engine_us / 1e6 if span.engine_us else None,
        "valkey.kept": None,
    }
    if flags & spanpacket.KEPT_ERROR:
        attributes["valkey.kept"] = "error"
    elif flags & spanpacket.KEPT_SLOW:
        attributes["valkey.kept"] = "slow"
    if flags & spanpacket.ERROR_REPLY:
        attributes["error.type"] = attributes["db.response.status_code"] = code_of(error)
    elif error:
        attributes["error.type"] = error
    if span.key:
        try:
            attributes["valkey.key"] = span.key.decode()
        except UnicodeDecodeError:
            attributes["valkey.key"] = span.key.hex()
    return {name: value for name, value in attributes.items() if value is not None}


def signed(value: Any) -> Any:
    """A u64 as OTLP's int64 shows it."""
    return value - 2**64 if type(value) is int and value >= 2**63 else value


def parsed(encoded: Encoded) -> list[Any]:
    assert encoded.ends == sorted(encoded.ends)
    assert (encoded.ends or [0])[-1] == len(encoded.data)
    spans = list(ScopeSpans.FromString(encoded.data).spans)
    begins = [0, *encoded.ends[:-1]]
    alone = [
        ScopeSpans.FromString(encoded.data[b:e]).spans[0]
        for b, e in zip(begins, encoded.ends, strict=encoded.ends != [])
    ]
    assert spans == alone
    return spans


@hypothesis.given(st.lists(SPANS, max_size=12))
def test_every_span_of_a_packet_is_an_otlp_span_by_the_contract(spans: list[Span]) -> None:
    packet = spanpacket.pack(spans)
    read = list(spanpacket.unpack(packet))
    encoder = SpanEncoder()
    for _ in range(2):  # the second time names, identities and errors come from the caches
        messages = parsed(encoder.encode(packet))
        assert len(messages) == len(read)
        for span, message in zip(read, messages, strict=True):
            assert message.trace_id == span.trace_id
            assert message.span_id == span.span_id
            assert message.parent_span_id == (span.parent_id if span.flags & spanpacket.HAS_PARENT else b"")
            assert message.trace_state == span.tracestate.decode("utf-8", "replace")
            assert message.name == span.name
            assert message.kind == span.kind
            assert (message.start_time_unix_nano, message.end_time_unix_nano) == (span.start_ns, span.end_ns)
            remote = 0x200 if span.flags & spanpacket.REMOTE_PARENT else 0
            assert message.flags == span.trace_flags | 0x100 | remote
            found = {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in message.attributes}
            assert len(found) == len(message.attributes)
            assert found == {name: signed(value) for name, value in expected_attributes(span).items()}
            failed = bool(span.error) or bool(span.flags & spanpacket.ERROR_REPLY)
            assert message.status.code == (2 if failed else 0)
            reply = span.flags & spanpacket.ERROR_REPLY
            text = redact_reply(span.name, span.error.decode("utf-8", "replace").strip()) if reply else ""
            assert message.status.message == text


@hypothesis.given(st.lists(SPANS, min_size=1, max_size=4), st.data())
def test_a_broken_packet_is_refused_and_never_read_beyond_its_end(spans: list[Span], data: st.DataObject) -> None:
    packet = bytearray(spanpacket.pack(spans))
    for _ in range(data.draw(st.integers(0, 3))):
        packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(packet[: data.draw(st.integers(0, len(packet)))])
    try:
        encoded = SpanEncoder().encode(cut)
    except ValueError:
        return
    assert len(list(spanpacket.unpack(cut))) == len(parsed(encoded))


@pytest.mark.parametrize("row", range(1, 5))
def test_a_packet_cut_anywhere_inside_a_row_is_a_value_error(row: int) -> None:
    span = Span("GET", 1, 2, b"t" * 16, b"s" * 8, error=b"x", tracestate=b"a=b", key=b"k" * row)
    packet = spanpacket.pack([span])
    header, name = spanpacket.HEADER.size, spanpacket.NAME.size + 3
    whole = {header, header + name, len(packet) - spanpacket.SPAN.size - 4 - row, len(packet)}
    for size in range(len(packet)):
        if size in whole:
            assert SpanEncoder().encode(packet[:size]).ends == []
        else:
            with pytest.raises(ValueError, match=r"span packet|longer than"):
                SpanEncoder().encode(packet[:size])


def test_slow_spans_and_the_slowest_sampled_command_are_handed_out_also_without_encoding() -> None:
    who = Identity("unix", "/run/v.sock", 0, 2, "name", "lib", "bob")
    sampled, slow = spanpacket.SAMPLED, spanpacket.SLOW

    def span(name: str, ns: int, flags: int, error: bytes = b"") -> Span:
        return Span(name, 100, 100 + ns, name.encode().ljust(16), b"12345678", flags=flags, identity=who, error=error)

    spans = [
        span("PIPELINE", 900, sampled),
        span("MULTI", 800, sampled),
        span("BLPOP", 700, sampled | spanpacket.BLOCKED),
        span("LOST", 650, sampled, b"client_gone"),
        span("KEYS", 600, slow),
        span("GET", 500, sampled | slow | spanpacket.ERROR_REPLY, b"WRONGTYPE Operation"),
        span("SET", 400, sampled),
    ]
    for encode in (True, False):
        encoded = SpanEncoder().encode(spanpacket.pack(spans), encode)
        assert [(o.command, o.error_type) for o in encoded.slow] == [("KEYS", ""), ("GET", "WRONGTYPE")]
        assert encoded.exemplar == encoded.slow[1]
        assert encoded.exemplar == ("GET", "WRONGTYPE", 500, 600, b"GET".ljust(16), b"12345678", 1, who, 0)
        assert bool(encoded.data) is encode
    assert SpanEncoder().encode(spanpacket.pack([span("GET", 1, 0)])).exemplar is None


def test_many_names_identities_and_errors_do_not_fill_the_memory() -> None:
    encoder = SpanEncoder()
    for n in range(6000):
        who = Identity(address=str(n))
        error = b"ERR %d" % n
        span = Span(f"C{n}", 1, 2, b"t" * 16, b"s" * 8, identity=who, flags=spanpacket.ERROR_REPLY, error=error)
        (message,) = parsed(encoder.encode(spanpacket.pack([span])))
        assert message.name == f"C{n}"
        assert message.status.message == f"ERR {n}"


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        (
            "ERR unknown command 'SECRET', with args beginning with: 'pass' 'word' ",
            "ERR unknown command '?'",
        ),
        ("ERR unknown command 'it's SECRET', with args beginning with: ", "ERR unknown command '?'"),
        ("ERR unknown subcommand 'SECRET'. Try CONFIG HELP.", "ERR unknown subcommand '?'. Try CONFIG HELP."),
        (
            "ERR Error in ACL SETUSER modifier '>SEC'RET': Syntax error",
            "ERR Error in ACL SETUSER modifier '?': Syntax error",
        ),
        (
            "NOPERM User SOMEONE has no permissions to run the 'get' command",
            "NOPERM User SOMEONE has no permissions to run the '?' command",
        ),
        (
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            "WRONGTYPE Operation against a key holding the wrong kind of value",
        ),
        (
            "ERR user_script:1: Script attempted to access nonexistent global variable 'SECRET' script: 8a, on @u:1.",
            "ERR user_script:1: Script attempted to access nonexistent global variable '?' script: 8a, on @u:1.",
        ),
        (
            "ERR Error compiling script (new function): user_script:1: unexpected symbol near '\"SECRET\"'",
            "ERR Error compiling script (new function): user_script:1: unexpected symbol near '?'",
        ),
        ("MISCONF it's currently unable to persist to disk.", "MISCONF it's currently unable to persist to disk."),
        ('ERR no such thing: "SECRET and `more', 'ERR no such thing: "?'),
        ('ERR `SECRET` and "SECRET" and \'SECRET', 'ERR `?` and "?" and \'?'),
        ("ERR 'SECRET' and it isn't 'SECRET'", "ERR '?'"),
    ],
)
def test_what_a_client_sent_is_not_in_an_errors_text(text: str, redacted: str) -> None:
    assert redact(text) == redacted
    assert "SECRET" not in redact(text)
