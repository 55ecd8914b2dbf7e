"""CLIENT LIST and CLIENT INFO with many clients, and what a client that lists them once a second costs its neighbors.

    python -m bench.clients [--clients 1000 10000] [--seconds 5]

Owns the idle clients and the poll. Every figure is taken of a bare Valkey and of this server in turns, in one run; the
load is redis-benchmark's.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import resource
import shutil
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.synchronize import Event
from pathlib import Path

from bench import load, peers
from bench.load import Cell

_ROUNDS = 3
_LISTS = 10
_INFOS = 300
_POLL_S = 1.0
_NEIGHBORS = Cell("GET", 50, 1)
_ANSWER_WITHIN_S = 60.0
_HOME_TIMEOUT_S = 2
_OTHER_FILES = 400


class Client:
    """One connection that asks and waits for the whole answer, a line or a bulk string."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=_ANSWER_WITHIN_S)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        self._sock.close()

    def send(self, request: bytes) -> None:
        self._sock.sendall(request)

    def receive(self) -> bytes:
        """Raises ConnectionError when the server has closed."""
        data = bytearray()
        size = 0
        while not size or len(data) < size:
            chunk = self._sock.recv(1 << 18)
            if not chunk:
                raise ConnectionError("the server closed the connection")
            data += chunk
            if not size and b"\r\n" in data:
                head = data[: data.index(b"\r\n")]
                size = len(head) + 2 + (int(head[1:]) + 2 if head[:1] == b"$" else 0)
        return bytes(data)

    def ask(self, request: bytes) -> tuple[float, bytes]:
        """Seconds until the answer was there, and the answer."""
        began = time.perf_counter()
        self.send(request)
        answer = self.receive()
        return time.perf_counter() - began, answer


def _hold(port: int, count: int, connected: Event, stop: Event) -> None:
    with ExitStack() as stack:
        for _ in range(count):
            client = stack.enter_context(contextlib.closing(Client(port)))
            client.ask(b"PING\r\n")
        connected.set()
        stop.wait()


@contextlib.contextmanager
def idle_clients(port: int, count: int) -> Iterator[None]:
    """So many clients that have said PING once, in a process of their own: one may not have descriptors for all."""
    context = multiprocessing.get_context("fork")
    connected, stop = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(port, count, connected, stop), daemon=True)
    holder.start()
    try:
        if not connected.wait(_ANSWER_WITHIN_S):
            raise ConnectionError(f"{count} clients did not get in")
        yield
    finally:
        stop.set()
        holder.join()


def asked(port: int, request: bytes, times: int) -> float:
    """The median time of one command, in seconds; the first answers, which may prepare the others, are not counted."""
    with contextlib.closing(Client(port)) as client:
        client.ask(b"PING\r\n")
        for _ in range(2):
            client.ask(request)
        return statistics.median(client.ask(request)[0] for _ in range(times))


def neighbors(port: int, seconds: float, rate: float, polled: bool) -> load.Measured:
    """What 50 clients see for about so long, while another one lists all clients once a second, or not."""
    stop = threading.Event()

    def poll() -> None:
        with contextlib.closing(Client(port)) as client:
            while not stop.wait(_POLL_S):
                client.ask(b"CLIENT LIST\r\n")

    poller = threading.Thread(target=poll)
    if polled:
        poller.start()
    try:
        return load.run(_NEIGHBORS, port, int(rate * seconds))
    finally:
        stop.set()
        if polled:
            poller.join()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.clients", description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[1000, 10_000], help="idle clients (1000 10000)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of load, for each figure (5)")
    told = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="valkey-sidecar-bench-"))
    try:
        for count in told.clients:
            measure(folder, _allowed(count), told.seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _allowed(count: int) -> int:
    """So many clients, or as many as the limit of open files allows: each takes two in the worker."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    most = (hard - _OTHER_FILES) // 2
    if count > most:
        print(f"ulimit -n is {hard}: {most} clients instead of {count}")
    return min(count, most)


def measure(folder: Path, count: int, seconds: float) -> None:
    """One table."""
    options = ("--maxclients", "10100")
    parked = (*options, "--sidecar-home-timeout", str(_HOME_TIMEOUT_S))
    with ExitStack() as stack:
        ports: dict[str, int] = {}
        for name in ("bare Valkey", "valkey-sidecar", "valkey-sidecar, parked"):
            own = folder / f"{count}-{len(ports)}"
            own.mkdir()
            if name == "bare Valkey":
                process = peers.bare_process(own, *options)
            else:
                process = peers.sidecar_process(own, *(parked if "parked" in name else options))
            stack.enter_context(process)
            ports[name] = process.port
            stack.enter_context(idle_clients(process.port, count))
        time.sleep(_HOME_TIMEOUT_S + 1 + count / 3000)
        figures: dict[str, dict[str, list[float]]] = {name: {} for name in ports}
        for _ in range(_ROUNDS):
            for name, port in ports.items():
                rate = load.run(_NEIGHBORS, port, 20_000).rate
                quiet = neighbors(port, seconds, rate, polled=False)
                busy = neighbors(port, seconds, rate, polled=True)
                for figure, value in (
                    ("CLIENT LIST, ms", asked(port, b"CLIENT LIST\r\n", _LISTS) * 1e3),
                    ("CLIENT INFO, us", asked(port, b"CLIENT INFO\r\n", _INFOS) * 1e6),
                    ("p99 of GET c50, ms", quiet.p99_s * 1e3),
                    ("the same, polled, ms", busy.p99_s * 1e3),
                    ("GET c50, req/s", quiet.rate),
                    ("the same, polled", busy.rate),
                ):
                    figures[name].setdefault(figure, []).append(value)
    bare = figures["bare Valkey"]
    print(f"{count} idle clients, {os.cpu_count()} processors, medians of {_ROUNDS} rounds (of bare Valkey's)")
    print(f"{'':26}" + "".join(f"{name:>32}" for name in figures))
    for figure, values in bare.items():
        row = f"{figure:26}"
        for name in figures:
            median = statistics.median(figures[name][figure])
            row += f"{median:>22.2f} ({median / statistics.median(values):5.2f}x)"
        print(row)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
