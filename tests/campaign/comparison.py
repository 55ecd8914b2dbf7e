"""Whether two servers answered one stream alike.

Owns what may differ and why (docs/reliability.md, "Fuzzing"). It talks to nobody.
"""

from __future__ import annotations

import re
from typing import Final

from tests.campaign.conversation import Outcome
from tests.campaign.streams import Stream

TOO_LARGE: Final = b"-ERR Protocol error: too large a request for a command that is inspected\r\n"
"""Ours: what is inspected is refused over 1 MB (docs/differences.md), where Valkey takes it or waits for its end."""
_ID: Final = re.compile(rb"(id\r\n):\d+")  # of a client, in HELLO's reply
_AROUND: Final = 60


def difference(stream: Stream, bare: Outcome, ours: Outcome) -> str:
    """What is different, in a few words and bytes; nothing when it is alike."""
    theirs, answered = _ID.sub(rb"\1:0", bare.reply), _ID.sub(rb"\1:0", ours.reply)
    if bare.hung or ours.hung:
        return f"did not end: {'bare' if bare.hung else 'ours'}"
    if answered.endswith(TOO_LARGE):
        return "" if theirs.startswith(answered[: -len(TOO_LARGE)]) else _bytes(theirs, answered)
    if stream.attack and (theirs.startswith(answered) or answered.startswith(theirs)):
        return ""
    if theirs != answered:
        return _bytes(theirs, answered)
    if bare.closed != ours.closed and not stream.quiet:
        return (
            f"{len(theirs)} bytes each, but only {'bare' if bare.closed else 'ours'} closed; last {theirs[-_AROUND:]!r}"
        )
    return ""


def is_about_time(bare: Outcome, ours: Outcome) -> bool:
    """Whether it may be one of when we stopped to listen: a slow server seems to have said all that it had to say."""
    return bare.reply.startswith(ours.reply) or ours.reply.startswith(bare.reply)


def _bytes(theirs: bytes, answered: bytes) -> str:
    pairs = enumerate(zip(theirs, answered, strict=False))
    at = next((i for i, (x, y) in pairs if x != y), min(len(theirs), len(answered)))
    around = slice(max(0, at - _AROUND), at + _AROUND)
    return (
        f"{len(theirs)} and {len(answered)} bytes, different from {at} on\n"
        f"    bare {theirs[around]!r}\n    ours {answered[around]!r}"
    )
