"""The environment variables about telemetry, described for people.

Owns what docs/telemetry.md says about each. Never reads one: that is `telemetry.otlp.settings`.
"""

from __future__ import annotations

from typing import NamedTuple

_PREFIX = "OTEL_EXPORTER_OTLP_"
_SIGNALS = ("TRACES", "METRICS", "LOGS")


class Variable(NamedTuple):
    """One variable. `default` is Markdown. per_signal: there is one for each signal, too, which counts before it.

    capitals: its name in capitals is read where the other one isn't set.
    """

    name: str
    default: str
    about: str
    per_signal: bool = False
    capitals: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The variable, those of single signals (`OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`), and the one in capitals."""
        if self.capitals:
            return self.name, self.name.upper()
        if not self.per_signal:
            return (self.name,)
        return self.name, *(f"{_PREFIX}{signal}_{self.name.removeprefix(_PREFIX)}" for signal in _SIGNALS)


VARIABLES: dict[str, tuple[Variable, ...]] = {
    "What is sent, and where to": (
        Variable(
            _PREFIX + "ENDPOINT",
            "none: nothing is sent",
            "URL of the receiver, `http://host:4317`. With http/protobuf and http/json the signal's path, "
            "`/v1/traces`, is added to the general variable, and not to those of one signal.",
            per_signal=True,
        ),
        Variable(
            _PREFIX + "PROTOCOL",
            "`grpc`",
            "`grpc`, `http/protobuf` or `http/json`.",
            per_signal=True,
        ),
        Variable(
            _PREFIX + "HEADERS",
            "none",
            "Headers of every request, `key=value,key=value`: a receiver's key. They are secrets, and shown nowhere.",
            per_signal=True,
        ),
        Variable(
            _PREFIX + "TIMEOUT",
            "`10000`",
            "Milliseconds that one request may take, all attempts included.",
            per_signal=True,
        ),
        Variable(
            _PREFIX + "COMPRESSION",
            "`none`",
            "`gzip` or `none`.",
            per_signal=True,
        ),
        Variable(
            "OTEL_TRACES_EXPORTER",
            "`otlp` if an endpoint is set",
            "`otlp` or `none`. With `otlp` and no endpoint: port 4317 (gRPC) or 4318 (HTTP) of this machine.",
        ),
        Variable(
            "OTEL_METRICS_EXPORTER",
            "`otlp` if an endpoint is set",
            "`otlp`, `none` or `prometheus`: /metrics is there in any case.",
        ),
        Variable(
            "OTEL_LOGS_EXPORTER",
            "`otlp` if an endpoint is set",
            "`otlp` or `none`. The log on standard output is there in any case.",
        ),
        Variable(
            "OTEL_SDK_DISABLED",
            "`false`",
            "`true` sends nothing at all.",
        ),
        Variable(
            "APPLICATIONINSIGHTS_CONNECTION_STRING",
            "none",
            "Sends to Application Insights, beside OTLP or instead of it; needs the extra `azure`. A secret.",
        ),
    ),
    "TLS": (
        Variable(
            _PREFIX + "CERTIFICATE",
            "none",
            "File with the authorities to trust, instead of all others.",
            per_signal=True,
        ),
        Variable(
            _PREFIX + "CLIENT_CERTIFICATE",
            "none",
            "File with our own certificate, for a receiver that asks for one.",
            per_signal=True,
        ),
        Variable(
            _PREFIX + "CLIENT_KEY",
            "none",
            "File with its key.",
            per_signal=True,
        ),
        Variable(
            _PREFIX + "INSECURE",
            "`false`",
            "Only for gRPC endpoints without `http://` or `https://` before them: `true` means without TLS.",
            per_signal=True,
        ),
        Variable(
            "SSL_CERT_FILE",
            "none",
            "File with the authorities to trust, where no certificate is set as above.",
        ),
        Variable(
            "SSL_CERT_DIR",
            "none",
            "Folders, with colons between them, whose certificates are trusted, every file whatever its name, beside "
            "those of the system.",
        ),
    ),
    "Proxies": (
        Variable(
            "https_proxy",
            "none",
            "Proxy for endpoints that begin with `https://`, as `http://user:password@host:3128`. OTLP over gRPC, OTLP "
            "over HTTP and Application Insights all follow the same variables; `grpc_proxy` is not used. A proxy that "
            "speaks TLS itself (`https://host:3128`) works for all but gRPC.",
            capitals=True,
        ),
        Variable(
            "http_proxy",
            "none",
            "Proxy for endpoints that begin with `http://`.",
            capitals=True,
        ),
        Variable(
            "all_proxy",
            "none",
            "Proxy for both, where the one above isn't set.",
            capitals=True,
        ),
        Variable(
            "no_proxy",
            "none",
            "Hosts to connect to directly, with commas between them: a name, which also means all names below it, an "
            "address, or a network (`10.0.0.0/8`), each also with a port (`localhost:4317`); `*` means all. Nothing is "
            "exempt by itself, not even `localhost`.",
            capitals=True,
        ),
    ),
    "Who we are": (
        Variable(
            "OTEL_SERVICE_NAME",
            "`valkey`",
            "`service.name` of the resource.",
        ),
        Variable(
            "OTEL_RESOURCE_ATTRIBUTES",
            "none",
            "Further attributes of the resource, `key=value,key=value`. A `service.instance.id` is taken as it is; "
            "else there is a new one with every start.",
        ),
    ),
    "Spans": (
        Variable(
            "OTEL_TRACES_SAMPLER",
            "`parentbased_always_on`",
            "`always_on`, `always_off` or `traceidratio`, each also with `parentbased_` before it: then a command "
            "with a context does as its parent does. Commands that failed or were slow are kept besides, within their "
            "budget.",
        ),
        Variable(
            "OTEL_TRACES_SAMPLER_ARG",
            "`1.0`",
            "The ratio, between 0 and 1.",
        ),
        Variable(
            "OTEL_BSP_SCHEDULE_DELAY",
            "`5000`",
            "Milliseconds that a span waits at most for others to be sent with.",
        ),
        Variable(
            "OTEL_BSP_MAX_QUEUE_SIZE",
            "`8192`",
            "Spans that may wait. The specification says 2048, which is less than one burst of the budgets.",
        ),
        Variable(
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
            "`512`",
            "Spans in one request.",
        ),
        Variable(
            "OTEL_BSP_EXPORT_TIMEOUT",
            "`30000`",
            "Milliseconds that one request may take, if that is less than OTEL_EXPORTER_OTLP_TIMEOUT.",
        ),
    ),
    "Metrics": (
        Variable(
            "OTEL_METRIC_EXPORT_INTERVAL",
            "`60000`",
            "Milliseconds between two exports, and the time that the gauges of valkey.overview look back.",
        ),
        Variable(
            "OTEL_METRIC_EXPORT_TIMEOUT",
            "`30000`",
            "As OTEL_BSP_EXPORT_TIMEOUT.",
        ),
        Variable(
            _PREFIX + "METRICS_TEMPORALITY_PREFERENCE",
            "`cumulative`",
            "`cumulative`; `delta` for counters and histograms since the last export; `lowmemory`, the same but for "
            "CPU time and the engine's counters.",
        ),
        Variable(
            "OTEL_METRICS_EXEMPLAR_FILTER",
            "`trace_based`",
            "`always_off` for no exemplars. `always_on` is the same as `trace_based`: only commands that have a span "
            "can be one.",
        ),
    ),
    "Logs": (
        Variable(
            "OTEL_BLRP_SCHEDULE_DELAY",
            "`1000`",
            "Milliseconds that a record waits at most for others to be sent with.",
        ),
        Variable(
            "OTEL_BLRP_MAX_QUEUE_SIZE",
            "`2048`",
            "Records that may wait.",
        ),
        Variable(
            "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE",
            "`512`",
            "Records in one request.",
        ),
        Variable(
            "OTEL_BLRP_EXPORT_TIMEOUT",
            "`30000`",
            "As OTEL_BSP_EXPORT_TIMEOUT.",
        ),
    ),
}
"""Every variable that is honoured, by what it is about, in the order in which they are shown."""
