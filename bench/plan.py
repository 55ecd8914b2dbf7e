"""What is measured: which peers meet which kinds of load, and how often.

Owns the choice and the reasons for it. Never measures. The whole product of the grid takes many times five minutes, so
a core is measured in every round, and around it one factor changes at a time, in every second or third round. --full
measures the whole product.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.data import COMMANDS
from bench.load import Cell, cells
from bench.peers import BARE, HAPROXY, NUTCRACKER, REDIS_TLS
from bench.variants import ALL_SPANS, HOME, OFF, SIDECAR, SOME_SPANS, TWO_WORKERS, VARIANTS

CONNECTIONS = (1, 50, 500)
PIPELINES = (1, 16, 100)


@dataclass(frozen=True)
class Part:
    """These peers meet these kinds of load in every `every`-th round; what is compared is compared within a round."""

    about: str
    cells: list[Cell]
    peers: tuple[str, ...]
    every: int = 1


_OTHERS = (BARE, HAPROXY, NUTCRACKER)
_AROUND = (SIDECAR, *_OTHERS)
_WITH_TLS = (SIDECAR, HAPROXY, REDIS_TLS)
_GET, _GET_SET = ["GET"], ["GET", "SET"]

CORE = cells(_GET_SET, [50], [1, 16])
SINGLE = cells(_GET_SET, [1], [1])
_WIDTH = [*cells(_GET, [1], [16]), *cells(_GET, [500], [1, 16])]
_DEPTH = cells(_GET, [50], [100])
# ZADD as the prototype's table has it; the others move many bytes, where a proxy pays for copies.
_COMMANDS = cells(["ZADD", "HGETALL 100", "MGET 100", "GET 10 KB", "SET 10 KB"], [50], [1])
_TLS = cells(_GET, [50], [1, 16], tls=True)

PARTS = (
    Part("core", CORE, (BARE, SIDECAR, HOME, OFF, SOME_SPANS, HAPROXY, NUTCRACKER)),
    Part("every command a span", CORE, (ALL_SPANS,), every=3),
    Part("two workers", CORE, (TWO_WORKERS,), every=3),
    Part("one connection", SINGLE, (HOME, *_AROUND), every=2),
    Part("fewer and more connections", _WIDTH, _AROUND, every=3),
    Part("TLS", _TLS, _WITH_TLS, every=3),
    Part("other commands", _COMMANDS, _AROUND, every=3),
    Part("a deeper pipeline", _DEPTH, _AROUND, every=3),
)

# Half a gigabyte of replies under way measures memory, not servers.
_IN_FLIGHT_BYTES_MAX = 64_000_000


def _product(tls: bool) -> list[Cell]:
    every = cells(list(COMMANDS), CONNECTIONS, PIPELINES, tls)
    return [cell for cell in every if cell.in_flight_bytes <= _IN_FLIGHT_BYTES_MAX]


def full() -> tuple[Part, ...]:
    """Every combination, in every round."""
    ours = tuple(variant.name for variant in VARIANTS)
    return (
        Part("without TLS", _product(tls=False), (*ours, *_OTHERS)),
        Part("TLS", _product(tls=True), _WITH_TLS),
    )


def due(parts: tuple[Part, ...], number: int) -> dict[Cell, list[str]]:
    """The peers that meet each kind of load in round `number`. What is not for every round is spread over them."""
    found: dict[Cell, list[str]] = {}
    for place, part in enumerate(parts):
        if (number + place) % part.every == 0:
            for cell in part.cells:
                met = found.setdefault(cell, [])
                met += [name for name in part.peers if name not in met]
    return found


def fewest_rounds(parts: tuple[Part, ...]) -> int:
    """After so many everything was measured once."""
    return max(part.every for part in parts)


def every_cell(parts: tuple[Part, ...]) -> list[Cell]:
    """All kinds of load, each once, in the order of the plan."""
    return list(dict.fromkeys(cell for part in parts for cell in part.cells))


# What the first prototype of this server was measured at, on another machine: requests a second, and the kind of load
# here that is nearest to it.
PROTOTYPE = (
    ("GET", 168_000, Cell("GET", 50, 1)),
    ("SET", 151_000, Cell("SET", 50, 1)),
    ("sorted sets", 112_000, Cell("ZADD", 50, 1)),
    ("pipeline", 325_000, Cell("GET", 50, 16)),
)
