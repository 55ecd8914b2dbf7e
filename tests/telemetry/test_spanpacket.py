from __future__ import annotations

import pytest

from telemetry import spanpacket
from telemetry.spanpacket import Identity, PacketError, Span


def test_a_packet_gives_back_what_was_put_in() -> None:
    identity = Identity("unix", "/run/valkey.sock", 0, 3, "worker-é", "valkey-py/6.1", "bob")
    spans = [
        Span("GET", 1_000, 2_000, bytes(range(16)), bytes(range(8)), identity=identity, key=b"k\0"),
        Span(
            "PIPELINE",
            1,
            2,
            b"t" * 16,
            b"s" * 8,
            b"p" * 8,
            flags=3,
            batch_size=200,
            omitted=72,
            omitted_errors=1,
            engine_us=7,
        ),
        Span("GET", 5, 9, b"t" * 16, b"u" * 8, kind=1, flags=32, error=b"WRONGTYPE x", tracestate=b"a=b"),
    ]
    packet = spanpacket.pack(spans)
    assert list(spanpacket.unpack(packet)) == spans
    assert spanpacket.spans_in(packet) == 3


@pytest.mark.parametrize(
    ("packet", "message"),
    [
        (b"S" + bytes(20), "begins with b'T'"),
        (b"T", "cannot be read"),
        (spanpacket.pack([]) + b"X", "unknown row b'X'"),
        (spanpacket.pack([Span("GET", 1, 2, b"t" * 16, b"s" * 8)])[:-1], "cannot be read"),
        (spanpacket.pack([Span("GET", 1, 2, b"t" * 16, b"s" * 8, key=b"key")])[:-1], "ends inside"),
    ],
)
def test_a_packet_that_is_none_says_so(packet: bytes, message: str) -> None:
    with pytest.raises(PacketError, match=message):
        list(spanpacket.unpack(packet))
