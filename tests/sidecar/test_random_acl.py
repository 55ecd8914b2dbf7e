"""Random rights of users whose sessions share lanes: everybody may do what he may directly, no more and no less."""

from __future__ import annotations

import contextlib
import random
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import pytest

from tests.conftest import Server
from tests.sidecar.relay.traced import command

_USERS = ("ann", "bob", "cat")
_SESSIONS = 6

_RULES = (
    """
+@all|+@all|+@all|-@all|allcommands|nocommands|+@read|-@read|+@write|-@write|+@string|-@list|+@connection|-@dangerous
-@scripting|+get|-get|+set|-set|-ping|-del|+config!get|-config|+select|-select|-multi|-exec|+eval|-echo|-publish
-rename|+@keyspace|-@hash|~*|~*|allkeys|resetkeys|~s1:*|~s?:a|~*:b|%R~*|%W~*|%R~*:a|%RW~s2:*|%W~*:b|allchannels
allchannels|resetchannels|&c:*|&c:s1|&*:s2|off|on|on|on|(+get ~*)|(+@all %R~*:a)|(-@all +lpush ~*:l)|clearselectors
alldbs|resetdbs|db=0|nonsense|+nosuchcommand|+@nosuchcategory|%X~a
""".replace("\n", "|")
    .strip("|")
    .split("|")
)

# @ is what makes a session's keys and channels its own.
_COMMANDS = (
    """
GET @a|GET @a|GET @b|SET @a 1|SET @b x|INCR @a|APPEND @b y|DEL @a|MGET @a @b|MSET @a 1 @b 2|GETSET @a 2|GETDEL @b
GETEX @a PERSIST|SET @a 3 GET|STRLEN @a|EXISTS @a @b|TYPE @a|RENAME @a @b|COPY @a @b REPLACE|EXPIRE @a 100|TTL @b
PERSIST @a|LPUSH @l 1 2|RPUSH @l 3|LRANGE @l 0 -1|LPOP @l|LMOVE @l @l LEFT RIGHT|SORT @l|SORT @l BY @w* GET @w*
SORT_RO @l|HSET @h f 1|HGET @h f|HGETALL @h|SADD @s 1|SMEMBERS @s|SUNIONSTORE @t @s|ZADD @z 1 m|ZRANGE @z 0 -1
XADD @x 1-1 f v|XLEN @x|XREAD STREAMS @x 0|BITFIELD @a GET u8 0|BITFIELD @a SET u8 0 1|PFADD @p 1|PFCOUNT @p
OBJECT ENCODING @a|PING|PING|ECHO x|PUBLISH c:@ x|SPUBLISH c:@ x|SUBSCRIBE c:@|UNSUBSCRIBE c:@|PSUBSCRIBE c:@*
PUNSUBSCRIBE c:@*|SELECT 0|SELECT 1|SELECT 0|CONFIG GET maxmemory|CONFIG SET hz|ACL WHOAMI|ACL CAT nosuch|MULTI|MULTI
EXEC|EXEC|EXEC|DISCARD|WATCH @a|UNWATCH|EVAL return(redis.call('get',KEYS[1])) 1 @a
EVAL return(redis.call('set',KEYS[1],'1')) 1 @b|EVAL return(redis.pcall('get','@a')) 0|EVAL_RO return(1) 0
AUTH ann pw-ann|AUTH bob pw-bob|AUTH cat pw-cat|AUTH ann wrong|HELLO 2 AUTH bob pw-bob|HELLO 3 AUTH cat pw-cat|HELLO 3
HELLO 2|COMMAND COUNT|NOSUCH x|GET|LPUSH @a|LPUSH @a 1|OBJECT REFCOUNT @a
""".replace("\n", "|")
    .strip("|")
    .split("|")
)


@dataclass
class Side:
    """One of the two servers, and the same sessions at it."""

    server: Server
    sessions: dict[int, tuple[socket.socket, BinaryIO]] = field(default_factory=dict)

    def session(self, number: int, user: str) -> None:
        """A new connection that says who it is."""
        sock = self.server.connect()
        self.sessions[number] = sock, sock.makefile("rb")
        self.send(number, [command("AUTH", user, f"pw-{user}")])

    def send(self, number: int, requests: list[bytes]) -> None:
        with contextlib.suppress(ConnectionError):
            self.sessions[number][0].sendall(b"".join(requests))

    def replies(self, number: int, count: int) -> list[Any]:
        """The next ones; what comes after the connection has ended is None."""
        return [_reply(self.sessions[number][1]) for _ in range(count)]

    def acl_log(self) -> Counter[tuple[str, ...]]:
        """How often what was refused to whom."""
        found: Counter[tuple[str, ...]] = Counter()
        for entry in self.server.client(decode_responses=True).acl_log(10_000):
            what = tuple(str(entry[name]) for name in ("reason", "context", "object", "username"))
            found[what] += int(entry["count"])
        return found


def _reply(file: BinaryIO) -> Any:
    """One reply, its kind with it; a client's id in HELLO's is left out."""
    try:
        line = file.readline()
    except ConnectionError:
        return None
    kind, rest = line[:1], line[1:-2]
    if kind in (b"$", b"=") and rest != b"-1":
        return kind, file.read(int(rest) + 2)
    if kind in (b"*", b"%", b"~", b">") and rest != b"-1":
        elements = [_reply(file) for _ in range(int(rest) * (2 if kind == b"%" else 1))]
        return kind, [e for e, before in zip(elements, [None, *elements], strict=False) if before != (b"$", b"id\r\n")]
    return line or None


@pytest.fixture
def sides(server: Server, bare: Server) -> Iterator[tuple[Side, Side]]:
    both = Side(server), Side(bare)
    for side in both:
        with side.server.client() as client:
            client.config_set("acllog-max-len", 10_000)
            client.acl_log_reset()
    yield both
    for side in both:
        for _, file in side.sessions.values():
            file.close()
        with side.server.client() as client:
            client.acl_deluser(*_USERS)


def _encode(text: str, session: int) -> bytes:
    return command(*(word.replace("c:@", f"c:s{session}").replace("@", f"s{session}:") for word in text.split(" ")))


def _change_a_user(rng: random.Random, sides: tuple[Side, Side]) -> None:
    """The same for both; some rules are refused, in the same words."""
    user = rng.choice(_USERS)
    words = ["ACL", "SETUSER", user, *rng.choices(_RULES, k=rng.randint(1, 4))]
    if rng.random() < 0.05:
        words = ["ACL", "DELUSER", user]
    answers = []
    for side in sides:
        with side.server.client() as client:
            try:
                answers.append(str(client.execute_command(*(word.replace("!", "|") for word in words))))
            except Exception as error:
                answers.append(str(error))
            if words[1] == "DELUSER":
                client.execute_command("ACL", "SETUSER", user, "on", f">pw-{user}", "+@all", "~*", "&*")
    assert answers[0] == answers[1], words


def _is_subscribed(reply: Any) -> bool:
    return (
        isinstance(reply, tuple)
        and bool(reply[1])
        and reply[1][0] in ((b"$", b"subscribe\r\n"), (b"$", b"psubscribe\r\n"))
    )


@pytest.mark.parametrize("seed", range(5))
def test_everybody_may_do_what_he_may_directly(sides: tuple[Side, Side], seed: int) -> None:
    rng = random.Random(seed)
    for side in sides:
        with side.server.client() as client:
            for user in _USERS:
                client.execute_command("ACL", "SETUSER", user, "reset", "on", f">pw-{user}", "~*", "&*", "+@all")
    lanes, refused = 0.0, 0
    for number in range(_SESSIONS):
        _enter(sides, number, _USERS[number % 3])
    for turn in range(25):
        for _ in range(rng.randint(1, 3)):
            _change_a_user(rng, sides)
        # Now what goes by lane only, now anything.
        commands = _COMMANDS[: _COMMANDS.index("MULTI")] if turn % 2 else _COMMANDS
        batches = {number: rng.choices(commands, k=rng.randint(1, 12)) for number in range(_SESSIONS)}
        for side in sides:
            for number, batch in batches.items():
                side.send(number, [_encode(text, number) for text in batch])
        for number, batch in batches.items():
            ours, directly = (side.replies(number, len(batch)) for side in sides)
            assert ours == directly, f"seed {seed}, turn {turn}: {batch}"
            refused += sum(isinstance(reply, bytes) and reply.startswith(b"-NOPERM") for reply in ours)
            if None in ours or any(map(_is_subscribed, ours)):
                _enter(sides, number, rng.choice(_USERS))
        lanes = max(lanes, sides[0].server.metric('valkey_sidecar_upstream_connections{route="lane"}'))
    assert lanes >= 1
    assert refused > 10
    ours, directly = (side.acl_log() for side in sides)
    assert directly - ours == Counter()
    # What a lane says when it is opened may be refused where its user has just lost a right (differences.md).
    assert {(reason, what) for reason, _, what, _ in ours - directly} <= {("auth", "HELLO"), ("command", "select")}


def _enter(sides: tuple[Side, Side], number: int, user: str) -> None:
    """A new connection for a session; where the user is off, it stays the default user's."""
    for side in sides:
        if number in side.sessions:
            for end in reversed(side.sessions[number]):
                end.close()
        side.session(number, user)
    ours, directly = (side.replies(number, 1) for side in sides)
    assert ours == directly
