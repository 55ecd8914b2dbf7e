"""What measuring costs per command: framing and ledger, the compiled path alone, without sockets.

Owns the bytes that measured_path.pyx is fed. Also runs by itself: python -m bench.ledger_cost.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench import compiled
from bench.rounds import Spread
from sidecar.relay.commands import CommandTable

_PIPELINES = (1, 16)
_COMMANDS_PER_RUN = 160_000
_RUNS = 15

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


def measure() -> list[Cost]:
    """The cost at each pipeline depth; runs of both depths, with and without the ledger, take turns."""
    path = compiled.load(compiled.build("measured_path"))
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
