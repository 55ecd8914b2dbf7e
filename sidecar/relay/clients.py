"""CLIENT commands that concern other clients, as if the engine listened itself and every client kept its connection.

Owns what LIST, INFO and KILL say and mean: the engine knows the state of connections and judges what it can; addresses,
ids, times and the clients without a connection are ours. So are the ids that ID, UNBLOCK, TRACKING and GETREDIR show
and take. It refuses nothing itself: what the engine would refuse reaches the engine as it came.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from sidecar.link import Body, Link
from sidecar.relay.client_filters import REFUSED, Filters, filters_of, is_id
from sidecar.relay.client_lines import Shown, descriptor_of, facts_in
from sidecar.relay.lane_rules import without_lanes
from sidecar.relay.line_writer import id_of, is_redirected, true_line
from sidecar.relay.plan import Plan, encode, word
from sidecar.relay.roster import NOWHERE, SLICE, Roster

if TYPE_CHECKING:
    from sidecar.relay.session import Session

_UNAUTHENTICATED_MOST = 10
"""Valkey closes the connection of who sends more arguments before it has authenticated."""

_ASK_AGAIN = b"-ERR valkey-sidecar: too many clients for the first command of a connection, send it again\r\n"

_NOBODY = (b"1", b"ADDR", b"none")
"""What follows ID where no client is meant."""

_NOBODYS_ID = (1 << 63) - 1
"""An id that the engine gives no client."""

_REDIRECTED = re.compile(rb" redir=([1-9]\d*) ")
_REDIRECT_FIELD = re.compile(rb"(redirect\r\n:)([1-9]\d*)")


def text_of(reply: bytes) -> bytes | None:
    """The text of a bulk or verbatim string reply; None when it is something else."""
    head, _, rest = reply.partition(b"\r\n")
    if head[:1] == b"$" and head != b"$-1":
        return rest[:-2]
    if head[:1] == b"=":
        return rest[4:-2]
    return None


def as_text(reply: bytes, text: bytes) -> bytes:
    """The text as the same kind of string as the reply it came from."""
    if reply[:1] == b"=":
        return b"=%d\r\n%b%b\r\n" % (len(text) + 4, reply.partition(b"\r\n")[2][:4], text)
    return b"$%d\r\n%b\r\n" % (len(text), text)


class Clients:
    """Asks the other workers and the supervisor over the link. settings is the live dict of the worker's settings."""

    def __init__(self, link: Link, settings: Body, roster: Roster) -> None:
        self._link = link
        self._settings = settings
        self._roster = roster

    # ---- LIST, INFO ------------------------------------------------------------------------------------------------

    def info(self, session: Session) -> Plan:
        """CLIENT INFO: the engine describes the connection of the client that asks."""

        def transform(reply: bytes) -> bytes:
            text = text_of(reply)
            if text is None:
                return reply
            client_id, peer, local, age_s, idle_s, command = session.shown()
            shown = (client_id or id_of(text), peer, local, age_s, idle_s, command)
            return as_text(reply, true_line(text, shown, self._settings["lanes"]))

        return Plan(transform=transform, cosmetic=True)

    async def listed(self, args: list[bytes], *, prepare: bool) -> Plan:
        """CLIENT LIST. prepare: False when the engine will refuse it anyway."""
        filters = filters_of(args, lanes=self._settings["lanes"]) or REFUSED
        if prepare:
            await self._newcomers_home()
        places = await self._places([*(filters.ids or ()), *(filters.not_ids or ())])
        request = None
        if filters.ours or places:
            request = encode([*args[:2], *filters.others, *_ids(filters, places)])

        async def transform(reply: bytes) -> bytes:
            text = text_of(reply)
            return reply if text is None else as_text(reply, await self._list(text, filters, args))

        return Plan(request, transform)

    async def _list(self, text: bytes, filters: Filters, args: list[bytes]) -> bytes:
        """The text of CLIENT LIST, from the engine's."""
        lines = text.split(b"\n")[:-1]
        if lines:
            self._roster.learn_form(lines[0])
        homes = await self._homes(lines)
        at_home = self._roster.at_home
        times = self._settings["lanes"]
        found: list[tuple[int, bytes]] = []
        for i, line in enumerate(lines):
            if i % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            engine_id = id_of(line)
            session = at_home.get(engine_id)
            shown = session.shown() if session is not None else homes.get(engine_id)
            if shown is None:
                if engine_id not in homes:  # a connection to the engine that is not ours
                    found.append((engine_id, line))
            elif not filters.ours or filters.admits(facts_in(line, shown, times=times)):
                true = true_line(line, shown, times)
                if is_redirected(true):
                    true = await self._true_redirection(true)
                found.append((shown[0], true))
        if times:
            listed = {client_id for client_id, _line in found}
            found += await self._roster.parked(filters, listed)
            form = self._roster.form.line.decode("latin-1") if self._roster.form is not None else ""
            for answer in await self._elsewhere("parked", {"args": _as_json(args), "line": form}):
                found += [(i, line.encode("latin-1")) for i, line in answer if i not in listed]
        if filters.ids is None:
            found.sort()
        else:
            place = {client_id: i for i, client_id in enumerate(filters.ids)}
            found.sort(key=lambda entry: place.get(entry[0], len(place)))
        return b"".join([line + b"\n" for _client_id, line in found])

    async def _homes(self, lines: list[bytes]) -> dict[int, Shown | None]:
        """What we know about connections in the engine's list that don't belong to this worker's clients.

        None: no client's (a lane, the supervisor's, one that is gone). Connections that aren't ours are missing.
        """
        roster = self._roster
        connections = {id_of(line): line for line in lines}
        found = await self._known()
        roster.strangers &= connections.keys()
        unknown = connections.keys() - found.keys() - roster.at_home.keys() - roster.strangers
        if unknown:
            gone, present = await self._identify([connections[i] for i in unknown])
            found = {**dict.fromkeys(gone), **await self._known()}
            roster.strangers.update(present - found.keys() - roster.at_home.keys())
        return found

    async def _known(self) -> dict[int, Shown | None]:
        """The same, for those that have been identified before."""
        found: dict[int, Shown | None] = dict.fromkeys([*self._roster.ours, *self._roster.lanes])
        for answer in await self._elsewhere("homes"):
            found.update({int(engine_id): tuple(shown) for engine_id, shown in answer["homes"].items()})
            found.update(dict.fromkeys(answer["lanes"]))
        return found

    async def _identify(self, lines: list[bytes]) -> tuple[set[int], set[int]]:
        """Tell every worker which of these connections are its own. Returns the ids that are gone, then the others."""
        connections = [(id_of(line), descriptor_of(line)) for line in lines]
        answer = await self._link.request("identify", {"clients": connections})
        self._roster.ours.update(answer.get("ours", ()))
        return set(answer.get("gone", ())), set(answer.get("present", ()))

    async def _true_redirection(self, line: bytes) -> bytes:
        """Show the id by which the client is known that gets this one's invalidations."""
        match = _REDIRECTED.search(line)
        if match is None:
            return line
        return line[: match.start(1)] + b"%d" % await self._name(int(match[1])) + line[match.end(1) :]

    # ---- KILL ------------------------------------------------------------------------------------------------------

    def killed(self, args: list[bytes], *, trusted: bool) -> Awaitable[Plan | None] | None:
        """CLIENT KILL in either form; None: the engine gets it as it came.

        trusted: the client has authenticated or need not, so the engine takes more than ten arguments from it.
        """
        if len(args) == 3:
            return self._kill_address(args)
        filters = filters_of(args, lanes=self._settings["lanes"])
        return None if filters is None else self._kill(args, filters, trusted)

    async def _kill(self, args: list[bytes], filters: Filters, trusted: bool) -> Plan | None:
        await self._newcomers_home()
        places = await self._places([*(filters.ids or ()), *(filters.not_ids or ())])
        error = ""
        if filters.ours:
            found, error = await self._engine_ids(filters)
            words = [*args[:2], *filters.others, b"ID", *(_numbers(found) or _NOBODY)]
        elif filters.ids is not None:
            words = [*args[:2], *filters.others, *_ids(filters, places)] if places else args
        else:
            spared = (await self._link.request("spared"))["spared"]
            if not spared and self._settings["lanes"]:  # it knows no way to spare our own connections
                plan = await without_lanes(self._link, close=True)
                return Plan(plan.request, await self._also_parked(args, filters, plan.transform))
            words = [*args[:2], *filters.others, *_ids(filters, places, spared)]
        if not trusted and len(words) > max(len(args), _UNAUTHENTICATED_MOST):
            return Plan(encode([*args[:2], b"ID", *_NOBODY]), _unless_refused(_ASK_AGAIN))
        if error:
            return Plan(encode(words), _unless_refused(_cannot_tell(error)))
        return Plan(encode(words), await self._also_parked(args, filters))

    async def _also_parked(
        self, args: list[bytes], filters: Filters, before: Callable[[bytes], Any] | None = None
    ) -> Callable[[bytes], Awaitable[bytes]]:
        """After the engine has done its part: close the clients without a connection that are meant."""
        chosen = await self._roster.meant(filters)

        async def transform(reply: bytes) -> bytes:
            if before is not None:
                before(reply)
            if reply[:1] != b":":
                return reply
            # A client that has reopened its connection meanwhile was meant, too.
            meant = dict.fromkeys([*chosen, *await self._roster.meant(filters)])
            count = int(reply[1:]) + self._roster.kill([session for session in meant if not session.closed])
            count += sum(await self._elsewhere("kill_parked", {"args": _as_json(args), "most": None}))
            return b":%d\r\n" % count

        return transform

    async def _kill_address(self, args: list[bytes]) -> Plan:
        """CLIENT KILL ip:port, the old form: OK, or an error when there is no such client."""
        await self._newcomers_home()
        wanted = [args[0], args[1], b"ADDR", args[2]]
        filters = Filters({b"addr": args[2]}, [], None, None, {b"addr": args[2]})
        found, error = await self._engine_ids(filters)
        request = encode([*args[:2], b"ID", *(_numbers(found[:1]) or _NOBODY), b"SKIPME", b"no"])
        if error:
            return Plan(request, _unless_refused(_cannot_tell(error)))

        async def transform(reply: bytes) -> bytes:
            if reply[:1] != b":":
                return reply
            if reply == b":0\r\n" and not self._roster.kill(await self._roster.meant(filters), 1):
                killed = await self._elsewhere("kill_parked", {"args": _as_json(wanted), "most": 1})
                if not sum(killed):
                    return b"-ERR No such client\r\n"
            return b"+OK\r\n"

        return Plan(request, transform)

    async def _engine_ids(self, filters: Filters) -> tuple[list[int], str]:
        """The engine's ids of the connections that our own filters and the ids admit.

        Or the reason why they aren't known: then we must not answer that there is nobody.
        """
        answer = await self._link.request("list_clients")
        if answer.get("error"):
            return [], answer["error"]
        lines = answer["text"].encode("utf-8", "surrogateescape").split(b"\n")[:-1]
        homes = await self._homes(lines)
        found = []
        for i, line in enumerate(lines):
            if i % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            engine_id = id_of(line)
            session = self._roster.at_home.get(engine_id)
            shown = session.shown() if session is not None else homes.get(engine_id)
            if shown is None and engine_id in homes:
                continue
            facts = facts_in(line, shown or _as_listed(line), times=shown is not None and self._settings["lanes"])
            if filters.admits(facts) and filters.admits_id(shown[0] if shown is not None else engine_id):
                found.append(engine_id)
        return found, ""

    def users_deleted(self, args: list[bytes]) -> Plan:
        """ACL DELUSER: the engine closes these users' connections; we close their clients without one."""
        users = [name.decode("latin-1") for name in args[2:]]

        async def transform(reply: bytes) -> bytes:
            if reply[:1] == b":" and reply != b":0\r\n":
                self._roster.kill_users(users)
                await self._elsewhere("kill_users", {"users": users})
            return reply

        return Plan(transform=transform)

    # ---- ids -------------------------------------------------------------------------------------------------------

    def own_id(self, session: Session) -> Plan | None:
        """CLIENT ID."""
        if not session.reopened:
            return None
        return Plan(transform=lambda reply: b":%d\r\n" % session.client_id if reply[:1] == b":" else reply)

    async def unblocked(self, args: list[bytes]) -> Plan | None:
        """CLIENT UNBLOCK."""
        if len(args) < 3 or not is_id(args[2]):
            return None
        client_id = int(args[2])
        places = await self._places([client_id])
        if client_id not in places:
            return None
        return Plan(encode([*args[:2], b"%d" % (places[client_id] or _NOBODYS_ID), *args[3:]]))

    async def tracked(self, args: list[bytes]) -> Plan | None:
        """CLIENT TRACKING: a client that another one's invalidations go to keeps its connection from now on."""
        pairs = enumerate(itertools.pairwise(args), 1)
        at = next((i for i, (option, value) in pairs if i > 3 and word(option) == b"redirect" and is_id(value)), 0)
        if not at:
            return None
        client_id = int(args[at])
        place = await self._kept(client_id)
        if place in (0, client_id):
            return None
        return Plan(encode([*args[:at], b"%d" % place, *args[at + 1 :]]))

    async def _kept(self, client_id: int) -> int:
        """Have the client with this id keep its connection. Returns the engine's id; 0: no client of ours has it."""
        if place := await self._keep(client_id):
            return place
        answer = await self._link.request("list_clients", {"client": client_id})
        lines = str(answer.get("text", "")).encode("utf-8", "surrogateescape").split(b"\n")[:-1]
        if not lines:
            return 0
        await self._identify(lines)
        return await self._keep(client_id)

    async def _keep(self, client_id: int) -> int:
        return await self._roster.keep(client_id) or sum(await self._elsewhere("keep", {"client": client_id}))

    async def redirection(self, reply: bytes) -> bytes:
        """The reply to CLIENT GETREDIR, or CLIENT TRACKINGINFO."""
        if reply[:1] == b":" and reply[1:-2].isdigit() and reply != b":0\r\n":
            return b":%d\r\n" % await self._name(int(reply[1:-2]))
        match = _REDIRECT_FIELD.search(reply)
        if match is None:
            return reply
        return reply[: match.start(2)] + b"%d" % await self._name(int(match[2])) + reply[match.end(2) :]

    async def _places(self, ids: list[int]) -> dict[int, int]:
        """Which clients have another id in the engine than the one they are known by: see Roster.places."""
        if not ids:
            return {}
        found = self._roster.places(ids)
        for answer in await self._elsewhere("places", {"ids": ids}):
            found.update({int(client_id): place for client_id, place in answer.items()})
        return found

    async def _name(self, engine_id: int) -> int:
        """The id by which the client with this engine id is known."""
        found = self._roster.names([engine_id])
        for answer in await self._elsewhere("names", {"ids": [engine_id]}) if not found else []:
            found.update({int(i): name for i, name in answer.items()})
        return found.get(engine_id, engine_id)

    # ---- the others ------------------------------------------------------------------------------------------------

    async def _newcomers_home(self) -> None:
        await self._roster.newcomers()
        await self._elsewhere("newcomers")

    async def _elsewhere(self, what: str, body: Body | None = None) -> list[Any]:
        """The answers of the other workers' rosters, as far as they come in time."""
        if self._settings["workers"] == 1:
            return []
        answer = await self._link.request("elsewhere", {"what": what, **(body or {})})
        return [one["is"] for one in answer["answers"]]


def _as_json(args: list[bytes]) -> list[str]:
    return [argument.decode("latin-1") for argument in args]


def _as_listed(line: bytes) -> Shown:
    """What the engine says about a connection that isn't ours."""
    words = dict(word.partition(b"=")[::2] for word in line.split(b" "))
    return id_of(line), words.get(b"addr", b"").decode(), words.get(b"laddr", b"").decode(), 0, 0, ""


def _numbers(ids: Iterable[int]) -> list[bytes]:
    return [b"%d" % identifier for identifier in ids]


def _ids(filters: Filters, places: dict[int, int], spared: Iterable[int] = ()) -> list[bytes]:
    """ID and NOT-ID with the ids by which the engine knows the clients. spared: connections that are no client's."""
    words: list[bytes] = []
    if filters.ids is not None:
        present = [place for i in filters.ids if (place := places.get(i, i)) != NOWHERE]
        words += [b"ID", *(_numbers(present) or _NOBODY)]
    excluded = [place for i in filters.not_ids or () if (place := places.get(i, i)) != NOWHERE]
    excluded += spared
    if excluded:
        words += [b"NOT-ID", *_numbers(excluded)]
    return words


def _cannot_tell(error: str) -> bytes:
    text = f"-ERR valkey-sidecar cannot tell clients apart, because the engine refuses its own connection: {error}\r\n"
    return text.encode("utf-8", "surrogateescape")


def _unless_refused(answer: bytes) -> Callable[[bytes], bytes]:
    """This answer, unless the engine refuses the command anyway."""
    return lambda reply: reply if reply[:1] == b"-" else answer
