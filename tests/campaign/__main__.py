"""The whole campaign, one part after another, and its closing table: python -m tests.campaign [PART...]

Owns the order, how large each part is here, and the figures in docs/reliability.md. Each part is a program of its own
and records what it did (tests.campaign.figures) in a file of its own: one that fails stops none of the others, and can
be run again alone.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.result import machine
from tests.campaign import figures
from tests.campaign.figures import Row

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
RECORDED = ROOT / "build" / "campaign"
"""A file for each part that has held."""
_MARKED = re.compile(r"(?<=<!-- last campaign -->\n).*?(?=<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Part:
    """One program of the campaign: its name, and its Python arguments."""

    name: str
    arguments: str

    @property
    def recorded(self) -> Path:
        return RECORDED / f"{self.name}.jsonl"


PARTS = (
    Part("soak", "-m tests.campaign.soak"),
    Part("chaos", "-m tests.campaign.chaos --minutes 10"),
    Part("fuzz", "-m tests.campaign.fuzz --frames 5000000"),
    Part("framers", "-m tests.campaign.framer_fuzz --frames 5000000"),
    Part("suites", "-m pytest -q -m e2e tests/e2e/test_client_suites.py"),
    Part("secrets", "-m pytest -q tests/campaign/test_secrets.py tests/campaign/test_arguments.py"),
    Part("clients", "-m pytest -q -m e2e tests/e2e/test_clients.py"),
)


def run(part: Part) -> bool:
    """Whether the part held; it speaks for itself."""
    print(f"\n=== {part.name}: python {part.arguments}", flush=True)
    part.recorded.write_bytes(b"")
    os.environ[figures.VARIABLE] = str(part.recorded)
    began = time.monotonic()
    code = subprocess.run([sys.executable, *shlex.split(part.arguments)], cwd=ROOT, check=False).returncode
    verdict = "held" if code == 0 else f"FAILED ({code})"
    seconds = round(time.monotonic() - began)
    figures.record(Row.SECONDS, seconds, part.name)
    print(f"=== {part.name}: {verdict}, {seconds} s", flush=True)
    return code == 0


def page(text: str, found: Sequence[figures.Figure]) -> str:
    """The page with these figures in place of its last ones; ValueError where it has no place for them."""
    about = machine()
    head = (
        f"{about['date']}, {about['cpus']} CPUs ({about['cpu']}), "
        f"Linux {about['kernel'].partition('-')[0]}, Python {about['python']}.\n\n"
    )
    if not _MARKED.search(text):
        raise ValueError(f"{PAGE.name} has no place for the figures (<!-- last campaign --> ... <!-- end -->)")
    return _MARKED.sub(lambda _: head + figures.table(found, "github") + "\n", text)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="make campaign", description=__doc__.partition(":")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"all, or some of {', '.join(p.name for p in PARTS)}")
    parser.add_argument("--page", action="store_true", help=f"the last figures of all parts, into docs/{PAGE.name}")
    options = parser.parse_args(arguments)
    unknown = set(options.parts) - {part.name for part in PARTS}
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    chosen = [part for part in PARTS if not options.parts or part.name in options.parts]
    RECORDED.mkdir(parents=True, exist_ok=True)
    failed = [part for part in chosen if not run(part)]
    found = [figure for part in chosen for figure in figures.read(part.recorded)]
    print(f"\n{figures.table(found)}")
    for part in failed:
        part.recorded.unlink()
    if failed:
        print(f"\nfailed: {', '.join(part.name for part in failed)}")
    if failed or figures.wrong(found):
        return 1
    return write_page() if options.page else 0


def write_page() -> int:
    """The figures of all parts, each as it held last, into the page; 1 while one has not held."""
    missing = [part.name for part in PARTS if not part.recorded.exists()]
    if missing:
        print(f"\n{PAGE.name} is left as it is: not held yet: {', '.join(missing)}")
        return 1
    found = [figure for part in PARTS for figure in figures.read(part.recorded)]
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
