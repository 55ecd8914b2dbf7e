"""What a span says about its command: attributes and status, as the telemetry contract names them.

Owns the attributes of a span in plain Python: for exporters that need few spans, and as the reference that the
compiled OTLP encoder is tested against. Never shows an argument or a value; a key only where the worker wrote one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from telemetry import spanpacket
from telemetry.redaction import redact_reply
from telemetry.spanpacket import Span

Attribute = str | bool | int | float

DB_SYSTEM = "valkey"
OTHER = "_OTHER"

# The ledger's rule, too: the first word of an error is its code if it looks like one.
_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,31}")


def attributes(span: Span) -> Mapping[str, Attribute]:
    """The attributes of a span, sizes in bytes; what is not known or empty is not there."""
    who = span.identity
    found: dict[str, Attribute] = {
        "db.system.name": DB_SYSTEM,
        "db.operation.name": span.name,
        "db.namespace": str(who.database),
        "network.transport": who.transport,
    }
    if span.batch_size >= 2:
        found["db.operation.batch.size"] = span.batch_size
    if who.address:
        found["network.peer.address"] = who.address
    if who.port:
        found["network.peer.port"] = who.port
    if who.client_name:
        found["valkey.client.name"] = who.client_name
    if who.client_lib:
        found["valkey.client.lib"] = who.client_lib
    if who.user:
        found["enduser.id"] = who.user
    found["valkey.request.size"] = span.request_bytes
    found["valkey.response.size"] = span.response_bytes
    if span.flags & (spanpacket.HIT | spanpacket.MISS):
        found["valkey.cache.hit"] = bool(span.flags & spanpacket.HIT)
    if span.flags & spanpacket.BLOCKED:
        found["valkey.blocked"] = True
    if span.flags & spanpacket.KEPT_ERROR:
        found["valkey.kept"] = "error"
    elif span.flags & spanpacket.KEPT_SLOW:
        found["valkey.kept"] = "slow"
    if span.engine_us:
        found["valkey.engine.duration"] = span.engine_us / 1e6
    if span.omitted:
        found["valkey.pipeline.omitted"] = span.omitted
        found["valkey.pipeline.omitted.errors"] = span.omitted_errors
    if span.key:
        found["valkey.key"] = _key(span.key)
    if error := error_type(span):
        found["error.type"] = error
        if span.flags & spanpacket.ERROR_REPLY:
            found["db.response.status_code"] = error
    return found


def error_type(span: Span) -> str:
    """The first word of an error reply if it is a code, else `_OTHER`; what ended a command without a reply; or ''."""
    text = span.error.decode("utf-8", "replace")
    if not span.flags & spanpacket.ERROR_REPLY:
        return text
    code = text.partition(" ")[0].partition("\r")[0]
    return code if _CODE.fullmatch(code) else OTHER


def failure(span: Span) -> str | None:
    """The reply by which the command failed, without arguments; empty when no reply came. None: it did not fail."""
    if span.flags & spanpacket.ERROR_REPLY:
        return redact_reply(span.name, span.error.decode("utf-8", "replace").strip())
    return "" if span.error else None


def _key(key: bytes) -> str:
    """As it is when it is text, else in hexadecimal digits."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        return key.hex()
