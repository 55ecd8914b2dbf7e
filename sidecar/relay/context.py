"""TRACEPARENT's arguments: a trace context as W3C writes it, and how many commands it is for.

Owns their grammar. It knows no session.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from sidecar.relay.plan import word

Context = tuple[bytes, bytes, int, bytes, int]
"""Trace id (16 bytes), parent span id (8 bytes), trace flags, tracestate, number of commands."""

INVALID_CONTEXT: Final = "invalid traceparent"
BAD_SYNTAX: Final = "syntax error"

_TRACEPARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_MEMBER: Final = re.compile(
    rb"[a-z0-9][a-z0-9_\-*/@]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
_STATE_MEMBERS_MOST: Final = 32
_STATE_BYTES_MOST: Final = 512
_COUNT_MOST: Final = 1_000_000_000


def parse(args: Sequence[bytes]) -> Context | str | None:
    """What `TRACEPARENT` with these arguments gives: None clears; INVALID_CONTEXT and BAD_SYNTAX clear, too."""
    if not args:
        return None
    match = _TRACEPARENT.fullmatch(args[0])
    # Version 00 has four fields; a later one may have more (W3C Trace Context, 3.2.4).
    if match is None or match[1] == b"ff" or (match[1] == b"00" and match[5] is not None):
        return INVALID_CONTEXT
    trace_id, parent_id = bytes.fromhex(match[2].decode()), bytes.fromhex(match[3].decode())
    if not any(trace_id) or not any(parent_id):
        return INVALID_CONTEXT
    state, count = b"", 1
    if len(args) % 2 == 0:
        return BAD_SYNTAX
    for option, value in zip(args[1::2], args[2::2], strict=True):
        if word(option) == b"state":
            state = _checked(value)
        elif word(option) == b"count" and value.isdigit() and 1 <= int(value[:20]) <= _COUNT_MOST:
            count = int(value)
        else:
            return BAD_SYNTAX
    return trace_id, parent_id, int(match[4], 16), state, count


def _checked(state: bytes) -> bytes:
    """The tracestate; nothing when it is none, as W3C wants it: the context counts without it."""
    members = [member.strip(b" \t") for member in state.split(b",")]
    members = [member for member in members if member]
    if len(state) > _STATE_BYTES_MOST or len(members) > _STATE_MEMBERS_MOST:
        return b""
    return b",".join(members) if all(_MEMBER.fullmatch(member) for member in members) else b""
