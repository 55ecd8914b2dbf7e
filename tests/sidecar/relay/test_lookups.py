"""Hits and misses are those of the engine, wherever a reply tells."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from telemetry.lookups import RULES
from tests.conftest import Server
from tests.sidecar.relay.test_transparency import END, converse, lines

SETUP = """
SET a 1
SET gone 1
PFADD pf x
HSET h f v
RPUSH l a b a
SADD s x y
ZADD z 1 m 2 n
GEOADD g 13 38 p
XADD x 1-1 f v
"""

# Each finds one value of one key. The last one makes the key that it does not find.
READS = """
GET a
GETEX a
DUMP a
STRLEN a
EXISTS a
TOUCH a
MGET a
GETDEL gone
PFCOUNT pf
HGET h f
HMGET h f
HGETEX h FIELDS 1 f
HGETALL h
HKEYS h
HVALS h
HEXISTS h f
HLEN h
HSTRLEN h f
HRANDFIELD h
HRANDFIELD h 5
HRANDFIELD h -5 WITHVALUES
LINDEX l 0
LPOS l a
LPOS l a COUNT 2
LRANGE l 0 -1
LLEN l
SORT_RO l ALPHA
SRANDMEMBER s
SRANDMEMBER s 5
SMEMBERS s
SISMEMBER s x
SCARD s
SDIFF s
SINTER s
SUNION s
SINTERCARD 1 s
ZSCORE z m
ZMSCORE z m
ZRANK z m
ZREVRANK z m WITHSCORE
ZRANDMEMBER z
ZRANDMEMBER z 5
ZRANDMEMBER z -5 WITHSCORES
ZRANGE z 0 -1
ZRANGEBYLEX z - +
ZRANGEBYSCORE z -inf +inf
ZREVRANGE z 0 -1
ZREVRANGEBYLEX z + -
ZREVRANGEBYSCORE z +inf -inf
ZCARD z
ZCOUNT z -inf +inf
ZLEXCOUNT z - +
ZDIFF 1 z
ZINTER 1 z
ZUNION 1 z
ZINTERCARD 1 z
GEODIST g p p
GEOHASH g p
GEOPOS g p
GEOSEARCH g FROMLONLAT 13 38 BYRADIUS 1 km
GEORADIUS_RO g 13 38 1 km
GEORADIUSBYMEMBER_RO g p 1 km
XLEN x
XRANGE x - +
XREVRANGE x + -
GETSET a 2
"""
NO_READS = "LPOP l 0\nSPOP s 0\nLPOP nothing 5\nSPOP nothing 5\nZPOPMIN nothing 5"


def on_no_key(read: str) -> str:
    name, *arguments = read.split()
    at = 1 if arguments[0] == "1" else 0
    return " ".join([name, *arguments[:at], "nokey", *arguments[at + 1 :]])


def ours(server: Server) -> Counter[tuple[str, str]]:
    pattern = re.compile(r'valkey_keyspace_lookups_total\{db_operation_name="(.+)",valkey_cache_hit="(.+)"\}')
    matches = ((pattern.fullmatch(name), value) for name, value in server.metrics().items())
    return Counter({(match[1], match[2]): int(value) for match, value in matches if match})


def engines(server: Server) -> tuple[int, int]:
    with server.client() as client:
        stats = client.info("stats")
    return stats["keyspace_hits"], stats["keyspace_misses"]


@pytest.mark.parametrize("protocol", [2, 3])
def test_every_command_with_a_rule_counts_as_the_engine_does(server: Server, protocol: int) -> None:
    reads = READS.split("\n")[1:-1]
    assert {read.split()[0] for read in reads} == set(RULES)
    converse(server, lines(SETUP) + END, 1)
    ours_before, engines_before = ours(server), engines(server)
    # In turns: what a reply leaves behind must not decide about the next one.
    requests = [request for read in reads for request in (on_no_key(read), read)]
    answer = converse(server, lines(f"HELLO {protocol}\n" + "\n".join([*requests, NO_READS])) + END, 1)
    assert b"\r\n-" not in answer
    seen = ours(server) - ours_before
    assert seen == Counter((read.split()[0], hit) for read in reads for hit in ("true", "false"))
    hits, misses = engines(server)
    assert (hits - engines_before[0], misses - engines_before[1]) == (len(reads), len(reads))
