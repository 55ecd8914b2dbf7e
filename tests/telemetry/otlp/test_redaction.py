"""Errors of a real engine to commands full of secrets."""

from __future__ import annotations

import socket

import pytest

from telemetry.redaction import redact_reply
from tests.conftest import Server, receive

COMMANDS = [
    ("SECRETCMD", "SECRETARG", "it's SECRET"),
    ("it's SECRET", "SECRETARG"),
    ("CONFIG", "SECRET"),
    ("CONFIG", "SET", "SECRET", "SECRET"),
    ("CONFIG", "SET", "maxmemory", "SECRET"),
    ("CONFIG", "SET", "requirepass", "SECRET", "loglevel", "SECRET"),
    ("ACL", "SETUSER", "SECRET", ">SEC'RET", "+SECRET"),
    ("ACL", "SETUSER", "someone", "SECRET"),
    ("ACL", "DRYRUN", "SECRET", "get", "SECRET"),
    ("AUTH", "SECRET", "SECRET"),
    ("HELLO", "3", "AUTH", "SECRET", "SECRET"),
    ("EVAL", "return SECRET", "0"),
    ("EVAL", "return 'SECRET", "0"),
    ("EVAL", 'return "SECRET" .. nil', "0"),
    ("EVAL", "return server.call('SECRET', 'SECRET')", "0"),
    ("EVALSHA", "SECRET", "0"),
    ("FCALL", "SECRET", "0"),
    ("FUNCTION", "LOAD", "#!SECRET name=SECRET\nSECRET"),
    ("FUNCTION", "LOAD", "SECRET"),
    ("XREADGROUP", "GROUP", "SECRET", "SECRET", "STREAMS", "SECRET", ">"),
    ("XREAD", "STREAMS", "SECRET", "SECRET"),
    ("CLIENT", "SETINFO", "SECRET", "x"),
    ("CLIENT", "SECRET", "SECRET"),
    ("SET", "k", "v", "SECRET"),
    ("EXPIRE", "k", "SECRET"),
    ("SELECT", "SECRET"),
    ("OBJECT", "SECRET", "SECRET"),
    ("LPUSH", "string", "SECRET"),
    ("COMMAND", "GETKEYS", "SECRET"),
    ("SCRIPT", "DEBUG", "SECRET"),
    ("BITFIELD", "k", "GET", "SECRET", "0"),
    ("SORT", "string", "SECRET"),
    ("MODULE", "LOAD", "SECRET"),
    ("DEBUG", "SECRET", "SECRET"),
    ("GEOADD", "k", "SECRET", "1", "x"),
    ("CLUSTER", "SECRET"),
    ("REPLICAOF", "SECRET", "SECRET"),
    ("HSET", "k", "SECRET"),
    ("REPLCONF", "SECRET", "SECRET"),
    ("REPLCONF", "rdb-filter-only", "SECRET"),
    ("FUNCTION", "LIST", "SECRET"),
    ("FUNCTION", "RESTORE", "SECRET", "SECRET"),
    ("FUNCTION", "FLUSH", "SECRET"),
    ("FUNCTION", "DUMP", "SECRET"),
    ("FUNCTION", "LOAD", "#!lua name=x SECRET=SECRET\n"),
    ("CLUSTER", "FORGET", "SECRET"),
    ("CLUSTER", "SLOT-STATS", "SECRET"),
    ("LATENCY", "SECRET"),
    ("MEMORY", "USAGE", "k", "SAMPLES", "SECRET"),
    ("CLIENT", "KILL", "SECRET", "SECRET"),
    ("CLIENT", "LIST", "TYPE", "SECRET"),
    ("CLIENT", "TRACKING", "ON", "SECRET"),
    ("CLIENT", "NO-EVICT", "SECRET"),
    ("ACL", "CAT", "SECRET"),
    ("ACL", "LOG", "SECRET"),
    ("FAILOVER", "TO", "SECRET", "SECRET"),
    ("XADD", "k", "SECRET", "f", "v"),
    ("XGROUP", "CREATE", "SECRET", "SECRET", "SECRET"),
    ("XCLAIM", "string", "g", "c", "SECRET", "1-1"),
    ("ZADD", "k", "SECRET", "SECRET"),
    ("ZRANGEBYLEX", "k", "SECRET", "SECRET"),
    ("GEOSEARCH", "k", "FROMMEMBER", "SECRET", "BYRADIUS", "1", "SECRET"),
    ("RESTORE", "k", "0", "SECRET"),
    ("COPY", "k", "k2", "SECRET"),
    ("LPOS", "k", "SECRET", "RANK", "SECRET"),
    ("SETEX", "k", "SECRET", "SECRET"),
    ("INCRBYFLOAT", "string", "SECRET"),
    ("SWAPDB", "SECRET", "1"),
    ("MOVE", "k", "SECRET"),
    ("WAIT", "SECRET", "SECRET"),
    ("PSYNC", "SECRET", "SECRET"),
    ("COMMAND", "INFO-SECRET"),
    ("COMMAND", "LIST", "FILTERBY", "SECRET", "SECRET"),
]


def request(words: tuple[str, ...]) -> bytes:
    parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
    return f"*{len(words)}\r\n{''.join(parts)}".encode()


def answer(sock: socket.socket, words: tuple[str, ...]) -> str:
    sock.sendall(request(words))
    return receive(sock, b"\r\n").decode().rstrip("\r\n")


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[:30])
def test_an_engines_error_to_a_secret_argument_shows_none_of_it(words: tuple[str, ...], bare: Server) -> None:
    sock = bare.connect()
    assert answer(sock, ("SET", "string", "x")) == "+OK"
    text = answer(sock, words)
    assert text.startswith("-")
    name = " ".join(words[:2]) if words[0] == "FUNCTION" else ""
    shown = redact_reply(name, text[1:])
    assert "SECRET" not in shown.upper()
    assert "RET" not in shown.replace("RETURN", "")
    assert shown.split(" ")[0] == text[1:].split(" ")[0]
