"""Faults of connections: of clients to us, and of our workers to the engine."""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import time
from collections.abc import Iterator

from tests.campaign.chaos.faults import fault
from tests.campaign.chaos.site import Site
from tests.campaign.relay import Relay
from tests.conftest import wait_until

_RECOVERY_S = 1.0
_CROWD = 10_000
_CROWD_WITHIN_S = 60.0


@fault("client connections cut", _RECOVERY_S, fast=True)
def cut(site: Site, rng: random.Random) -> Iterator[float | None]:
    site.workload.run(site.relay.cut(reset=rng.random() < 0.5))
    yield


@fault("client connections delayed", _RECOVERY_S, lasts_s=(1.0, 2.0))
def delayed(site: Site, rng: random.Random) -> Iterator[float | None]:
    site.relay.delay_s = rng.uniform(0.02, 0.2)
    yield
    site.relay.delay_s = 0.0


@fault("client connections stalled, then cut", _RECOVERY_S, lasts_s=(0.5, 2.0))
def stalled(site: Site, rng: random.Random) -> Iterator[float | None]:
    site.relay.flowing.clear()
    yield
    site.workload.run(site.relay.cut(reset=True))
    site.relay.flowing.set()


@fault("client bytes in pieces", _RECOVERY_S, lasts_s=(1.0, 2.0))
def pieces(site: Site, rng: random.Random) -> Iterator[float | None]:
    site.relay.piece = rng.randint(1, 7)
    yield
    site.relay.piece = 0


@fault("engine connections cut", _RECOVERY_S, fast=True)
def upstream_cut(site: Site, rng: random.Random) -> Iterator[float | None]:
    with site.at_the_engine() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    yield


@fault("one lane cut", _RECOVERY_S)
def lane_cut(site: Site, rng: random.Random) -> Iterator[float | None]:
    with site.at_the_engine() as client:
        lanes = [entry["id"] for entry in client.client_list() if entry["name"] == "valkey-sidecar-lane"]
        if lanes:
            client.execute_command("CLIENT", "KILL", "ID", rng.choice(lanes))
    yield


@contextlib.contextmanager
def _relay_to_the_engine(site: Site) -> Iterator[Relay]:
    """A relay on the engine's socket: every connection to the engine goes through it."""
    path = site.server.private_folder / "engine.sock"
    with site.at_the_engine() as client:
        client.ping()
        behind = path.rename(path.with_name("behind.sock"))
        relay = Relay(path, behind)
        site.workload.run(relay.open())
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    try:
        yield relay
    finally:
        behind.rename(path)
        site.workload.run(relay.close())


@fault("engine connections delayed", _RECOVERY_S, lasts_s=(1.0, 2.0))
def upstream_delayed(site: Site, rng: random.Random) -> Iterator[float | None]:
    with _relay_to_the_engine(site) as relay:
        relay.delay_s = rng.uniform(0.02, 0.2)
        yield


@fault("engine bytes in pieces, then cut", _RECOVERY_S, lasts_s=(1.0, 2.0))
def upstream_pieces(site: Site, rng: random.Random) -> Iterator[float | None]:
    with _relay_to_the_engine(site) as relay:
        relay.piece = rng.randint(1, 7)
        yield


@fault("engine connections stalled, then cut", _RECOVERY_S, lasts_s=(0.5, 2.0))
def upstream_stalled(site: Site, rng: random.Random) -> Iterator[float | None]:
    with _relay_to_the_engine(site) as relay:
        relay.flowing.clear()
        yield
        relay.flowing.set()


def _crowd(port: int, number: int) -> tuple[int, int]:
    """Connect so many clients at once and have each say PING; how many were served, and how many refused.

    They are closed together when all have been told.
    """
    told = {b"+": 0, b"-": 0}
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for _ in range(number):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
            selector.register(sock, selectors.EVENT_WRITE)
        deadline = time.monotonic() + _CROWD_WITHIN_S
        while selector.get_map():
            assert time.monotonic() < deadline, f"{len(selector.get_map())} of {number} were not told anything"
            for key, events in selector.select(1.0):
                sock = key.fileobj  # type: ignore[assignment]
                with contextlib.suppress(OSError):
                    if events & selectors.EVENT_WRITE:
                        sock.send(b"PING\r\n")
                        selector.modify(sock, selectors.EVENT_READ)
                        continue
                    reply = sock.recv(100)
                    selector.unregister(sock)
                    told[reply[:1] or b"-"] += 1
                    continue
                selector.unregister(sock)
                told[b"-"] += 1
    return told[b"+"], told[b"-"]


@fault("10,000 clients at once", _RECOVERY_S)
def crowd(site: Site, rng: random.Random) -> Iterator[float | None]:
    served, refused = _crowd(site.port, _CROWD)
    print(f"  {served:,} served, {refused:,} refused")
    assert served, "none of them was served"
    site.workload.tally.sent["PING"] += _CROWD
    yield


@fault("more clients than maxclients", _RECOVERY_S, lasts_s=(0.5, 1.5), fast=True)
def too_many(site: Site, rng: random.Random) -> Iterator[float | None]:
    before = site.ask("CONFIG", "GET", "maxclients")[1].decode()
    connected = int(site.server.metric("valkey_client_connections{"))
    site.ask("CONFIG", "SET", "maxclients", str(connected + 50))
    with contextlib.ExitStack() as stack:
        guests = [stack.enter_context(socket.create_connection(("127.0.0.1", site.port))) for _ in range(200)]
        refused = wait_until(lambda: [guest for guest in guests if _is_refused(guest)], "somebody is refused")
        print(f"  {len(refused)} of {len(guests)} refused at first")
        yield
    site.ask("CONFIG", "SET", "maxclients", before)


def _is_refused(guest: socket.socket) -> bool:
    guest.setblocking(False)
    try:
        return guest.recv(100, socket.MSG_PEEK).startswith(b"-ERR max number of clients")
    except BlockingIOError:
        return False
    except OSError:
        return True
