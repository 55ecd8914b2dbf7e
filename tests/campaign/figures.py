"""What campaigns did and what they found: recorded by whoever runs one, added up in one closing table.

Owns the table's rows and the file between, JSON lines in $CAMPAIGN_FIGURES; without that variable nothing is recorded.
It runs nothing and judges one thing: whether a row that has to be 0 is.
"""

from __future__ import annotations

import enum
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

VARIABLE = "CAMPAIGN_FIGURES"


class Row(enum.Enum):
    """A line of the table, in the table's order: what it says."""

    SUITE_TESTS = "tests of clients' own suites, through us and directly"
    SUITE_DIFFERENCES = "tests that end differently through us"
    CLIENT_CHECKS = "checks of client programs"
    FRAMES = "frames fuzzed"
    FRAME_DIFFERENCES = "streams answered differently from bare Valkey, or crashes"
    FAULTS = "faults injected"
    WRITES_ACKNOWLEDGED = "writes acknowledged"
    WRITES_LOST = "writes lost"
    REPLIES_CHECKED = "replies checked for whose they are"
    REPLIES_SWAPPED = "replies swapped"
    COUNTS_COMPARED = "counts compared"
    COUNT_DIFFERENCES = "count differences"
    SECRETS_SOUGHT = "outputs searched for secrets"
    SECRETS_FOUND = "secrets found"
    SECONDS = "seconds"


MUST_BE_ZERO = frozenset(
    {Row.SUITE_DIFFERENCES, Row.FRAME_DIFFERENCES, Row.WRITES_LOST, Row.REPLIES_SWAPPED, Row.COUNT_DIFFERENCES}
    | {Row.SECRETS_FOUND}
)


@dataclass(frozen=True)
class Figure:
    """An amount for a row; the name divides it, such as the fault's kind or the suite's client."""

    row: Row
    amount: int
    name: str = ""


def record(row: Row, amount: int, name: str = "") -> None:
    """Add this to the closing table. One short append: many processes may record at a time."""
    path = os.environ.get(VARIABLE)
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps([row.name, amount, name]) + "\n")


def read(path: Path) -> list[Figure]:
    """What was recorded; ValueError with the line's number where a line is none of ours."""
    figures = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row, amount, name = json.loads(line)
            figures.append(Figure(Row[row], int(amount), str(name)))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: not a figure: {line[:80]}") from error
    return figures


def wrong(figures: Iterable[Figure]) -> int:
    """The sum of what has to be 0."""
    return sum(figure.amount for figure in figures if figure.row in MUST_BE_ZERO)


def table(figures: Iterable[Figure], style: str = "simple") -> str:
    """The closing table: a row's sum, below it what its names have of it. 0 where nothing was recorded, but no seconds.

    style: a format of tabulate's, such as "github" for a page.
    """
    sums: dict[Row, dict[str, int]] = {row: {} for row in Row}
    for figure in figures:
        names = sums[figure.row]
        names[figure.name] = names.get(figure.name, 0) + figure.amount
    lines = []
    for row, names in sums.items():
        if row is Row.SECONDS and not names:
            continue
        lines.append((row.value, f"{sum(names.values()):,}"))
        lines += [(f"– {name}", f"{names[name]:,}") for name in sorted(names) if name]
    return tabulate(lines, headers=("", "number"), tablefmt=style, disable_numparse=True, colalign=("left", "right"))


def main(arguments: list[str]) -> int:
    """Print the table of a file; 1 if something is not 0 that has to be."""
    if len(arguments) != 1:
        print("usage: python -m tests.campaign.figures FILE", file=sys.stderr)
        return 2
    try:
        figures = read(Path(arguments[0]))
    except (OSError, ValueError) as error:
        print(f"campaign: {error}", file=sys.stderr)
        return 2
    print(table(figures))
    return 1 if wrong(figures) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
