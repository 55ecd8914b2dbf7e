"""docs/telemetry.md, made from the tables that the code itself uses.

Owns the page's prose and layout; never adds a name, a unit or a default that is not in a table.

    python -m telemetry.reference > docs/telemetry.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Final

from telemetry import names
from telemetry.engine.table import ROWS, Row
from telemetry.housekeeping import HOUSEKEEPING
from telemetry.names import Instrument
from telemetry.reference_variables import VARIABLES, Variable

_START: Final = """\
# Telemetry

<!-- Made by `python -m telemetry.reference > docs/telemetry.md`: change the tables, not this page. -->

Every command becomes a span and a metric. Prometheus reads the metrics at `/metrics`, always. Spans, metrics and logs
go to any receiver of OpenTelemetry's protocol (a Collector, the Aspire dashboard, a vendor) as soon as you say where
it is:

    OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4317 valkey-sidecar

Nothing is sent while no endpoint is set and none is asked for. All of it happens outside the processes that carry
commands: a receiver that is slow, away or broken delays no command. What is lost is counted, in
`valkey.sidecar.spans.dropped` and `valkey.sidecar.export.failures`, and said in the log once, not once per attempt.

What you can set is below ([OpenTelemetry's variables](#environment-variables)) and in [settings.md](settings.md)
(our own).
"""
_SPANS: Final = """
## Spans

A command is a span of kind SERVER whose name is the command: `GET`, `CONFIG GET`. It begins when the command's last
byte was read and ends with the last byte of its reply, so it includes the time in which it waited for the engine. Its
parent is the span that the client named with `TRACEPARENT`; without one it is the root of a trace of its own.

Commands that belong together are shown together:

- **Pipelines.** Two or more commands that arrive in one read are one SERVER span `PIPELINE`, and each of them an
  INTERNAL span below it, 128 at most; the others are summed up in the attributes of the parent. So are commands that
  were given one context together (`TRACEPARENT … COUNT n`). A command with a context of its own is in no pipeline.
- **Transactions.** `MULTI` to `EXEC` are one SERVER span `MULTI`, with the queued commands below it. Each has its own
  result, and ends with `EXEC`'s reply: it has no duration of its own.

Spans below one parent start in the order in which their commands ran, at least 1 µs apart where the parent is long
enough, so that viewers list them in that order.

A command that failed has the status ERROR with the engine's text, in which arguments are left out. Spans never hold
values, and keys only if `--sidecar-trace-keys` asks for them. A span has no key if a part of its request was already
on its way to the engine when the rest arrived, or if the request was inline.

| attribute | type | when | meaning |
|---|---|---|---|
"""
_HOUSEKEEPING: Final = """
### Commands without a span

Clients send some commands by themselves. These have no span (`--sidecar-trace-exclude`
changes that), and a context passes over them, whether or not your engine knows them; metrics count them all:

"""
_OWN_KEYS: Final = """

The same holds for StackExchange.Redis' own keys and channels, `__Booksleeve_*`.

### How many spans are sent

`OTEL_TRACES_SAMPLER` decides, as the specification says. Whatever it says, commands that failed and commands slower
than `--sidecar-slow-threshold` are kept, marked with `valkey.kept`; blocking commands are not slow because they wait.
[Which command was slow](#which-command-was-slow) says how that is judged.

A cache answers more commands than anybody wants to read about. As long as no ratio is asked for, budgets bound the
spans:

| setting | spans a second | in a burst | which spans |
|---|---|---|---|
"""
_DROPS: Final = """
When a budget is spent, that is logged once (`spans.limited`, with the number and the setting), and once more when no
span has been lost for a minute (`spans.not_limited`). Every span that is not sent is counted in
`valkey.sidecar.spans.dropped`, by reason:

| reason | spans that were not sent because … |
|---|---|
"""
_SLOW: Final = """
### Which command was slow

A command is slow when it took longer than `--sidecar-slow-threshold` from its last byte, or from the replies that came
before its own, whichever is later. A transaction is judged from `EXEC` to the reply to `EXEC`. A slow command is one
log record `command.slow` with our duration and, as `valkey.engine.duration`, the engine's. Commands in the engine's
slow log that match none of ours are logged as `engine.slow_command`.

The engine sends the replies of a pipeline together, so their arrival doesn't show which command took the time. We ask
the engine's slow log (`COMMANDLOG`, or `SLOWLOG`) at once and match its entries by command, time and length of the
arguments. If `sidecar-slow-threshold` is below 10 ms, we have the engine log from there on, unless you set
`slowlog-log-slower-than` yourself.

- The command that the engine names is kept and logged. Commands before it aren't.
- On a [shared connection](lanes.md), commands of other clients behind it did wait for it: they are kept and logged,
  too.
- If the engine names none of them, a client's only late command is slow: it waited for something else. Of several
  late commands of one pipeline, the `PIPELINE` span is kept and logged in their place.
- If the log can't be read (no rights, a higher threshold, more slow commands than it holds), a command that came late
  by itself is slow, and several together are again their `PIPELINE`. On a shared connection, only the last command of
  the late replies is judged.

A client that gets large replies late only because it doesn't read them doesn't make its commands slow. What the engine
pushes to a subscriber is no large reply: `engine.large_reply` leaves it out.
"""
_METRICS: Final = """
## Metrics

The same figures go out over OTLP and stand at `/metrics`, under the names below. An attribute that is absent in OTLP
is an empty label in Prometheus, and labels have underscores for dots (`db_operation_name`). All workers together are
one instance, whose sums never go down, even when a worker dies.

- `valkey.command.calls` counts every command once, at its reply. `valkey.command.duration` has those with a duration
  of their own: not those queued in a transaction, blocked, or without a reply.
- Names come from the engine's command table and from a list of well-known commands that your engine may lack
  (`SENTINEL MASTERS`, `JSON.SET`, a command that `rename-command` took away). Such a command counts under its own
  name, with the engine's error. Any other name is `_OTHER`. So is an error code that doesn't look like one, and every
  code beyond the first 64.
- Hits and misses are read from replies: `nil` for `HGET` is a miss although its key may exist. The engine's own
  `redis.keyspace.hits` stands beside it.
- Sums over OTLP are cumulative since the server's start, unless `OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE`
  says otherwise. Histograms have explicit buckets.
- `valkey.command.duration` has exemplars: in each second, the slowest command that has a span. Prometheus gets them
  if it asks for OpenMetrics (`--enable-feature=exemplar-storage`).
- `/metrics` answers in the format that the `Accept` headers prefer: OpenMetrics 1.0, or Prometheus text 1.0.0 or
  0.0.4. Quality values, wildcards and quotes count as in RFC 9110. If none of the formats is acceptable, you get 0.0.4.
- [samples/compose](../samples/compose) has a Grafana board and alert rules made of these.
"""
_OVERVIEW: Final = """
What to look at first: one number each, over the last export interval. Rate, latency and errors leave housekeeping out
([Commands without a span](#commands-without-a-span)): a client's handshake may expect an error, and a health check's
`PING` says nothing about your application. The counters above have it all. A gauge that has nothing to say, such as a
latency without commands, is absent. Prometheus computes these itself, for example `histogram_quantile(0.99, sum by
(le) (rate(valkey_command_duration_seconds_bucket[1m])))`; [samples/compose](../samples/compose) shows how to leave
housekeeping out there.
"""
_ENGINE: Final = """
## The engine's metrics

Scope `valkey.engine`: the engine's own figures, read from `INFO`, over OTLP under the names of the OpenTelemetry
Collector's redis receiver, at `/metrics` under those of redis_exporter, so that their dashboards work unchanged.
In Prometheus' text format the types are redis_exporter's, too; OpenMetrics does not allow some of them.
Values the engine doesn't report are omitted. `redis_up` at `/metrics` is 1 while the engine answers `INFO`, else 0, and
then it stands alone.

Counters start over when the engine restarts (its `run_id` changes) and at `CONFIG RESETSTAT`, which leaves uptime, CPU
time and the counts of denied access as they are. With OTLP and Application Insights, a counter that starts over has a
new start time, and its first delta is its whole value, even when it has already grown past the old value.
A `CONFIG RESETSTAT` that the server can't see as such, because the session isn't followed, is recognized at the next
reading: by the count of that command, or by any counter that fell.
"""
_LOGS: Final = """
## Logs

One event is one sentence, a stable `event_name` and its details as attributes. Over OTLP the levels have these
severity numbers:

| level | severity number |
|---|---|
"""
_VARIABLES: Final = """
## Environment variables

As OpenTelemetry's specification has them; a variable that is empty counts as not set, and a value that cannot be used
is told in the log once, and the default is used. Where *signal* stands, `OTEL_EXPORTER_OTLP_TRACES_…`, `_METRICS_…`
and `_LOGS_…` exist, too, and count before the general one.

The proxy variables are not OpenTelemetry's: each is read in lower case first, even if it's empty, which means none, and
else in capitals. When something is exported through a proxy, the log says so at the start (`export.proxy`): which
variable, and the proxy without its password.
"""

_SCOPES: Final = {
    names.COMMANDS: "",
    names.CLIENTS: "",
    names.OVERVIEW: _OVERVIEW,
    names.SIDECAR: "",
}
_INSTRUMENT_HEAD: Final = """
| metric | kind | unit | attributes | at /metrics | meaning |
|---|---|---|---|---|---|
"""
_ENGINE_HEAD: Final = """
| OTLP | kind | unit | attributes | at /metrics | meaning |
|---|---|---|---|---|---|
"""
_SAMPLE_SUFFIX: Final = {"counter": "_total", "info": "_info"}
_NONE: Final = "–"


def telemetry_page() -> str:
    """The text of docs/telemetry.md."""
    parts = [_START, _SPANS]
    parts += _rows((f"`{a.name}`", a.type, a.when, a.meaning) for a in names.SPAN_ATTRIBUTES)
    parts += [_HOUSEKEEPING, ", ".join(f"`{command}`" for command in HOUSEKEEPING) + ".", _OWN_KEYS]
    parts += _rows((f"`--sidecar-{b.setting}`", f"{b.per_second:,}", f"{b.burst:,}", b.about) for b in names.BUDGETS)
    parts.append(_DROPS)
    parts += _rows((f"`{reason}`", meaning) for reason, meaning in names.DROP_REASONS.items())
    parts += [_SLOW, _METRICS, f"\nUpper bounds of durations: {_bounds()}.\n"]
    for scope, prose in _SCOPES.items():
        parts += [f"\n### {scope}\n", prose, _INSTRUMENT_HEAD]
        parts += _rows(_instrument(instrument) for instrument in names.INSTRUMENTS if instrument.scope == scope)
    parts.append(_LOGS)
    parts += _rows((level, str(number)) for level, number in names.SEVERITIES.items())
    parts.append(_VARIABLES)
    for title, variables in VARIABLES.items():
        parts.append(f"\n### {title}\n\n| variable | default | meaning |\n|---|---|---|\n")
        parts += _rows(_variable(variable) for variable in variables)
    parts += [_ENGINE, _ENGINE_HEAD]
    parts += _rows(dict.fromkeys(_engine(row) for row in ROWS))
    return "".join(parts)


def _rows(rows: Iterable[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(row)} |\n" for row in rows]


def _instrument(instrument: Instrument) -> tuple[str, ...]:
    kind, suffix = instrument.kind, _SAMPLE_SUFFIX.get(instrument.kind, "")
    return (
        _NONE if kind == "info" else f"`{instrument.name}`",
        "up-down counter" if kind == "updowncounter" else kind,
        _code(instrument.unit),
        ", ".join(map(_code, instrument.attributes)) or _NONE,
        _code(instrument.prometheus and instrument.prometheus + suffix),
        instrument.description,
    )


def _engine(row: Row) -> tuple[str, ...]:
    point, family = row.point, row.family
    kind = point.kind if point is not None else family.kind if family is not None else ""
    spelt = point.labels if point is not None else family.labels if family is not None else {}
    return (
        _NONE if point is None else f"`{point.name}`",
        "up-down counter" if kind == "updowncounter" else kind,
        _NONE if point is None else _code(point.unit),
        ", ".join(map(_code, spelt)) or _NONE,
        _NONE if family is None else f"`redis_{family.name}`",
        row.description,
    )


def _variable(variable: Variable) -> tuple[str, ...]:
    name = f"`{variable.name}`" + (", and per *signal*" if variable.per_signal else "")
    name += f", else `{variable.name.upper()}`" if variable.capitals else ""
    return name, variable.default, variable.about


def _code(text: str) -> str:
    return f"`{text}`" if text else _NONE


def _bounds() -> str:
    """`10 µs, 20 µs, …, 1 ms, …, 5 s`."""
    found = []
    for bound_ns in names.DURATION_BOUNDS_NS:
        for unit_ns, unit in ((names.NANOSECONDS, "s"), (1_000_000, "ms"), (1_000, "µs")):
            if bound_ns >= unit_ns:
                found.append(f"{bound_ns / unit_ns:g} {unit}")
                break
    return ", ".join(found)


if __name__ == "__main__":
    sys.stdout.write(telemetry_page())
