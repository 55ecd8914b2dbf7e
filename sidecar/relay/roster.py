"""The clients of one worker, for commands that concern those of all workers.

Owns what this worker knows about its clients and the engine doesn't: which connection belongs to whom, which clients
have none now, and the ids that clients keep while their connections change. It asks nobody; `clients.py` asks it, and
other workers do over the link.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sidecar.link import Body
from sidecar.relay.attributes import Attributes
from sidecar.relay.client_filters import Filters, filters_of, true_flags
from sidecar.relay.client_lines import LineForm

if TYPE_CHECKING:
    from sidecar.relay.session import Session
    from sidecar.relay.shared import Relay

SLICE = 5000
"""How many clients are described before others are served: a few milliseconds.

Each slice delays every client that is waiting at that moment, so a few long slices hurt the 99th percentile less than
many short ones. Valkey itself lists all clients in one go.
"""

NOWHERE = 0
"""Stands for the engine's id of a client that has no connection to the engine now."""


class _Parked:
    """What filters may ask about a client that has no connection to the engine now."""

    __slots__ = ("_made", "_session")

    def __init__(self, session: Session) -> None:
        self._session = session
        self._made = session.attributes or _NEW

    @property
    def address(self) -> bytes:
        return self._session.peer.encode()

    @property
    def local(self) -> bytes:
        return self._session.local.encode()

    @property
    def flags(self) -> bytes:
        return true_flags(b"U", self.address)

    @property
    def age_s(self) -> int:
        return self._session.age_s

    @property
    def idle_s(self) -> int:
        return self._session.idle_s

    @property
    def name(self) -> bytes:
        return self._made.name

    @property
    def user(self) -> bytes:
        return self._made.user

    @property
    def database(self) -> int:
        return self._made.database

    @property
    def library(self) -> bytes:
        return self._made.library

    @property
    def library_version(self) -> bytes:
        return self._made.library_version


_NEW = Attributes()
_USUAL_FORM = LineForm()


class Roster:
    """The sessions of one relay. settings is the live dict of the worker's settings."""

    def __init__(self, relay: Relay, settings: Body) -> None:
        self._relay = relay
        self._settings = settings
        self.form: LineForm | None = None
        """The form of the engine's lines; None until one has been seen."""
        self.ours: set[int] = set()
        """The engine's ids of the supervisor's own connections."""
        self.strangers: set[int] = set()
        """The engine's ids of connections that aren't ours."""
        self._kinds: dict[str, Callable[[Body], Any]] = {
            "newcomers": self._newcomers,
            "identified": self._identified,
            "homes": self._homes,
            "parked": self._parked,
            "kill_parked": self._kill_parked,
            "kill_users": self._kill_users,
            "places": self._places,
            "names": self._names,
            "keep": self._keep,
        }

    async def answer(self, what: str, body: Body) -> dict[str, Any]:
        """The answer to another worker or the supervisor, in JSON's types: see the methods of these names."""
        return {"is": await self._kinds[what](body)}

    def learn_form(self, line: bytes) -> None:
        """A line of the engine's, "" for none."""
        if line and self.form is None:
            self.form = LineForm(line)

    def forget(self) -> None:
        """The engine restarts, and its ids start over."""
        self.form = None
        self.ours.clear()
        self.strangers.clear()

    # ---- connections -----------------------------------------------------------------------------------------------

    async def bring_home(self, sessions: Iterable[Session]) -> None:
        """Open connections to the engine for these sessions. Takes at most two seconds."""
        await self._relay.bring_home(list(sessions))

    async def bring_users_home(self, users: Sequence[str] | None, *, keep: bool) -> dict[str, Any]:
        """The same for clients logged in as one of these users; None means everyone. keep: never close them again."""
        names = None if users is None else {user.encode("latin-1") for user in users}
        sessions = [session for session in self._relay.sessions if names is None or session.user in names]
        if keep:
            for session in sessions:
                session.keep_home()
        await self.bring_home(sessions)
        return {}

    async def newcomers(self) -> None:
        """Open a connection for each client that never had one: from then on the engine lists it, and it has an id."""
        newcomers = [session for session in self._relay.sessions if session.newcomer]
        await self.bring_home(sorted(newcomers, key=lambda session: session.connected_ns))  # ids follow

    async def _newcomers(self, _body: Body) -> None:
        await self.newcomers()

    async def identified(self, ids: Mapping[str, int]) -> None:
        """Learn the engine's ids of connections, by the inodes of our ends."""
        unknown = [s for s in self._relay.sessions if s.connected and not s.engine_id]
        for i, session in enumerate(unknown):
            if found := ids.get(str(session.upstream_inode)):
                session.identify(found)
            if i % SLICE == SLICE - 1:
                await asyncio.sleep(0)
        for lane in self._relay.lane_pool.lanes:
            lane.engine_id = lane.engine_id or ids.get(str(lane.inode), 0)

    async def _identified(self, body: Body) -> None:
        await self.identified(body["ids"])

    @property
    def lanes(self) -> list[int]:
        """The engine's ids of our lanes."""
        return self._relay.lane_ids

    # ---- lists -----------------------------------------------------------------------------------------------------

    @property
    def at_home(self) -> Mapping[int, Session]:
        """Our clients whose connection to the engine has a known id, by that id."""
        return self._relay.by_engine_id

    async def _homes(self, _body: Body) -> dict[str, Any]:
        """What `shown` says about each of them, by the engine's id; and the lanes."""
        homes = {str(engine_id): s.shown() for engine_id, s in self._relay.by_engine_id.items()}
        return {"homes": homes, "lanes": self.lanes}

    async def parked(self, filters: Filters, but: frozenset[int] | set[int]) -> list[tuple[int, bytes]]:
        """Id and line of each client without a connection to the engine that the filters admit.

        but: ids of clients whose new connection is in the engine's list already.
        """
        found: list[tuple[int, bytes]] = []
        form = self.form or _USUAL_FORM
        for i, (client_id, session) in enumerate(self._candidates(filters)):
            if i % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            if session.connected or client_id in but:
                continue
            if filters.admits_all or filters.admits_parked(client_id, _Parked(session)):
                found.append((client_id, session.listed_parked(form)))
        return found

    def _candidates(self, filters: Filters) -> list[tuple[int, Session]]:
        """Clients that have been parked before, and that the filters may admit."""
        known = self._relay.by_first_id
        if filters.ids is None:
            return list(known.items())
        return [(client_id, known[client_id]) for client_id in dict.fromkeys(filters.ids) if client_id in known]

    async def _parked(self, body: Body) -> list[tuple[int, str]]:
        self.learn_form(body["line"].encode("latin-1"))
        found = await self.parked(self._filters(body), frozenset())
        return [(client_id, line.decode("latin-1")) for client_id, line in found]

    def _filters(self, body: Body) -> Filters:
        args = [argument.encode("latin-1") for argument in body["args"]]
        filters = filters_of(args, lanes=self._settings["lanes"])
        assert filters is not None  # the worker that asks has read them already
        return filters

    # ---- ends ------------------------------------------------------------------------------------------------------

    async def meant(self, filters: Filters) -> list[Session]:
        """Clients without a connection to the engine that the filters admit."""
        found = []
        for i, (client_id, session) in enumerate(self._candidates(filters)):
            if i % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            if not session.connected and filters.admits_parked(client_id, _Parked(session)):
                found.append(session)
        return found

    async def _kill_parked(self, body: Body) -> int:
        return self.kill(await self.meant(self._filters(body)), body["most"])

    def kill(self, sessions: Sequence[Session], most: int | None = None) -> int:
        """Close these sessions, at most `most`. Returns how many."""
        chosen = sessions[:most]
        for session in chosen:
            session.close()
        return len(chosen)

    def kill_users(self, users: Iterable[str]) -> None:
        """Close clients that are logged in as one of these users and have no connection that the engine would close."""
        names = {user.encode("latin-1") for user in users}
        self.kill([s for s in self._relay.by_first_id.values() if not s.connected and s.user in names])

    async def _kill_users(self, body: Body) -> None:
        self.kill_users(body["users"])

    # ---- ids -------------------------------------------------------------------------------------------------------

    def places(self, ids: Iterable[int]) -> dict[int, int]:
        """The engine's present ids of our clients that are known by one of these ids, where they differ.

        NOWHERE: the client has no connection to the engine now; or no client has the id, because it belongs to a
        reopened connection, a lane or the supervisor.
        """
        relay = self._relay
        lanes = set(self.lanes)
        found = {}
        for client_id in ids:
            session = relay.by_first_id.get(client_id)
            if session is not None:
                if session.engine_id != client_id:
                    found[client_id] = session.engine_id
                continue
            session = relay.by_engine_id.get(client_id)
            if client_id in lanes or client_id in self.ours or (session is not None and session.reopened):
                found[client_id] = NOWHERE
        return found

    async def _places(self, body: Body) -> dict[str, int]:
        return {str(client_id): place for client_id, place in self.places(body["ids"]).items()}

    def names(self, engine_ids: Iterable[int]) -> dict[int, int]:
        """The reverse: the ids by which clients are known that have one of these engine ids now."""
        sessions = {engine_id: self._relay.by_engine_id.get(engine_id) for engine_id in engine_ids}
        return {engine_id: session.client_id for engine_id, session in sessions.items() if session is not None}

    async def _names(self, body: Body) -> dict[str, int]:
        return {str(engine_id): name for engine_id, name in self.names(body["ids"]).items()}

    async def keep(self, client_id: int) -> int:
        """Give the client with this id a connection to the engine that stays. Returns the engine's id; 0: not ours."""
        session = self._relay.by_first_id.get(client_id) or self._relay.by_engine_id.get(client_id)
        if session is None or session.client_id != client_id:
            return 0
        session.keep_home()
        await self.bring_home([session])
        return session.engine_id

    async def _keep(self, body: Body) -> int:
        return await self.keep(body["client"])
