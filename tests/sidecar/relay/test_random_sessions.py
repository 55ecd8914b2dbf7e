"""Random sessions, valid and nearly so, cut at random places, are answered as directly and leave nothing in flight."""

from __future__ import annotations

import random
import re

import pytest

from tests.conftest import Server, wait_until
from tests.sidecar.relay.test_counts import difference, engine_calls, our_calls
from tests.sidecar.relay.test_transparency import END, bulk, converse

_WORDS = (
    """
GET a|SET a 1|INCR a|APPEND a xyz|DEL a|GET nosuch|MGET a b c|LPUSH l 1 2 3|LRANGE l 0 -1|LPOP l|HSET h f v|HGETALL h|HGET h f|ZADD z 1 m|ZRANGE z 0 -1 WITHSCORES
SADD s 1 2|SMEMBERS s|MULTI|MULTI|EXEC|EXEC|DISCARD|WATCH a|UNWATCH|RESET|HELLO 3|HELLO 2|SELECT 1|SELECT 0|PING|PING x|ECHO hello|SUBSCRIBE a|SUBSCRIBE a b c|UNSUBSCRIBE|UNSUBSCRIBE a
PSUBSCRIBE p*|PUNSUBSCRIBE|PUNSUBSCRIBE p* q|SSUBSCRIBE s|SUNSUBSCRIBE|PUBLISH a hi|SPUBLISH s x|CLIENT REPLY ON|CLIENT REPLY OFF|CLIENT REPLY SKIP|CLIENT REPLY x|CONFIG GET maxmemory|CONFIG GET nosuch
CONFIG SET maxmemory 0|CONFIG SET port x|CONFIG SET timeout 0|CONFIG SET timeout x maxmemory 0|CONFIG|CONFIG REWRITE|INFO nosuch|CLIENT GETNAME|CLIENT SETNAME x|CLIENT KILL ID 999999|CLIENT KILL 1.2.3.4:5|NOSUCH
NOSUCH a b|GET|SET|BLPOP nosuch 0.01|BLPOP l 0.01|XADD x 1-1 f v|XADD x * f|XREAD BLOCK 5 STREAMS x $|XREAD STREAMS x 0|XLEN x|WAIT 0 5|EVAL return{1,redis.status_reply('QUEUED')} 0|EVAL return{1} x|DEBUG SLEEP 0
DEBUG PROTOCOL attrib|DEBUG PROTOCOL push|DEBUG PROTOCOL map|REPLCONF ACK 0|REPLCONF capa eof|READONLY|ACL WHOAMI|OBJECT ENCODING a|TYPE a|EXISTS a b a|COMMAND COUNT|SCRIPT EXISTS x|CLIENT NO-EVICT OFF|CLIENT TRACKINGINFO
""".replace("\n", "|")
    .strip("|")
    .split("|")
)
_UNFOLLOWED = re.compile(r"[PS]?(UN)?SUBSCRIBE|CLIENT REPLY|REPLCONF ACK")
"""Words that, in some orders, make a session raw: then CONFIG SET of what is ours is refused in another way than directly."""
_OURS = re.compile(r"CONFIG (SET (port|timeout)|REWRITE)")
_INLINE = [
    b"\r\n",
    b"*0\r\n",
    b"*-1\r\n",
    b"PING\r\n",
    b"set \"q\" 'x y'\r\n",
    b"GET a\n",
    b"client reply skip\r\n",
    b"MULTI\r\n",
    b"exec\r\n",
    b"subscribe i\r\n",
]


def random_session(rng: random.Random, *, followed: bool) -> bytes:
    left_out = _UNFOLLOWED if followed else _OURS
    words = [word for word in _WORDS if not left_out.match(word)]
    inline = [line for line in _INLINE if not left_out.match(line.decode().upper())]
    parts = []
    for _ in range(rng.randint(1, 40)):
        if rng.random() < 0.1:
            parts.append(rng.choice(inline))
        else:
            parts.append(bulk(*rng.choice(words).split()))
    return b"".join(parts)


@pytest.mark.parametrize("seed", range(60))
def test_random_sessions_are_answered_as_directly(server: Server, bare: Server, seed: int) -> None:
    rng = random.Random(seed)
    before = our_calls(server)
    for turn in range(5):
        # RESET ends whatever state the session is in; CLIENT REPLY OFF and RESP2 subscriptions included.
        data = (
            bulk("FLUSHALL")
            + bulk("CONFIG", "SET", "timeout", "0")
            + random_session(rng, followed=seed % 2 == 0)
            + bulk("RESET")
            + END
        )
        cuts = rng.choice([1, 2, 3, 10, len(data)])
        assert converse(server, data, cuts) == converse(bare, data, cuts), f"seed {seed}, turn {turn}: {data!r}"
    server.close_sockets()
    wait_until(lambda: server.metrics()["valkey_command_in_flight"] == 0, "nothing is in flight")
    if seed % 2 == 0:
        ours = {name: counts[0] for name, counts in difference(our_calls(server), before).items()}
        ours.pop("_OTHER", None)
        engine = {name: counts[0] for name, counts in difference(engine_calls(server), {}).items()}
        for name in ("CONFIG SET", "CONFIG REWRITE"):  # a refused REWRITE reaches the engine in another form
            ours.pop(name, None)
            engine.pop(name, None)
        assert ours == engine
