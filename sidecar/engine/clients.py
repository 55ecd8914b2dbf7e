"""The engine's clients as the supervisor sees them: which of our connections is which of them.

Owns what only the supervisor can find out: the engine's CLIENT LIST with our rights, and which end of a Unix socket
belongs to which descriptor of the engine. It knows none of our clients; the workers do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from sidecar.engine import peers
from sidecar.engine.connection import Connection, EngineError, UnreachableError
from sidecar.journal import Journal
from sidecar.processes import Child

_WITHIN_S = 2.0

Body = Mapping[str, Any]


class Engine(Protocol):
    """What this module needs of the engine."""

    spares_by_id: bool
    child: Child | None
    connection: Connection | None


class Asked(Protocol):
    """The workers."""

    async def ask(self, kind: str, body: Body, within_s: float) -> list[dict[str, Any]]: ...


class EngineClients:
    """call: a command to the engine over our own connection. workers: None before there are some."""

    def __init__(
        self,
        engine: Engine,
        call: Callable[..., Awaitable[Any]],
        workers: Callable[[], Asked | None],
        journal: Journal,
    ) -> None:
        self._engine = engine
        self._call = call
        self._workers = workers
        self._journal = journal

    async def listed(self, body: Body) -> dict[str, Any]:
        """The text of CLIENT LIST, for one client if the body has its id; or the engine's error."""
        words = ("ID", str(body["client"])) if "client" in body else ()
        try:
            return {"text": str(await self._call("CLIENT", "LIST", *words))}
        except (EngineError, UnreachableError) as error:
            return {"error": str(error)}

    async def identified(self, body: Body) -> dict[str, Any]:
        """Tell the workers which of these connections, by id and the engine's descriptor, are theirs.

        Returns ids: `ours`, the supervisor's own; `present`, with another end; `gone`, without one. Nothing where the
        kernel doesn't tell.
        """
        child, workers, own = self._engine.child, self._workers(), self._own_inode()
        if child is None or workers is None or own is None:
            return {}
        try:
            if peers.peer_inode(own) == 0:
                raise OSError("the kernel does not show Unix sockets")
            inodes = peers.other_ends(child.pid, [number for _identifier, number in body["clients"]])
        except OSError as error:
            self._journal.debug("clients.unknown", f"The engine's clients cannot be told apart: {error}.")
            return {}
        present = {identifier: inodes[number] for identifier, number in body["clients"] if number in inodes}
        ids = {str(inode): identifier for identifier, inode in present.items()}
        await workers.ask("roster", {"what": "identified", "ids": ids}, _WITHIN_S)
        return {
            "ours": [identifier for identifier, inode in present.items() if inode == own],
            "present": list(present),
            "gone": [identifier for identifier, _number in body["clients"] if identifier not in present],
        }

    async def spared(self, _body: Body) -> dict[str, Any]:
        """The ids of connections that belong to no client, where CLIENT KILL knows NOT-ID."""
        workers, connection = self._workers(), self._engine.connection
        if not self._engine.spares_by_id or workers is None or connection is None:
            return {"spared": []}
        answers = await workers.ask("roster", {"what": "homes"}, _WITHIN_S)
        own = [connection.client_id] if connection.client_id is not None else []
        return {"spared": own + [lane for answer in answers for lane in answer["is"]["lanes"]]}

    def _own_inode(self) -> int | None:
        connection = self._engine.connection
        return None if connection is None else connection.inode
