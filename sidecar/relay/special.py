"""The few commands that are seen whole before they are forwarded: the private engine would answer them wrongly.

Owns the answers that must name our listener (CONFIG, INFO), what only a local peer may do, and what a session must know
before the engine does (CLIENT REPLY, PSYNC). It never answers in the engine's place: every command reaches the engine,
sometimes in another form, so permissions, transactions and counters stay the engine's.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import libvalkey

from sidecar.engine.limits import OF_MEMORY
from sidecar.info_view import our_config, our_info
from sidecar.link import Body, Link
from sidecar.relay.client_filters import host_of
from sidecar.relay.clients import Clients, as_text, text_of
from sidecar.relay.commands import OTHER
from sidecar.relay.lane_rules import OF_IDENTITY, LaneRules, without_lanes
from sidecar.relay.plan import SILENT_PLAN, Plan, encode, word

if TYPE_CHECKING:
    from sidecar.counts import ClientCount
    from sidecar.relay.roster import Roster
    from sidecar.relay.session import Session

Answer = Plan | None | Awaitable[Plan | None]

HELD: frozenset[str] = frozenset(
    {
        "CLIENT INFO",
        "CLIENT KILL",
        "CLIENT LIST",
        "CLIENT REPLY",
        "CONFIG GET",
        "CONFIG RESETSTAT",
        "CONFIG REWRITE",
        "CONFIG SET",
        "DEBUG",
        "INFO",
        "MODULE LOAD",
        "MODULE LOADEX",
        "MODULE UNLOAD",
        "PSYNC",
        "REPLCONF",
        "SYNC",
    }
)
"""Names of the command table that this module is asked about; besides, disguised names of any command, as OTHER."""

TABLE_WITHOUT_ENGINE: list[tuple[str, list[str]]] = [
    *((name.partition(" ")[0], []) for name in sorted(HELD)),
    *((name.replace(" ", "|"), []) for name in sorted(HELD) if " " in name),
]
"""A command table for when the engine tells nobody what it has: these are inspected nevertheless."""

_PROTECTED_CONFIGS = frozenset(
    {b"dir", b"dbfilename", b"appenddirname", b"appendfilename", b"aclfile", b"unixsocket", b"logfile", b"pidfile"}
)
"""Settings that `enable-protected-configs` guards and that can be set at run time (config.c, PROTECTED_CONFIG)."""

_INVALID = b"-"
"""A value that no setting of ours accepts: the engine refuses the command with it."""

_UNKNOWN = b"\x01"
"""Makes a name one that no command has; the engine shows it in its error."""

_IMMUTABLE = b"dAEMONIZE"
"""A setting that the engine refuses to set, in a spelling that only we use."""

TOLD = frozenset({b"requirepass", b"loglevel", b"maxmemory", *(name.encode() for name in OF_MEMORY)})
"""Settings of the engine's of which the supervisor hears when a client changes them."""

_ANNOUNCED_PORT = frozenset({b"replica-announce-port", b"slave-announce-port"})

_NOT_AT_RUN_TIME = frozenset({b"tls-replication", b"tls-cluster", b"tls-auth-clients-user"})
"""Settings that would make the engine speak TLS by itself, and one that logs in its clients."""

_FAILED_CONFIG_SET = b"-ERR CONFIG SET failed (possibly related to argument '%b') - "

_UNANSWERED = frozenset({b"ack", b"getack"})
"""Options with which REPLCONF has no reply."""


def _array(reply: bytes, values: list[bytes]) -> bytes:
    """The values as bulk strings under the header (array or map) of the reply they came from."""
    head, _, _ = reply.partition(b"\r\n")
    return head + b"\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(v), v) for v in values)


class Special:
    """Decides about the HELD commands of all sessions of one worker.

    settings: the supervisor's `settings`; config_values: what CONFIG GET shows for the directives that are ours; count:
    of the clients that were refused; roster: of all clients of the worker.
    """

    def __init__(
        self, link: Link, settings: Body, config_values: dict[str, str], count: ClientCount, roster: Roster
    ) -> None:
        self._link = link
        self._clients = Clients(link, settings, roster)
        self._lane_rules = LaneRules(link, self._clients)
        self.settings = settings
        self.config_values = config_values
        self._count = count
        # One for all: a client may send a million of these before it reads a reply.
        self._config_get_plan = Plan(transform=self._our_config, cosmetic=True)
        self._info_plan = Plan(transform=self._our_info, cosmetic=True)
        self._handlers: dict[str, Callable[[Session, list[bytes], bytes], Answer]] = {
            OTHER: self._disguised,
            "CLIENT INFO": lambda session, _args, _request: self._clients.info(session),
            "CLIENT KILL": self._client_kill,
            "CLIENT LIST": self._client_list,
            "CLIENT REPLY": self._client_reply,
            "CONFIG GET": self._config_get,
            "CONFIG RESETSTAT": self._config_resetstat,
            "CONFIG REWRITE": self._config_rewrite,
            "CONFIG SET": self._config_set,
            "DEBUG": self._local_only("enable_debug_command", "DEBUG", "enable-debug-command"),
            "INFO": self._info,
            "MODULE LOAD": self._local_only("enable_module_command", "MODULE", "enable-module-command"),
            "MODULE LOADEX": self._local_only("enable_module_command", "MODULE", "enable-module-command"),
            "MODULE UNLOAD": self._local_only("enable_module_command", "MODULE", "enable-module-command"),
            "PSYNC": self._sync,
            "REPLCONF": self._replconf,
            "SYNC": self._sync,
            **self._lane_rules.handlers,
        }

    def __call__(self, session: Session, name: str, args: list[bytes], request: bytes) -> Answer:
        """What becomes of this request: None (forward it as it came), a Plan, or an awaitable of either."""
        return self._handlers[name](session, args, request)

    def unfollowed(self, session: Session, name: str, args: list[bytes]) -> bytes | None:
        """What to forward of a session whose replies are not followed, where the request must not pass as it came.

        There is no reply to correct: what is ours to set or to refuse reaches the engine in a form that it refuses.
        """
        setting = {"DEBUG": "enable_debug_command", "MODULE": "enable_module_command"}.get(name.partition(" ")[0])
        if setting is not None and self.settings[setting] == "local" and not session.is_local:
            return encode(args[: len(name.split())])
        if name == OTHER:
            return _refused_name(args)
        if name == "CONFIG REWRITE":
            return encode([args[0], b"SET", b"port", _INVALID])
        if name == "CONFIG SET":
            guarded = self.settings["enable_protected_configs"] == "local" and not session.is_local
            for i in range(2, len(args) - 1, 2):
                option = word(args[i])
                ours = option.decode("latin-1") in self.settings["settable"] or _is_refused(option)
                if ours or (guarded and option in _PROTECTED_CONFIGS):
                    return encode([*args[:2], b"port", _INVALID])
        return None

    # ---- names -----------------------------------------------------------------------------------------------------

    def _disguised(self, session: Session, args: list[bytes], request: bytes) -> Answer:
        """A command's name with a NUL byte behind it: the engine refuses it, but for one in some thousand it runs."""
        name, refused = args[0].partition(b"\0")[0], _refused_name(args)
        return Plan(refused, lambda reply: reply.replace(name + _UNKNOWN, name, 1))

    # ---- CLIENT ----------------------------------------------------------------------------------------------------

    def _client_list(self, session: Session, args: list[bytes], request: bytes) -> Answer:
        return self._clients.listed(args, prepare=not session.stranger)

    def _client_kill(self, session: Session, args: list[bytes], request: bytes) -> Answer:
        return None if session.stranger else self._clients.killed(args, trusted=session.trusted)

    # ---- replies and streams ---------------------------------------------------------------------------------------

    def _client_reply(self, session: Session, args: list[bytes], request: bytes) -> Answer:
        mode = word(args[2]).decode("latin-1") if len(args) == 3 else ""
        if mode not in {"on", "off", "skip"}:
            return None
        session.reply_mode(mode)
        return None if mode == "on" else SILENT_PLAN

    def _replconf(self, session: Session, args: list[bytes], request: bytes) -> Answer:
        options = [word(arg) for arg in args[1::2]]
        if len(args) % 2 and options and options[0] in _UNANSWERED:
            return SILENT_PLAN
        if _UNANSWERED.intersection(options):  # unless one before it is wrong
            session.unfollow("replconf_ack")
            return None
        session.announced_address |= b"ip-address" in options
        if session.announced_address or session.transport != "tcp" or len(args) < 3 or len(args) % 2 == 0:
            return None
        # In the same command: the engine refuses a PSYNC that comes while a reply of ours is still on its way.
        # What the replica announces in a later one counts more.
        return Plan(encode([*args, b"ip-address", host_of(session.peer.encode())]))

    def _sync(self, session: Session, args: list[bytes], request: bytes) -> Answer:
        return Plan(sync=True)

    # ---- what only a local peer may do -----------------------------------------------------------------------------

    def _local_only(
        self, setting: str, command: str, directive: str
    ) -> Callable[[Session, list[bytes], bytes], Answer]:
        error = (
            f'-ERR {command} command not allowed. If the {directive} option is set to "local", you can run it from a'
            " local connection, otherwise you need to set this option in the configuration file, and then restart the"
            " server.\r\n"
        ).encode()

        def decide(session: Session, args: list[bytes], request: bytes) -> Answer:
            words = 1 if command == "DEBUG" else 2
            if self.settings[setting] != "local" or session.is_local or len(args) == words:
                return None
            # Without its arguments the engine rejects it as it would reject this peer: counted, the transaction spoilt.
            return Plan(encode(args[:words]), lambda reply: reply if reply.startswith(b"-NOAUTH") else error)

        return decide

    # ---- CONFIG ----------------------------------------------------------------------------------------------------

    def _config_get(self, session: Session, args: list[bytes], request: bytes) -> Answer:
        return self._config_get_plan

    def _our_config(self, reply: bytes) -> bytes:
        if reply[:1] not in b"*%":
            return reply
        values = _strings(reply)
        if not all(isinstance(value, bytes) for value in values):
            return reply  # it is not what it should be
        for i in range(0, len(values) - 1, 2):
            name, value = values[i].decode("latin-1"), _text(values[i + 1])
            ours = our_config(name, value, self.settings, self.config_values)
            values[i + 1] = ours.encode("utf-8", "surrogateescape")
        return _array(reply, values)

    def _config_set(self, session: Session, args: list[bytes], request: bytes) -> Answer:
        if len(args) < 4 or len(args) % 2:
            return None
        names = [word(name) for name in args[2::2]]
        told = {n.decode(): _text(v) for n, v in zip(names, args[3::2], strict=True) if n in TOLD}
        answer = self._config_set_plan(session, args, names)
        if self.settings["lanes"] and OF_IDENTITY.intersection(names) and not session.stranger:
            answer = self._at_home(answer)
        if told:
            answer = self._telling_later(answer, told) if inspect.isawaitable(answer) else self._telling(answer, told)
        if self.settings["lanes"] and not OF_MEMORY.isdisjoint(told) and not session.stranger:
            answer = self._without_lanes(answer, close="maxmemory-clients" in told)
        return answer

    async def _without_lanes(self, answer: Answer, *, close: bool) -> Plan | None:
        """Nothing may be on a lane when the engine learns to close connections for the memory that they take.

        close: there may not even be one, as it would count like a client. Lanes are used again some seconds later,
        where they may be.
        """
        await without_lanes(self._link, close=close)
        return await answer if inspect.isawaitable(answer) else answer

    async def _at_home(self, answer: Answer) -> Plan | None:
        await self._lane_rules.bring_home(b"default")
        return await answer if inspect.isawaitable(answer) else answer

    async def _telling_later(self, answer: Awaitable[Plan | None], told: dict[str, str]) -> Plan:
        return self._telling(await answer, told)

    def _telling(self, plan: Plan | None, told: dict[str, str]) -> Plan:
        """The plan, and that the supervisor is told when the engine has done it."""
        original = None if plan is None else plan.transform

        def transform(reply: bytes) -> bytes | Awaitable[bytes]:
            if reply[:1] == b"+":
                self._link.send("engine_settings", {"values": told})
            return reply if original is None else original(reply)

        return Plan(None if plan is None else plan.request, transform)

    def _config_set_plan(self, session: Session, args: list[bytes], names: list[bytes]) -> Answer:
        guarded = self.settings["enable_protected_configs"] == "local" and not session.is_local
        for i, name in enumerate(names):
            if _is_refused(name):
                return _config_set_refused(args, 2 + 2 * i, "not available at run time in valkey-sidecar")
            if guarded and name in _PROTECTED_CONFIGS:
                return _config_set_refused(args, 2 + 2 * i, "can't set protected config")
        ours = {
            n: v for n, v in zip(names, args[3::2], strict=True) if n.decode("latin-1") in self.settings["settable"]
        }
        announced = [i for i, name in enumerate(names) if name in _ANNOUNCED_PORT and args[3 + 2 * i] == b"0"]
        for i in announced:  # the port that it listens on: ours
            args[3 + 2 * i] = b"%d" % self.settings["port"]
        if not ours:
            return Plan(encode(args)) if announced else None
        return self._config_set_ours(args, names, ours)

    async def _config_set_ours(self, args: list[bytes], names: list[bytes], ours: dict[bytes, bytes]) -> Plan | None:
        """Ours are checked first. The engine gets the value that it has or is to have for each: it checks the rest."""
        values = {name.decode(): _text(value) for name, value in ours.items()}
        others = [name.decode("latin-1") for name in names if name not in ours]
        spelt = {name.decode("latin-1"): given[: len(name)] for name, given in zip(names, args[2::2], strict=True)}
        checked = await self._link.request("config_check", {"values": values, "others": others})
        bad = checked.get("argument")
        # The engine refuses the command for the argument that is wrong: by a value, or where it takes any, by a name.
        by_name = bad is not None and bad.startswith(("tls-", "proc-title-"))
        substituted = list(args)
        for i, name in enumerate(names):
            if name in ours:
                key = name.decode()
                if key == bad:
                    substituted[2 + 2 * i if by_name else 3 + 2 * i] = _IMMUTABLE if by_name else _INVALID
                elif (engine := {**self.settings["engine_values"], **checked.get("engine", {})}.get(key)) is not None:
                    substituted[3 + 2 * i] = engine.encode()

        def refused(reply: bytes) -> bytes:
            argument = spelt[str(bad)]
            failed = _FAILED_CONFIG_SET % (_IMMUTABLE if by_name else argument)
            return _config_error(argument, checked["error"]) if failed in reply else reply

        async def apply(reply: bytes) -> bytes:
            if reply[:1] != b"+":
                return reply
            try:
                answer = await self._link.request("config_set", {"values": values, "before": checked.get("before", {})})
            except (TimeoutError, ConnectionError):
                unknown = "the supervisor does not answer: it may be applied later, or never"
                return _config_error(spelt[next(iter(values))], unknown)
            if answer.get("error"):
                argument = str(answer["argument"])
                return _config_error(spelt.get(argument, argument.encode()), answer["error"])
            return reply

        return Plan(encode(substituted), refused if bad else apply)

    def _config_resetstat(self, session: Session, args: list[bytes], request: bytes) -> Answer:
        sent_unix_ns = time.time_ns()

        def reset(reply: bytes) -> bytes:
            if reply[:1] == b"+":
                self._count.reset()
                self._link.send("stats_reset", {"sent": sent_unix_ns, "done": time.time_ns()})
            return reply

        return Plan(transform=reset)

    def _config_rewrite(self, session: Session, args: list[bytes], request: bytes) -> Answer:
        if len(args) != 2:
            return None

        async def merge(reply: bytes) -> bytes:
            if reply[:1] != b"+":
                return reply
            if not self.settings["config_file"]:  # the engine always has one: ours
                return b"-ERR The server is running without a config file\r\n"
            try:
                answer = await self._link.request("rewrite", timeout=30.0)
            except (TimeoutError, ConnectionError):
                return b"-ERR Rewriting config file: the supervisor does not answer\r\n"
            return (
                b"-ERR Rewriting config file: %b\r\n" % str(answer["error"]).encode() if answer.get("error") else reply
            )

        return Plan(transform=merge)

    # ---- INFO ------------------------------------------------------------------------------------------------------

    def _info(self, session: Session, args: list[bytes], request: bytes) -> Answer:
        return self._info_plan

    def _our_info(self, reply: bytes) -> bytes:
        text = text_of(reply)
        if text is None:
            return reply
        return as_text(reply, our_info(text, self.settings, self._count.tally()))


def _is_refused(name: bytes) -> bool:
    return name in _NOT_AT_RUN_TIME or name.startswith(b"rdma-")


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _refused_name(args: list[bytes]) -> bytes:
    return encode([args[0].partition(b"\0")[0] + _UNKNOWN, *args[1:]])


def _config_error(argument: bytes, error: object) -> bytes:
    return _FAILED_CONFIG_SET % argument + str(error).encode("utf-8", "surrogateescape") + b"\r\n"


def _config_set_refused(args: list[bytes], position: int, reason: str) -> Plan:
    """CONFIG SET of args[position], which may not be set here: the engine finds one that it refuses to anybody."""
    name = args[position].partition(b"\0")[0]
    refusal = _FAILED_CONFIG_SET % _IMMUTABLE
    return Plan(
        encode([*args[:position], _IMMUTABLE, *args[position + 1 :]]),
        lambda reply: _config_error(name, reason) if reply.startswith(refusal) else reply,
    )


def _strings(reply: bytes) -> list[bytes]:
    """The strings of a flat array or map reply, in order."""
    reader = libvalkey.Reader()
    reader.feed(b"*" + reply[1:] if reply[:1] == b"*" else reply)
    value = reader.gets()
    if isinstance(value, dict):
        return [text for pair in value.items() for text in pair]
    return list(value)
