"""What each of INFO's figures is called elsewhere: one table.

Owns the names, kinds, units and labels under which the OpenTelemetry Collector's redis receiver (0.161) and
redis_exporter (1.45) show INFO's figures. Never holds a figure.

Sources are those of `telemetry.engine.info.Cell`; with a colon those that are not INFO's (`telemetry.engine.beside`).
Labels tell where their text comes from: `=text` is text, in `db*` the star is the record's key, else it is a part of
the same record or a field of INFO (empty where there is none).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from telemetry.engine.info import Cell, Info

PointKind = Literal["counter", "updowncounter", "gauge"]
FamilyKind = Literal["counter", "gauge", "summary"]


class Point(NamedTuple):
    """The redis receiver's side: the figure divided by `per`.

    words: the figure is a word; then the value is 1, and the one label is words[word].
    """

    name: str
    kind: PointKind
    unit: str
    labels: Mapping[str, str]
    per: int
    words: Mapping[str, str]


class Family(NamedTuple):
    """redis_exporter's side, without the leading `redis_`. The value is the figure divided by `per`, or `constant`."""

    name: str
    kind: FamilyKind
    labels: Mapping[str, str]
    per: int
    constant: int | None


class Row(NamedTuple):
    """One figure under its two names; one of them may be missing."""

    source: str
    description: str
    point: Point | None
    family: Family | None


def _point(name: str, kind: PointKind, unit: str, labels: Mapping[str, str] | None = None, per: int = 1) -> Point:
    return Point(f"redis.{name}", kind, unit, labels or {}, per, {})


def _word(name: str, kind: PointKind, label: str, **words: str) -> Point:
    return Point(f"redis.{name}", kind, f"{{{label.removeprefix('cluster_')}}}", {label: ""}, 1, words)


def _gauge(name: str, labels: Mapping[str, str] | None = None, per: int = 1, constant: int | None = None) -> Family:
    return Family(name, "gauge", labels or {}, per, constant)


def _count(name: str, labels: Mapping[str, str] | None = None, per: int = 1) -> Family:
    return Family(name, "counter", labels or {}, per, None)


_US = 1_000_000
_MS = 1_000
_PRIMARY = {"master_host": "master_host", "master_port": "master_port"}
_REPLICA = {"slave_ip": "ip", "slave_port": "port", "slave_state": "state"}
_DB = {"db": "*"}
_NAMED_DB = {"db": "db*"}
_CMD = {"cmd": "*"}
_INSTANCE = {
    "role": "role",
    "redis_version": "redis_version",
    "redis_build_id": "redis_build_id",
    "redis_mode": "redis_mode",
    "os": "os",
    "maxmemory_policy": "maxmemory_policy",
    "tcp_port": "tcp_port",
    "run_id": "run_id",
    "process_id": "process_id",
}


def _cpu(state: str) -> Point:
    return _point("cpu.time", "counter", "s", {"state": f"={state}"})


def _latency(percentile: str) -> Row:
    return Row(
        f"latency_percentiles_usec_*.p{percentile}",
        "Time that a command takes in the engine, by percentile.",
        _point("cmd.latency", "gauge", "s", {**_CMD, "percentile": f"=p{percentile}"}, _US),
        Family("latency_percentiles_usec", "summary", {**_CMD, "quantile": f"={percentile}"}, 1, None),
    )


def _plain(source: str, description: str, family: str = "", per: int = 1) -> Row:
    """A gauge of redis_exporter's alone; its name is the source where nothing else is said."""
    return Row(source, description, None, _gauge(family or source, per=per))


# fmt: off
ROWS: tuple[Row, ...] = (
    # Server
    Row("run_id", "What this instance is.", None, _gauge("instance_info", _INSTANCE, constant=1)),
    Row("server_mode", "Mode of the server.",
        _word("mode", "gauge", "mode", cluster="cluster", sentinel="sentinel", standalone="standalone"), None),
    Row("uptime_in_seconds", "Seconds since the engine's start.",
        _point("uptime", "counter", "s"), _gauge("uptime_in_seconds")),
    _plain("start_time", "Time of the engine's start, in seconds since the epoch.", "start_time_seconds"),
    _plain("process_id", "The engine's process id."),
    _plain("io_threads_active", "Whether I/O threads are at work."),

    # Clients
    Row("connected_clients", "Client connections, without those of replicas.",
        _point("clients.connected", "updowncounter", "{client}"), _gauge("connected_clients")),
    Row("blocked_clients", "Clients that wait in a blocking command.",
        _point("clients.blocked", "updowncounter", "{client}"), _gauge("blocked_clients")),
    Row("client_recent_max_input_buffer", "Largest input buffer of the present clients.",
        _point("clients.max_input_buffer", "gauge", "By"), _gauge("client_recent_max_input_buffer_bytes")),
    Row("client_recent_max_output_buffer", "Largest output buffer of the present clients.",
        _point("clients.max_output_buffer", "gauge", "By"), _gauge("client_recent_max_output_buffer_bytes")),
    Row("pubsub_clients", "Clients that subscribe to channels or patterns.",
        _point("pubsub.connection.count", "updowncounter", "{client}"), _gauge("pubsub_clients")),
    _plain("tracking_clients", "Clients that use client-side caching."),
    _plain("watching_clients", "Clients that watch keys."),
    _plain("clients_in_timeout_table", "Clients whose blocking command has a time limit."),
    _plain("cluster_connections", "Sockets of the cluster bus."),

    # Memory
    Row("used_memory", "Bytes that the engine has allocated.",
        _point("memory.used", "gauge", "By"), _gauge("memory_used_bytes")),
    Row("used_memory_rss", "Bytes of the engine's resident memory.", _point("memory.rss", "gauge", "By"),
        _gauge("memory_used_rss_bytes")),
    Row("used_memory_peak", "Most bytes ever allocated.",
        _point("memory.peak", "gauge", "By"), _gauge("memory_used_peak_bytes")),
    Row("used_memory_lua", "Bytes of the scripting engine.",
        _point("memory.lua", "gauge", "By"), _gauge("memory_used_lua_bytes")),
    Row("used_memory_overhead", "Bytes that the engine needs to manage its data.",
        _point("memory.used_memory_overhead", "updowncounter", "By"), _gauge("memory_used_overhead_bytes")),
    Row("used_memory_startup", "Bytes allocated at the start.",
        _point("memory.used_memory_startup", "updowncounter", "By"), _gauge("memory_used_startup_bytes")),
    Row("mem_fragmentation_ratio", "Resident memory over allocated memory.",
        _point("memory.fragmentation_ratio", "gauge", "1"), _gauge("mem_fragmentation_ratio")),
    Row("maxmemory", "Limit of the memory, 0 for none.",
        _point("maxmemory", "gauge", "By"), _gauge("memory_max_bytes")),
    _plain("used_memory_dataset", "Bytes of the data itself.", "memory_used_dataset_bytes"),
    _plain("used_memory_scripts", "Bytes of scripts and functions.", "memory_used_scripts_bytes"),
    _plain("number_of_cached_scripts", "Scripts in the cache."),
    _plain("total_system_memory", "Bytes of the machine's memory.", "total_system_memory_bytes"),
    _plain("allocator_active", "Bytes of the allocator's active pages.", "allocator_active_bytes"),
    _plain("allocator_allocated", "Bytes that the allocator has given out.", "allocator_allocated_bytes"),
    _plain("allocator_resident", "Bytes of the allocator's resident pages.", "allocator_resident_bytes"),
    _plain("allocator_frag_ratio", "Active over allocated memory."),
    _plain("allocator_frag_bytes", "Active minus allocated memory."),
    _plain("allocator_rss_ratio", "Resident over active memory."),
    _plain("allocator_rss_bytes", "Resident minus active memory."),
    _plain("mem_fragmentation_bytes", "Resident minus allocated memory."),
    _plain("mem_not_counted_for_evict", "Bytes that maxmemory does not count.", "mem_not_counted_for_eviction_bytes"),
    _plain("mem_clients_slaves", "Bytes of replicas' buffers."),
    _plain("mem_clients_normal", "Bytes of clients' buffers."),
    _plain("active_defrag_running", "Whether memory is being defragmented."),
    _plain("lazyfree_pending_objects", "Objects that wait to be freed."),

    # Persistence
    Row("rdb_changes_since_last_save", "Changes since the last snapshot.",
        _point("rdb.changes_since_last_save", "updowncounter", "{change}"), _gauge("rdb_changes_since_last_save")),
    _plain("loading", "Whether data is being loaded.", "loading_dump_file"),
    _plain("rdb_bgsave_in_progress", "Whether a snapshot is being written."),
    _plain("rdb_last_save_time", "Time of the last snapshot, in seconds since the epoch.",
        "rdb_last_save_timestamp_seconds"),
    _plain("rdb_last_bgsave_status", "Whether the last snapshot succeeded."),
    _plain("rdb_last_bgsave_time_sec", "Seconds that the last snapshot took, -1 for none.",
        "rdb_last_bgsave_duration_sec"),
    _plain("rdb_current_bgsave_time_sec", "Seconds of the present snapshot, -1 for none.",
        "rdb_current_bgsave_duration_sec"),
    _plain("rdb_last_cow_size", "Bytes copied during the last snapshot.", "rdb_last_cow_size_bytes"),
    _plain("aof_enabled", "Whether an append-only file is written."),
    _plain("aof_rewrite_in_progress", "Whether the append-only file is being rewritten."),
    _plain("aof_rewrite_scheduled", "Whether a rewrite waits for a snapshot to end."),
    _plain("aof_last_rewrite_time_sec", "Seconds that the last rewrite took, -1 for none.",
        "aof_last_rewrite_duration_sec"),
    _plain("aof_current_rewrite_time_sec", "Seconds of the present rewrite, -1 for none.",
        "aof_current_rewrite_duration_sec"),
    _plain("aof_last_bgrewrite_status", "Whether the last rewrite succeeded."),
    _plain("aof_last_write_status", "Whether the last write to the append-only file succeeded."),
    _plain("aof_last_cow_size", "Bytes copied during the last rewrite.", "aof_last_cow_size_bytes"),
    _plain("aof_current_size", "Bytes of the append-only file.", "aof_current_size_bytes"),
    _plain("aof_base_size", "Bytes of the append-only file at its last rewrite.", "aof_base_size_bytes"),
    _plain("aof_pending_rewrite", "Whether a rewrite waits."),
    _plain("aof_buffer_length", "Bytes that wait to be appended."),
    _plain("aof_pending_bio_fsync", "fsync calls that wait."),
    _plain("aof_delayed_fsync", "fsync calls that came late."),
    _plain("module_fork_in_progress", "Whether a module's child process runs."),
    _plain("module_fork_last_cow_size", "Bytes copied during a module's last child process."),

    # Stats
    Row("total_connections_received", "Connections that the engine has accepted.",
        _point("connections.received", "counter", "{connection}"), _count("connections_received_total")),
    Row("rejected_connections", "Connections refused because of maxclients.",
        _point("connections.rejected", "counter", "{connection}"), _count("rejected_connections_total")),
    Row("total_commands_processed", "Commands that the engine has processed.",
        _point("commands.processed", "counter", "{command}"), _count("commands_processed_total")),
    Row("instantaneous_ops_per_sec", "Commands a second at this moment.",
        _point("commands", "gauge", "{ops}/s"), _gauge("instantaneous_ops_per_sec")),
    Row("total_net_input_bytes", "Bytes read from the network.",
        _point("net.input", "counter", "By"), _count("net_input_bytes_total")),
    Row("total_net_output_bytes", "Bytes written to the network.",
        _point("net.output", "counter", "By"), _count("net_output_bytes_total")),
    Row("expired_keys", "Keys that have expired.",
        _point("keys.expired", "counter", "{event}"), _count("expired_keys_total")),
    Row("evicted_keys", "Keys evicted because of maxmemory.",
        _point("keys.evicted", "counter", "{key}"), _count("evicted_keys_total")),
    Row("keyspace_hits", "Lookups that found their key.",
        _point("keyspace.hits", "counter", "{hit}"), _count("keyspace_hits_total")),
    Row("keyspace_misses", "Lookups that did not find their key.",
        _point("keyspace.misses", "counter", "{miss}"), _count("keyspace_misses_total")),
    Row("pubsub_channels", "Channels that have subscribers.",
        _point("pubsub.channel.status", "updowncounter", "{channel}", {"redis.pubsub.channel.state": "=active"}),
        _gauge("pubsub_channels")),
    Row("pubsubshard_channels", "Shard channels that have subscribers.", None, _gauge("pubsubshard_channels")),
    Row("pubsub_patterns", "Patterns that have subscribers.",
        _point("pubsub.pattern.status", "updowncounter", "{pattern}", {"redis.pubsub.pattern.state": "=active"}),
        _gauge("pubsub_patterns")),
    Row("latest_fork_usec", "Time that the latest fork took.",
        _point("latest_fork", "gauge", "us"), _gauge("latest_fork_seconds", per=_US)),
    Row("tracking_total_keys", "Keys that client-side caching follows.",
        _point("tracking_total_keys", "updowncounter", "{key}"), _gauge("tracking_total_keys")),
    _plain("tracking_total_items", "Pairs of client and key that client-side caching follows."),
    _plain("tracking_total_prefixes", "Prefixes that client-side caching follows."),
    _plain("expired_stale_perc", "Percentage of keys that may have expired and are still there.",
        "expired_stale_percentage"),
    _plain("expired_time_cap_reached_count", "Expiry cycles that ran out of time.", "expired_time_cap_reached_total"),
    _plain("migrate_cached_sockets", "Sockets open for MIGRATE.", "migrate_cached_sockets_total"),
    _plain("slave_expires_tracked_keys", "Keys of a writable replica that are followed for their expiry."),
    _plain("active_defrag_hits", "Values moved by defragmentation.", "defrag_hits"),
    _plain("active_defrag_misses", "Values left by defragmentation.", "defrag_misses"),
    _plain("active_defrag_key_hits", "Keys moved by defragmentation.", "defrag_key_hits"),
    _plain("active_defrag_key_misses", "Keys left by defragmentation.", "defrag_key_misses"),
    Row("evicted_clients", "Clients evicted because of maxmemory-clients.", None, _count("evicted_clients_total")),
    Row("unexpected_error_replies", "Errors of unexpected kinds.", None, _count("unexpected_error_replies")),
    Row("total_error_replies", "Errors in replies.", None, _count("total_error_replies")),
    Row("dump_payload_sanitizations", "Payloads that were checked in depth.",
        None, _count("dump_payload_sanitizations")),
    Row("total_reads_processed", "Reads from sockets.", None, _count("total_reads_processed")),
    Row("total_writes_processed", "Writes to sockets.", None, _count("total_writes_processed")),
    Row("io_threaded_reads_processed", "Reads done by I/O threads.", None, _count("io_threaded_reads_processed")),
    Row("io_threaded_writes_processed", "Writes done by I/O threads.", None, _count("io_threaded_writes_processed")),
    Row("acl_access_denied_auth", "Failed logins.", None, _count("acl_access_denied_auth_total")),
    Row("acl_access_denied_cmd", "Commands denied by ACL.", None, _count("acl_access_denied_cmd_total")),
    Row("acl_access_denied_key", "Keys denied by ACL.", None, _count("acl_access_denied_key_total")),
    Row("acl_access_denied_channel", "Channels denied by ACL.", None, _count("acl_access_denied_channel_total")),
    _plain("tls_server_cert_expires_in_seconds", "Seconds until the server's certificate ends; 0 without TLS."),
    _plain("tls_ca_cert_expires_in_seconds", "Seconds until the certificate of the clients' authority ends."),

    # Replication
    Row("role", "Role in replication.",
        _word("role", "updowncounter", "role", master="primary", slave="replica"), None),
    Row("connected_slaves", "Replicas that are connected.",
        _point("slaves.connected", "updowncounter", "{replica}"), _gauge("connected_slaves")),
    Row("master_repl_offset", "Offset of replication.",
        _point("replication.offset", "gauge", "By"), _gauge("master_repl_offset")),
    Row("repl_backlog_first_byte_offset", "Offset where the replication backlog begins.",
        _point("replication.backlog_first_byte_offset", "gauge", "By"), _gauge("repl_backlog_first_byte_offset")),
    Row("slave_repl_offset", "Offset of this replica.",
        _point("replication.replica_offset", "gauge", "By"), _gauge("slave_repl_offset", _PRIMARY)),
    Row("master_link_status", "Whether the link to the primary is up.", None, _gauge("master_link_up", _PRIMARY)),
    Row("master_last_io_seconds_ago", "Seconds since the primary was last heard.",
        None, _gauge("master_last_io_seconds_ago", _PRIMARY)),
    Row("master_sync_in_progress", "Whether the primary's data is being copied.",
        None, _gauge("master_sync_in_progress", _PRIMARY)),
    Row("master_host", "The primary of this replica.", None,
        _gauge("slave_info", {**_PRIMARY, "read_only": "slave_read_only"}, constant=1)),
    Row("slave*.offset", "Offset of a replica.", None, _gauge("connected_slave_offset_bytes", _REPLICA)),
    Row("slave*.lag", "Seconds since a replica was last heard.", None, _gauge("connected_slave_lag_seconds", _REPLICA)),
    _plain("slave_priority", "Priority of this replica in a failover."),
    _plain("second_repl_offset", "Offset up to which the former primary's id counts."),
    _plain("repl_backlog_active", "Whether there is a replication backlog.", "repl_backlog_is_active"),
    _plain("repl_backlog_size", "Bytes that the replication backlog may have.", "replication_backlog_bytes"),
    _plain("repl_backlog_histlen", "Bytes in the replication backlog.", "repl_backlog_history_bytes"),
    _plain("sync_full", "Full copies for replicas.", "replica_resyncs_full"),
    _plain("sync_partial_ok", "Partial copies for replicas.", "replica_partial_resync_accepted"),
    _plain("sync_partial_err", "Partial copies that were not possible.", "replica_partial_resync_denied"),

    # CPU
    Row("used_cpu_sys", "System CPU time.", _cpu("sys"), _count("cpu_sys_seconds_total")),
    Row("used_cpu_user", "User CPU time.", _cpu("user"), _count("cpu_user_seconds_total")),
    Row("used_cpu_sys_children", "System CPU time of child processes.",
        _cpu("sys_children"), _count("cpu_sys_children_seconds_total")),
    Row("used_cpu_user_children", "User CPU time of child processes.", _cpu("user_children"),
        _count("cpu_user_children_seconds_total")),
    Row("used_cpu_sys_main_thread", "System CPU time of the main thread.", _cpu("sys_main_thread"),
        _count("cpu_sys_main_thread_seconds_total")),
    Row("used_cpu_user_main_thread", "User CPU time of the main thread.", _cpu("user_main_thread"),
        _count("cpu_user_main_thread_seconds_total")),

    # Commandstats, Latencystats, Errorstats
    Row("cmdstat_*.calls", "Calls of a command.", _point("cmd.calls", "counter", "{call}", _CMD),
        _count("commands_total", _CMD)),
    Row("cmdstat_*.usec", "Time that the engine spent in a command.", _point("cmd.usec", "counter", "us", _CMD),
        _count("commands_duration_seconds_total", _CMD, _US)),
    Row("cmdstat_*.rejected_calls", "Calls refused before they ran.",
        None, _count("commands_rejected_calls_total", _CMD)),
    Row("cmdstat_*.failed_calls", "Calls that ended in an error.", None, _count("commands_failed_calls_total", _CMD)),
    *(_latency(percentile) for percentile in ("50", "99", "99.9")),
    Row("latency_percentiles_usec_*.calls", "Calls behind the percentiles.",
        None, _count("latency_percentiles_usec_count", _CMD)),
    Row("latency_percentiles_usec_*.usec", "Microseconds behind the percentiles.", None,
        _count("latency_percentiles_usec_sum", _CMD)),
    Row("errorstat_*.count", "Errors in replies, by their first word.", None, _count("errors_total", {"err": "*"})),

    # Keyspace
    Row("db*.keys", "Keys of a database.", _point("db.keys", "gauge", "{key}", _DB), _gauge("db_keys", _NAMED_DB)),
    Row("db*.expires", "Keys of a database that have an expiry.",
        _point("db.expires", "gauge", "{key}", _DB), _gauge("db_keys_expiring", _NAMED_DB)),
    Row("db*.avg_ttl", "Average time to live of a database's keys.",
        _point("db.avg_ttl", "gauge", "ms", _DB), _gauge("db_avg_ttl_seconds", _NAMED_DB, _MS)),
    Row("db*.keys_with_volatile_items", "Keys of a database that hold items with an expiry.", None,
        _gauge("db_keys_with_expiring_items", _NAMED_DB)),

    # Cluster
    Row("cluster_enabled", "Whether this is a node of a cluster.",
        _point("cluster.cluster_enabled", "gauge", "1"), _gauge("cluster_enabled")),
    Row("cluster_state", "State of the cluster.",
        _word("cluster.state", "gauge", "cluster_state", ok="ok", fail="fail"),
        _gauge("cluster_state")),
    Row("cluster_slots_assigned", "Slots that have a node.",
        _point("cluster.slots_assigned", "gauge", "{slot}"), _gauge("cluster_slots_assigned")),
    Row("cluster_slots_ok", "Slots in order.",
        _point("cluster.slots_ok", "gauge", "{slot}"), _gauge("cluster_slots_ok")),
    Row("cluster_slots_pfail", "Slots whose node may have failed.",
        _point("cluster.slots_pfail", "gauge", "{slot}"), _gauge("cluster_slots_pfail")),
    Row("cluster_slots_fail", "Slots whose node has failed.",
        _point("cluster.slots_fail", "gauge", "{slot}"), _gauge("cluster_slots_fail")),
    Row("cluster_known_nodes", "Nodes of the cluster that are known.",
        _point("cluster.known_nodes", "gauge", "{node}"), _gauge("cluster_known_nodes")),
    Row("cluster_stats_messages_sent", "Messages sent over the cluster bus.",
        _point("cluster.stats_messages_sent", "counter", "{message}"), _gauge("cluster_messages_sent_total")),
    Row("cluster_stats_messages_received", "Messages received over the cluster bus.",
        _point("cluster.stats_messages_received", "counter", "{message}"), _gauge("cluster_messages_received_total")),
    _plain("cluster_nodes_pfail", "Nodes that may have failed."),
    _plain("cluster_nodes_fail", "Nodes that have failed."),
    _plain("cluster_voting_nodes_pfail", "Voting nodes that may have failed."),
    _plain("cluster_voting_nodes_fail", "Voting nodes that have failed."),
    _plain("cluster_size", "Primaries that serve slots."),
    _plain("cluster_current_epoch", "Epoch of the cluster."),
    _plain("cluster_my_epoch", "Epoch of this node."),
    _plain("cluster_stats_bytes_sent", "Bytes sent over the cluster bus."),
    _plain("cluster_stats_bytes_received", "Bytes received over the cluster bus."),
    _plain("cluster_stats_pubsub_bytes_sent", "Bytes of messages sent over the cluster bus."),
    _plain("cluster_stats_pubsub_bytes_received", "Bytes of messages received over the cluster bus."),
    _plain("cluster_stats_module_bytes_sent", "Bytes of modules sent over the cluster bus."),
    _plain("cluster_stats_module_bytes_received", "Bytes of modules received over the cluster bus."),

    # Beside INFO: CONFIG GET, SLOWLOG, LATENCY
    _plain("config:maxclients", "Setting maxclients.", "config_maxclients"),
    _plain("config:maxmemory", "Setting maxmemory, in bytes.", "config_maxmemory"),
    _plain("config:io-threads", "Setting io-threads.", "config_io_threads"),
    _plain("slowlog:length", "Entries of the slow log.", "slowlog_length"),
    _plain("slowlog:last_id", "Number of the slow log's latest entry.", "slowlog_last_id"),
    _plain("slowlog:last_usec", "Time that the slow log's latest entry took.",
        "last_slow_execution_duration_seconds", _US),
    Row("latency:*.at", "Time of an event's latest latency spike, in seconds since the epoch.", None,
        _gauge("latency_spike_last", {"event_name": "*"})),
    Row("latency:*.ms", "Duration of an event's latest latency spike.", None,
        _gauge("latency_spike_duration_seconds", {"event_name": "*"}, _MS)),
)
# fmt: on


def labels(spelt: Mapping[str, str], cell: Cell, info: Info) -> dict[str, str]:
    """The labels of one figure, from where `spelt` (a row's) says that they come."""
    return {name: _label(source, cell, info) for name, source in spelt.items()}


def _label(source: str, cell: Cell, info: Info) -> str:
    if source.startswith("="):
        return source[1:]
    if "*" in source:
        return source.replace("*", cell.key)
    return cell.parts[source] if source in cell.parts else info.fields.get(source, "")


def _by_source() -> dict[str, tuple[Row, ...]]:
    found: dict[str, tuple[Row, ...]] = {}
    for row in ROWS:
        found[row.source] = (*found.get(row.source, ()), row)
    return found


BY_SOURCE: dict[str, tuple[Row, ...]] = _by_source()
