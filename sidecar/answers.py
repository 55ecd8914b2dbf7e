"""What workers ask the supervisor, and its answers.

Owns the requests of the link that need more than one process: CONFIG SET of what is ours, CONFIG REWRITE, protected
mode; those about the engine's clients and about lanes it hands on. It never sees a client.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from sidecar import listeners
from sidecar.certificates import Candidate
from sidecar.engine.clients import EngineClients
from sidecar.engine.configfile import PrivateConfiguration, read, replace_file
from sidecar.engine.connection import Connection, EngineError, UnreachableError
from sidecar.engine.embedded import Engine
from sidecar.front import Front, SettingError
from sidecar.journal import Journal
from sidecar.kinds import bytes_of
from sidecar.lanes import Lanes
from sidecar.listener_settings import LISTENER_DIRECTIVES, ListenerSettings
from sidecar.workers import Workers

Body = Mapping[str, Any]

_LIMIT = "maxmemory-clients"
"""Of which the engine has another value than we show."""

_RECONNECTED_WITHIN_S = 1.0
_LOOK_AGAIN_S = 0.01


class Answers:
    """Answers by kind. `file` is the user's configuration file, None without one.

    injected, logged_from: the engine's directives that we gave it, of which the user's file must not hear. starts_open:
    whether the default user of an engine that is started now needs no password.
    witness: what the engine's slow log says about late replies.
    tell_workers: sends them the present settings. on_engine_setting: hears of a setting of the engine's that a client
    has changed (name and value; one of sidecar.relay.special.TOLD). on_stats_reset: hears that CONFIG RESETSTAT was
    passed on and done (Unix times in nanoseconds).
    """

    def __init__(
        self,
        front: Front,
        engine: Engine,
        private: PrivateConfiguration,
        file: str | None,
        journal: Journal,
        *,
        injected: Callable[[], dict[str, str]],
        logged_from: Callable[[], dict[str, str]],
        starts_open: Callable[[], bool],
    ) -> None:
        self.workers: Workers | None = None
        self.lanes: Lanes | None = None
        self.tell_workers: Callable[[], None] = lambda: None
        self.on_engine_setting: Callable[[str, str], None] = lambda _name, _value: None
        self.on_stats_reset: Callable[[int, int], None] = lambda _sent, _done: None
        self.witness: Callable[[Body], Awaitable[dict[str, Any]]] = _knows_nothing
        self._front = front
        self._engine = engine
        self._private = private
        self._file = file
        self._journal = journal
        self._injected = injected
        self._logged_from = logged_from
        self._starts_open = starts_open
        self._default_is_open = starts_open()
        self._one_at_a_time = asyncio.Lock()
        self._refreshing: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._clients = EngineClients(engine, self._call, lambda: self.workers, journal)
        self._kinds: dict[str, Callable[[Body], Awaitable[dict[str, Any]]]] = {
            "protected": self._protected,
            "config_check": self._config_check,
            "config_set": self._config_set,
            "rewrite": self._rewrite,
            "list_clients": self._clients.listed,
            "identify": self._clients.identified,
            "spared": self._clients.spared,
            "bring_home": self._bring_home,
            "suspend_lanes": self._suspend_lanes,
            "witness": lambda body: self.witness(body),
        }

    async def answer(self, kind: str, body: Body) -> dict[str, Any]:
        """The answer to a request. A fault of ours is logged and answered as an error, never left unanswered."""
        try:
            return await self._kinds[kind](body)
        except Exception as error:
            self._journal.error("request.failed", f"The answer to a worker's {kind} failed: {error!r}.")
            return {"error": "internal error, see the log", "argument": "", "denied": True, "answers": [], "spared": []}

    def notice(self, kind: str, body: Body) -> None:
        """Messages that want no answer."""
        if kind == "refresh_commands" and (self._refreshing is None or self._refreshing.done()):
            self._refreshing = asyncio.create_task(self._refresh_commands())
        elif kind == "engine_settings":
            for name, value in body["values"].items():
                self.on_engine_setting(name, value)
        elif kind == "stats_reset":
            self.on_stats_reset(body["sent"], body["done"])
        elif self.lanes is not None:
            self.lanes.notice(kind, body)

    # ---- lanes -----------------------------------------------------------------------------------------------------

    async def _bring_home(self, body: Body) -> dict[str, Any]:
        if self.lanes is not None:
            await self.lanes.bring_home(keep=body["keep"], users=body["users"])
        return {}

    async def _suspend_lanes(self, body: Body) -> dict[str, Any]:
        return {} if self.lanes is None else {"pause": await self.lanes.suspend(close=bool(body.get("close")))}

    # ---- what the engine knows -------------------------------------------------------------------------------------

    async def _refresh_commands(self) -> None:
        if await self._engine.refresh_commands() and self.workers is not None:
            self.workers.renew_commands(self._engine.table or [])

    async def _protected(self, _body: Body) -> dict[str, Any]:
        """Whether a client that is not local is refused: the default user needs no password at this moment."""
        if not self._front.settings.protected_mode:
            return {"denied": False}
        try:
            user = await self._call("ACL", "GETUSER", "default")
            self._default_is_open = "nopass" in user[user.index("flags") + 1]
        except EngineError as error:
            # Who is refused by the default user (or as a user with fewer rights) needs a password here.
            self._default_is_open = self._default_is_open and not error.no_rights
        except (UnreachableError, ValueError, IndexError):
            pass  # what was last known holds
        return {"denied": self._default_is_open}

    async def _connection(self) -> Connection:
        """Ours to the engine. A client's CLIENT KILL, and Sentinel's, cuts it for a moment. Raises UnreachableError."""
        deadline = time.monotonic() + _RECONNECTED_WITHIN_S
        while (connection := self._engine.connection) is None or connection.closed:
            if time.monotonic() > deadline:
                raise UnreachableError("the engine is not reachable")
            await asyncio.sleep(_LOOK_AGAIN_S)
        return connection

    async def _call(self, *words: str) -> Any:
        """A command that does no harm twice, and its answer. Raises EngineError, UnreachableError."""
        connection = await self._connection()
        try:
            return await connection.call(*words)
        except UnreachableError:
            if not connection.closed:
                raise  # it does not answer in time
        # It had been cut already, and we had not seen it yet.
        return await (await self._connection()).call(*words)

    # ---- CONFIG ----------------------------------------------------------------------------------------------------

    async def _config_check(self, body: Body) -> dict[str, Any]:
        """Whether values of ours are right; and what the engine has for the others, should ours fail after all.

        engine: what the engine gets for ours, where that is another value than it has.
        """
        front = self._front
        try:
            settings = front.checked(body["values"])
            front.certified(settings, body["values"])
        except SettingError as error:
            return {"argument": error.argument, "error": str(error)}
        before: dict[str, str] = {}
        engine: dict[str, str] = {}
        if body["others"]:
            with contextlib.suppress(EngineError, UnreachableError):
                pairs = await self._call("CONFIG", "GET", *body["others"])
                before = dict(zip(pairs[::2], pairs[1::2], strict=True))
        before = {name: value for name, value in before.items() if name in body["others"]}
        if _LIMIT in body["values"]:
            before[_LIMIT] = front.engine_maxmemory_clients(front.settings)
            engine[_LIMIT] = front.engine_maxmemory_clients(settings)
        return {"before": before, "engine": engine}

    async def _config_set(self, body: Body) -> dict[str, Any]:
        async with self._one_at_a_time:
            try:
                await self._apply(body["values"])
            except SettingError as error:
                for name, value in body["before"].items():
                    await self._set_engine(name, value, needed=False)
                return {"argument": error.argument, "error": str(error)}
        return {"error": None}

    async def _apply(self, values: Mapping[str, str]) -> None:
        front, before = self._front, self._front.settings
        settings = front.checked(values)
        candidate = front.certified(settings, values)
        closing: list[listeners.Listener] = []
        if settings.maxclients != before.maxclients:
            await self._set_engine("maxclients", str(front.engine_maxclients(settings)), needed=True)
        if _places(settings) != _places(before):
            try:
                closing = front.rebind(settings)
            except SettingError:
                if settings.maxclients != before.maxclients:
                    await self._set_engine("maxclients", str(front.engine_maxclients(before)), needed=False)
                raise
        self._adopt(settings, closing, candidate)
        if _LIMIT in values and settings.maxmemory_clients < 0:  # maxmemory may have been set with it
            await self._set_limit()
        if settings.reached_port != before.reached_port:
            await self._announce(str(before.reached_port))

    def _adopt(
        self, settings: ListenerSettings, closing: list[listeners.Listener], candidate: Candidate | None
    ) -> None:
        """Settings and certificates that hold from now on, and listeners that are to be closed for them."""
        front, before = self._front, self._front.settings
        front.settings = settings
        if candidate is not None:
            front.certificates.adopt(candidate)
            self.tell_certificates()
        self.tell_workers()
        if _places(settings) != _places(before):
            if self.workers is not None:
                described = [listener.describe() for listener in front.listeners]
                fds = [listener.socket.fileno() for listener in front.listeners]
                self.workers.tell("listen", {"listeners": described}, fds)
            listeners.close_all(closing)
            self._journal.notice("listener.changed", f"Listening on {front.addresses()}.")

    async def start_over(self) -> None:
        """The engine is started anew and forgets what was only set at run time, passwords too: so do we.

        Else a protected mode that was off for the sake of a password would stay off without it.
        """
        async with self._one_at_a_time:
            front = self._front
            settings, before = front.lasting, front.settings
            self._default_is_open = self._starts_open()
            closing: list[listeners.Listener] = []
            try:
                changed = [name for name in LISTENER_DIRECTIVES if settings.value(name) != before.value(name)]
                candidate = front.certified(settings, changed)
                if _places(settings) != _places(before):
                    closing = front.rebind(settings)
            except SettingError as error:
                self._journal.warning("listener.kept", f"Listening on {front.addresses()} as before: {error}")
                candidate = None
                for name in LISTENER_DIRECTIVES:
                    if name in ("port", "bind") or name.startswith("tls-"):
                        settings = settings.with_value(name, before.value(name))
            if settings != before:
                self._adopt(settings, closing, candidate)
            if self.workers is not None:
                self.workers.tell("judge_again", {"strangers": settings.protected_mode})

    def tell_certificates(self) -> None:
        """The workers, and an engine that speaks TLS to its primary, use the certificates that are there now."""
        if self.workers is not None:
            self.workers.tell("tls", {"tls": self._front.certificates.message()})
        if self._front.settings.tls_replication:
            self._keep(self._reload_engine())

    async def _reload_engine(self) -> None:
        file = self._front.settings.tls_cert_file or ""
        await self._set_engine("tls-cert-file", file, needed=False)  # any of them makes it read all the files

    async def _set_engine(self, name: str, value: str, *, needed: bool) -> None:
        try:
            await self._call("CONFIG", "SET", name, value)
        except (EngineError, UnreachableError) as error:
            if needed:
                raise SettingError(name, f"the engine refuses it: {error}") from None
            self._journal.warning("engine.setting_failed", f"The engine did not take our value of {name}: {error}.")

    def maxmemory_set(self, value: str) -> None:
        """The engine's `maxmemory` is this now: a percentage of it is another number of bytes."""
        number = bytes_of(value)
        if number is not None and number != self._front.maxmemory:
            self._front.maxmemory = number
            if self._front.settings.maxmemory_clients < 0:
                self._keep(self._set_limit())

    async def _set_limit(self) -> None:
        await self._set_engine(_LIMIT, self._front.engine_maxmemory_clients(self._front.settings), needed=False)
        self.tell_workers()

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _announce(self, before: str) -> None:
        """Our new port is what the engine announces now, unless a client has set something else."""
        for name, value in self._injected().items():
            with contextlib.suppress(EngineError, UnreachableError):
                if (await self._call("CONFIG", "GET", name))[1:] not in ([before], []):
                    continue
            await self._set_engine(name, value, needed=False)

    async def _rewrite(self, _body: Body) -> dict[str, Any]:
        """The engine has rewritten its private file: bring that home into the user's."""
        assert self._file is not None
        async with self._one_at_a_time:
            try:
                await self._merge(self._file)
            except OSError as error:
                self._journal.warning("config.rewrite_failed", f"Rewriting {self._file} failed: {error.strerror}.")
                return {"error": error.strerror or str(error)}
            except (EngineError, UnreachableError) as error:
                return {"error": str(error)}
            finally:
                # What the engine rewrites next time is what the user's file says now.
                self._private.write()
        self._journal.notice("config.rewritten", f"CONFIG REWRITE has updated {self._file}.")
        return {"error": None}

    async def _merge(self, file: str) -> None:
        private = self._private
        try:
            if not stat.S_ISREG(os.stat(file).st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file")
            now = read(file)
        except FileNotFoundError:
            now = ""
        if now.rstrip("\n") != private.text.rstrip("\n") or not private.is_whole:
            # Edited since we read it. Valkey rewrites what is there, comments and all: so does a second go.
            private.text = now
            private.write()
            await self._call("CONFIG", "REWRITE")
        merged = private.restored(self._front.conf_lines(), {**self._injected(), **self._logged_from()})
        replace_file(file, merged)
        private.adopt(merged)
        self._front.rewritten()


async def _knows_nothing(_body: Body) -> dict[str, Any]:
    return {"known": False, "took": {}}


def _places(settings: ListenerSettings) -> tuple[object, ...]:
    """What says where we listen."""
    return settings.port, settings.tls_port, settings.bind
