"""An OTLP receiver over gRPC that only counts, in a process of its own: what it costs is not the sender's.

Owns its process and the figures asked of it. Never keeps what it was sent. Runs as python -m bench.receiver: prints
its port, then a line of JSON for each line on standard input, and ends with the input.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from bench.process import ProcessError

_MESSAGE_BYTES_MAX = 8 << 20
_STOP_LIMIT_S = 5.0
_POLL_S = 0.02


class Receiver:
    """A running receiver on a loopback port. Use it as a context manager: leaving it ends the process."""

    def __init__(self) -> None:
        self._popen: subprocess.Popen[str] | None = None
        self.port = 0

    @property
    def pid(self) -> int:
        assert self._popen is not None
        return self._popen.pid

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def counts(self) -> dict[str, int]:
        """What has come so far: `spans`, `metrics`, `logs`. Raises ProcessError."""
        answer: dict[str, int] = json.loads(self._ask("counts"))
        return answer

    def wait_for(self, enough: Callable[[dict[str, int]], bool], limit_s: float) -> None:
        """Waits until the counts are enough. Raises ProcessError when they are not in `limit_s` seconds."""
        deadline = time.monotonic() + limit_s
        while not enough(found := self.counts()):
            if time.monotonic() > deadline:
                raise ProcessError(f"not enough came to the OTLP receiver in {limit_s:.0f} s: {found}")
            time.sleep(_POLL_S)

    def _ask(self, question: str) -> str:
        assert self._popen is not None
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        try:
            if question:
                self._popen.stdin.write(question + "\n")
                self._popen.stdin.flush()
            line = self._popen.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise ProcessError("the OTLP receiver has ended")
        return line

    def __enter__(self) -> Self:
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "bench.receiver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        self.port = int(self._ask(""))
        return self

    def __exit__(self, *_: object) -> None:
        assert self._popen is not None
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.close()
        try:
            self._popen.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        self._popen.stdout.close()


def main() -> None:
    """The receiver's process."""
    import grpc  # type: ignore[import-untyped]

    from telemetry.otlp.messages import SERVICES
    from telemetry.otlp.settings import Signal

    counts: Counter[str] = Counter(spans=0, metrics=0, logs=0)

    def spans(message: Any) -> None:
        counts["spans"] += sum(len(scope.spans) for one in message.resource_spans for scope in one.scope_spans)

    def metrics(message: Any) -> None:
        counts["metrics"] += sum(len(scope.metrics) for one in message.resource_metrics for scope in one.scope_metrics)

    def logs(message: Any) -> None:
        counts["logs"] += sum(len(scope.log_records) for one in message.resource_logs for scope in one.scope_logs)

    def service(signal: Signal, count: Callable[[Any], None]) -> Any:
        about = SERVICES[signal]

        def export(message: Any, _context: Any) -> bytes:
            count(message)
            return b""  # an empty response says that all is well

        name, _, method = about.method[1:].rpartition("/")
        handler = grpc.unary_unary_rpc_method_handler(export, request_deserializer=about.request.FromString)
        return grpc.method_handlers_generic_handler(name, {method: handler})

    # One thread: counts are written by nobody else, and a server before a client of one connection needs no more.
    server = grpc.server(ThreadPoolExecutor(1), options=[("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX)])
    server.add_generic_rpc_handlers(
        [service("traces", spans), service("metrics", metrics), service("logs", logs)],
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    for _ in sys.stdin:
        print(json.dumps(counts), flush=True)
    server.stop(None).wait(_STOP_LIMIT_S)


if __name__ == "__main__":
    main()
