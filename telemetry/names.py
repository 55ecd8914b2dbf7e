"""Names, units and bounds of everything that is measured: the telemetry contract as code.

Owns the OpenTelemetry and the Prometheus name of every instrument, its scope, unit and attributes, the bounds of
the durations, what a span carries, and the log levels. Never holds a figure. One source: OTLP, Prometheus and
docs/telemetry.md read the same table, so they cannot drift apart. The engine's own metrics have theirs in
`telemetry.engine.table`.

    >>> COMMAND_CALLS.prometheus
    'valkey_command_calls'
    >>> DURATION_BOUNDS_S[0], len(DURATION_BOUNDS_S)
    (1e-05, 33)
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["counter", "updowncounter", "gauge", "histogram", "info"]
"""What OpenTelemetry calls it; `info` is Prometheus' alone (OTLP says the same in the resource)."""

COMMANDS, CLIENTS = "valkey.commands", "valkey.clients"
OVERVIEW, SIDECAR, ENGINE = "valkey.overview", "valkey.sidecar", "valkey.engine"
"""The instrumentation scopes."""

NANOSECONDS = 1_000_000_000
"""Nanoseconds in a second: the ledger counts the former, every format shows the latter."""

DURATION_BOUNDS_NS: tuple[int, ...] = tuple(
    microseconds * 1_000
    for microseconds in (
        *(10, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750),
        *(1_000, 1_500, 2_000, 3_000, 5_000, 7_500, 10_000, 15_000, 20_000, 30_000, 50_000, 75_000),
        *(100_000, 150_000, 250_000, 350_000, 500_000, 750_000, 1_000_000, 1_500_000, 2_500_000, 5_000_000),
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
    which belongs to the sample; empty for what Prometheus computes itself. Labels are `attributes` with underscores
    for dots. Units are UCUM's.
    """

    scope: str
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

    @property
    def prometheus_type(self) -> Literal["counter", "gauge", "histogram", "info"]:
        """The kind as Prometheus has it: what goes up and down is a gauge there."""
        return "gauge" if self.kind == "updowncounter" else self.kind


# Scope valkey.commands
COMMAND_CALLS = Instrument(
    COMMANDS, "valkey.command.calls", "counter", "{call}", ("db.operation.name", "error.type"),
    "valkey_command_calls", "", "Commands answered, by name and outcome (no error.type on success).",
)  # fmt: skip
COMMAND_DURATION = Instrument(
    COMMANDS, "valkey.command.duration", "histogram", "s", ("db.operation.name", "error.type"),
    "valkey_command_duration_seconds", "seconds",
    "Time from a command's last byte to its reply's last byte; queued, blocked and unanswered commands have none.",
)  # fmt: skip
COMMAND_BLOCKED_DURATION = Instrument(
    COMMANDS, "valkey.command.blocked.duration", "histogram", "s", ("db.operation.name",),
    "valkey_command_blocked_duration_seconds", "seconds", "Time that blocking commands waited, their answer included.",
)  # fmt: skip
COMMAND_IN_FLIGHT = Instrument(
    COMMANDS, "valkey.command.in_flight", "updowncounter", "{command}", (),
    "valkey_command_in_flight", "", "Commands that were read and are not answered yet.",
)  # fmt: skip
COMMAND_REQUEST_SIZE = Instrument(
    COMMANDS, "valkey.command.request.size", "counter", "By", ("db.operation.name",),
    "valkey_command_request_bytes", "bytes", "Bytes of requests read from clients.",
)  # fmt: skip
COMMAND_RESPONSE_SIZE = Instrument(
    COMMANDS, "valkey.command.response.size", "counter", "By", ("db.operation.name",),
    "valkey_command_response_bytes", "bytes", "Bytes of replies received from the engine.",
)  # fmt: skip
KEYSPACE_LOOKUPS = Instrument(
    COMMANDS, "valkey.keyspace.lookups", "counter", "{lookup}", ("db.operation.name", "valkey.cache.hit"),
    "valkey_keyspace_lookups", "", "Keyspace reads, by whether the reply held a value.",
)  # fmt: skip

# Scope valkey.clients
CLIENT_CONNECTIONS = Instrument(
    CLIENTS, "valkey.client.connections", "updowncounter", "{connection}", ("network.transport", "tls"),
    "valkey_client_connections", "", "Client connections that are open now.",
)  # fmt: skip
CLIENT_CONNECTIONS_OPENED = Instrument(
    CLIENTS, "valkey.client.connections.opened", "counter", "{connection}", (),
    "valkey_client_connections_opened", "", "Client connections accepted.",
)  # fmt: skip
CLIENT_CONNECTIONS_CLOSED = Instrument(
    CLIENTS, "valkey.client.connections.closed", "counter", "{connection}", (),
    "valkey_client_connections_closed", "", "Client connections that ended.",
)  # fmt: skip
REJECTION_REASONS = ("maxclients", "protected_mode", "tls")
CLIENT_CONNECTIONS_REJECTED = Instrument(
    CLIENTS, "valkey.client.connections.rejected", "counter", "{connection}", ("reason",),
    "valkey_client_connections_rejected", "", f"Client connections refused, by reason: {', '.join(REJECTION_REASONS)}.",
)  # fmt: skip

# Scope valkey.overview
OVERVIEW_RATE = Instrument(
    OVERVIEW, "valkey.command.rate", "gauge", "{command}/s", (),
    "", "", "Commands answered per second, without housekeeping.",
)  # fmt: skip
OVERVIEW_P50 = Instrument(
    OVERVIEW, "valkey.command.latency.p50", "gauge", "ms", (),
    "", "", "Half of the commands were answered within this time (without housekeeping).",
)  # fmt: skip
OVERVIEW_P99 = Instrument(
    OVERVIEW, "valkey.command.latency.p99", "gauge", "ms", (),
    "", "", "99 of 100 commands were answered within this time (without housekeeping).",
)  # fmt: skip
OVERVIEW_HIT_RATIO = Instrument(
    OVERVIEW, "valkey.cache.hit_ratio", "gauge", "1", (),
    "", "", "Share of keyspace reads that found a value, from 0 to 1.",
)  # fmt: skip
OVERVIEW_ERROR_RATIO = Instrument(
    OVERVIEW, "valkey.command.error_ratio", "gauge", "1", (),
    "", "", "Share of commands that ended in an error, from 0 to 1 (without housekeeping).",
)  # fmt: skip
OVERVIEW_MEMORY = Instrument(
    OVERVIEW, "valkey.memory.used", "gauge", "By", (),
    "", "", "Memory that the engine uses for its data and itself.",
)  # fmt: skip

# Scope valkey.sidecar
SPANS_DROPPED = Instrument(
    SIDECAR, "valkey.sidecar.spans.dropped", "counter", "{span}", ("reason",),
    "valkey_sidecar_spans_dropped", "", "Spans that were not sent, by reason.",
)  # fmt: skip
EXPORT_FAILURES = Instrument(
    SIDECAR, "valkey.sidecar.export.failures", "counter", "{failure}", ("signal", "reason"),
    "valkey_sidecar_export_failures", "", "Exports that finally failed, and items that the receiver rejected.",
)  # fmt: skip
QUEUE_SIZE = Instrument(
    SIDECAR, "valkey.sidecar.queue.size", "gauge", "{item}", ("signal",),
    "valkey_sidecar_queue_size", "", "Spans and log records that wait to be exported.",
)  # fmt: skip
WORKER_RESTARTS = Instrument(
    SIDECAR, "valkey.sidecar.worker.restarts", "counter", "{restart}", (),
    "valkey_sidecar_worker_restarts", "", "Workers that were replaced because they died.",
)  # fmt: skip
ENGINE_RESTARTS = Instrument(
    SIDECAR, "valkey.sidecar.engine.restarts", "counter", "{restart}", (),
    "valkey_sidecar_engine_restarts", "", "Times the engine was started again because it died.",
)  # fmt: skip
SESSIONS_RAW = Instrument(
    SIDECAR, "valkey.sidecar.sessions.raw", "counter", "{session}", ("reason",),
    "valkey_sidecar_sessions_raw", "", "Sessions whose bytes pass without being measured any more, by reason.",
)  # fmt: skip
LIMIT_REACHED = Instrument(
    SIDECAR, "valkey.sidecar.limit.reached", "counter", "{event}", ("limit",),
    "valkey_sidecar_limit_reached", "", "Times that clients reached a limit, by the setting's name (docs/limits.md).",
)  # fmt: skip
UPSTREAM_CONNECTIONS = Instrument(
    SIDECAR, "valkey.sidecar.upstream.connections", "updowncounter", "{connection}", ("route",),
    "valkey_sidecar_upstream_connections", "",
    "Connections of the workers to the engine: home (of one client), lane (shared by several).",
)  # fmt: skip
LANES_BROKEN = Instrument(
    SIDECAR, "valkey.sidecar.lane.broken", "counter", "{lane}", ("reason",),
    "valkey_sidecar_lane_broken", "", "Lanes that were lost with commands in flight, which got an error, by reason.",
)  # fmt: skip
TRACE_CONTEXTS = Instrument(
    SIDECAR, "valkey.sidecar.trace.contexts", "counter", "{context}", ("outcome",),
    "valkey_sidecar_trace_contexts", "", "TRACEPARENT commands, by whether they were accepted or invalid.",
)  # fmt: skip
PROCESS_CPU_TIME = Instrument(
    SIDECAR, "process.cpu.time", "counter", "s", ("role",),
    "valkey_sidecar_process_cpu_seconds", "seconds", "User and system CPU time of the processes of a role.",
)  # fmt: skip
PROCESS_MEMORY_USAGE = Instrument(
    SIDECAR, "process.memory.usage", "gauge", "By", ("role",),
    "valkey_sidecar_process_resident_memory_bytes", "bytes", "Resident memory of the processes of a role.",
)  # fmt: skip
BUILD_INFO = Instrument(
    SIDECAR, "valkey.sidecar.build", "info", "", ("version", "valkey.version"),
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
    OVERVIEW_RATE,
    OVERVIEW_P50,
    OVERVIEW_P99,
    OVERVIEW_HIT_RATIO,
    OVERVIEW_ERROR_RATIO,
    OVERVIEW_MEMORY,
    SPANS_DROPPED,
    EXPORT_FAILURES,
    QUEUE_SIZE,
    WORKER_RESTARTS,
    ENGINE_RESTARTS,
    SESSIONS_RAW,
    LIMIT_REACHED,
    UPSTREAM_CONNECTIONS,
    LANES_BROKEN,
    TRACE_CONTEXTS,
    PROCESS_CPU_TIME,
    PROCESS_MEMORY_USAGE,
    BUILD_INFO,
)
"""Every instrument, in the order in which it is shown."""

# The ledger's own names of its counters and gauges, as snapshot frames carry them.
LEDGER_OPENED = "connections.opened"
LEDGER_CLOSED = "connections.closed"
LEDGER_REJECTED = "connections.rejected"
LEDGER_SPANS_DROPPED = "spans.dropped"
LEDGER_SESSIONS_RAW = "sessions.raw"
LEDGER_LIMITS = "limits.reached"
LEDGER_UPSTREAMS = "upstreams"
LEDGER_LANES_BROKEN = "lanes.broken"
LEDGER_TRACE_CONTEXTS = "trace.contexts"
LEDGER_CONNECTIONS = "connections"
LEDGER_IN_FLIGHT = "commands.in_flight"

SEVERITIES: dict[str, int] = {"debug": 5, "verbose": 7, "notice": 9, "warning": 13, "error": 17}
"""OpenTelemetry severity numbers of our levels: Valkey's four, and `error` for our own faults."""


class SpanAttribute(NamedTuple):
    """One attribute of spans. `when` completes "it is there …"."""

    name: str
    type: Literal["string", "int", "double", "boolean"]
    when: str
    meaning: str


SPAN_ATTRIBUTES: tuple[SpanAttribute, ...] = (
    SpanAttribute("db.system.name", "string", "always", "`valkey`"),
    SpanAttribute("db.operation.name", "string", "always", "the command, or `PIPELINE`; the same as the span's name"),
    SpanAttribute("db.namespace", "string", "always", "number of the database"),
    SpanAttribute("db.operation.batch.size", "int", "for 2 or more commands together", "commands in it"),
    SpanAttribute("network.transport", "string", "always", "`tcp` or `unix`"),
    SpanAttribute("network.peer.address", "string", "always", "the client's address, or the path of the Unix socket"),
    SpanAttribute("network.peer.port", "int", "over TCP", "the client's port"),
    SpanAttribute("valkey.client.name", "string", "after `CLIENT SETNAME`", "what the client calls itself"),
    SpanAttribute("valkey.client.lib", "string", "after `CLIENT SETINFO`", "library and version, `SE.Redis/3.4.35`"),
    SpanAttribute("enduser.id", "string", "for any user but the default one", "the ACL user"),
    SpanAttribute("valkey.request.size", "int", "always", "bytes of the request"),
    SpanAttribute("valkey.response.size", "int", "always", "bytes of the reply"),
    SpanAttribute("valkey.cache.hit", "boolean", "for reads of the keyspace", "whether a value was found"),
    SpanAttribute("valkey.blocked", "boolean", "for blocking commands that waited", "`true`"),
    SpanAttribute("error.type", "string", "after an error", "its first word (`WRONGTYPE`, `ERR`, `NOAUTH`, …), or why "
        "there was no reply: `connection_lost`, `client_gone`"),
    SpanAttribute("db.response.status_code", "string", "after an error of the engine's", "the same first word"),
    SpanAttribute(
        "valkey.engine.duration", "double", "for slow commands that the engine has logged, too",
        "seconds that it took in the engine; of a transaction, those of its commands that were logged",
    ),
    SpanAttribute("valkey.kept", "string", "when the sampler did not want it", "why it is there: `error` or `slow`"),
    SpanAttribute("valkey.pipeline.omitted", "int", "when a pipeline has children without a span", "how many"),
    SpanAttribute("valkey.pipeline.omitted.errors", "int", "when some of those failed", "how many"),
    SpanAttribute("valkey.key", "string", "with `--sidecar-trace-keys`", "the first key, whole or hashed"),
)  # fmt: skip
"""What a span carries, in the order in which it is shown."""


class Budget(NamedTuple):
    """Spans that may be sent: so many a second, and so many at once after a quiet time."""

    setting: str
    per_second: int
    burst: int
    about: str


BUDGETS: tuple[Budget, ...] = (
    Budget("trace-budget-remote", 1_000, 5_000, "below spans of clients (`TRACEPARENT`)"),
    Budget("trace-budget-root", 50, 200, "of commands without a context"),
    Budget("trace-budget-kept", 10, 20, "kept only because a command failed or was slow"),
)
"""The defaults of the settings that bound spans."""

DROP_REASONS: dict[str, str] = {
    "sampler": "the sampler did not want them",
    "budget_remote": "more than `--sidecar-trace-budget-remote` below clients' spans",
    "budget_root": "more than `--sidecar-trace-budget-root` without a context",
    "budget_children": "more than `--sidecar-trace-budget-remote` inside our own pipelines and transactions",
    "budget_kept": "more than `--sidecar-trace-budget-kept` that failed or were slow",
    "omitted": "beyond the 128 children that one pipeline or transaction shows",
    "raw": "their session's bytes are no longer followed",
    "link_full": "the supervisor was too busy to take what a worker had for it",
    "queue_full": "export was slower than the commands, and the queue was full",
    "export_failed": "the receiver could not be reached within the time limit",
    "rejected": "the receiver refused them",
    "shutdown": "the server ended before the receiver had taken them",
    "bad_packet": "a fault of ours: a worker's packet that could not be read",
}
"""Reasons of valkey.sidecar.spans.dropped."""
