"""Random RESP streams: valid, nearly valid and hostile. A stream depends on its seed, and its keys on its word.

    stream = any_stream(random.Random(7), b"k3")
    stream.data      # bytes of requests
    stream.frames    # how many requests it was made of

Owns what is sent. It leaves out what a bare Valkey does by chance (docs/reliability.md says what), and marks the rest of it.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

# @ is the stream's own word in keys and channels, so that streams of several clients do not meet; % is some value; a _
# inside a script is a space.
_PLAIN: Final = """
GET a@|SET a@ 1|SET a@ %|SET a@ %|INCR a@|APPEND a@ %|DEL a@ b@|GETRANGE a@ 0 5|SETRANGE a@ 3 xyz|STRLEN a@
MGET a@ b@ c@|MSET a@ 1 b@ 2|GETDEL a@|GETEX a@ PERSIST|SETNX a@ 1|LPUSH l@ 1 2 %|RPOP l@|LRANGE l@ 0 -1|LLEN l@
LINDEX l@ 0|LREM l@ 0 1|HSET h@ f % g 2|HGET h@ f|HGETALL h@|HDEL h@ f|HINCRBY h@ g 3|ZADD z@ 1.5 a 2 b
ZRANGE z@ 0 -1 WITHSCORES|ZSCORE z@ a|ZINCRBY z@ 0.1 a|SADD s@ 1 2 3|SMEMBERS s@|SISMEMBER s@ 2|SREM s@ 1
XADD x@ 1-1 f %|XLEN x@|XRANGE x@ - +|XREAD STREAMS x@ 0|SETBIT bit@ 9 1|BITCOUNT bit@|PFADD p@ a b|PFCOUNT p@
GEOADD g@ 13.3 38.1 P|GEOPOS g@ P|EXPIRE nosuch@ 10|TTL nosuch@|TYPE a@|EXISTS a@ b@|OBJECT ENCODING a@|RENAME a@ b@
COPY b@ a@|PERSIST a@|SORT l@ ALPHA|PING|PING %|ECHO %|PUBLISH c@ %|EVAL return{1,{2,{3}},'x'} 0
EVAL return_redis.error_reply('E') 0|EVAL return_redis.call('GET',KEYS[1]) 1 a@|EVALSHA 00 0|SCRIPT EXISTS 00|ACL WHOAMI
GET|SET a@|INCR h@|LPUSH a@ 1|NOSUCH a@ %|GET a@ b@|HGETALL a@|ZADD z@ x y|SET a@ 1 EX 0|SET a@ 1 NX XX|EXPIRE a@ x
XADD x@ 0-0 f v|BITOP NOT a@
"""
_STATEFUL: Final = """
MULTI|MULTI|MULTI|EXEC|EXEC|EXEC|DISCARD|WATCH a@|UNWATCH|SELECT 0|SELECT 3|SELECT 99|SELECT x|RESET|HELLO 2|HELLO 3|HELLO 9
HELLO 3 AUTH nosuch x|AUTH x|AUTH nosuch x|CLIENT SETNAME n@|CLIENT GETNAME|CLIENT REPLY ON|CLIENT REPLY SKIP
CLIENT REPLY OFF|CLIENT REPLY x|SUBSCRIBE c@|SUBSCRIBE c@ d@ e@|UNSUBSCRIBE|UNSUBSCRIBE c@|PSUBSCRIBE c@*|PUNSUBSCRIBE
SSUBSCRIBE c@|SUNSUBSCRIBE|BLPOP nosuch@ 0.001|BLMOVE nosuch@ l@ LEFT LEFT 0.001|WAIT 0 1|OBJECT NOSUCH a@|CONFIG NOSUCH
CLIENT NOSUCH|DEBUG NOSUCH|ACL NOSUCH|QUIT|READONLY|ASKING|REPLCONF x|CLIENT NO-EVICT ON|CLIENT NO-TOUCH ON
CLIENT TRACKING x|CLIENT TRACKING ON|CLIENT TRACKING OFF
"""
_CONTAINERS: Final = ("ACL", "OBJECT", "SCRIPT")
_VALUES: Final = (
    *(
        b"",
        b"x",
        b"value",
        b"\r\n",
        b"$3\r\nfoo\r\n",
        b"*1\r\n$4\r\nQUIT\r\n",
        bytes(range(256)),
        b"-ERR x",
        b"+QUEUED",
    ),
    *(b"9223372036854775807", b"\xff\x00\xfe", b"v" * 100, b"v" * 4_100, b"v" * 16_384, b"v" * 33_000, b"v" * 70_000),
)
_VALUE_WEIGHTS: Final = (4, 8, 8, 4, 4, 4, 2, 2, 2, 4, 4, 4, 1, 0.5, 0.25, 0.25)
_INLINE: Final = (
    *(b"PING\r\n", b"ping\n", b"\r\n", b"\n", b"   \r\n", b"GET a@\r\n", b"set a@ 'x y'\r\n", b'set a@ "\\x41\\n"\r\n'),
    *(
        b"get\ta@\r\n",
        b"SET a@ ''\r\n",
        b"MULTI\r\n",
        b"EXEC\r\n",
        b'echo "x" "y"\r\n',
        b"  GET   a@  \r\n",
        b"NOSUCH 'a b'\r\n",
    ),
    *(
        b"get a@\r\r\n",
        b"ECHO " + b"x" * 3_000 + b"\r\n",
        b"subscribe c@\r\n",
        b"$3\r\n",
        b"+OK\r\n",
        b":1\r\n",
        b"-ERR\r\n",
    ),
    *(b"%1\r\n", b">1\r\n"),
)
_EMPTY: Final = (b"*0\r\n", b"*-1\r\n", b"*-2147483648\r\n", b"*00\r\n", b"*\r\n")
"""Requests of no arguments; the engine skips most of them."""
_HOSTILE: Final = (
    *(
        b"*1048577\r\n",
        b"*2147483648\r\n",
        b"*9223372036854775808\r\n",
        b"*99999999999999999999\r\n",
        b"*x\r\n",
        b"*1 \r\n",
    ),
    *(
        b"* 1\r\n",
        b"*+1\r\n$4\r\nPING\r\n",
        b"*01\r\n$4\r\nPING\r\n",
        b"*1\n$4\nPING\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$536870913\r\n",
    ),
    *(
        b"*1\r\n$-9223372036854775808\r\n",
        b"*1\r\n$99999999999999999999\r\n",
        b"*1\r\n$x\r\n",
        b"*1\r\n$\r\n",
        b"*1\r\n:1\r\n",
    ),
    *(
        b"*1\r\n$+4\r\nPING\r\n",
        b"*1\r\n$04\r\nPING\r\n",
        b"*1\r\nPING\r\n",
        b"*1\r\n*1\r\n$4\r\nPING\r\n",
        b"*1\r\n" * 50,
    ),
    *(
        b"*2\r\n$4\r\nECHO\r\n*1\r\n$1\r\nx\r\n",
        b"*1\r\n$4\r\nPINGxx*1\r\n$4\r\nPING\r\n",
        b"*1\r\n$4\r\nPING\r*1\r\n$4\r\nPING\r\n",
    ),
    *(b"set a '\r\n", b"set a 'x'y\r\n", b'set a "\r\n', b'set a "x"y\r\n', b'set a "\\x4\r\n', b"*1\r\n" + b"x" * 10),
    *(
        b"*2\rx$4\rxECHO\rx$1\rxx\rx",
        b"*2\rx$5\rxXREAD\rx$22\rx\n$18446744071562067968\rx",
        b"*3\r\n$3\r\nSET\r\n" + b"$1\r\n" * 30,
    ),
    *(
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"r" * 40,
        b"\x00" * 20 + b"\r\n",
        b"\xff" * 64,
        b"*1\r\n$0\r\n\r\n",
    ),
    *(
        b"*1000000\r\n" + b"$1\r\nx\r\n" * 300,
        b"*2\r\n$4\r\nECHO\r\n$536870912\r\nabc",
        b"*2\r\n$4\r\nECHO\r\n$9\r\nshort\r\n",
    ),
    *(
        b"*3\r\n$3\r\nGET\r\n$4096\r\nx",
        b"*2\r\n$0\r\n\r\n$0\r\n\r\n",
        b"*3\r\n$6\r\nCONFIG\rx$3\r\nGET\r\n$1\r\nx\r\n",
    ),
)
"""What no client means: most ends the connection with an error, some is only odd, some waits for more."""
_HTTP: Final = (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n", b"Host: x\r\n")
_LONG: Final = (
    b"x" * 10_000_000,
    b"*" + b"1" * 10_000_000,
    b"*1\r\n$" + b"1" * 10_000_000,
    b"*100000\r\n" + b"$1\r\nx\r\n" * 90_000,
)
_LONG_MIN: Final = 500_000
"""Bytes of a stream that is not cut off: what is left of a long line could be one whose refusal is a matter of chance."""
_LONG_SHARE: Final = 1 / 300
_CHANGES: Final = (b"\r", b"\n", b"\r\n", b"*", b"$", b"-", b"0", b"9", b"\x00", b" ", b"'", b'"')


@dataclass(frozen=True)
class Stream:
    """What is sent, and what of the answers can be compared.

    plain: only requests that need nothing of their connection; then `calls` is how they are counted, by name, and bare_data
    what a bare Valkey gets instead, which has no TRACEPARENT. quiet: replies are off somewhere, and Valkey closes then or does
    not, as it happens. attack: words of HTTP, at which Valkey drops replies that it has not sent yet, as it happens.
    """

    data: bytes
    frames: int
    plain: bool = False
    quiet: bool = False
    attack: bool = False
    calls: Counter[str] = field(default_factory=Counter)
    bare_data: bytes = b""


def _parse(text: str) -> list[list[bytes]]:
    return [
        [word.encode() for word in words.split()] for line in text.strip().splitlines() for words in line.split("|")
    ]


_PLAIN_COMMANDS: Final = _parse(_PLAIN)
_STATEFUL_COMMANDS: Final = _parse(_STATEFUL)
# What ends most that could follow is rare.
_STATEFUL_WEIGHTS: Final = [
    0.15 if words[0] in (b"QUIT", b"RESET") or b"REPLY" in words or b"SUBSCRIBE" in words[0] else 1.0
    for words in _STATEFUL_COMMANDS
]


def encode(*args: bytes) -> bytes:
    """One request of these arguments."""
    return b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in args)


def _arguments(rng: random.Random, words: list[bytes], mine: bytes) -> list[bytes]:
    args = []
    for word in words:
        if word == b"%":
            args += rng.choices(_VALUES, _VALUE_WEIGHTS)
        else:
            args.append(word.replace(b"_", b" ") if word.startswith(b"return") else word.replace(b"@", mine))
    if rng.random() < 0.1:
        args[0] = bytes(byte ^ 0x20 if rng.random() < 0.5 and chr(byte).isalpha() else byte for byte in args[0])
    return args


def _request(rng: random.Random, mine: bytes) -> bytes:
    dice = rng.random()
    if dice < 0.06:
        return rng.choice(_INLINE).replace(b"@", mine)
    if dice < 0.08:
        return rng.choice(_EMPTY)
    if dice < 0.7:
        return encode(*_arguments(rng, rng.choice(_PLAIN_COMMANDS), mine))
    (words,) = rng.choices(_STATEFUL_COMMANDS, _STATEFUL_WEIGHTS)
    return encode(*_arguments(rng, words, mine))


def _mutate(rng: random.Random, data: bytes) -> bytes:
    """One to three small changes of these bytes; none makes `PING\\0` of an inline PING, which Valkey waits to see the end of."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        if not changed:
            break
        at = rng.randrange(len(changed))
        how = rng.randrange(5)
        if how == 0:
            changed[at] = rng.randrange(256)
        elif how == 1:
            del changed[at : at + rng.randint(1, 4)]
        elif how == 2:
            changed[at:at] = rng.choice(_CHANGES)
        elif how == 3:
            changed[at:at] = changed[at : at + rng.randint(1, 20)]
        else:
            changed[at] ^= 1 << rng.randrange(8)
    return bytes(changed) if changed.startswith(b"*") else changed.replace(b"\0", b"\1")


def any_stream(rng: random.Random, mine: bytes, most: int = 400) -> Stream:
    """A stream of at most so many requests, on the keys of this word.

    Two in three have something hostile in it, mostly near the end; one in ten ends anywhere.
    """
    count = rng.choice((1, 3, 10, 40, most))
    requests = [_request(rng, mine) for _ in range(count)]
    attack = False
    near_end = rng.randrange(max(0, count - 5), count)
    dice = rng.random()
    if dice < _LONG_SHARE:
        requests.append(rng.choice(_LONG))
    elif dice < 0.33:
        requests[near_end] = _mutate(rng, requests[near_end])
    elif dice < 0.63:
        requests.insert(near_end, rng.choice(_HOSTILE))
    elif dice < 0.66:
        requests.insert(near_end, rng.choice(_HTTP))
        attack = True
    data = b"".join(requests)
    if len(data) < _LONG_MIN and rng.random() < 0.1:
        data = data[: rng.randrange(len(data) + 1)]
    return Stream(data, count, quiet=re.search(rb"(?i)reply\W+(\$\d+\W+)?(off|skip)", data) is not None, attack=attack)


def plain_stream(rng: random.Random, mine: bytes, most: int = 400) -> Stream:
    """A stream of at most so many plain requests: all of it can go by lane, and is counted exactly. Some have a trace context."""
    calls: Counter[str] = Counter()
    parts: list[tuple[bytes, bytes]] = []
    for _ in range(rng.choice((1, 3, 10, 40, most))):
        if rng.random() < 0.03:
            context = encode(b"TRACEPARENT", b"00-%032x-%016x-01" % (rng.getrandbits(127) + 1, rng.getrandbits(63) + 1))
            parts.append((context, encode(b"SLOWLOG", b"RESET")))  # which is answered alike, and changes nothing
            continue
        words = rng.choice(_PLAIN_COMMANDS)
        name = b" ".join(words[: 1 + (words[0].decode() in _CONTAINERS)]).decode()
        calls["_OTHER" if name == "NOSUCH" else name] += 1
        request = encode(*_arguments(rng, words, mine))
        parts.append((request, request))
    data, bare_data = (b"".join(each) for each in zip(*parts, strict=True))
    return Stream(data, len(parts), plain=True, calls=calls, bare_data=bare_data)
