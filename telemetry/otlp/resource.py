"""Who sends all this: the attributes of the resource. Owns their names and sources; never changes what was given."""

from __future__ import annotations

import os
import re
import socket
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from telemetry.otlp.settings import ExportSettings

Attributes = dict[str, str | int]

DEFAULT_SERVICE_NAME: Final = "valkey"
# One id per start: restarts of workers and exporters do not change it.
_INSTANCE_ID: Final = str(uuid.uuid4())
# cgroup v1 has the id at a path's end; with cgroup v2 the files that the runtime mounts (/etc/hostname, ...) name it.
_IN_CGROUP: Final = re.compile(r"[/-]([0-9a-f]{64})(?:\.scope)?$", re.MULTILINE)
_IN_MOUNTS: Final = re.compile(
    r"/(?:containers|overlay-containers)/([0-9a-f]{64})/\S* /etc/(?:hostname|hosts|resolv\.conf) "
)


def attributes(
    settings: ExportSettings,
    *,
    version: str,
    valkey_version: str | None = None,
    address: str | None = None,
    port: int | None = None,
    proc: Path = Path("/proc/self"),
) -> Attributes:
    """Attributes of the resource; what OTEL_RESOURCE_ATTRIBUTES says wins, and OTEL_SERVICE_NAME over that.

    version: ours. address, port: where we listen. Unknown ones (None) are left out.
    """
    ours: Mapping[str, str | int | None] = {
        "service.name": DEFAULT_SERVICE_NAME,
        "service.instance.id": _INSTANCE_ID,
        "service.version": version,
        "db.system.name": "valkey",
        "valkey.version": valkey_version,
        "server.address": address,
        "server.port": port,
        "host.name": socket.gethostname(),
        "process.pid": os.getpid(),
        "container.id": container_id(proc),
    }
    found: Attributes = {name: value for name, value in ours.items() if value is not None}
    found.update(settings.resource_attributes)
    if settings.service_name is not None:
        found["service.name"] = settings.service_name
    return found


def container_id(proc: Path = Path("/proc/self")) -> str | None:
    """The id of the container that we run in; None outside of one, or where it does not show."""
    for name, pattern in (("cgroup", _IN_CGROUP), ("mountinfo", _IN_MOUNTS)):
        try:
            match = pattern.search((proc / name).read_text(errors="replace"))
        except OSError:
            continue
        if match:
            return match[1]
    return None
