"""The gate against slower commands: instructions and system calls per command, counted and held against a file.

Owns the figures in instructions.json, the run of bench.counted_path under Valgrind's Callgrind, and the judgement.
`make gate` runs it, `make instructions` writes the file anew. It never measures time: a busy machine changes nothing.

A count needs no second run: the same build counts the same to 0.5 %, and only because the ledger's histogram looks at
how long a command took. What changes a count without a change of ours is the toolchain: the compiler, its flags, and
Python's own headers (gcc 11 for 12: up to 4 % more; Debian's flags: 3 %; Python 3.13 for 3.11: 12 %). Figures are
therefore held to TOLERANCE only with the toolchain that they were recorded with; with another one to OTHER_TOLERANCE,
which one new Python object per command still exceeds in a pipeline; and not at all on another kind of machine. System
calls are the same everywhere, and are held to be. Readings of the clock are among them: Valgrind knows no vDSO.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Self

from bench import compiled
from bench.counted_path import CASES, COMMANDS
from sidecar.relay import session

TOLERANCE = 0.02
OTHER_TOLERANCE = 0.15
# Exact but for what a few rounds more or less of a timer would add.
CALLS_TOLERANCE = 0.005

FIGURES = Path(__file__).with_suffix(".json")
_RESULTS = Path("build/bench/callgrind")
_RUN_LIMIT_S = 300.0
_TURN = re.compile(r"Loop_\d*turn$")
_COMPILER = re.compile(rb"GCC: \([^)]*\) ([0-9.]+)|clang version ([0-9.]+)")


class GateError(Exception):
    """Nothing could be counted; the text says why and what to do."""


@dataclass(frozen=True)
class Count:
    """What one command costs: a mean, as reads and turns are shared by several."""

    instructions: float
    system_calls: float


@dataclass(frozen=True)
class Figures:
    """A count for each case, and what built the code that was counted."""

    toolchain: Mapping[str, str]
    counts: Mapping[str, Count]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises GateError when the file is not what `write` writes."""
        try:
            content = json.loads(path.read_text())
            counts = {name: Count(**count) for name, count in content["per_command"].items()}
            return cls(content["toolchain"], counts)
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise GateError(f"{path} has no figures ({error}): `make instructions` writes them") from None

    def write(self, path: Path) -> None:
        counts = {
            name: {"instructions": round(count.instructions), "system_calls": round(count.system_calls, 3)}
            for name, count in self.counts.items()
        }
        path.write_text(json.dumps({"toolchain": self.toolchain, "per_command": counts}, indent=2) + "\n")


@dataclass(frozen=True)
class Verdict:
    """failures: what must not be; requests: what should be recorded, but hurts nobody."""

    failures: Sequence[str]
    requests: Sequence[str]
    note: str = ""


def judge(recorded: Figures, counted: Figures) -> Verdict:
    """Hold what was counted against what is recorded."""
    others = [
        f"{key} {recorded.toolchain.get(key, 'unknown')}, here {here}"
        for key, here in counted.toolchain.items()
        if recorded.toolchain.get(key) != here
    ]
    tolerance = OTHER_TOLERANCE if others else TOLERANCE
    same_machine = recorded.toolchain.get("machine") == counted.toolchain.get("machine")
    if not same_machine:
        tolerance = math.inf
    failures, requests = [], []
    for name in sorted(recorded.counts.keys() ^ counted.counts.keys()):
        lack = "recorded" if name in counted.counts else "counted any more"
        failures.append(f"{name}: it is not {lack}")
    for name, count in counted.counts.items():
        known = recorded.counts.get(name)
        if known is None:
            continue
        for what, now, before, allowed in (
            ("instructions", count.instructions, known.instructions, tolerance),
            ("system calls", count.system_calls, known.system_calls, CALLS_TOLERANCE),
        ):
            change = now / before - 1
            digits = ".0f" if what == "instructions" else ".3f"
            text = f"{name}: {now:{digits}} {what} per command, {before:{digits}} are recorded: {abs(change):.1%}"
            if change > allowed:
                failures.append(f"{text} more, where {allowed:.1%} are allowed")
            elif change < -allowed and not others:
                requests.append(f"{text} less")
    note = ""
    if others:
        allowance = (
            f"{tolerance:.0%} are allowed, and not {TOLERANCE:.0%}" if same_machine else "only system calls count"
        )
        note = f"the figures were recorded with {'; '.join(others)}: {allowance}"
    return Verdict(failures, requests, note)


def parse(text: str) -> tuple[str, Count]:
    """One part of Callgrind's output: the name that it was dumped under, and what it counted per command."""
    trigger = re.search(r"^desc: Trigger: Client Request: (.*)$", text, re.MULTILINE)
    total = re.search(r"^totals: (\d+)", text, re.MULTILINE)
    if trigger is None or total is None or "\nevents: Ir sysCount" not in text:
        raise GateError("Callgrind's output is not what it was: no trigger, no totals or no system calls in it")
    return trigger[1], Count(int(total[1]) / COMMANDS, _system_calls(text) / COMMANDS)


def _system_calls(text: str) -> int:
    """Those of what the turns of the loop call; Callgrind counts all the others, too, and has no switch for it."""
    calls = 0
    is_turn = is_call = False
    names: dict[str, str] = {}  # a name is written where it occurs first, as "(3) name", and is then "(3)"
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if key in ("fn", "cfn"):
            number, _, name = value.partition(" ")
            names.setdefault(number, name)
            if key == "fn":
                is_turn = _TURN.search(names[number]) is not None
        elif key == "calls":
            is_call = True
        elif is_call:  # position, instructions, system calls, and their time; zeros at the end are left out
            is_call = False
            cost = line.split()
            if is_turn and len(cost) > 2:
                calls += int(cost[2])
    if calls == 0:
        raise GateError("Callgrind's output names no turn of bench/counted_loop.pyx: Cython calls it another name now")
    return calls


def toolchain(module: Path) -> dict[str, str]:
    """What decides how many instructions our sources become. module: any of ours, compiled."""
    compilers = {
        f"{name} {found.decode()}"
        for pair in _COMPILER.findall(module.read_bytes())
        for name, found in zip(("gcc", "clang"), pair, strict=True)
        if found
    }
    flags = (sysconfig.get_config_var("CFLAGS") or "").split()
    kept = dict.fromkeys(flag for flag in flags if flag.startswith(("-O", "-f", "-m", "-D")))
    return {
        "machine": platform.machine(),
        "compiler": ", ".join(sorted(compilers)),
        "flags": " ".join(kept),
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "Cython": version("cython"),
    }


def count() -> Figures:
    """Run every case once. Callgrind's own output stays in build/bench/callgrind."""
    if shutil.which("valgrind") is None:
        raise GateError("valgrind is missing (Debian: apt-get install valgrind)")
    try:
        module = compiled.build("counted_loop")
    except Exception as error:
        needs = "it needs valgrind/callgrind.h, which comes with valgrind"
        raise GateError(f"bench/counted_loop.pyx does not compile ({needs}): {error}") from None
    shutil.rmtree(_RESULTS, ignore_errors=True)
    _RESULTS.mkdir(parents=True)
    # fmt: off
    argv = [
        "valgrind", "--quiet", "--tool=callgrind", "--collect-systime=yes", "--instr-atstart=no",
        "--collect-atstart=no", f"--callgrind-out-file={_RESULTS}/part",
        sys.executable, "-m", "bench.counted_path", str(module), *CASES,
    ]
    # fmt: on
    # Nothing of the caller's environment: its size alone moves the stack.
    environment = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONHASHSEED": "0"}
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=_RUN_LIMIT_S, env=environment)
    except subprocess.TimeoutExpired:
        raise GateError(f"the run under valgrind took more than {_RUN_LIMIT_S:.0f} s") from None
    if done.returncode:
        raise GateError(f"the run under valgrind failed: {(done.stderr or done.stdout).strip()[-2000:]}")
    counts = {}
    for number, name in enumerate(CASES, start=1):
        part = _RESULTS / f"part.{number}"
        dumped_as, counted = parse(part.read_text())
        if dumped_as != name:
            raise GateError(f"{part} counts {dumped_as!r}, and not {name!r}")
        part.rename(_RESULTS / name.replace(" ", "-").replace("%", "percent").replace(",", ""))
        counts[name] = counted
    return Figures(toolchain(Path(session.__file__)), counts)


def _table(counted: Figures, recorded: Figures | None) -> str:
    lines = [f"{'per command':24} instructions  recorded           system calls"]
    for name, now in counted.counts.items():
        known = recorded.counts.get(name) if recorded is not None else None
        before = f"{known.instructions:8.0f} {now.instructions / known.instructions - 1:+7.1%}" if known else " " * 16
        lines.append(f"{name:24} {now.instructions:12.0f}  {before}  {now.system_calls:13.3f}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.instructions", description=__doc__.partition("\n")[0])
    parser.add_argument("--record", action="store_true", help="write the figures into instructions.json")
    options = parser.parse_args()
    try:
        recorded = None if options.record else Figures.read(FIGURES)
        counted = count()
    except GateError as error:
        print(f"make gate: {error}", file=sys.stderr)
        return 2
    print(_table(counted, recorded))
    if recorded is None:
        counted.write(FIGURES)
        print(f"\n{FIGURES.name} has these figures now: say in the commit why they changed")
        return 0
    verdict = judge(recorded, counted)
    if verdict.note:
        print(f"\nanother toolchain: {verdict.note}")
    for failure in verdict.failures:
        print(f"make gate: {failure}", file=sys.stderr)
    if verdict.failures:
        print(
            f"\nWhere they are: callgrind_annotate {_RESULTS}/CASE. If the change is worth them: `make instructions`, "
            f"and say why in the commit of bench/{FIGURES.name}.",
            file=sys.stderr,
        )
        return 1
    for request in verdict.requests:
        print(request)
    if verdict.requests:
        print(f"Please record it with `make instructions`: bench/{FIGURES.name} would let it be lost again unseen.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
