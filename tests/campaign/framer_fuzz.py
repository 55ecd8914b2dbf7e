"""Bytes at the compiled framers, with sanitizers: python -m tests.campaign.framer_fuzz [--frames N] [--seed S]

Owns what is fed and what must hold: no byte is read beyond a piece, no arithmetic overflows; the same frames are found
in whatever pieces the bytes come, and they are those of reference_framers.py; memory does not grow.
Inputs grow out of a few good ones: one that reaches new code stays, and is changed further (AFL's way, with gcc's own
instrumentation: nothing but the compiler is needed). `--input FILE` repeats a single one.
"""

from __future__ import annotations

import argparse
import itertools
import mmap
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import psutil

from tests.campaign import sanitized
from tests.campaign.figures import Row, record
from tests.campaign.framer_inputs import Corpus, cuts, replies, requests
from tests.campaign.reference_framers import Event

CURRENT: Final = sanitized.BUILT.parent / "framer-input"
"""The input that is being tried: its size (4 bytes), its kind (one: q requests, r replies, d replies whose arrays are
taken apart), then its bytes."""
_INPUT_MAX: Final = 1 << 16
_BYTEWISE_MAX: Final = 200
_INSIDE: Final = "FRAMER_FUZZ_SANITIZED"
_WARM_INPUTS: Final = 20_000
_GROWTH_MAX: Final = 32 << 20
"""More than the sanitizer's quarantine (8 MB) and a growing corpus. Of a million framers, 150 MB would be left."""

# Names of all kinds: short and long ones, with subcommands, and as long as a renamed command may be.
NAMES: Final = (
    *("get", "set", "config", "config|get", "config|resetstat", "blpop", "xread", "xreadgroup", "multi", "exec"),
    *("client", "client|no-evict", "traceparent", "georadiusbymember_ro", "n" * 127, "n" * 128, "n" * 256),
)
LACKING: Final = ("SENTINEL", "SENTINEL MASTERS", "JSON.SET")
CONTAINERS: Final = frozenset({b"CONFIG", b"CLIENT", b"SENTINEL"})


class Difference(Exception):  # noqa: N818
    """The framers found something else than they had to."""


class Checks:
    """The sanitized framers, the reference, and what must hold between them."""

    def __init__(self) -> None:
        self.coverage = sanitized.use()
        import framer_probe

        from sidecar.relay import request_framer
        from sidecar.relay.commands import CommandTable
        from tests.campaign import reference_framers

        assert str(sanitized.BUILT) in str(request_framer.__file__)
        table = CommandTable()
        table.update([(name, []) for name in NAMES])
        table.lack(LACKING)
        names = {name.upper().replace("|", "\0").encode(): name.upper().replace("|", " ") for name in NAMES}
        names |= {name.replace(" ", "\0").encode(): name for name in LACKING}
        self.kinds: dict[bytes, tuple[Callable[..., Any], Callable[..., Any]]] = {
            b"q": (
                lambda data, places: framer_probe.requests(table, data, places),
                lambda data: reference_framers.requests(data, names, CONTAINERS),
            ),
            b"r": (
                lambda data, places: framer_probe.replies(data, places, False),
                lambda data: reference_framers.replies(data, False),
            ),
            b"d": (
                lambda data, places: framer_probe.replies(data, places, True),
                lambda data: reference_framers.replies(data, True),
            ),
        }

    def check(self, kind: bytes, data: bytes, places: list[int]) -> int:
        """The number of frames in these bytes; Difference where something does not hold."""
        frame, expect = self.kinds[kind]
        expected = expect(data)
        whole = masked(frame(data, []), expected)
        if whole != expected:
            raise Difference(f"whole:     {whole}\nreference: {expected}")
        every = [list(range(1, len(data)))] if len(data) <= _BYTEWISE_MAX else []
        for pieces in (places, *every):
            found = masked(frame(data, pieces), expected)
            if found != whole:
                raise Difference(f"cut at {pieces}: {found}\nwhole: {whole}")
        broken = whole[-1:] == [("broken",)]
        return len(whole) - broken


def masked(events: list[Event], expected: list[Event]) -> list[Event]:
    """The events without what the reference does not know of them."""
    return [
        (*event[:2], None, event[3]) if len(event) == len(wanted or ()) == 4 and wanted[2] is None else event
        for event, wanted in itertools.zip_longest(events, expected[: len(events)])
    ]


def fuzz(frames: int, seed: int) -> None:
    """In the sanitized process. Difference, or the end of the process, says what was wrong."""
    checks = Checks()
    rng = random.Random(seed)
    corpora = {kind: Corpus(requests(rng) if kind == b"q" else replies(rng)) for kind in (b"q", b"r", b"d")}
    kinds = list(corpora)
    process = psutil.Process()
    fed = inputs = before = 0
    began = said = time.monotonic()
    with CURRENT.open("r+b") as file, mmap.mmap(file.fileno(), _INPUT_MAX + 5) as current:
        while fed < frames:
            kind = kinds[inputs % 3]
            data = corpora[kind].make(rng)[:_INPUT_MAX]
            current[: len(data) + 5] = len(data).to_bytes(4, "big") + kind + data
            fed += checks.check(kind, data, cuts(rng, len(data)))
            inputs += 1
            if checks.coverage.coverage_new():
                corpora[kind].keep(data)
            if inputs == _WARM_INPUTS:
                before = process.memory_info().rss
            if time.monotonic() - said > 30:
                said = time.monotonic()
                kept = sum(len(corpus) for corpus in corpora.values())
                print(f"  {fed:,} frames in {inputs:,} inputs, {kept} kept for what they reach", flush=True)
    grown = process.memory_info().rss - before if before else 0  # 0: too few inputs to tell
    kept = sum(len(corpus) for corpus in corpora.values())
    print(
        f"{fed:,} frames in {inputs:,} inputs of {kept} kept ones, {time.monotonic() - began:.0f} s; "
        f"memory {grown / 2**20:+.1f} MB"
    )
    record(Row.FRAMES, fed, "bytes")
    if grown > _GROWTH_MAX:
        raise Difference(f"memory has grown by {grown >> 20} MB, more than {_GROWTH_MAX >> 20}")


def _inside(options: argparse.Namespace) -> int:
    sys.setrecursionlimit(100_000)
    try:
        if options.input is not None:
            content = options.input.read_bytes()
            size = int.from_bytes(content[:4], "big")
            data = content[5 : 5 + size]
            print(f"{Checks().check(content[4:5], data, cuts(random.Random(0), size))} frames, nothing wrong")
        else:
            fuzz(options.frames, options.seed)
    except (Difference, AssertionError) as error:
        print(f"framer_fuzz: {error}"[:5000])
        return 1
    return 0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaign.framer_fuzz", description=__doc__.partition(":")[0])
    parser.add_argument("--frames", type=int, default=5_000_000, metavar="N", help="at least so many (%(default)s)")
    parser.add_argument(
        "--seed", type=int, default=random.randrange(1 << 32), metavar="S", help="of all that is random"
    )
    parser.add_argument("--input", type=Path, metavar="FILE", help="only this one, as a run that failed has left it")
    options = parser.parse_args(arguments)
    if _INSIDE in os.environ:
        return _inside(options)
    print(f"framer_fuzz: seed {options.seed}", flush=True)
    try:
        sanitized.build()
    except sanitized.BuildError as error:
        print(f"framer_fuzz: {error}", file=sys.stderr)
        return 1
    CURRENT.write_bytes(bytes(_INPUT_MAX + 5))
    again = [sys.executable, "-m", "tests.campaign.framer_fuzz"]
    again += ["--frames", str(options.frames), "--seed", str(options.seed)]
    if options.input is not None:
        again += ["--input", str(options.input)]
    environment = sanitized.environment() | {_INSIDE: "1"}
    if subprocess.run(again, cwd=sanitized.ROOT, env=environment, check=False).returncode == 0:
        record(Row.FRAME_DIFFERENCES, 0)
        return 0
    record(Row.FRAME_DIFFERENCES, 1)
    if options.input is None:
        kept = CURRENT.with_name(f"framer-input-{options.seed}")
        kept.write_bytes(CURRENT.read_bytes())
        print(f"again: python -m tests.campaign.framer_fuzz --input {kept.relative_to(sanitized.ROOT)}")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
