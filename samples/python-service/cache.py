"""Where the cache of this service is, as its environment says. It connects to nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import quote


def cache_url(environment: Mapping[str, str] = os.environ) -> str:
    """A URL for valkey-py or redis-py, of the resource that an Aspire AppHost calls "cache".

    Aspire gives a Python service that references it `CACHE_URI`, and the parts `CACHE_HOST`, `CACHE_PORT` and
    `CACHE_PASSWORD`. Without any of them: a server on this machine.
    """
    if uri := environment.get("CACHE_URI"):
        return uri
    host, port = environment.get("CACHE_HOST") or "localhost", environment.get("CACHE_PORT") or "6379"
    password = quote(environment.get("CACHE_PASSWORD") or "", safe="")
    return f"valkey://:{password}@{host}:{port}" if password else f"valkey://{host}:{port}"
