"""Fixtures of the tests of export: the log, and receivers that are gone afterwards."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from telemetry import logs
from tests.telemetry.otlp.helpers import Log
from tests.telemetry.otlp.receivers import GrpcReceiver, HttpReceiver, Receiver

Receive = Callable[..., Receiver]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """Logging is one per process: it is left as it was found."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    path = tmp_path / "log.json"
    logs.configure(format="json", level="debug", logfile=str(path))
    yield Log(path)
    logs.configure()
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def receive() -> Iterator[Receive]:
    """Starts a receiver for a protocol."""
    receivers: list[Receiver] = []

    def start(protocol: str, **options: Any) -> Receiver:
        receivers.append(GrpcReceiver(**options) if protocol == "grpc" else HttpReceiver(**options))
        return receivers[-1]

    yield start
    for receiver in receivers:
        receiver.close()
