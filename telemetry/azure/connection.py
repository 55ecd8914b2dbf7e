"""The connection string of an Application Insights resource.

Owns what is checked of it before any library sees it. Never shows the string, nor a part of it but the host's name: it
holds the instrumentation key.

    InstrumentationKey=00000000-0000-0000-0000-000000000000;IngestionEndpoint=https://westeurope-5.in.example/
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from urllib.parse import urlsplit

VARIABLE = "APPLICATIONINSIGHTS_CONNECTION_STRING"


class ConnectionStringError(ValueError):
    """It cannot be used. The text says why without showing it."""


@dataclass(frozen=True, repr=False)
class Connection:
    """A checked connection string. `host`: where telemetry goes, for people; `endpoint`: the same as a URL."""

    string: str
    host: str
    endpoint: str


def check(text: str) -> Connection:
    """The string in the one form that the exporter takes. Raises ConnectionStringError."""
    parts: dict[str, str] = {}
    for pair in filter(str.strip, text.split(";")):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not name or "=" in value:
            raise ConnectionStringError("it must be a list of name=value pairs with semicolons between them")
        parts[name.lower()] = value
    key = parts.get("instrumentationkey", "")
    try:
        parts["instrumentationkey"] = str(uuid.UUID(key))
    except ValueError:
        problem = "is not a UUID" if key else "is missing"
        raise ConnectionStringError(f"its InstrumentationKey {problem}") from None
    if parts.get("authorization", "ikey").lower() != "ikey":
        raise ConnectionStringError("its Authorization must be ikey")
    endpoint = parts.get("ingestionendpoint", "")
    try:
        url = urlsplit(endpoint)
        valid = not endpoint or (url.scheme in ("http", "https") and url.hostname is not None and url.port != 0)
    except ValueError:
        valid = False
    if not valid:
        raise ConnectionStringError("its IngestionEndpoint is not an http or https address")
    string = ";".join(f"{name}={value}" for name, value in parts.items())
    suffix = parts.get("endpointsuffix")
    # As the library has it; where it sends without either is its own business.
    address = endpoint or f"https://dc.{suffix or 'services.visualstudio.com'}"
    return Connection(string, url.hostname or suffix or "the global endpoint", address)
