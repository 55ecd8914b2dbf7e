"""The bench's command: python -m bench. Starts everything, measures, reports, stops everything.

Owns the order of the parts and the options. Never computes a figure.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from bench import bars, ledger_cost, load, peers, picture, process, report, rounds, span_cost, standing, variants

_PROXIES = {"sidecar": {peers.SIDECAR, peers.SIDECAR_OFF}, "haproxy": {peers.HAPROXY}, "nutcracker": {peers.NUTCRACKER}}
# Starts, calibration, the costs of ledger and spans, and the stops take the rest of five minutes.
_LOAD_LIMIT_S = 200.0
_TELEMETRY_SHARE = 0.5
_RUN_S = 0.4


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measures this server against its peers.")
    parser.add_argument("--seconds", type=float, default=_LOAD_LIMIT_S, help="for all rounds of load (%(default)s)")
    parser.add_argument(
        "--telemetry-share", type=float, default=_TELEMETRY_SHARE, help="of these seconds, for telemetry (%(default)s)"
    )
    parser.add_argument("--run-seconds", type=float, default=_RUN_S, help="for one run of the load (%(default)s)")
    parser.add_argument("--without", choices=_PROXIES, action="append", default=[], help="leave this peer out")
    parser.add_argument("--into", type=Path, default=Path("build/bench"), help="folder for result.json and pictures")
    parser.add_argument("--check", action="store_true", help="exit code 1 when a bar is missed")
    return parser.parse_args()


def main() -> int:
    options = _options()
    wanted = set().union(*(names for key, names in _PROXIES.items() if key not in options.without))
    begin = time.monotonic()

    def progress(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        load.program()
        ours = peers.SIDECAR in wanted
        costs = ledger_cost.measure() if ours else []
        span_costs = span_cost.measure(min(1.0, options.run_seconds / _RUN_S)) if ours else []
        with tempfile.TemporaryDirectory(prefix="valkey-bench-") as name:
            folder = Path(name)
            stands = standing.measure(folder, ours)
            telemetry, arrived = rounds.Rounds(), dict[str, float]()
            telemetry_s = options.seconds * options.telemetry_share if ours else 0.0
            with ExitStack() as stack:
                running, missing = peers.start_all(folder, wanted, stack.enter_context)
                progress("peers: " + ", ".join(peer.name for peer in running))
                measured = rounds.run(running, options.run_seconds, options.seconds - telemetry_s, progress)
            if ours:
                progress("telemetry: " + ", ".join(variants.NAMES))
                telemetry, arrived = variants.measure(folder, options.run_seconds, telemetry_s, progress)
    except (load.LoadError, process.ProcessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2

    judged = bars.judge(measured, costs, stands, telemetry, span_costs)
    result = report.Result(
        running, missing, measured, costs, stands, telemetry, arrived, span_costs, judged, time.monotonic() - begin
    )
    print(report.text(result))
    options.into.mkdir(parents=True, exist_ok=True)
    (options.into / "result.json").write_text(report.as_json(result))
    caption = ", ".join(f"{key} {value}" for key, value in result.machine.items())
    names = [peer.name for peer in running]
    (options.into / "throughput.svg").write_text(picture.svg(measured, names, caption))
    if telemetry.samples:
        (options.into / "telemetry.svg").write_text(picture.svg(telemetry, list(variants.NAMES), caption))
    print(f"\n{options.into}: result.json, throughput.svg" + (", telemetry.svg" if telemetry.samples else ""))
    return 1 if options.check and not all(bar.met for bar in judged) else 0


if __name__ == "__main__":
    sys.exit(main())
