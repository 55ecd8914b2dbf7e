"""Sends requests to an OTLP endpoint, again where that may help, and logs once that it fails or recovered.

Owns retries, deadlines, failure counts and what is logged about them. Never raises anything but ExportError, and never
logs what an endpoint answered or a header. How one attempt is made is in transport_grpc and transport_http, which are
imported only when they are needed.
"""

from __future__ import annotations

import os
import random
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final, Protocol

from telemetry.logs import get_logger
from telemetry.otlp.faults import Faults
from telemetry.otlp.settings import Signal, SignalSettings
from telemetry.otlp.stats import ExportStats

REQUEST_BYTES_MAX: Final = 4 << 20
"""Receivers refuse larger messages by default."""

# gRPC reads these when it is imported. Else it writes a line to standard error for each failed handshake and for each
# worker that is started; and it need not survive a fork, since all our children become other programs.
_QUIET_GRPC: Final = {"GRPC_VERBOSITY": "ERROR", "GRPC_ENABLE_FORK_SUPPORT": "0"}
# Read with each channel, before `no_proxy`, which it reads in its own way: the settings know what needs no proxy.
_NO_RULES_OF_GRPC: Final = {"no_grpc_proxy": ""}
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 5.0
_JITTER: Final = 0.2
_LEAST_ATTEMPT_S: Final = 0.05  # with less time than this left nothing is tried again


class ExportError(Exception):
    """A request has finally failed. `reason` is a word of a bounded set: `unavailable`, `deadline`, `http_404`, ..."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Transport(Protocol):
    """One signal's way to its endpoint. `send` is for one thread; `close` may come from another."""

    def send(self, request: bytes, items: int) -> None:
        """Send one serialized Export*ServiceRequest of so many items, and wait for the answer.

        Tries again inside the signal's timeout. Raises ExportError when it has finally failed, and has counted that.
        """

    def close(self) -> None:
        """Give up at once what is being sent or waited for; `send` raises from then on."""


@dataclass(frozen=True)
class Outcome:
    """How one attempt ended: `reason` is None when it was taken."""

    reason: str | None = None
    again: bool = False
    after_s: float = 0.0
    """Not before so many seconds, the endpoint said."""
    rejected: int = 0


class RetryingTransport(ABC):
    """What both kinds of transport share."""

    def __init__(self, signal: Signal, settings: SignalSettings, stats: ExportStats) -> None:
        self.signal: Final = signal
        self.settings: Final = settings
        self._stats = stats
        self._closed = threading.Event()
        self._failing = False
        self._faults = Faults(signal)

    @abstractmethod
    def attempt(self, request: bytes, timeout_s: float) -> Outcome:
        """Send once and wait for at most so long."""

    @abstractmethod
    def abort(self) -> None:
        """End the attempt under way, from another thread, and free everything."""

    def send(self, request: bytes, items: int) -> None:
        """See Transport."""
        reason = self._send(request)
        if reason is None:
            return
        self._stats.fail(self.signal, reason)
        if reason != "shutdown":
            self._is_failing(reason, items)
        raise ExportError(reason)

    def close(self) -> None:
        """See Transport."""
        self._closed.set()
        self.abort()

    def _send(self, request: bytes) -> str | None:
        """Why it failed in the end; None when it was taken."""
        if len(request) >= REQUEST_BYTES_MAX:
            return "too_large"
        deadline = time.monotonic() + self.settings.timeout_s
        pause = _FIRST_PAUSE_S
        while not self._closed.is_set():
            outcome = self._attempt(request, deadline - time.monotonic())
            if self._closed.is_set() and outcome.reason is not None:
                break
            if outcome.reason is None:
                self._was_taken(outcome.rejected)
                return None
            wait = max(outcome.after_s, pause * random.uniform(1 - _JITTER, 1 + _JITTER))
            pause = min(2 * pause, _LONGEST_PAUSE_S)
            if not outcome.again or time.monotonic() + wait + _LEAST_ATTEMPT_S > deadline:
                return outcome.reason
            self._closed.wait(wait)
        return "shutdown"

    def _attempt(self, request: bytes, timeout_s: float) -> Outcome:
        try:
            return self.attempt(request, timeout_s)
        except Exception as error:
            if not self._closed.is_set():  # else what it used was taken away
                self._faults.log(error)
            return Outcome("fault")

    def _was_taken(self, rejected: int) -> None:
        if rejected:
            self._stats.fail(self.signal, "rejected", rejected)
            if self.signal == "traces":
                self._stats.drop("rejected", rejected)
            self._is_failing("rejected", rejected)
        elif self._failing:
            self._failing = False
            get_logger().notice(
                "export.recovered",
                f"Exporting {self.signal} to {self.settings.shown} works again.",
                signal=self.signal,
                endpoint=self.settings.shown,
            )

    def _is_failing(self, reason: str, items: int) -> None:
        if self._failing:
            return
        self._failing = True
        get_logger().warning(
            "export.failed",
            f"Exporting {self.signal} to {self.settings.shown} fails: {reason}. No more is logged until it works.",
            signal=self.signal,
            endpoint=self.settings.shown,
            reason=reason,
            items=items,
        )


def make_transport(signal: Signal, settings: SignalSettings, stats: ExportStats) -> Transport:
    """The transport for these settings; imports what it needs, which takes a moment and memory.

    Raises telemetry.otlp.trust.TrustError when a certificate that the settings name cannot be read.
    """
    if settings.protocol == "grpc":
        for name, value in _QUIET_GRPC.items():
            os.environ.setdefault(name, value)
        os.environ.update(_NO_RULES_OF_GRPC)
        from telemetry.otlp.transport_grpc import GrpcTransport

        return GrpcTransport(signal, settings, stats)
    from telemetry.otlp.transport_http import HttpTransport

    return HttpTransport(signal, settings, stats)
