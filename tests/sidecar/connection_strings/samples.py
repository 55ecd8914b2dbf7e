"""Connections that several tests speak of."""

from __future__ import annotations

from typing import Any

from sidecar.connection_strings.model import ConnectionString, Endpoint
from sidecar.secret import SecretStr

# Every character that one of the forms has a meaning for, except a comma.
HARD = "p@ss:w/rd#%?&+=é 1'\"$x[]!"


def at(*servers: str, **fields: Any) -> ConnectionString:
    """Servers as host:port, and other fields; the password as a string."""
    if isinstance(fields.get("password"), str):
        fields["password"] = SecretStr(fields["password"])
    endpoints = [Endpoint(host, int(port)) for host, _, port in (server.rpartition(":") for server in servers)]
    return ConnectionString(endpoints=tuple(endpoints), **fields)
