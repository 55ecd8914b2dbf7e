"""What coredis can do with a server; checks.py says how it is told. It speaks RESP3 alone."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import checks as t
from checks import check, same
from coredis import Redis
from coredis.exceptions import AuthorizationError, WatchError
from coredis.patterns.cache import LRUCache

KEY = t.PREFIX


def opened(**change: Any) -> Redis[str]:
    settings = {"host": t.HOST, "port": t.PORT, "password": t.PASSWORD, "decode_responses": True}
    return Redis(**{**settings, **change})


async def eventually(run: Callable[[], Any]) -> None:
    end = asyncio.get_running_loop().time() + t.PATIENCE_S
    while True:
        try:
            await run()
            return
        except Exception:
            if asyncio.get_running_loop().time() > end:
                raise
        await asyncio.sleep(0.02)


async def reads(client: Redis[str], key: str, wanted: str) -> None:
    same(await client.get(key), wanted)


async def round_trip(client: Redis[str]) -> None:
    same(await client.set(KEY, "v"), True)
    await reads(client, KEY, "v")


async def resp3(client: Redis[str]) -> None:
    same((await client.client_info())["resp"], "3")
    await round_trip(client)


async def acl_user(client: Redis[str]) -> None:
    same(await client.acl_whoami(), t.USER)
    try:
        await client.config_set({"maxmemory": "0"})
    except AuthorizationError:
        await round_trip(client)
    else:
        raise AssertionError("CONFIG SET was not refused")


async def database(client: Redis[str]) -> None:
    await client.set(f"{KEY}db", "3")
    await reads(client, f"{KEY}db", "3")
    async with opened() as other:
        same(await other.exists([f"{KEY}db"]), 0)


async def pipeline(client: Redis[str]) -> None:
    async with client.pipeline(transaction=False) as pipe:
        answers = [pipe.incr(f"{KEY}n") for _ in range(1000)]
    t.counts([await answer for answer in answers], 1000)


async def transaction(client: Redis[str]) -> None:
    async def counted(between: Callable[[], Any]) -> int:
        async with client.pipeline(transaction=True) as pipe, pipe.watch(f"{KEY}tx"):
            await between()
            answer = pipe.incr(f"{KEY}tx")
        return await answer

    async def nothing() -> None:
        pass

    async def interfere() -> None:
        async with opened() as other:
            await other.incr(f"{KEY}tx")

    same(await counted(nothing), 1)
    try:
        await counted(interfere)
    except WatchError:
        await reads(client, f"{KEY}tx", "2")
    else:
        raise AssertionError("a watched key changed and the transaction was executed")


async def pubsub(client: Redis[str]) -> None:
    async with client.pubsub(channels=[f"{KEY}channel"], ignore_subscribe_messages=True) as subscription:
        await client.publish(f"{KEY}channel", "hello")
        message = await asyncio.wait_for(anext(aiter(subscription)), 10)
        same(message["data"], "hello")


async def blocking_pop(client: Redis[str]) -> None:
    popped = asyncio.ensure_future(_run(client.blpop([f"{KEY}list"], timeout=10)))
    await asyncio.sleep(0.1)
    async with opened() as other:
        await other.rpush(f"{KEY}list", ["late"])
    same(list(await popped), [f"{KEY}list", "late"])
    same(await client.blpop([f"{KEY}list"], timeout=1), None)


async def script(client: Redis[str]) -> None:
    counted = client.register_script(f"return {{KEYS[1], ARGV[1], redis.call('INCR', KEYS[1])}} -- {KEY}")
    for wanted in (1, 2):
        same(await counted(keys=[f"{KEY}script"], args=["a"]), [f"{KEY}script", "a", wanted])


async def caching(reader: Redis[str], cache: LRUCache) -> None:
    key = f"{KEY}cached"
    async with opened() as writer:
        for value in ("1", "2"):
            await writer.set(key, value)
            await eventually(lambda value=value: reads(reader, key, value))
            hits = cache.stats.summary["hits"]
            await reads(reader, key, value)
            same(cache.stats.summary["hits"], hits + 1)


async def _run(request: Any) -> Any:
    return await request


async def main() -> None:
    t.not_offered("RESP2")
    context = ssl.create_default_context(cafile=t.CA_FILE) if t.TLS_PORT else None
    cache = LRUCache()
    for name, run, change in (
        ("RESP3", resp3, {}),
        ("TLS", round_trip, {"host": "localhost", "port": t.TLS_PORT, "ssl": True, "ssl_context": context}),
        ("ACL user", acl_user, {"username": t.USER, "password": t.USER_PASSWORD}),
        ("database 3", database, {"db": 3}),
        ("pipeline", pipeline, {}),
        ("transaction", transaction, {}),
        ("pub/sub", pubsub, {}),
        ("blocking pop", blocking_pop, {}),
        ("script", script, {}),
        ("client-side caching", lambda client: caching(client, cache), {"cache": cache}),
    ):
        if name != "TLS" or t.TLS_PORT:
            with check(name):
                async with opened(**change) as client:
                    await run(client)

    async with opened() as client:
        await round_trip(client)
        await asyncio.to_thread(t.crash)
        with check("reconnect"):
            await eventually(lambda: reads(client, KEY, "v"))


if __name__ == "__main__":
    asyncio.run(main())
