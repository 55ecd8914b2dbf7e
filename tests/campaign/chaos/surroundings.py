"""Faults of what is around the server: the disk of its data folder, its collector, its certificates."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.authority import serial
from tests.campaign.chaos.faults import fault
from tests.campaign.chaos.site import Site, rewrite
from tests.conftest import wait_until
from tests.telemetry.otlp.receivers import Answer

_SERVED_S = 1.0
_LEFT_BYTES = 64 * 1024
_SERVER_S = 10.0
_ENDS_WITHIN_S = 20.0
_LAST_END_WITHIN_S = 2.0
_ANSWERED_WITHIN_S = 0.2


# ---- disk


def _no_disk_of_its_own(site: Site) -> str | None:
    """A disk that others use is not filled."""
    return None if os.path.ismount(site.data) else "the data folder is no file system of its own (needs root and mount)"


def _fill(site: Site) -> Path:
    """Leave next to nothing of the data folder's file system, in which the engine writes meanwhile."""
    ballast = site.data / "ballast"
    with ballast.open("wb") as file:
        while (more := shutil.disk_usage(site.data).free - _LEFT_BYTES) > 0:
            with contextlib.suppress(OSError):  # the engine was faster
                os.posix_fallocate(file.fileno(), file.tell(), more)
                file.seek(more, os.SEEK_CUR)
    return ballast


@fault("disk full", _SERVED_S, lasts_s=(1.0, 2.0), impossible=_no_disk_of_its_own)
def disk(site: Site, rng: random.Random) -> Iterator[float | None]:
    """appendfsync everysec: the engine refuses writes until there is space.

    Then its file may have a hole (docs/reliability.md, "Chaos"), which only a rewrite mends.
    """
    with site.at_the_engine() as client:
        client.config_set("appendfsync", "everysec")
        ballast = _fill(site)
        try:
            wait_until(lambda: client.info("persistence")["aof_last_write_status"] != "ok", "a write fails")
            yield
        finally:
            ballast.unlink()
        wait_until(lambda: client.info("persistence")["aof_last_write_status"] == "ok", "it writes again")
        rewrite(client)
        client.config_set("appendfsync", "always")


@fault("disk full, every write synced", _SERVER_S, lasts_s=(0.5, 1.0), impossible=_no_disk_of_its_own)
def disk_synced(site: Site, rng: random.Random) -> Iterator[float | None]:
    """appendfsync always: the engine ends itself at each write, and in the end the server does, as Valkey would."""
    engine = site.engine
    ballast = _fill(site)
    try:
        engine.wait(_ENDS_WITHIN_S)
        yield
    finally:
        ballast.unlink()
    with contextlib.suppress(psutil.TimeoutExpired):
        site.server.process.wait(_LAST_END_WITHIN_S)  # else the engine that was started last has space
        site.start_again()


# ---- collector


@fault("collector slow", _SERVED_S, lasts_s=(1.0, 3.0), served=True)
def slow(site: Site, rng: random.Random) -> Iterator[float | None]:
    site.collector.slow = True
    yield
    site.collector.slow = False


@fault("collector refusing", _SERVED_S, lasts_s=(1.0, 3.0), served=True)
def refusing(site: Site, rng: random.Random) -> Iterator[float | None]:
    site.collector.answer = Answer(code=503)  # so that what is cut off was not taken
    time.sleep(_ANSWERED_WITHIN_S)
    site.workload.run(site.way_to_collector.close())
    yield
    site.collector.answer = Answer()
    site.workload.run(site.way_to_collector.open())


@fault("collector hanging", _SERVED_S, lasts_s=(1.0, 3.0), served=True)
def hanging(site: Site, rng: random.Random) -> Iterator[float | None]:
    site.way_to_collector.flowing.clear()
    yield
    site.way_to_collector.flowing.set()


@fault("collector answers garbage", _SERVED_S, lasts_s=(1.0, 3.0), served=True, fast=True)
def garbage(site: Site, rng: random.Random) -> Iterator[float | None]:
    site.collector.answer = Answer(code=rng.choice((200, 400, 500)), body=rng.randbytes(2000))
    yield
    site.collector.answer = Answer()


# ---- certificates


@fault("certificates rotated", _SERVED_S, served=True, fast=True)
def certificates(site: Site, rng: random.Random) -> Iterator[float | None]:
    """First to what is none, which must change nothing; then to a new one."""
    right = site.certificate.certificate.read_bytes()
    site.certificate.certificate.write_bytes(right[: len(right) // 2])
    assert _serial_shown(site)
    issued = site.authority.issue("renewed")
    os.replace(issued.key, site.certificate.key)
    os.replace(issued.certificate, site.certificate.certificate)
    wanted = serial(site.certificate.certificate)
    wait_until(lambda: _serial_shown(site) == wanted, "the new certificate is shown")
    yield


def _serial_shown(site: Site) -> str:
    """The certificate that a client gets now."""
    context = ssl.create_default_context(cafile=str(site.authority.file))
    with (
        socket.create_connection(("127.0.0.1", site.tls_port)) as sock,
        context.wrap_socket(sock, server_hostname="localhost") as secured,
    ):
        return str((secured.getpeercert() or {})["serialNumber"])
