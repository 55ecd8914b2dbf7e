"""Whether a crashed engine may be started again.

Owns one judgement: a primary that lost its data and comes back empty makes its replicas empty, too. It knows what the
last look at the engine showed, and never acts.
"""

from __future__ import annotations

from collections.abc import Mapping


class RestartPolicy:
    """Fed by polls of INFO and by the log; asked after a crash.

    persistent: the configuration saves (save points or appendonly). min_replicas: its min-replicas-to-write.
    """

    def __init__(self, *, persistent: bool, min_replicas: int = 0) -> None:
        self.persistent = persistent
        self._min_replicas = min_replicas
        self._attached = 0
        self._primary = True
        self._backlog = False
        self._asked = False

    @property
    def replicated(self) -> bool:
        """Somebody may copy from this engine.

        The backlog outlives the replicas for repl-backlog-ttl: one that is away for a moment counts.
        """
        return self._attached > 0 or self._asked or (self._primary and (self._backlog or self._min_replicas > 0))

    def saw_info(self, info: Mapping[str, str]) -> None:
        """Take over INFO replication."""
        self._primary = info.get("role", "master") == "master"
        self._attached = int(info.get("connected_slaves", "0") or 0)
        self._backlog = info.get("repl_backlog_active", "0") == "1"
        self._asked = False

    def saw_log(self, message: str) -> None:
        """A replica that came since the last poll is only in the log."""
        if "asks for synchronization" in message:
            self._asked = True

    def saw_persistence(self, *, save: str, appendonly: str) -> None:
        """Take over CONFIG GET save appendonly: both can be changed while the engine runs."""
        self.persistent = bool(save.strip()) or appendonly == "yes"

    def refusal(self) -> str | None:
        """Why it must not be started again, as the end of a sentence; None when it may."""
        if self.persistent or not self.replicated:
            return None
        if self._attached:
            who = f"{self._attached} replica{'s are' if self._attached > 1 else ' is'} attached"
        else:
            who = "replicas follow it"
        return f"persistence is off and {who}: an empty engine would make them lose their data, too"


def parse_info(text: str) -> dict[str, str]:
    """INFO's `name:value` lines."""
    pairs = (line.partition(":") for line in text.splitlines() if not line.startswith("#"))
    return {name: value for name, colon, value in pairs if colon}
