"""Faults at random moments, under a workload that knows its data: python -m tests.campaign.chaos --seed 1

Owns the arguments, the file system that a disk fault may fill, and the verdict. It is a tmpfs in a mount namespace of
this program's own (root and unshare): it is gone with the program, however that ends.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.campaign import figures
from tests.campaign.chaos import network, processes, surroundings  # noqa: F401 (they fill the table)
from tests.campaign.chaos.faults import TABLE, Fault
from tests.campaign.chaos.run import Run
from tests.campaign.chaos.site import Site
from tests.campaign.figures import Row

_INSIDE = "CHAOS_NAMESPACE"
_DATA_MB = 600
"""The data folder's size beyond three times the data: append-only files, and what a rewrite needs beside them."""


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.campaign.chaos", description=__doc__.partition(":")[0])
    parser.add_argument("--seed", type=int, help="repeats the faults, their order and their moments of another run")
    parser.add_argument("--rounds", type=int, default=0, help="at least so many faults; default: each kind once")
    parser.add_argument("--minutes", type=float, default=0.0, help="go on for so long")
    parser.add_argument("--only", action="append", metavar="FAULT", help="this kind of fault; may be repeated")
    parser.add_argument("--clients", type=int, default=40, help="clients of the workload")
    parser.add_argument("--megabytes", type=int, default=100, help="data besides the workload's")
    parser.add_argument(
        "--tolerance", type=float, default=3.0, help="a recovery may take so many times as long as promised; default: 3"
    )
    parser.add_argument("--list", action="store_true", help="say which faults there are")
    options = parser.parse_args(arguments)
    unknown = set(options.only or ()) - set(TABLE)
    if unknown:
        parser.error(f"no such fault: {', '.join(sorted(unknown))} (--list has them)")
    if options.clients < 5 or options.rounds < 0 or options.megabytes < 0 or options.minutes < 0:
        parser.error("at least 5 clients, and nothing less than 0")
    return options


def _enter_namespace(arguments: Sequence[str]) -> None:
    """Run again where mounts are only ours; returns where that is not possible, or has been done."""
    if _INSIDE in os.environ:
        return
    unshare = shutil.which("unshare")
    if os.geteuid() or unshare is None:
        return
    command = [unshare, "--mount", "--propagation", "private"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
        os.environ[_INSIDE] = "1"
        os.execv(unshare, [*command, sys.executable, "-m", "tests.campaign.chaos", *arguments])


def _mount(data: Path, megabytes: int) -> None:
    """A file system of its own for the data, where that is possible."""
    if _INSIDE in os.environ:
        size = _DATA_MB + 3 * megabytes
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}m", "chaos", str(data)], check=True)


def _kinds(site: Site, only: Sequence[str] | None) -> list[Fault]:
    """The faults to inject, in the order of their names; those that cannot be are told."""
    kinds = []
    for kind in sorted(only or TABLE):
        reason = TABLE[kind].impossible(site)
        if reason is None:
            kinds.append(TABLE[kind])
        else:
            print(f"left out: {kind}: {reason}", flush=True)
    return kinds


def run(options: argparse.Namespace, folder: Path) -> bool:
    """Whether everything held."""
    data = folder / "data"
    data.mkdir()
    _mount(data, options.megabytes)
    began = time.monotonic()
    with Site(folder, data, options.seed, options.clients, options.megabytes) as site:
        kinds = _kinds(site, options.only)
        chaos = Run(site, options.seed, kinds, options.tolerance)
        held = True
        try:
            chaos.rounds(options.rounds or len(kinds), options.minutes)
        except Exception as error:
            print(f"FAILED: {type(error).__name__}: {error}\n{site.server.log_text()[-2000:]}", flush=True)
            held = False
        findings = site.workload.findings
        for row, amount in (
            (Row.WRITES_ACKNOWLEDGED, findings.writes_acknowledged),
            (Row.WRITES_LOST, findings.writes_lost),
            (Row.REPLIES_CHECKED, findings.replies_checked),
            (Row.REPLIES_SWAPPED, findings.replies_swapped),
            (Row.COUNTS_COMPARED, chaos.counts_compared),
            (Row.COUNT_DIFFERENCES, chaos.count_differences),
        ):
            figures.record(row, amount, "chaos")
            print(f"{amount:12,} {row.value}")
    for kind, seconds in sorted(chaos.recoveries.items()):
        print(f"{len(seconds):3} × {kind}: served after {max(seconds):.2f} s at most")
    print(f"{time.monotonic() - began:.0f} s")
    return held


def main(arguments: list[str]) -> int:
    options = _options(arguments)
    if options.list:
        print("\n".join(TABLE))
        return 0
    if options.seed is None:
        options.seed = secrets.randbelow(1_000_000)
        arguments = [*arguments, "--seed", str(options.seed)]
    _enter_namespace(arguments)
    print(f"seed {options.seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    held = run(options, folder)
    if _INSIDE in os.environ:
        subprocess.run(["umount", str(folder / "data")], check=False)
    if held:
        shutil.rmtree(folder, ignore_errors=True)
        return 0
    print(f"seed {options.seed}; the logs are in {folder}")
    return 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # its servers end with it
    sys.exit(main(sys.argv[1:]))
