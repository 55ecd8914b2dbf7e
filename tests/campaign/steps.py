"""What a client of the workload does at a time: one batch of requests, each with the check of its reply.

Owns the mix: reads and writes of all types that go by lane, and what needs a connection of its own (transactions,
scripts, blocking commands, large values). Every reply says whose it is. Never talks to a server.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from tests.campaign.connection import Reply, Words, error_type
from tests.campaign.knowledge import Check, Findings, Key, expect, parts, refused

Step = list[tuple[Words, Check]]

_KEYS, _FIELDS = 12, 4
_LARGE_BYTES = 300_000
_PIPELINE_MOST = 120
_SCRIPT = b"return {KEYS[1], redis.call('GET', KEYS[1])}"


class Owner:
    """A client's own keys, and the batches that it can make of them. others: keys that it may read as well."""

    def __init__(self, name: str, rng: random.Random, findings: Findings) -> None:
        self.name = name.encode()
        self.others: Sequence[Key] = ()
        self._rng = rng
        self._findings = findings
        self._numbers = 0
        self.strings = [Key(b"%s.k%d" % (self.name, i)) for i in range(_KEYS)]
        self.fields = [Key(b"%s.h" % self.name, b"f%d" % i) for i in range(_FIELDS)]
        self._kinds: list[tuple[int, Callable[[], Step]]] = [
            (20, self._reading),
            (20, self._writing),
            (8, self._hash),
            (8, self._many),
            (8, self._pipeline),
            (6, self._types),
            (4, self._script),
            (6, self._transaction),
            (4, self._blocking),
            (2, self._waiting),
            (1, self._large),
            (3, self._publish),
            (2, self._error),
        ]

    @property
    def keys(self) -> list[Key]:
        return self.strings + self.fields

    def first_step(self) -> Step:
        """What the others take for granted: the hash is there."""
        return [self._done(b"HSET", self.fields[0].name, b"is", b"a hash")]

    def next_step(self) -> Step:
        """A batch, by chance."""
        (make,) = self._rng.choices([kind for _, kind in self._kinds], [weight for weight, _ in self._kinds])
        return make()

    # ---- parts of batches

    def _read(self, key: Key) -> tuple[Words, Check]:
        at_least = key.acknowledged

        def check(reply: Reply) -> None:
            if not refused(reply, self._findings):
                key.judge(reply, at_least, self._findings)

        return key.reading, check

    def _write(self, keys: Sequence[Key], size: int | None = None) -> tuple[Words, Check]:
        """A write to one of these that is not in doubt, else a reading."""
        sure = [key for key in keys if not key.doubtful]
        if not sure:
            return self._read(self._rng.choice(keys))
        key = self._rng.choice(sure)
        before = key.acknowledged
        value = key.next_value(size or self._rng.choice((20, 20, 200, 3000)))

        def check(reply: Reply) -> None:
            if refused(reply, self._findings):
                return
            if key.field is None:
                key.judge(reply, before, self._findings)  # SET ... GET: the value of before
            key.acknowledge(self._findings)

        if key.field is None:
            return (b"SET", key.name, value, b"GET"), check
        return (b"HSET", key.name, key.field, value), check

    def _exact(self, words: Words, wanted: Reply) -> tuple[Words, Check]:
        def check(reply: Reply) -> None:
            if not refused(reply, self._findings):
                expect(reply, wanted, self._findings)

        return words, check

    def _done(self, *words: bytes) -> tuple[Words, Check]:
        """A request whose reply only says that it was done."""

        def check(reply: Reply) -> None:
            refused(reply, self._findings)

        return words, check

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    # ---- batches

    def _reading(self) -> Step:
        return [self._read(self._rng.choice(self.keys))]

    def _writing(self) -> Step:
        return [self._write(self.strings)]

    def _hash(self) -> Step:
        return [self._write(self.fields), self._read(self._rng.choice(self.fields))]

    def _many(self) -> Step:
        keys = self._rng.sample([*self.strings, *self.others], 6)
        at_least = [key.acknowledged for key in keys]

        def check(reply: Reply) -> None:
            if not refused(reply, self._findings):
                for key, value, least in zip(keys, reply, at_least, strict=True):
                    key.judge(value, least, self._findings)

        return [((b"MGET", *(key.name for key in keys)), check)]

    def _pipeline(self) -> Step:
        step: Step = []
        for _ in range(self._rng.randint(2, _PIPELINE_MOST)):
            token = b"%s:%d" % (self.name, self._number())
            kind = self._rng.random()
            if kind < 0.2:
                step.append(self._exact((b"ECHO", token), token))
            elif kind < 0.3:
                step.append(self._write(self.strings, 40))
            else:
                step.append(self._read(self._rng.choice(self.strings)))
        return step

    def _types(self) -> Step:
        n = self._number()
        mine, member = self.name, b"%s:%d" % (self.name, n)
        return [
            self._done(b"ZADD", mine + b".z", b"1", mine),
            self._exact((b"ZRANGE", mine + b".z", b"0", b"0"), [mine]),
            self._done(b"SADD", mine + b".s", mine),
            self._owned(b"SMEMBERS", mine + b".s"),
            self._done(b"XADD", mine + b".x", b"MAXLEN", b"5", b"*", b"who", mine),
            self._owned(b"XREVRANGE", mine + b".x", b"+", b"-", b"COUNT", b"1"),
            self._done(b"SETRANGE", mine + b".r", b"0", member),
            self._owned(b"GETRANGE", mine + b".r", b"0", b"-1"),
        ]

    def _owned(self, *words: bytes) -> tuple[Words, Check]:
        """A reading whose reply names its owner somewhere."""

        def check(reply: Reply) -> None:
            if not refused(reply, self._findings):
                self._findings.replies_checked += 1
                if reply and self.name not in repr(reply).encode():
                    self._findings.swapped(f"something of {self.name!r} had to come, and {reply!r:.80} came")

        return words, check

    def _script(self) -> Step:
        key = self._rng.choice(self.strings)
        _, check_value = self._read(key)

        def check(reply: Reply) -> None:
            if not refused(reply, self._findings):
                expect(reply[0], key.name, self._findings)
                check_value(reply[1] if len(reply) > 1 else None)

        return [((b"EVAL", _SCRIPT, b"1", key.name), check)]

    def _transaction(self) -> Step:
        write, check_write = self._write(self.strings)
        read, check_read = self._read(self._rng.choice(self.fields))
        begun: list[bool] = []

        def begin(reply: Reply) -> None:
            begun.append(not refused(reply, self._findings))

        def check(reply: Reply) -> None:
            if all(begun) and not refused(reply, self._findings):
                check_write(reply[0])
                check_read(reply[1])
                expect(error_type(reply[2]), "WRONGTYPE", self._findings)

        queued = [(words, lambda _queued: None) for words in (write, read, (b"GET", self.fields[0].name))]
        return [((b"MULTI",), begin), *queued, ((b"EXEC",), check)]

    def _blocking(self) -> Step:
        name, token = self.name + b".l", b"%s:%d" % (self.name, self._number())

        def check(reply: Reply) -> None:
            if not refused(reply, self._findings) and reply is not None:
                expect((reply[0], parts(reply[1])[0]), (name, self.name), self._findings)

        return [self._done(b"RPUSH", name, token), ((b"BLPOP", name, b"1"), check)]

    def _waiting(self) -> Step:
        return [self._exact((b"BLPOP", self.name + b".none", b"0.05"), None)]

    def _large(self) -> Step:
        key = self._rng.choice(self.strings)
        return [self._write([key], _LARGE_BYTES), self._read(key)]

    def _publish(self) -> Step:
        channel = b"channel.%d" % self._rng.randrange(4)
        return [self._done(b"PUBLISH", channel, b"%s %s:%d" % (channel, self.name, self._number()))]

    def _error(self) -> Step:
        def check(reply: Reply) -> None:
            if error_type(reply) == "WRONGTYPE":
                self._findings.replies_checked += 1
            elif not refused(reply, self._findings):
                self._findings.swapped(f"WRONGTYPE had to come, and {reply!r:.80} came")

        return [((b"LPUSH", self.fields[0].name, b"x"), check)]
