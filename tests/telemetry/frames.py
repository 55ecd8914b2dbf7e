"""Snapshot frames written in plain Python, straight from the description of their format."""

from __future__ import annotations

import struct
from collections.abc import Iterable

BUCKETS = 34


def outcome(
    command: str, error_type: str = "", *, calls: int, sum_ns: int = 0, buckets: dict[int, int] | None = None
) -> bytes:
    return _row(1, command, error_type, "Q", [calls, sum_ns, *_spread(buckets)])


def command(
    name: str,
    *,
    sent: int = 0,
    received: int = 0,
    hits: int = 0,
    misses: int = 0,
    blocked_ns: int = 0,
    blocked: dict[int, int] | None = None,
) -> bytes:
    return _row(2, name, "", "Q", [sent, received, hits, misses, blocked_ns, *_spread(blocked)])


def counter(name: str, value: int, label: str = "") -> bytes:
    return _row(3, name, label, "Q", [value])


def gauge(name: str, value: int, label: str = "") -> bytes:
    return _row(4, name, label, "q", [value])


def frame(*rows: bytes) -> bytes:
    return b"S" + b"".join(rows)


def _spread(buckets: dict[int, int] | None) -> list[int]:
    return [(buckets or {}).get(index, 0) for index in range(BUCKETS)]


def _row(kind: int, name: str, label: str, code: str, values: Iterable[int]) -> bytes:
    texts = b"".join(struct.pack("<H", len(text.encode())) + text.encode() for text in (name, label))
    return struct.pack("<B", kind) + texts + b"".join(struct.pack(f"<{code}", value) for value in values)
