"""Random sessions at the same time, most of whose commands go by shared lanes, are answered as each would be alone by a bare engine."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from sidecar.relay.commands import CommandTable
from tests.conftest import PATIENCE_S, Server, launch_bare, receive, wait_until
from tests.sidecar.relay.lanes import Worker, command, working
from tests.sidecar.relay.test_counts import difference, engine_calls, our_calls
from tests.sidecar.relay.test_transparency import settled

END = command("RESET") + command("ECHO", "end-of-test")
_END_REPLY = b"$11\r\nend-of-test\r\n"

# @ stands for what makes a session's keys and channels its own; _VALUES has the large ones.
_RIDING = (
    """
GET a@|GET a@|SET a@ 1|SET b@ xyz|INCR a@|INCR n@|APPEND b@ xyz|DEL a@|GET nosuch@|MGET a@ b@ c@|LPUSH l@ 1 2 3|LRANGE l@ 0 -1|LPOP l@|HSET h@ f v|HGETALL h@|HGET h@ f|ZADD z@ 1.5 m
ZRANGE z@ 0 -1 WITHSCORES|ZSCORE z@ m|SADD s@ 1 2|SMEMBERS s@|PING|PING x|ECHO hello|EXISTS a@ b@ a@|TYPE a@|OBJECT ENCODING a@|STRLEN b@|GETRANGE b@ 0 3|SETRANGE b@ 5 x|XADD x@ 1-1 f v
XLEN x@|XRANGE x@ - +|GET|SET a@|LPUSH a@ 1|GETDEL a@|EXPIRE a@ 100|TTL nosuch@|PERSIST a@|RENAME a@ b@|COPY a@ b@ REPLACE|SORT l@|SORT_RO l@ DESC|PUBLISH c@ hi|SPUBLISH c@ x|GETEX a@ PERSIST|SETEX a@ 100 v|SET w@ %|GET w@|SET w@ %%|GET w@|APPEND w@ %
""".replace("\n", "|")
    .strip("|")
    .split("|")
)
_HOME = (
    """
MULTI|MULTI|EXEC|EXEC|EXEC|DISCARD|WATCH a@|UNWATCH|RESET|HELLO 3|HELLO 2|HELLO 4|SELECT 1|SELECT 0|SELECT 99|SELECT x|AUTH x|AUTH nosuch x|HELLO 3 AUTH nosuch x|CLIENT SETNAME x@|CLIENT GETNAME
CLIENT SETINFO lib-name x|CLIENT SETINFO nosuch x|NOSUCH|NOSUCH a b|CONFIG GET maxmemory|CONFIG NOSUCH|INFO nosuch|BLPOP nosuch@ 0.005|BLPOP l@ 0.005|XREAD BLOCK 5 STREAMS x@ $|XREAD STREAMS x@ 0
BLMOVE l@ m@ LEFT LEFT 0.005|EVAL return{1,redis.status_reply('QUEUED')} 0|EVAL return{1} x|ACL WHOAMI|COMMAND COUNT|SCRIPT EXISTS x|SET v@ ~|GET v@|GET v@|DEL v@|APPEND v@ ~|LPUSH v@ x|WAIT 0 5|OBJECT HELP
""".replace("\n", "|")
    .strip("|")
    .split("|")
)
_PINNING = (
    """
SUBSCRIBE c@|SUBSCRIBE a@ b@ c@|UNSUBSCRIBE|UNSUBSCRIBE a@|PSUBSCRIBE p@*|PUNSUBSCRIBE|SSUBSCRIBE c@|SUNSUBSCRIBE|CLIENT REPLY ON|CLIENT REPLY OFF|CLIENT REPLY SKIP|CLIENT REPLY x|CLIENT NO-EVICT OFF
CLIENT TRACKINGINFO|CLIENT NO-TOUCH ON|CLIENT TRACKING ON|READONLY|DEBUG PROTOCOL attrib|DEBUG PROTOCOL push|REPLCONF capa eof|DEBUG SLEEP 0
""".replace("\n", "|")
    .strip("|")
    .split("|")
)
_INLINE = [
    b"\r\n",
    b"*0\r\n",
    b"*-1\r\n",
    b"PING\r\n",
    b"set \"a@\" 'x y'\r\n",
    b"GET a@\n",
    b"MULTI\r\n",
    b"exec\r\n",
    b"select 1\r\n",
    b"get b@\r\n",
]
_VALUES = {"%": b"v" * 5_000, "%%": b"v" * 20_000, "~": b"v" * 70_000}
"""By lane, more than a read of the engine, too large for a lane."""
_UNCOUNTED = ("CLIENT", "SELECT", "HELLO", "AUTH", "RESET", "CONFIG", "INFO", "WAIT", "NOSUCH")
"""What lanes, and connections made anew, say themselves, and what we ask the engine."""


def _encode(words: str, mine: str) -> bytes:
    return command(*(_VALUES.get(word) or word.replace("@", mine) for word in words.split()))


def random_session(rng: random.Random, mine: str, *, stateful: float, pinning: bool) -> list[bytes]:
    requests = []
    for _ in range(rng.choice([1, 5, 40, 200])):
        dice = rng.random()
        if dice < stateful * 0.2:
            requests.append(rng.choice(_INLINE).replace(b"@", mine.encode()))
        elif dice < stateful * 0.25 and pinning:
            requests.append(_encode(rng.choice(_PINNING), mine))
        elif dice < stateful:
            requests.append(_encode(rng.choice(_HOME), mine))
        else:
            requests.append(_encode(rng.choice(_RIDING), mine))
    return requests


def pieces(rng: random.Random, requests: list[bytes]) -> list[bytes]:
    """The same bytes as they may arrive: request by request, in pipelines, or cut anywhere."""
    how = rng.randrange(4)
    if how == 0:
        return requests
    data = b"".join(requests)
    if how == 1:
        return [data]
    if how == 2:
        size = rng.choice([2, 10, 50])
        return [b"".join(requests[i : i + size]) for i in range(0, len(requests), size)]
    cuts = sorted(rng.randrange(len(data)) for _ in range(rng.choice([3, 30, 300])))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]


async def _session(worker: Worker, client: socket.socket, parts: list[bytes], rng: random.Random) -> bytes:
    loop = asyncio.get_running_loop()
    answer = bytearray()

    async def read() -> None:
        while not answer.endswith(_END_REPLY):
            chunk = await loop.sock_recv(client, 1 << 16)
            if not chunk:
                break
            answer.extend(chunk)

    reading = loop.create_task(read())
    waits = rng.choice([0, 1, 3])
    for part in parts:
        await loop.sock_sendall(client, part)
        for _ in range(waits):
            await asyncio.sleep(0)
        if rng.random() < 0.1:
            await asyncio.sleep(0.001)
    async with asyncio.timeout(PATIENCE_S):
        await loop.sock_sendall(client, END)
        await reading
    return bytes(answer)


def _directly(bare: Server, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", bare.port), timeout=PATIENCE_S) as sock:
        sock.sendall(data)
        return receive(sock, _END_REPLY)


@pytest.fixture(scope="module")
def other_engine(tmp_path_factory: pytest.TempPathFactory, engine_binary: Path) -> Iterator[Server]:
    server = launch_bare(engine_binary, tmp_path_factory.mktemp("other"), "--enable-debug-command", "yes")
    yield server
    server.stop()


async def compare(path: str, table: CommandTable, bare: Server, seed: int) -> int:
    """Fails when any session is answered otherwise than by the bare engine. How many commands went by lane, if that can be known."""
    rng = random.Random(seed)
    sessions = rng.randint(2, 6)
    stateful = rng.choice([0.02, 0.1, 0.5])
    requests = [random_session(rng, f"{i}", stateful=stateful, pinning=rng.random() < 0.5) for i in range(sessions)]
    async with working(path, table) as (worker, watch):
        clients = await worker.riders(watch, sessions)
        parking = asyncio.get_running_loop().create_task(_park_often(worker)) if rng.random() < 0.3 else None
        parts = [pieces(rng, own) for own in requests]
        answers = await asyncio.gather(
            *(_session(worker, client, own, rng) for client, own in zip(clients, parts, strict=True))
        )
        carried = watch.carried()
        if parking is not None:
            parking.cancel()
            carried += 1  # idle lanes are closed with the rest, and their counts are gone
    for own, answer in zip(requests, answers, strict=True):
        data = b"".join(own)
        expected = _directly(bare, data + END)
        if settled(answer) != settled(expected):
            at = next(
                (i for i, (a, b) in enumerate(zip(answer, expected, strict=False)) if a != b),
                min(len(answer), len(expected)),
            )
            raise AssertionError(
                f"seed {seed}: {data[:300]!r}...: got {answer[max(0, at - 60) : at + 60]!r}, directly {expected[max(0, at - 60) : at + 60]!r}"
            )
    return carried


async def _park_often(worker: Worker) -> None:
    """Close home connections as soon as that may be done."""
    while True:
        worker.relay.park_idle(1e-9)
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("seed", range(40))
def test_random_sessions_on_shared_lanes_are_answered_as_directly(
    traced_engine: Server, socket_path: str, traced_table: CommandTable, other_engine: Server, seed: int
) -> None:
    for server in (traced_engine, other_engine):
        with server.client() as client:
            client.flushall()
    assert uvloop.run(compare(socket_path, traced_table, other_engine, seed)) > 0


@pytest.mark.parametrize("seed", range(6))
def test_commands_by_lane_count_as_the_engine_counts_them(server: Server, seed: int) -> None:
    rng = random.Random(seed)
    before = our_calls(server)
    words = [word for word in (*_RIDING, *_RIDING, *_RIDING, *_HOME) if not word.startswith(_UNCOUNTED)]
    failures: list[BaseException] = []

    def session(mine: str, requests: list[bytes]) -> None:
        try:
            with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as sock:
                sock.sendall(command("PING"))
                assert receive(sock, b"\r\n") == b"+PONG\r\n"
                for i, batch in enumerate(requests[at : at + 7] for at in range(0, len(requests), 7)):
                    sock.sendall(b"".join(batch) + command("DISCARD") + command("ECHO", f"{mine}-{i}"))
                    receive(sock, b"%b-%d\r\n" % (mine.encode(), i))
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=session, args=(f"{i}", [_encode(rng.choice(words), f"{i}") for _ in range(300)]))
        for i in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE_S)
    assert failures == []
    wait_until(lambda: server.metrics()["valkey_command_in_flight"] == 0, "nothing is in flight")
    lanes = server.metrics()['valkey_sidecar_upstream_connections{route="lane"}']
    ours = {
        name: counts
        for name, counts in difference(our_calls(server), before).items()
        if not name.startswith(_UNCOUNTED)
    }
    engine = {
        name: counts for name, counts in difference(engine_calls(server), {}).items() if not name.startswith(_UNCOUNTED)
    }
    assert ours.pop("_OTHER", None) is None
    assert ours == engine
    assert lanes > 0
