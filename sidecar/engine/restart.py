"""Whether a crashed engine may be started again.

Owns one judgement: a primary that comes back without its data, or with older data, makes its replicas lose theirs. It
knows what the last look at the engine showed, its role among that, and never acts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

# Valkey's words when it becomes a replica (replication.c).
_FOLLOWS = re.compile(r"(?:REPLICAOF|Failover target|FAILOVER to) (\S+):(\d+) (?:enabled|.*failing over)")


class RestartPolicy:
    """Fed by polls of INFO and by the log; asked after a crash.

    unsaved: why an engine that is started now would not have all its data ("persistence is off"), None when it has;
    asked with the number of changes since the last snapshot.
    min_replicas: the configuration's min-replicas-to-write.
    """

    def __init__(self, unsaved: Callable[[int], str | None], *, min_replicas: int = 0) -> None:
        self.primary: tuple[str, str] | None = None
        """Host and port of the primary that the engine follows; None: it is one itself."""
        self.seen = False
        """Whether the engine has been looked at: before, its role is what the configuration says."""
        self._unsaved = unsaved
        self._changes = 0
        self._min_replicas = min_replicas
        self._attached = 0
        self._backlog = False
        self._asked = False

    @property
    def replicated(self) -> bool:
        """Somebody may copy from this engine.

        The backlog outlives the replicas for repl-backlog-ttl: one that is away for a moment counts.
        """
        return self._attached > 0 or self._asked or (self.primary is None and (self._backlog or self._min_replicas > 0))

    def saw_info(self, info: Mapping[str, str]) -> None:
        """Take over INFO replication and persistence."""
        self.seen = True
        follows = info.get("role", "master") != "master"
        self.primary = (info.get("master_host", ""), info.get("master_port", "")) if follows else None
        self._changes = int(info.get("rdb_changes_since_last_save", "0") or 0)
        self._attached = int(info.get("connected_slaves", "0") or 0)
        self._backlog = info.get("repl_backlog_active", "0") == "1"
        self._asked = False

    def saw_log(self, message: str) -> None:
        """A replica that came, and a role that changed, since the last poll are only in the log."""
        if "asks for synchronization" in message:
            self._asked = True
        elif message.startswith("PRIMARY MODE enabled"):
            self.seen, self.primary = True, None
        elif match := _FOLLOWS.match(message):
            self.seen, self.primary = True, (match[1], match[2])

    def refusal(self) -> str | None:
        """Why it must not be started again, as the end of a sentence; None when it may."""
        unsaved = self._unsaved(self._changes) if self.replicated else None
        if unsaved is None:
            return None
        if self._attached:
            who = f"{self._attached} replica{'s are' if self._attached > 1 else ' is'} attached"
        else:
            who = "replicas follow it"
        return f"{unsaved} and {who}: a restart would take from them what they have"


def parse_info(text: str) -> dict[str, str]:
    """INFO's `name:value` lines."""
    pairs = (line.partition(":") for line in text.splitlines() if not line.startswith("#"))
    return {name: value for name, colon, value in pairs if colon}
