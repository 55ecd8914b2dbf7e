"""The bench's command: python -m bench. Starts everything, measures, reports, stops everything.

Owns the order of the parts and the options. Never computes a figure.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from bench import (
    bars,
    data,
    exports,
    ledger_cost,
    load,
    peers,
    picture,
    plan,
    process,
    report,
    rounds,
    span_cost,
    standing,
    variants,
)
from bench.result import Result, as_json

_OURS = {variant.name for variant in variants.VARIANTS}
_LEFT_OUT = {
    "sidecar": _OURS,
    "haproxy": {peers.HAPROXY},
    "nutcracker": {peers.NUTCRACKER},
    "redis-server": {peers.REDIS_TLS},
}
# Starts, the costs of ledger and spans, and the stops take the rest of five minutes.
_LOAD_LIMIT_S = 200.0
_RUN_S = 0.35


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measures this server against its peers.")
    parser.add_argument("--seconds", type=float, default=_LOAD_LIMIT_S, help="for all rounds of load (%(default)s)")
    parser.add_argument("--run-seconds", type=float, default=_RUN_S, help="for one run of the load (%(default)s)")
    parser.add_argument(
        "--full", action="store_true", help="the whole product of loads and peers, once, however long it takes"
    )
    parser.add_argument("--without", choices=_LEFT_OUT, action="append", default=[], help="leave this peer out")
    parser.add_argument("--into", type=Path, default=Path("build/bench"), help="folder for result.json and pictures")
    parser.add_argument("--check", action="store_true", help="exit code 1 when a bar is missed")
    return parser.parse_args()


def main() -> int:
    options = _options()
    # As with Ctrl-C: what was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    parts = plan.full() if options.full else plan.PARTS
    wanted = set().union(*(names for key, names in _LEFT_OUT.items() if key not in options.without))
    begin = time.monotonic()

    def progress(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        load.program()
        ours = bool(_OURS & wanted)
        costs = ledger_cost.measure() if ours else []
        span_costs = span_cost.measure(min(1.0, options.run_seconds / _RUN_S)) if ours else []
        with tempfile.TemporaryDirectory(prefix="valkey-bench-") as name, ExitStack() as stack:
            folder = Path(name)
            stands = standing.measure(folder, ours)
            field = peers.start_all(folder, wanted, stack)
            progress("peers: " + ", ".join(peer.name for peer in field.peers))
            measured = rounds.run(
                field.peers, parts, options.run_seconds, options.seconds, field.certificate, exports.settle, progress
            )
            arrived = exports.arrived(field.peers)
    except (load.LoadError, process.ProcessError, data.DataError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2

    judged = bars.judge(measured, costs, stands, span_costs)
    took_s = time.monotonic() - begin
    result = Result(field.peers, field.missing, parts, measured, costs, stands, arrived, span_costs, judged, took_s)
    print(report.text(result))
    options.into.mkdir(parents=True, exist_ok=True)
    (options.into / "result.json").write_text(as_json(result))
    pictures = picture.all_of(result)
    for file, drawn in pictures.items():
        (options.into / file).write_text(drawn)
    print(f"\n{options.into}: " + ", ".join(["result.json", *pictures]))
    return 1 if options.check and not all(bar.met for bar in judged) else 0


if __name__ == "__main__":
    sys.exit(main())
