"""The engine's own limits on what it keeps for its clients: whether it has some, and how often it cut clients off.

Owns the sums over all its lives. The engine counts in INFO from its start, or from CONFIG RESETSTAT, and logs each time
by itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

_NOTHING: Final = re.compile(r"0+(%|b|k|kb|m|mb|g|gb)?", re.IGNORECASE)

_FIELDS: Final = {
    "client_query_buffer_limit_disconnections": "client-query-buffer-limit",
    "client_output_buffer_limit_disconnections": "client-output-buffer-limit",
    "evicted_clients": "maxmemory-clients",
}
"""INFO's names, and those of the settings."""


OF_MEMORY: Final = frozenset({"client-output-buffer-limit", "maxmemory-clients"})
"""Settings by which the engine closes a connection because of what waits on it."""


def limits_memory(name: str, values: Sequence[str]) -> bool | None:
    """Whether one of OF_MEMORY, set to these words, limits a normal client; None where it says nothing of one."""
    if name == "maxmemory-clients":
        return None if not values else not _NOTHING.fullmatch(values[0])
    found = None
    for at in range(0, len(values) - 3, 4):
        if values[at].lower() == "normal":
            found = not (_NOTHING.fullmatch(values[at + 1]) and _NOTHING.fullmatch(values[at + 2]))
    return found


class EngineLimits:
    """Fed by polls of INFO's section `stats`."""

    def __init__(self) -> None:
        self.reached: dict[str, int] = {}
        """Times, by the setting's name; none that was never reached."""
        self._last: dict[str, int] = {}

    def new_life(self) -> None:
        """The engine is started (again) and counts from 0."""
        self._last.clear()

    def saw_info(self, info: Mapping[str, str]) -> None:
        """Add what was counted since the last look; a count that has gone down began anew."""
        for field, limit in _FIELDS.items():
            text = info.get(field, "")
            count = int(text) if text.isdigit() else 0
            last = self._last.get(field, 0)
            more = count - last if count >= last else count
            self._last[field] = count
            if more:
                self.reached[limit] = self.reached.get(limit, 0) + more
