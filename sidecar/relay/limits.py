"""Limits that a client may reach: their names, which are those of the settings, and what the log says of each.

Owns the words only. Whoever watches the bytes or the commands finds out that one is reached; every time is counted in
`valkey.sidecar.limit.reached`, and the log has some of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sidecar.relay.complaints import Complaints

CONNECTIONS: Final = "maxclients"
IDLE: Final = "timeout"
REQUEST: Final = "sidecar-client-query-buffer-limit"
UNREAD: Final = "sidecar-client-output-buffer-limit"
KEPT: Final = "sidecar-maxmemory-clients"
FLIGHT: Final = "sidecar-client-in-flight-limit"
FLIGHTS: Final = "sidecar-in-flight-limit"

_WHAT: Final[Mapping[str, str]] = {
    CONNECTIONS: "was refused: there are maxclients ({value}) clients already",
    IDLE: "is cut off: it was idle for more than timeout ({value}) seconds",
    REQUEST: f"is cut off: a request that must be seen whole has more than {REQUEST} ({{value}}) bytes",
    UNREAD: f"is cut off: it has left more than {UNREAD} ({{value}}) bytes of replies unread",
    KEPT: f"is cut off: more than {KEPT} ({{value}}) bytes are kept for clients, most of them for it",
    FLIGHT: f"is not measured any more: it has {FLIGHT} ({{value}}) commands in flight",
    FLIGHTS: f"is not measured any more: all clients together have {FLIGHTS} ({{value}}) commands in flight",
}


def say(complaints: Complaints, limit: str, value: object, peer: str) -> None:
    """Tell the log that the client with this address has reached the limit, which is `value` now."""
    # Valkey says it of idle clients at this level, too.
    level = "verbose" if limit == IDLE else "warning"
    client = "A client of the Unix socket" if peer.endswith(":0") else f"The client {peer}"
    message = f"{client} {_WHAT[limit].format(value=value)}."
    complaints.say("client.limit", message, about=limit, level=level)
