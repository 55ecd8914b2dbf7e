"""Where the faults happen: a server in a folder, clients on all its doors, a collector, and what stands between them.

Owns what is started and ended again, and the server's account of itself (counts, memory, descriptors). It injects no
fault and judges nothing but that the server is there.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path

import psutil
import valkey

from tests.authority import Authority
from tests.campaign.collector import Collector
from tests.campaign.connection import Address, Reply
from tests.campaign.relay import Relay
from tests.campaign.workload import Workload
from tests.conftest import PATIENCE_S, Server, free_port, launch, wait_until
from tests.sidecar.exported import environment

WORKERS = 2
_FILL_BYTES = 1000
_FILE_BYTES_MOST = 200_000_000


class Site:
    """The server and its surroundings. Use it as a context manager.

    data: the folder of its data. megabytes: of data besides the workload's. clients: how many the workload has.
    """

    def __init__(self, folder: Path, data: Path, seed: int, clients: int, megabytes: int) -> None:
        self.folder, self.data = folder, data
        self.authority = Authority(folder / "authority")
        self.certificate = self.authority.issue()
        self.collector = Collector()
        self._collector_port = free_port()
        self.way_to_collector = Relay(self._collector_port, self.collector.port)
        self.port, self.tls_port, relay_port = free_port(), free_port(), free_port()
        self.relay = Relay(relay_port, self.port)
        self.direct = Address(self.port)
        trust = ssl.create_default_context(cafile=str(self.authority.file))
        doors = [
            self.direct,
            Address(relay_port),
            Address(self.port),
            Address(relay_port),
            Address(self.tls_port, trust),
        ]
        self.workload = Workload(doors, clients, seed)
        self._megabytes = megabytes
        self.starts = 0
        self.server = self._launch()

    def __enter__(self) -> Site:
        try:
            self.server.wait_ready()
            self._fill()
        except BaseException:
            self.server.kill()
            self.collector.close()
            raise
        self.workload.__enter__()
        self.workload.adopt(self.server.calls())
        for relay in (self.relay, self.way_to_collector):
            self.workload.run(relay.open())
        self.workload.start()
        return self

    def __exit__(self, *error: object) -> None:
        for relay in (self.relay, self.way_to_collector):
            self.workload.run(relay.close())
        with contextlib.ExitStack() as stack:
            stack.callback(self.collector.close)
            stack.callback(self.server.kill)
            self.workload.__exit__(*error)

    # ---- the server's life

    def _launch(self) -> Server:
        self.starts += 1
        # fmt: off
        return launch(
            self.folder, "--dir", str(self.data), "--save", "", "--appendonly", "yes", "--appendfsync", "always",
            "--auto-aof-rewrite-percentage", "0",
            "--tls-port", str(self.tls_port), "--tls-cert-file", str(self.certificate.certificate),
            "--tls-key-file", str(self.certificate.key), "--tls-ca-cert-file", str(self.authority.file),
            "--tls-auth-clients", "no", "--sidecar-workers", str(WORKERS),
            wait=False, port=self.port, env=environment(f"http://127.0.0.1:{self._collector_port}", "http/protobuf"),
        )
        # fmt: on

    def trim(self) -> None:
        """Rewrite the append-only file where it has become large.

        The engine does not do so by itself here, so that it never does while the disk is full.
        """
        with self.at_the_engine() as client:
            if client.info("persistence")["aof_current_size"] > _FILE_BYTES_MOST:
                rewrite(client)

    def start_again(self) -> None:
        """What an orchestrator does: the server has ended, and is started in the same folder."""
        self.server.wait_end()
        self.workload.new_tally()
        self.collector.taken = 0
        self.server = self._launch()

    def _fill(self) -> None:
        """Data besides the workload's, as a snapshot at the beginning of the append-only file."""
        with self.server.client() as client:
            for at in range(self._megabytes):
                client.mset({f"fill:{at}:{i}": f"{i}".ljust(_FILL_BYTES, "x") for i in range(1_000_000 // _FILL_BYTES)})
            rewrite(client)

    # ---- talking to it

    def ask(self, *words: str) -> Reply:
        """The reply of the server, as the workload counts it."""
        return self.workload.ask(self.direct, *(word.encode() for word in words))

    @contextlib.contextmanager
    def at_the_engine(self) -> Iterator[valkey.Valkey]:
        """A client of the engine behind the server's back: nobody counts what it does."""
        path = self.server.private_folder / "engine.sock"
        with valkey.Valkey(unix_socket_path=str(path), socket_timeout=PATIENCE_S) as client:
            yield client

    # ---- its processes

    @property
    def engine(self) -> psutil.Process:
        return self.server.engine

    @property
    def workers(self) -> list[psutil.Process]:
        """As many as there have to be."""
        return list(
            wait_until(lambda: len(w := self.server.children("worker")) == WORKERS and w, "all workers are there")
        )


def rewrite(client: valkey.Valkey) -> None:
    """Have the engine write its append-only file anew."""
    client.execute_command("BGREWRITEAOF")
    wait_until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], "the file is rewritten")
