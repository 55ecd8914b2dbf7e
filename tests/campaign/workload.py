"""A workload with known contents: many clients at once, whose every reply says whose it is and how new.

Owns the clients, and the thread with the event loop they live on; everything public is called from another thread.

    with Workload([Address(6379)], clients=40, seed=1) as workload:
        workload.start()
        ...  # something happens to the server
        workload.wait_served(since, 5.0)
        workload.pause()
        workload.settle()       # every key is read back
        workload.findings       # what was wrong, if anything
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from tests.campaign.connection import (
    REPLY_WITHIN_S,
    Address,
    Connection,
    LostError,
    Reply,
    SilentError,
    Tally,
    Words,
    error_type,
)
from tests.campaign.counts import Calls
from tests.campaign.knowledge import Findings, Key
from tests.campaign.steps import Owner

_RETRY_S = 0.01
_AFTER_ERROR_S = 0.02
_RECONNECTS = 0.01
"""So many of the batches are a connection's last."""
_READ_BACK_AT_ONCE = 200

T = TypeVar("T")


class _Client:
    """One client: it connects, does batch after batch, and connects again when it is cut off."""

    def __init__(self, workload: Workload, number: int, address: Address, rng: random.Random) -> None:
        self.owner = Owner(f"c{number:03d}", rng, workload.findings)
        self.served_at: float | None = None
        self.idle = True
        self._workload = workload
        self._address = address
        self._protocol = 2 + number % 2
        self._rng = rng
        self._connection: Connection | None = None
        self._begun = False

    async def run(self) -> None:
        while True:
            if not self._workload.gate.is_set():
                self.idle = True
                await self._workload.gate.wait()
            self.idle = False
            try:
                await self._batch()
            except SilentError as error:
                self._workload.findings.odd(f"{self.owner.name.decode()}: {error}")
                self._end()
            except OSError:
                self._end()
                await asyncio.sleep(_RETRY_S)
            if self._rng.random() < _RECONNECTS:
                self._end()
            await asyncio.sleep(self._rng.uniform(0, 2 * self._workload.think_s))

    async def _batch(self) -> None:
        if self._connection is None:
            self._connection = await Connection.open(self._address, self._protocol, self._workload.tally)
        step = self.owner.next_step() if self._begun else self.owner.first_step()
        began = time.monotonic()
        failed = False
        replies = self._connection.call([words for words, _ in step])
        async with contextlib.aclosing(replies):
            checks = iter(step)
            async for reply in replies:
                next(checks)[1](reply)
                failed |= error_type(reply) not in ("", "WRONGTYPE")
        if failed:
            await asyncio.sleep(_AFTER_ERROR_S)
            return
        self._begun = True
        self._workload.longest_s = max(self._workload.longest_s, time.monotonic() - began)
        if self.served_at is None and began >= self._workload.served_since:
            self.served_at = time.monotonic()

    def _end(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._workload.ended.append(self._connection)
            self._connection = None


class _Subscriber:
    """A client that subscribes, and looks whether what comes is its channel's."""

    def __init__(self, workload: Workload, number: int, address: Address) -> None:
        self._workload = workload
        self._address = address
        self._protocol = 2 + number % 2
        self._channel = b"channel.%d" % (number % 4)
        self.subscribed = False

    async def run(self) -> None:
        while True:
            try:
                await self._listen()
            except OSError:
                await asyncio.sleep(_RETRY_S)

    async def _listen(self) -> None:
        connection = await Connection.open(self._address, self._protocol, self._workload.tally)
        findings = self._workload.findings
        try:
            await connection.send((b"SUBSCRIBE", self._channel))
            while True:
                try:
                    message = await connection.next_reply()
                except SilentError:
                    continue  # nobody has published
                if error_type(message):
                    raise LostError(str(message))
                if message[0] == b"subscribe":
                    connection.confirmed("SUBSCRIBE")
                    self.subscribed = True
                    continue
                findings.replies_checked += 1
                if message[1] != self._channel or not message[2].startswith(self._channel + b" "):
                    findings.swapped(f"a message of {self._channel!r} had to come, and {message!r:.80} came")
        finally:
            self.subscribed = False
            connection.close()
            self._workload.ended.append(connection)


class Workload:
    """Clients spread over the addresses, in the order given. think_s: what one waits, on average, between batches."""

    def __init__(self, addresses: Sequence[Address], clients: int, seed: int, think_s: float = 0.01) -> None:
        self.findings = Findings()
        self.tally = Tally()
        self.ended: list[Connection] = []
        self.longest_s = 0.0
        self.served_since = 0.0
        self.think_s = think_s
        self.gate = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="workload", daemon=True)
        self._tasks: list[asyncio.Task[None]] = []
        self._clients = [
            _Client(self, i, addresses[i % len(addresses)], random.Random(f"{seed}:{i}")) for i in range(clients)
        ]
        self._subscribers = [_Subscriber(self, i, addresses[i % len(addresses)]) for i in range(4)]
        keys = [key for client in self._clients for key in client.owner.strings]
        for client in self._clients:
            client.owner.others = keys

    def __enter__(self) -> Workload:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where the clients live; a relay in their way may live there too."""
        return self._loop

    @property
    def keys(self) -> list[Key]:
        return [key for client in self._clients for key in client.owner.keys]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something on the clients' loop, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def start(self) -> None:
        """Every client begins."""
        self.run(self._begin())

    def resume(self) -> None:
        """Go on after `pause`."""
        self._loop.call_soon_threadsafe(self.gate.set)

    def pause(self) -> None:
        """Have every client finish its batch and wait. Raises AssertionError where one does not."""
        self.run(self._pause())

    def wait_served(self, since: float, within_s: float) -> float:
        """Seconds from `since` (time.monotonic) until every client had a batch answered that it sent after it.

        Raises AssertionError when that takes more than `within_s`.
        """
        return self.run(self._wait_served(since, within_s))

    def settle(self, address: Address) -> None:
        """Read every key back, while all are paused; from now on each is known exactly."""
        self.run(self._settle(address))

    def ask(self, address: Address, *words: bytes) -> Reply:
        """The reply to a command on a connection of its own."""
        return self.run(self._ask(address, words))

    def new_tally(self) -> None:
        """Another server counts from now on, and from 0."""
        self.tally = Tally()

    def adopt(self, counted: Calls) -> None:
        """The server's counts were in their bounds, while all were paused: from here on they must fit exactly."""
        self.tally.answered = Counter(counted)
        self.tally.sent = Counter()
        for (name, _), count in counted.items():
            self.tally.sent[name] += count

    def answered_lately(self, since: float) -> Counter[tuple[str, str]]:
        """What was answered after `since` on connections that have ended; each is told once."""
        ended, self.ended = self.ended, []
        found: Counter[tuple[str, str]] = Counter()
        for connection in ended:
            for at, counts in connection.recent:
                if at >= since:
                    found.update(counts)
        return found

    async def _begin(self) -> None:
        self.gate.set()
        for worker in (*self._clients, *self._subscribers):
            self._tasks.append(asyncio.create_task(worker.run()))

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for ending in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(ending, Exception):
                raise ending
        for client in self._clients:
            client._end()

    async def _pause(self) -> None:
        self.gate.clear()

        def rests() -> bool:
            return all(client.idle for client in self._clients) and all(s.subscribed for s in self._subscribers)

        await self._until(rests, REPLY_WITHIN_S, "every client rests")

    async def _wait_served(self, since: float, within_s: float) -> float:
        for client in self._clients:
            client.served_at = None
        self.served_since = since
        still = since + within_s - time.monotonic()
        await self._until(lambda: all(c.served_at is not None for c in self._clients), still, "every client is served")
        return max(client.served_at or since for client in self._clients) - since

    async def _until(self, condition: Any, within_s: float, what: str) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            for task in self._tasks:
                if task.done():
                    task.result()
                    raise AssertionError("a client has ended")
            if time.monotonic() > deadline:
                missing = [client.owner.name.decode() for client in self._clients if client.served_at is None]
                raise AssertionError(f"not within {within_s:.1f} s: {what} (not served: {' '.join(missing) or 'none'})")
            await asyncio.sleep(0.005)

    async def _ask(self, address: Address, words: Words) -> Reply:
        connection = await Connection.open(address, 2, self.tally)
        try:
            (reply,) = [reply async for reply in connection.call([words])]
            return reply
        finally:
            connection.close()
            self.ended.append(connection)

    async def _settle(self, address: Address) -> None:
        keys = self.keys
        connection = await Connection.open(address, 2, self.tally)
        try:
            for at in range(0, len(keys), _READ_BACK_AT_ONCE):
                some = keys[at : at + _READ_BACK_AT_ONCE]
                replies = [reply async for reply in connection.call([key.reading for key in some])]
                for key, reply in zip(some, replies, strict=True):
                    key.settle(reply, self.findings)
        finally:
            connection.close()
            self.ended.append(connection)
