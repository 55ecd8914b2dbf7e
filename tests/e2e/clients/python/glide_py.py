"""What Valkey GLIDE for Python can do with a server; checks.py says how it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import checks as t
import glide
from checks import check, same
from glide import AdvancedGlideClientConfiguration, GlideClient, GlideClientConfiguration, NodeAddress, ProtocolVersion
from glide_shared.cache import ClientSideCache

BOTH = (2, 3)
AUTHORITY = Path(t.CA_FILE).read_bytes() if t.TLS_PORT else b""


@asynccontextmanager
async def opened(protocol: int, **change: Any) -> AsyncIterator[GlideClient]:
    settings = {
        "addresses": [NodeAddress(t.HOST, t.PORT)],
        "credentials": glide.ServerCredentials(t.PASSWORD),
        "protocol": ProtocolVersion.RESP2 if protocol == 2 else ProtocolVersion.RESP3,
        "request_timeout": 12_000,
    }
    client = await GlideClient.create(GlideClientConfiguration(**{**settings, **change}))
    try:
        yield client
    finally:
        await client.close()


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


async def reads(client: GlideClient, key: str, wanted: bytes) -> None:
    same(await client.get(key), wanted)


async def round_trip(client: GlideClient, key: str) -> None:
    same(await client.set(key, "v"), "OK")
    await reads(client, key, b"v")


async def acl_user(client: GlideClient, key: str) -> None:
    same(await client.custom_command(["ACL", "WHOAMI"]), t.USER.encode())
    try:
        await client.config_set({"maxmemory": "0"})
    except glide.RequestError as error:
        same("permissions" in str(error), True)
    else:
        raise AssertionError("CONFIG SET was not refused")
    await round_trip(client, key)


async def database(client: GlideClient, key: str) -> None:
    await client.set(f"{key}db", "3")
    await reads(client, f"{key}db", b"3")
    async with opened(3) as other:
        same(await other.exists([f"{key}db"]), 0)


async def pipeline(client: GlideClient, key: str) -> None:
    batch = glide.Batch(is_atomic=False)
    for _ in range(1000):
        batch.incr(f"{key}n")
    t.counts(await client.exec(batch, raise_on_error=True), 1000)


async def transaction(client: GlideClient, key: str) -> None:
    async def counted() -> Any:
        batch = glide.Batch(is_atomic=True)
        batch.incr(f"{key}tx")
        return await client.exec(batch, raise_on_error=True)

    await client.watch([f"{key}tx"])
    same(await counted(), [1])
    await client.watch([f"{key}tx"])
    async with opened(3) as other:
        await other.incr(f"{key}tx")
    same(await counted(), None)
    await reads(client, f"{key}tx", b"2")


async def pubsub(key: str) -> None:
    exact = GlideClientConfiguration.PubSubChannelModes.Exact
    subscriptions = GlideClientConfiguration.PubSubSubscriptions({exact: {f"{key}channel"}}, None, None)
    async with opened(3, pubsub_subscriptions=subscriptions) as client, opened(3) as other:
        await other.publish("hello", f"{key}channel")
        message = await asyncio.wait_for(client.get_pubsub_message(), 10)
        same(message.message, b"hello")


async def blocking_pop(client: GlideClient, key: str) -> None:
    popped = asyncio.create_task(client.blpop([f"{key}list"], 10))
    await asyncio.sleep(0.1)
    async with opened(3) as other:
        await other.rpush(f"{key}list", ["late"])
    same(await popped, [f"{key}list".encode(), b"late"])
    same(await client.blpop([f"{key}list"], 1), None)


async def script(client: GlideClient, key: str) -> None:
    counted = glide.Script(f"return {{KEYS[1], ARGV[1], redis.call('INCR', KEYS[1])}} -- {key}")
    for wanted in (1, 2):
        reply = await client.invoke_script(counted, keys=[f"{key}script"], args=["a"])
        same(reply, [f"{key}script".encode(), b"a", wanted])


async def caching(key: str) -> None:
    cache = ClientSideCache.create(max_cache_kb=1024, entry_ttl_ms=0, enable_metrics=True, server_assisted=True)
    async with opened(3, client_side_cache=cache) as client, opened(3) as writer:
        for value in ("1", "2"):
            await writer.set(key, value)
            await eventually(lambda value=value: reads(client, key, value.encode()))
        await client.get(key)
        same(client.get_cache_hit_rate() > 0, True)


async def main() -> None:
    for protocol in BOTH:
        with check(f"RESP{protocol}"):
            async with opened(protocol) as client:
                info = await client.custom_command(["CLIENT", "INFO"])
                same(f" resp={protocol}".encode() in info, True)
                await round_trip(client, f"{t.PREFIX}{protocol}")
    addresses = [NodeAddress("localhost", t.TLS_PORT)]
    tls = AdvancedGlideClientConfiguration(
        tls_config=glide.TlsAdvancedConfiguration(root_pem_cacerts=AUTHORITY) if AUTHORITY else None
    )
    for name, run, change in (
        ("TLS", round_trip, {"addresses": addresses, "use_tls": True, "advanced_config": tls}),
        ("ACL user", acl_user, {"credentials": glide.ServerCredentials(t.USER_PASSWORD, t.USER)}),
        ("database 3", database, {"database_id": 3}),
        ("pipeline", pipeline, {}),
        ("transaction", transaction, {}),
        ("pub/sub", None, {}),
        ("blocking pop", blocking_pop, {}),
        ("script", script, {}),
    ):
        if name == "TLS" and not t.TLS_PORT:
            continue
        with check(name):
            if run is None:  # RESP3 alone has it
                await pubsub(t.PREFIX)
                continue
            for protocol in BOTH:
                async with opened(protocol, **change) as client:
                    await run(client, f"{t.PREFIX}{protocol}")
    with check("client-side caching"):
        await caching(f"{t.PREFIX}cached")

    kept = f"{t.PREFIX}kept"
    async with opened(2) as second, opened(3) as third:
        await round_trip(second, kept)
        await round_trip(third, kept)
        await asyncio.to_thread(t.crash)
        with check("reconnect"):
            for client in (second, third):
                await eventually(lambda client=client: reads(client, kept, b"v"))


if __name__ == "__main__":
    asyncio.run(main())
