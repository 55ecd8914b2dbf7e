"""Owns the choice between the two forms that stand in one text: StackExchange.Redis' and the URI."""

from __future__ import annotations

from sidecar.connection_strings.model import ConnectionString, ConnectionStringError
from sidecar.connection_strings.stackexchange import parse_stackexchange
from sidecar.connection_strings.uri import is_uri, parse_uri


def parse(text: str, origin: str = "connection string") -> ConnectionString:
    """Read either form. Raises ConnectionStringError that begins with `origin`: where the text came from.

    >>> parse("localhost,ssl=true") == parse("rediss://localhost:6380")
    True
    """
    if not text.strip():
        raise ConnectionStringError(f"{origin}: it is empty: give a server, as in localhost:6379")
    return parse_uri(text, origin) if is_uri(text) else parse_stackexchange(text, origin)
