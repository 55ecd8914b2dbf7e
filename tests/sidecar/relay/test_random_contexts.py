"""Random conversations with TRACEPARENT in between: the same bytes as without, our own answers at their places, and spans that add up."""

from __future__ import annotations

import asyncio
import random
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import uvloop

from sidecar.relay.commands import CommandTable
from tests.conftest import PATIENCE_S, Server
from tests.sidecar.relay.test_split_replies import split
from tests.sidecar.relay.traced import T, Tracing, command

_WORDS = (  # noqa: SIM905
    "GET a|SET a 1|INCR n|APPEND a xyz|DEL a|MGET a b c|LPUSH l 1 2 3|LRANGE l 0 -1|LPOP l|HSET h f v|HGETALL h|GET h|MULTI|MULTI|EXEC|EXEC|DISCARD"
    "|WATCH a|PING|ECHO hello|RESET|HELLO 3|HELLO 2|SELECT 1|SELECT 0|SUBSCRIBE a|UNSUBSCRIBE|PSUBSCRIBE p*|PUNSUBSCRIBE|PUBLISH a hi"
    "|CLIENT REPLY ON|CLIENT REPLY OFF|CLIENT REPLY SKIP|CLIENT REPLY SKIP|CLIENT SETNAME x|CONFIG SET maxmemory 0|CONFIG SET port x"
    "|BLPOP nosuch 0.01|BLPOP l 0.01|NOSUCH a|GET|EVAL return{1} 0|XREAD BLOCK 5 STREAMS x $|WAIT 0 1|DEBUG SLEEP 0|TYPE a"
).split("|")
_CONTEXTS = [
    T,
    f"{T} COUNT 2",
    f"{T} COUNT 40",
    f"{T} STATE a=b",
    f"{T} STATE , COUNT 3",
    "",
    "xx",
    f"{T} COUNT 0",
    f"{T} COUNT",
    f"{T[:-1]}0",
]
_END = command("ECHO", "end-of-test")
_SKIP = command("CLIENT", "REPLY", "SKIP")
_OWN = re.compile(
    rb"\+OK\r\n|-ERR invalid traceparent\r\n|-ERR syntax error\r\n"
    rb"|-ERR Can't execute 'traceparent': [^\r]*\r\n"
)


def conversation(rng: random.Random) -> list[tuple[bytes, bool]]:
    """Requests, and whether each is ours; every request that has an answer of its own is followed by a mark."""
    parts: list[tuple[bytes, bool]] = []
    for number in range(rng.randint(1, 40)):
        if rng.random() < 0.4 and parts[-1:] != [(_SKIP, False)]:  # it would be what is skipped
            words = ["TRACEPARENT", *rng.choice(_CONTEXTS).split()]
            inline = rng.random() < 0.2
            parts.append(((" ".join(words) + "\r\n").encode() if inline else command(*words), True))
            if rng.random() < 0.5:
                parts.append((command("ECHO", f"mark{number}"), False))
        else:
            parts.append((command(*rng.choice(_WORDS).split()), False))
    return [(command("FLUSHALL"), False), *parts, (command("RESET"), False), (_END, False)]


async def talk(
    path: str, table: CommandTable, pieces: list[bytes], split_path: str, size: int, **settings: Any
) -> tuple[bytes, Tracing]:
    """What a client is answered; with a size, the engine's bytes come in pieces."""
    loop = asyncio.get_running_loop()
    if size:
        listener = socket.socket(socket.AF_UNIX)
        listener.setblocking(False)
        listener.bind(split_path)
        listener.listen()
        splitter = asyncio.create_task(split(listener, path, size))
    traced = Tracing(split_path if size else path, table, **settings)
    answer = bytearray()

    async def send() -> None:
        for piece in pieces:
            await loop.sock_sendall(client, piece)
            await asyncio.sleep(0)

    with traced.connect() as client:
        sender = asyncio.create_task(send())
        while not answer.endswith(b"$11\r\nend-of-test\r\n") and (chunk := await loop.sock_recv(client, 1 << 16)):
            answer += chunk
        await sender
    await traced.settle()
    if size:
        await splitter
        listener.close()
    return re.sub(rb"(\$2\r\nid\r\n:)\d+", rb"\1N", bytes(answer)), traced


def without_ours(got: bytes, plain: bytes) -> int:
    """How many answers of ours are in what we got, beside exactly the plain bytes, each whole; an error when they are not."""
    # Every set of positions that a prefix may have ended at: ours may look like the engine's.
    reached: dict[int, int] = {0: 0}  # position in plain: least number of ours
    at = 0
    for line in re.findall(rb"[^\n]*\n", got):
        following: dict[int, int] = {}
        for place, ours in reached.items():
            if plain.startswith(line, place):
                end = place + len(line)
                following[end] = min(ours, following.get(end, ours))
            if _OWN.fullmatch(line):
                following[place] = min(ours + 1, following.get(place, ours + 1))
        assert following, (
            f"{got[max(0, at - 200) : at]!r} is followed by {line!r}, directly by {plain[max(reached) :][:200]!r}"
        )
        reached = following
        at += len(line)
    assert len(plain) in reached, "something is missing"
    return reached[len(plain)]


@pytest.mark.parametrize("seed", range(40))
def test_random_conversations(
    traced_engine: Server, socket_path: str, traced_table: CommandTable, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    parts = conversation(rng)
    data = b"".join(part for part, _ in parts)
    plain = b"".join(part for part, ours in parts if not ours)
    cuts = sorted(rng.randrange(len(data)) for _ in range(rng.choice([0, 1, 5, 30])))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if b > a]

    async def run() -> None:
        for size in (0, rng.choice([1, 7])):
            directly, _ = await talk(socket_path, traced_table, [plain], str(tmp_path / "none"), 0)
            got, traced = await talk(
                socket_path, traced_table, pieces, str(tmp_path / f"split{size}"), size, trace_keys="whole"
            )
            if b"unknown command 'TRACEPARENT'" not in got:  # a raw session: the engine answers
                without_ours(got, directly)
            check_spans(traced)

    uvloop.run(asyncio.wait_for(run(), PATIENCE_S))


def check_spans(traced: Tracing) -> None:
    spans = traced.spans()
    by_id = {span.span_id: span for span in spans}
    assert len(by_id) == len(spans)
    remote = bytes.fromhex(T[36:52])
    for span in spans:
        assert span.start_ns <= span.end_ns
        if span.flags & 1:
            assert span.parent_id == remote if span.flags & 2 else span.parent_id in by_id
        if span.name == "PIPELINE":
            children = [child for child in spans if child.flags & 1 and child.parent_id == span.span_id]
            assert (span.batch_size or 1) == len(children) + span.omitted
    assert traced.tracer.units == 0
    traced.end()
