"""The checks of valkey-py and redis-py, whose interfaces are one: only the client that is handed in differs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import checks as t
from checks import check, same

BOTH = (2, 3)


class Checks:
    """Everything but client-side caching, in which the two differ."""

    def __init__(self, module: Any, client: Any) -> None:
        self._module = module
        self._client = client

    @contextmanager
    def open(self, protocol: int, **change: Any) -> Iterator[Any]:
        settings = {"host": t.HOST, "port": t.PORT, "password": t.PASSWORD, "decode_responses": True}
        with closing(self._client(**{**settings, "protocol": protocol, **change})) as client:
            yield client

    def run(self) -> None:
        for protocol, wanted in zip(BOTH, (["f", "v"], {"f": "v"}), strict=True):
            with check(f"RESP{protocol}"), self.open(protocol) as client:
                key = f"{t.PREFIX}{protocol}"
                client.hset(f"{key}h", "f", "v")
                client.response_callbacks.pop("HGETALL", None)
                same(client.execute_command("HGETALL", f"{key}h"), wanted)
                round_trip(client, key)
        if t.TLS_PORT:
            self._each("TLS", round_trip, port=t.TLS_PORT, ssl=True, ssl_ca_certs=t.CA_FILE)
        self._each("ACL user", self._acl_user, username=t.USER, password=t.USER_PASSWORD)
        self._each("database 3", self._database, db=3)
        for name, run in (
            ("pipeline", pipeline),
            ("transaction", self._transaction),
            ("pub/sub", self._pubsub),
            ("blocking pop", self._blocking_pop),
            ("script", script),
        ):
            self._each(name, run)

    def reconnect(self) -> None:
        with self.open(2) as second, self.open(3) as third:
            kept = f"{t.PREFIX}kept"
            round_trip(second, kept)
            round_trip(third, kept)
            t.crash()
            with check("reconnect"):
                for client in (second, third):
                    t.eventually(lambda client=client: same(client.get(kept), "v"))

    def _each(self, name: str, run: Any, **change: Any) -> None:
        with check(name):
            for protocol in BOTH:
                with self.open(protocol, **change) as client:
                    run(client, f"{t.PREFIX}{protocol}")

    def _acl_user(self, client: Any, key: str) -> None:
        same(client.acl_whoami(), t.USER)
        try:
            client.config_set("maxmemory", "0")
        except self._module.exceptions.NoPermissionError:
            round_trip(client, key)
        else:
            raise AssertionError("CONFIG SET was not refused")

    def _database(self, client: Any, key: str) -> None:
        client.set(f"{key}db", "3")
        same(client.get(f"{key}db"), "3")
        with self.open(3) as other:
            same(other.exists(f"{key}db"), 0)

    def _transaction(self, client: Any, key: str) -> None:
        with client.pipeline() as pipe:
            pipe.watch(f"{key}tx")
            pipe.multi()
            same(pipe.incr(f"{key}tx").execute(), [1])
            pipe.watch(f"{key}tx")
            client.incr(f"{key}tx")
            pipe.multi()
            try:
                pipe.incr(f"{key}tx").execute()
            except self._module.WatchError:
                same(client.get(f"{key}tx"), "2")
            else:
                raise AssertionError("a watched key changed and the transaction was executed")

    def _pubsub(self, client: Any, key: str) -> None:
        with client.pubsub() as pubsub:
            pubsub.subscribe(f"{key}channel")
            same(pubsub.get_message(timeout=10)["type"], "subscribe")
            client.publish(f"{key}channel", "hello")
            same(pubsub.get_message(timeout=10)["data"], "hello")

    def _blocking_pop(self, client: Any, key: str) -> None:
        def push() -> None:
            time.sleep(0.1)
            with self.open(3) as other:
                other.rpush(f"{key}list", "late")

        thread = threading.Thread(target=push)
        thread.start()
        same(list(client.blpop([f"{key}list"], 10)), [f"{key}list", "late"])
        thread.join()
        same(client.blpop([f"{key}list"], 1), None)


def round_trip(client: Any, key: str) -> None:
    same(client.set(key, "v"), True)
    same(client.get(key), "v")


def pipeline(client: Any, key: str) -> None:
    with client.pipeline(transaction=False) as pipe:
        for _ in range(1000):
            pipe.incr(f"{key}n")
        t.counts(pipe.execute(), 1000)


def script(client: Any, key: str) -> None:
    counted = client.register_script(f"return {{KEYS[1], ARGV[1], redis.call('INCR', KEYS[1])}} -- {key}")
    for wanted in (1, 2):
        same(counted(keys=[f"{key}script"], args=["a"]), [f"{key}script", "a", wanted])
