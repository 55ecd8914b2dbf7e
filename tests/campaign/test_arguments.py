"""No argument of any command is recorded; a key only in its span, and only where that was asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.campaign.figures import Row, record
from tests.campaign.leaks import Vault
from tests.conftest import Server, Start, receive
from tests.sidecar.exported import attributes, environment
from tests.sidecar.relay.traced import command
from tests.telemetry.azure.stand_in_ingestion import StandInIngestion
from tests.telemetry.otlp.receivers import GrpcReceiver, Receiver

_FIRST, _ANOTHER, _VALUE = "its first key", "another key", "a value"

# K is the first key (a shard's channel is one), k another one, v a value: each becomes a text of its own.
_COMMANDS = """
SET K v|SET K v EX 100|SETEX K 100 v|SETNX K v|GETSET K v|APPEND K v|SETRANGE K 0 v|MSET K v k v|MSETNX K v k v|GET K
GETDEL K|GETRANGE K 0 1|MGET K k k|INCRBY K v|INCRBYFLOAT K v|LCS K k|DEL K k|UNLINK K k|EXISTS K k|TYPE K|EXPIRE K v
RENAME K k|COPY K k|OBJECT ENCODING K|DUMP K|RESTORE K 0 v|SCAN 0 MATCH v|KEYS v|SORT K BY v GET v|TOUCH K k
HSET K v v|HSETNX K v v|HMSET K v v|HGET K v|HMGET K v v|HDEL K v|HEXISTS K v|HINCRBY K v 1|HSCAN K 0 MATCH v
HSETEX K FIELDS 1 v v|HGETALL K|LPUSH K v v|RPUSH K v|LPUSHX K v|LINSERT K BEFORE v v|LREM K 0 v|LSET K 0 v|LPOS K v
LMOVE K k LEFT RIGHT|LRANGE K 0 1|SADD K v v|SREM K v|SISMEMBER K v|SMISMEMBER K v v|SMOVE K k v|SINTERSTORE K k k
SUNION K k|ZADD K 1 v|ZADD K v v|ZINCRBY K 1 v|ZSCORE K v|ZRANK K v|ZREM K v|ZRANGEBYLEX K [v [v|ZRANGESTORE K k 0 1
ZMSCORE K v v|XADD K * v v|XADD K v v v|XREAD STREAMS K v|XREADGROUP GROUP v v STREAMS K >
XGROUP CREATE K v 0 MKSTREAM|XACK K v v|XCLAIM K v v 0 v|XDEL K v|GEOADD K 1 1 v|GEODIST K v v|GEOHASH K v
GEOSEARCH K FROMMEMBER v BYRADIUS 1 km|PFADD K v v|PFCOUNT K k|PFMERGE K k k|SETBIT K 1 1|BITOP AND K k k
BITFIELD K SET u8 0 v|PUBLISH v v|SPUBLISH K v|EVAL v 1 v v|EVALSHA v 1 v v|FCALL v 1 v v|SCRIPT LOAD v
SCRIPT EXISTS v|ECHO v|PING v|CONFIG GET v|CONFIG SET v v|CLIENT GETNAME v|ACL GETUSER v|ACL DRYRUN default GET v
MEMORY USAGE K|WATCH K k|BLPOP K k 0.01|BLMOVE K k LEFT LEFT 0.01|BZPOPMIN K 0.01|LMPOP 1 K LEFT|ZMPOP 1 K MIN
WAIT v v|SELECT v|MOVE K v|SWAPDB v v|noSuchCommandv v v|SUBSTR K 0 v|SET K v v|GET K v|LPUSH K|HSET K v|ZADD K v
EXPIRE K v v|OBJECT v K|XADD K v|SET K|TRACEPARENT v
"""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with GrpcReceiver() as made:
        yield made


def _command(vault: Vault, text: str) -> tuple[list[str], list[str]]:
    """The words of a command, and those of them that are its first key."""
    words, first = [], []
    for word in text.split():
        if word in ("K", "k"):
            words.append(vault.new(_FIRST if word == "K" else _ANOTHER))
            first += [words[-1]] * (word == "K")
        elif word.endswith("v"):
            words.append(word.replace("v", vault.new(_VALUE)))
        else:
            words.append(word)
    return words, first


def _say(server: Server, requests: list[bytes]) -> None:
    end = command("UNSUBSCRIBE") + command("RESET") + command("ECHO", "end-of-part")
    with closing(server.connect()) as sock:
        for request in requests:
            sock.sendall(request + end)
            receive(sock, b"$11\r\nend-of-part\r\n")


@pytest.mark.parametrize("keys", ["off", "hash", "whole"])
def test_no_argument_is_recorded(start: Start, receiver: Receiver, keys: str) -> None:
    vault = Vault()
    asked = [_command(vault, text) for text in _COMMANDS.strip().replace("\n", "|").split("|")]
    with closing(StandInIngestion()) as stand_in:
        server = start(
            *("--loglevel", "debug", "--slowlog-log-slower-than", "0", "--sidecar-slow-threshold", "1us"),
            *("--save", "", "--sidecar-trace-exclude", "", "--sidecar-trace-keys", keys),
            env=environment(
                receiver.endpoint,
                OTEL_TRACES_SAMPLER="traceidratio",
                OTEL_TRACES_SAMPLER_ARG="1.0",
                APPLICATIONINSIGHTS_CONNECTION_STRING=stand_in.connection_string,
            ),
        ).wait_ready()
        alone = [command(*words) for words, _ in asked]
        _say(server, alone)
        _say(server, [b"".join(alone)])
        _say(
            server,
            [command("MULTI") + b"".join(alone[at : at + 9]) + command("EXEC") for at in range(0, len(alone), 9)],
        )
        if keys == "whole":
            server.wait_said("engine.slow_command")  # the engine's own log, read every few seconds
        out = {path: server.get(path)[1].encode() for path in ("/metrics", "/readyz")}
        assert server.stop() == 0
        out["log"] = server.log_text().encode()
        for request in receiver.accepted:
            out[request.signal] = out.get(request.signal, b"") + request.message.SerializeToString()
        out["Application Insights"] = str([item["data"] for item in stand_in.taken]).encode()
    shown = {str(attributes(span).get("valkey.key", "")) for span in receiver.spans} - {""}
    first = {key for _, own in asked for key in own}
    found = {name: ways for name, output in out.items() if (ways := vault.found(output))}
    record(Row.SECRETS_SOUGHT, len(out))
    record(Row.SECRETS_FOUND, sum(ways != {_FIRST} for ways in found.values()))
    assert server.said("command.slow")
    assert len(receiver.spans) > 2 * len(asked)
    if keys == "whole":
        assert found == {"traces": {_FIRST}, "Application Insights": {_FIRST}}
        assert shown <= first
        assert len(shown) > 80
        for span in receiver.spans:
            for attribute in [a for a in span.attributes if a.key == "valkey.key"]:
                span.attributes.remove(attribute)
            assert not vault.found(span.SerializeToString())
    else:
        assert found == {}
        hashes = {hashlib.sha256(key.encode()).hexdigest() for key in first}
        assert all(any(full.startswith(key) for full in hashes) for key in shown)
        assert bool(shown) == (keys == "hash")
