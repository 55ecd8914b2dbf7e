"""Span packets: how a worker hands finished spans to the supervisor.

Owns the layout, its constants, and a reader and writer in plain Python for tests and for whoever needs few spans. The
worker writes packets with `telemetry.spans`, and the OTLP encoder reads them in compiled code; neither copies a figure
from here without being tested against this module.

A packet is self-contained. Little endian, nothing padded: `T`, i64 nanoseconds to add to monotonic times for Unix time,
u32 number of spans, then rows until the end:

    N  u16 id, u16 length, name                     a command's name; valid in this packet
    I  u32 id, u8 transport, i32 database, u16 port, then peer address, client name, client library, ACL user,
       each u16 length and UTF-8                     who sent the commands; valid in this packet
    S  `SPAN`, then error, tracestate and key       one span; its name and identity stand before it
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

MAGIC: Final = b"T"
HEADER: Final = struct.Struct("<cqI")
NAME: Final = struct.Struct("<cHH")
IDENTITY: Final = struct.Struct("<cIBiH")
SPAN: Final = struct.Struct("<cBHB16s8s8sqqHIQQIIIIHHH")
_LENGTH: Final = struct.Struct("<H")

TRANSPORTS: Final = ("tcp", "unix")

# The numbers are OTLP's.
INTERNAL: Final = 1
SERVER: Final = 2

# Flags of a span.
HAS_PARENT: Final = 1
REMOTE_PARENT: Final = 2
HIT: Final = 4
MISS: Final = 8
BLOCKED: Final = 16
ERROR_REPLY: Final = 32
"""`error` is the text of an error reply without its `-`; else it is an error.type (`client_gone`), or empty."""
KEPT_ERROR: Final = 64
KEPT_SLOW: Final = 128
SLOW: Final = 256
"""Slower than the threshold, whether it was kept because of that or not."""
SAMPLED: Final = 512
"""The sampler wanted it. A span without it was kept for its error or its slowness only."""

PIPELINE: Final = "PIPELINE"
"""The name of the span around commands that came together; it is no command."""


class PacketError(ValueError):
    """A span packet that does not follow the layout: a fault of ours."""


@dataclass(frozen=True)
class Identity:
    """Who sent a command. `port` is 0 with a Unix socket; `user` is empty for the default one."""

    transport: str = "tcp"
    address: str = "127.0.0.1"
    port: int = 0
    database: int = 0
    client_name: str = ""
    client_lib: str = ""
    user: str = ""


@dataclass(frozen=True)
class Span:
    """One span. Times are Unix nanoseconds, sizes bytes; engine_us is 0 where the engine did not say what it took."""

    name: str
    start_ns: int
    end_ns: int
    trace_id: bytes
    span_id: bytes
    parent_id: bytes = bytes(8)
    kind: int = SERVER
    flags: int = 0
    trace_flags: int = 1
    identity: Identity = field(default_factory=Identity)
    request_bytes: int = 0
    response_bytes: int = 0
    batch_size: int = 0
    omitted: int = 0
    omitted_errors: int = 0
    engine_us: int = 0
    error: bytes = b""
    tracestate: bytes = b""
    key: bytes = b""


def pack(spans: Iterable[Span]) -> bytes:
    """One packet of these spans."""
    names: dict[str, int] = {}
    identities: dict[Identity, int] = {}
    rows = bytearray()
    count = 0
    for span in spans:
        count += 1
        if span.name not in names:
            names[span.name] = len(names) + 1
            encoded = span.name.encode()
            rows += NAME.pack(b"N", names[span.name], len(encoded)) + encoded
        who = span.identity
        if who not in identities:
            identities[who] = len(identities) + 1
            rows += IDENTITY.pack(b"I", identities[who], TRANSPORTS.index(who.transport), who.database, who.port)
            for text in (who.address, who.client_name, who.client_lib, who.user):
                encoded = text.encode()
                rows += _LENGTH.pack(len(encoded)) + encoded
        # fmt: off
        rows += SPAN.pack(
            b"S", span.kind, span.flags, span.trace_flags, span.trace_id, span.span_id, span.parent_id,
            span.start_ns, span.end_ns, names[span.name], identities[who], span.request_bytes, span.response_bytes,
            span.batch_size, span.omitted, span.omitted_errors, span.engine_us,
            len(span.error), len(span.tracestate), len(span.key),
        )
        # fmt: on
        rows += span.error + span.tracestate + span.key
    return HEADER.pack(MAGIC, 0, count) + bytes(rows)


def spans_in(packet: bytes) -> int:
    """How many spans a packet says it holds, without a look at them."""
    return int(HEADER.unpack_from(packet)[2])


def unpack(packet: bytes) -> Iterator[Span]:
    """The spans of a packet. Raises PacketError."""
    try:
        yield from _unpack(packet)
    except (struct.error, KeyError, IndexError) as error:
        raise PacketError(f"a span packet of {len(packet)} bytes cannot be read: {error!r}") from None


def _unpack(packet: bytes) -> Iterator[Span]:
    magic, offset_ns, _count = HEADER.unpack_from(packet)
    if magic != MAGIC:
        raise PacketError(f"a span packet begins with {MAGIC!r}, this one with {magic!r}")
    names: dict[int, str] = {}
    identities: dict[int, Identity] = {}
    at = HEADER.size
    while at < len(packet):
        kind = packet[at : at + 1]
        if kind == b"N":
            _, identifier, length = NAME.unpack_from(packet, at)
            at += NAME.size
            names[identifier] = packet[at : at + length].decode("utf-8", "replace")
            at += length
        elif kind == b"I":
            _, identifier, transport, database, port = IDENTITY.unpack_from(packet, at)
            at += IDENTITY.size
            texts = []
            for _ in range(4):
                (length,) = _LENGTH.unpack_from(packet, at)
                texts.append(packet[at + 2 : at + 2 + length].decode("utf-8", "replace"))
                at += 2 + length
            identities[identifier] = Identity(TRANSPORTS[transport], texts[0], port, database, *texts[1:])
        elif kind == b"S":
            (_, otlp_kind, flags, trace_flags, trace_id, span_id, parent_id, start_ns, end_ns, name, who, request_bytes,
             response_bytes, batch_size, omitted, omitted_errors, engine_us, *lengths,
             ) = SPAN.unpack_from(packet, at)  # fmt: skip
            at += SPAN.size
            tails = []
            for length in lengths:
                tails.append(packet[at : at + length])
                at += length
            yield Span(
                names[name], start_ns + offset_ns, end_ns + offset_ns, trace_id, span_id, parent_id, otlp_kind, flags,
                trace_flags, identities[who], request_bytes, response_bytes, batch_size, omitted, omitted_errors,
                engine_us, *tails,
            )  # fmt: skip
        else:
            raise PacketError(f"unknown row {kind!r} at byte {at} of a span packet of {len(packet)}")
    if at != len(packet):
        raise PacketError(f"a span packet of {len(packet)} bytes ends inside its last row")
