"""What clients can do with us, into docs/clients.md: python -m tests.campaign.clients_page

Owns the table on that page, which is made of a run of the clients' programs (tests/e2e/clients) and of nothing else.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tabulate import tabulate

from tests.e2e.clients import runs
from tests.e2e.clients.programs import CHECKS, CLIENTS
from tests.e2e.clients.runs import Told

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
_MARKED = re.compile(r"(?<=<!-- clients -->\n).*?(?=<!-- end -->)", re.DOTALL)
_SHOWN = {"ok": "yes", "not offered": "–"}


def table(told: Mapping[str, Told]) -> str:
    """One line a client; a check that neither held nor is absent from the client shows as FAILED."""
    rows = [
        [
            *(client.name, client.language, client.version),
            *(_SHOWN.get(told[client.name].checks.get(check, ""), "FAILED") for check in CHECKS),
        ]
        for client in CLIENTS
    ]
    return tabulate(rows, ("client", "language", "version", *CHECKS), tablefmt="github", disable_numparse=True)


def page(text: str, told: Mapping[str, Told]) -> str:
    """The page with this table in place of its last one; ValueError where it has no place for it."""
    if not _MARKED.search(text):
        raise ValueError(f"{PAGE.name} has no place for the table (<!-- clients --> ... <!-- end -->)")
    return _MARKED.sub(lambda _: table(told) + "\n", text)


def main() -> int:
    """Run the programs and write the page; 1 if a check failed, and then the page stays as it was."""
    with tempfile.TemporaryDirectory() as folder:
        told = runs.through_us(runs.build_all(), Path(folder))
    print(table(told))
    failed = [said.text for said in told.values() if set(said.checks.values()) - _SHOWN.keys()]
    if failed:
        print(*failed, sep="\n")
        return 1
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), told), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
