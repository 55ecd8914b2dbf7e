"""The whole campaign, one part after another, and its closing table: python -m tests.campaign [PART...]

Owns the order, how large each part is here, and the figures in docs/reliability.md. Each part is a program of its own
and records what it did (tests.campaign.figures); one that fails stops none of the others.
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

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
RECORDED = ROOT / "build" / "campaign" / "figures.jsonl"
_MARKED = re.compile(r"(?<=<!-- last campaign -->\n).*?(?=<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Part:
    """One program of the campaign: its name, and its Python arguments."""

    name: str
    arguments: str


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
    began = time.monotonic()
    code = subprocess.run([sys.executable, *shlex.split(part.arguments)], cwd=ROOT, check=False).returncode
    verdict = "held" if code == 0 else f"FAILED ({code})"
    print(f"=== {part.name}: {verdict}, {time.monotonic() - began:.0f} s", flush=True)
    return code == 0


def page(text: str, found: Sequence[figures.Figure], seconds: float) -> str:
    """The page with these figures in place of its last ones; ValueError where it has no place for them."""
    about = machine()
    head = (
        f"{about['date']}, {seconds / 60:.0f} minutes, {about['cpus']} CPUs ({about['cpu']}), "
        f"Linux {about['kernel'].partition('-')[0]}, Python {about['python']}.\n\n"
    )
    if not _MARKED.search(text):
        raise ValueError(f"{PAGE.name} has no place for the figures (<!-- last campaign --> ... <!-- end -->)")
    return _MARKED.sub(lambda _: head + figures.table(found, "github") + "\n", text)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="make campaign", description=__doc__.partition(":")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"all, or some of {', '.join(p.name for p in PARTS)}")
    parser.add_argument("--page", action="store_true", help=f"write the figures into docs/{PAGE.name}")
    options = parser.parse_args(arguments)
    unknown = set(options.parts) - {part.name for part in PARTS}
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    chosen = [part for part in PARTS if not options.parts or part.name in options.parts]
    RECORDED.parent.mkdir(parents=True, exist_ok=True)
    RECORDED.write_bytes(b"")
    os.environ[figures.VARIABLE] = str(RECORDED)
    began = time.monotonic()
    failed = [part.name for part in chosen if not run(part)]
    found = figures.read(RECORDED)
    print(f"\n{figures.table(found)}")
    if options.page:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), found, time.monotonic() - began), encoding="utf-8")
    if failed:
        print(f"\nfailed: {', '.join(failed)}")
    return 1 if failed or figures.wrong(found) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
