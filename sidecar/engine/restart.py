"""Whether a crashed engine may be started again, and in which role.

Owns one judgement: a primary that comes back without its data, or with older data, makes its replicas lose theirs. It
knows what the last looks at the engine showed (never its log: a script may write anything there), and never acts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

FILES = ("dir", "dbfilename", "appenddirname", "appendfilename")
"""Settings that say where the data is. An engine that is started again looks where the configuration says."""


class RestartPolicy:
    """Fed by polls of INFO; asked after a crash.

    unsaved: why an engine that is started now would have no data ("persistence is off"), None when it has some; asked
    with whether the engine was appending to its file, and how many changes its last snapshot lacks. min_replicas: the
    configuration's min-replicas-to-write.
    """

    def __init__(self, unsaved: Callable[[bool, int], str | None], *, min_replicas: int = 0) -> None:
        self.primary: tuple[str, str] | None = None
        """Host and port of the primary that the engine follows; None: it is one itself."""
        self.seen = False
        """Whether the engine has been looked at: before, its role is what the configuration says."""
        self._unsaved = unsaved
        self._appends = True
        self._changes = 0
        self._min_replicas = min_replicas
        self._attached = 0
        self._backlog = False
        self._files: dict[str, str] | None = None
        self._moved = False

    @property
    def replicated(self) -> bool:
        """Somebody may copy from this engine, and from nobody else.

        The backlog outlives the replicas for repl-backlog-ttl: one that is away for a moment counts.
        """
        return self.primary is None and (self._attached > 0 or self._backlog or self._min_replicas > 0)

    @property
    def asks_for_files(self) -> bool:
        """Whether `saw_files` is to be called: once in every life, and always while they matter."""
        return self._files is None or self.replicated

    def new_life(self) -> None:
        """The engine is started (again), with the files of its configuration."""
        self._files, self._moved = None, False

    def saw_info(self, info: Mapping[str, str]) -> None:
        """Take over INFO replication and persistence."""
        self.seen = True
        follows = info.get("role", "master") != "master"
        self.primary = (info.get("master_host", ""), info.get("master_port", "")) if follows else None
        self._appends = info.get("aof_enabled", "0") == "1" and info.get("aof_last_write_status", "ok") == "ok"
        self._changes = int(info.get("rdb_changes_since_last_save", "0") or 0)
        self._attached = int(info.get("connected_slaves", "0") or 0)
        self._backlog = info.get("repl_backlog_active", "0") == "1"

    def saw_files(self, files: Mapping[str, str]) -> None:
        """Take over CONFIG GET of FILES. The first in a life are those that the next one would look at."""
        if self._files is None:
            self._files = dict(files)
        self._moved = self._files != dict(files)

    def refusal(self) -> str | None:
        """Why it must not be started again, as the end of a sentence; None when it may."""
        if not self.replicated:
            return None
        unsaved = "its files were moved by CONFIG SET" if self._moved else self._unsaved(self._appends, self._changes)
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
