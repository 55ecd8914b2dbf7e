"""Which reply means that a key was found: the rule of each command that reads the keyspace.

Owns one table. The engine's own ``keyspace_hits`` counts keys looked up; what stands here is read from replies, so a
nil ``HGET`` is a miss although its key may exist (telemetry.md says so).
"""

from __future__ import annotations

from typing import Final

NIL: Final = 1
"""A null reply is a miss, and so is an empty aggregate (`SRANDMEMBER key 5`); any other is a hit."""
EMPTY: Final = 2
"""An empty aggregate (or a null) is a miss."""
ZERO: Final = 3
"""The integer 0 is a miss."""
EACH: Final = 4
"""Every element counts: a null one is a miss, any other a hit."""
ARGUMENTS: Final = 5
"""The integer is the number of keys found, of as many as were asked for."""
LACKED: Final = 6
"""No lookup: a command that the engine is said to lack. When it succeeds, the command table is out of date."""

# fmt: off
_COMMANDS: Final[dict[int, tuple[str, ...]]] = {
    NIL: (
        "DUMP", "GEODIST", "GET", "GETDEL", "GETEX", "GETSET", "HGET", "HRANDFIELD", "LINDEX", "LPOS",
        "SRANDMEMBER", "ZRANDMEMBER", "ZRANK", "ZREVRANK", "ZSCORE",
    ),
    EMPTY: (
        "GEORADIUSBYMEMBER_RO", "GEORADIUS_RO", "GEOSEARCH", "HGETALL", "HKEYS", "HVALS", "LRANGE", "SDIFF", "SINTER",
        "SMEMBERS", "SORT_RO", "SUNION", "XRANGE", "XREVRANGE", "ZDIFF", "ZINTER", "ZRANGE", "ZRANGEBYLEX",
        "ZRANGEBYSCORE", "ZREVRANGE", "ZREVRANGEBYLEX", "ZREVRANGEBYSCORE", "ZUNION",
    ),
    ZERO: (
        "HEXISTS", "HLEN", "HSTRLEN", "LLEN", "PFCOUNT", "SCARD", "SINTERCARD", "SISMEMBER", "STRLEN", "XLEN", "ZCARD",
        "ZCOUNT", "ZINTERCARD", "ZLEXCOUNT",
    ),
    EACH: ("GEOHASH", "GEOPOS", "HGETEX", "HMGET", "MGET", "ZMSCORE"),
    ARGUMENTS: ("EXISTS", "TOUCH"),
}
# fmt: on

RULES: Final[dict[str, int]] = {name: rule for rule, names in _COMMANDS.items() for name in names}
"""Upper-case command name -> rule. A command that is not here reads no key, or its reply does not tell."""
