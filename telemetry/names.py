"""Names, units and bounds of everything that is measured: the telemetry contract as code.

Owns the OpenTelemetry and the Prometheus name of every instrument, its unit and attributes, the bounds of
the durations, and the log levels. Never holds a figure. One source, two formats: OTLP and Prometheus read
the same table, so they cannot drift apart.

    >>> COMMAND_CALLS.prometheus
    'valkey_command_calls'
    >>> DURATION_BOUNDS_S[0], len(DURATION_BOUNDS_S)
    (1e-05, 25)
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["counter", "gauge", "histogram", "info"]

NANOSECONDS = 1_000_000_000
"""Nanoseconds in a second: the ledger counts the former, every format shows the latter."""

DURATION_BOUNDS_NS: tuple[int, ...] = tuple(
    microseconds * 1_000
    for microseconds in (
        *(10, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750),
        *(1_000, 1_500, 2_000, 3_000, 5_000, 7_500, 10_000, 20_000, 50_000, 100_000, 250_000, 500_000),
        *(1_000_000, 5_000_000),
    )
)
"""Upper bounds of the duration buckets in nanoseconds, inclusive. One more bucket, without a bound, follows them."""

DURATION_BOUNDS_S: tuple[float, ...] = tuple(bound / NANOSECONDS for bound in DURATION_BOUNDS_NS)
"""The same bounds in seconds, as OTLP and Prometheus show them."""

BUCKETS = len(DURATION_BOUNDS_NS) + 1
"""Buckets of a duration histogram, the unbounded last one included."""


class Instrument(NamedTuple):
    """One instrument of the contract.

    `prometheus` is the family's name: it ends in the unit where there is one and lacks the `_total` of counters,
    which belongs to the sample. Labels are `attributes` with underscores for dots. Units are UCUM's.
    """

    name: str
    kind: Kind
    unit: str
    attributes: tuple[str, ...]
    prometheus: str
    prometheus_unit: Literal["", "seconds", "bytes"]
    description: str

    @property
    def labels(self) -> tuple[str, ...]:
        """The attributes as Prometheus spells them."""
        return tuple(attribute.replace(".", "_") for attribute in self.attributes)


# Scope valkey.commands
COMMAND_CALLS = Instrument(
    "valkey.command.calls", "counter", "{call}", ("db.operation.name", "error.type"),
    "valkey_command_calls", "", "Commands answered, by name and outcome (error_type is empty on success).",
)  # fmt: skip
COMMAND_DURATION = Instrument(
    "valkey.command.duration", "histogram", "s", ("db.operation.name", "error.type"),
    "valkey_command_duration_seconds", "seconds",
    "Time from a command's last byte to its reply's last byte; queued, blocked and unanswered commands have none.",
)  # fmt: skip
COMMAND_BLOCKED_DURATION = Instrument(
    "valkey.command.blocked.duration", "histogram", "s", ("db.operation.name",),
    "valkey_command_blocked_duration_seconds", "seconds", "Time that blocking commands waited, their answer included.",
)  # fmt: skip
COMMAND_IN_FLIGHT = Instrument(
    "valkey.command.in_flight", "gauge", "{command}", (),
    "valkey_command_in_flight", "", "Commands that were read and are not answered yet.",
)  # fmt: skip
COMMAND_REQUEST_SIZE = Instrument(
    "valkey.command.request.size", "counter", "By", ("db.operation.name",),
    "valkey_command_request_bytes", "bytes", "Bytes of requests read from clients.",
)  # fmt: skip
COMMAND_RESPONSE_SIZE = Instrument(
    "valkey.command.response.size", "counter", "By", ("db.operation.name",),
    "valkey_command_response_bytes", "bytes", "Bytes of replies received from the engine.",
)  # fmt: skip
KEYSPACE_LOOKUPS = Instrument(
    "valkey.keyspace.lookups", "counter", "{lookup}", ("db.operation.name", "valkey.cache.hit"),
    "valkey_keyspace_lookups", "", "Keyspace reads, by whether the reply held a value.",
)  # fmt: skip

# Scope valkey.clients
CLIENT_CONNECTIONS = Instrument(
    "valkey.client.connections", "gauge", "{connection}", ("network.transport", "tls"),
    "valkey_client_connections", "", "Client connections that are open now.",
)  # fmt: skip
CLIENT_CONNECTIONS_OPENED = Instrument(
    "valkey.client.connections.opened", "counter", "{connection}", (),
    "valkey_client_connections_opened", "", "Client connections accepted.",
)  # fmt: skip
CLIENT_CONNECTIONS_CLOSED = Instrument(
    "valkey.client.connections.closed", "counter", "{connection}", (),
    "valkey_client_connections_closed", "", "Client connections that ended.",
)  # fmt: skip
CLIENT_CONNECTIONS_REJECTED = Instrument(
    "valkey.client.connections.rejected", "counter", "{connection}", ("reason",),
    "valkey_client_connections_rejected", "", "Client connections refused, by reason.",
)  # fmt: skip

# Scope valkey.sidecar
WORKER_RESTARTS = Instrument(
    "valkey.sidecar.worker.restarts", "counter", "{restart}", (),
    "valkey_sidecar_worker_restarts", "", "Workers that were replaced because they died.",
)  # fmt: skip
ENGINE_RESTARTS = Instrument(
    "valkey.sidecar.engine.restarts", "counter", "{restart}", (),
    "valkey_sidecar_engine_restarts", "", "Times the engine was started again because it died.",
)  # fmt: skip
SESSIONS_RAW = Instrument(
    "valkey.sidecar.sessions.raw", "counter", "{session}", ("reason",),
    "valkey_sidecar_sessions_raw", "", "Sessions whose bytes pass without being measured any more, by reason.",
)  # fmt: skip
PROCESS_CPU_TIME = Instrument(
    "process.cpu.time", "counter", "s", ("role",),
    "valkey_sidecar_process_cpu_seconds", "seconds", "User and system CPU time of the processes of a role.",
)  # fmt: skip
PROCESS_MEMORY_USAGE = Instrument(
    "process.memory.usage", "gauge", "By", ("role",),
    "valkey_sidecar_process_resident_memory_bytes", "bytes", "Resident memory of the processes of a role.",
)  # fmt: skip
BUILD_INFO = Instrument(
    "valkey.sidecar.build", "info", "", ("version", "valkey.version"),
    "valkey_sidecar_build", "", "Versions of this server and of its engine (empty until the engine has answered).",
)  # fmt: skip

INSTRUMENTS: tuple[Instrument, ...] = (
    COMMAND_CALLS,
    COMMAND_DURATION,
    COMMAND_BLOCKED_DURATION,
    COMMAND_IN_FLIGHT,
    COMMAND_REQUEST_SIZE,
    COMMAND_RESPONSE_SIZE,
    KEYSPACE_LOOKUPS,
    CLIENT_CONNECTIONS,
    CLIENT_CONNECTIONS_OPENED,
    CLIENT_CONNECTIONS_CLOSED,
    CLIENT_CONNECTIONS_REJECTED,
    WORKER_RESTARTS,
    ENGINE_RESTARTS,
    SESSIONS_RAW,
    PROCESS_CPU_TIME,
    PROCESS_MEMORY_USAGE,
    BUILD_INFO,
)
"""Every instrument, in the order in which it is shown."""

# The ledger's own names of its counters and gauges, as snapshot frames carry them.
LEDGER_OPENED = "connections.opened"
LEDGER_CLOSED = "connections.closed"
LEDGER_REJECTED = "connections.rejected"
LEDGER_SESSIONS_RAW = "sessions.raw"
LEDGER_CONNECTIONS = "connections"
LEDGER_IN_FLIGHT = "commands.in_flight"

SEVERITIES: dict[str, int] = {"debug": 5, "verbose": 7, "notice": 9, "warning": 13, "error": 17}
"""OpenTelemetry severity numbers of our levels: Valkey's four, and `error` for our own faults."""
