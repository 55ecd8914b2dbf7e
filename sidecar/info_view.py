"""INFO and CONFIG as a client of our port sees them.

Owns the corrections of the engine's answers: it has no port, a limit of clients above ours, our own connections among
its clients, and clients that have none to it. Never asks the engine. settings is always the workers' `settings`;
config_values is what CONFIG GET shows for the directives that are ours.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple


class Tally(NamedTuple):
    """What all workers have counted of their clients, in the engine's place.

    received, rejected: connections that were accepted as clients, and refused, since the start or CONFIG RESETSTAT.
    unmatched: clients minus connections to the engine that are theirs or ours to share.
    cleared_unix_ns: when `received` and `rejected` were last cleared; 0 for never.
    """

    received: int
    rejected: int
    unmatched: int
    cleared_unix_ns: int = 0


def our_info(text: bytes, settings: Mapping[str, Any], tally: Tally) -> bytes:
    """INFO's text."""
    lines = []
    for line in text.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if not colon:
            lines.append(line)
        elif name == b"tcp_port":
            lines.append(b"tcp_port:%d" % settings["tcp_port"])
        elif name.startswith(b"tls_") and (known := settings["tls_info"].get(name.decode())) is not None:
            lines.append(name + b":" + _certificate_fact(known))
        elif name == b"config_file":
            lines.append(b"config_file:" + settings["config_file"].encode("utf-8", "surrogateescape"))
        elif name == b"maxclients":
            lines.append(b"maxclients:%d" % settings["maxclients"])
        elif name == b"connected_clients":
            clients = int(value) - settings["own_connections"] + tally.unmatched
            lines.append(b"connected_clients:%d" % max(0, clients))
        elif name == b"total_connections_received":
            lines.append(b"total_connections_received:%d" % tally.received)
        elif name == b"rejected_connections":  # the engine never refuses one
            lines.append(b"rejected_connections:%d" % tally.rejected)
        elif name.startswith(b"listener"):  # the engine has one: its Unix socket
            listeners = enumerate(settings["info_listeners"])
            lines.extend(b"listener%d:%b" % (i, listener.encode()) for i, listener in listeners)
        else:
            lines.append(line)
    return b"\r\n".join(lines)


def our_config(name: str, value: str, settings: Mapping[str, Any], config_values: Mapping[str, str]) -> str:
    """The value that CONFIG GET shows for a setting of which the engine says this."""
    # The engine announces our port because the user has it announce the port that it listens on.
    if value == settings["injected"].get(name.replace("slave", "replica"), 0):
        return "0"
    return config_values.get(name, value)


def _certificate_fact(known: str | float) -> bytes:
    """A serial number; or when a certificate ends, as the seconds until then."""
    return known.encode() if isinstance(known, str) else b"%d" % (known - time.time())
