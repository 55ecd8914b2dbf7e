"""What measuring costs per command: framing and ledger, the compiled path alone, without sockets.

Owns the building of measured_path.pyx and the bytes it is fed. Also runs by itself: python -m bench.ledger_cost.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.rounds import Spread
from sidecar.relay.commands import CommandTable

_PIPELINES = (1, 16)
_COMMANDS_PER_RUN = 160_000
_RUNS = 15
_BUILD = Path("build/bench")

# What redis-benchmark sends and gets: a SET and a GET of 3 bytes, in turns.
_SET = b"*3\r\n$3\r\nSET\r\n$16\r\nkey:__rand_int__\r\n$3\r\nVXK\r\n"
_GET = b"*2\r\n$3\r\nGET\r\n$16\r\nkey:__rand_int__\r\n"
_SET_REPLY = b"+OK\r\n"
_GET_REPLY = b"$3\r\nVXK\r\n"


@dataclass(frozen=True)
class Cost:
    """Nanoseconds per command at a pipeline depth: in all, and the ledger's share of it."""

    pipeline: int
    total_ns: Spread
    ledger_ns: Spread


def _measured_path() -> Any:
    # Compiled here and not with the packages, because the product ships without it; and only when something changed.
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    extension = Extension("measured_path", ["bench/measured_path.pyx"], extra_compile_args=["-O3"])
    modules = cythonize([extension], build_dir=str(_BUILD), include_path=["."], quiet=True)
    command = build_ext(Distribution({"ext_modules": modules}))
    command.build_lib = command.build_temp = str(_BUILD)
    command.ensure_finalized()
    command.run()
    spec = importlib.util.spec_from_file_location("measured_path", command.get_ext_fullpath("measured_path"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measure() -> list[Cost]:
    """The cost at each pipeline depth; runs of both depths, with and without the ledger, take turns."""
    path = _measured_path()
    table = CommandTable()
    table.update([("get", ["readonly"]), ("set", ["write"])])
    totals: dict[int, list[float]] = {pipeline: [] for pipeline in _PIPELINES}
    ledgers: dict[int, list[float]] = {pipeline: [] for pipeline in _PIPELINES}
    for _ in range(_RUNS):
        for pipeline in _PIPELINES:
            # A read at P1 holds either a SET or a GET: both are measured, and the mean is the cost.
            reads = [(_SET, _SET_REPLY), (_GET, _GET_REPLY)]
            if pipeline > 1:
                half = pipeline // 2
                reads = [((_SET + _GET) * half, (_SET_REPLY + _GET_REPLY) * half)]
            spent = {True: 0.0, False: 0.0}
            for ledger_on in spent:
                for requests, replies in reads:
                    taken_ns, commands = path.run(table, requests, replies, _COMMANDS_PER_RUN // pipeline, ledger_on)
                    spent[ledger_on] += taken_ns / commands / len(reads)
            totals[pipeline].append(spent[True])
            ledgers[pipeline].append(spent[True] - spent[False])
    return [Cost(pipeline, Spread.of(totals[pipeline]), Spread.of(ledgers[pipeline])) for pipeline in _PIPELINES]


def main() -> None:
    for cost in measure():
        total = cost.total_ns
        print(f"P{cost.pipeline}: {total.median:.1f} ns ({total.low:.1f}–{total.high:.1f})", end="")
        print(f", of it ledger {cost.ledger_ns.median:.1f} ns")


if __name__ == "__main__":
    main()
