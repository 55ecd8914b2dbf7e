"""What to export and where to: the OpenTelemetry variables of the environment, read once.

Owns their names, defaults and the rule that nothing is exported while no endpoint is set and none is asked for. Never
opens a connection or a file, and imports nothing but the standard library: it runs before the first client is served.

    settings, warnings = read(os.environ)
    if settings.traces: ...
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, cast
from urllib.parse import SplitResult, unquote, urlsplit

from telemetry.otlp.environment import Environment
from telemetry.proxies import Proxies, Proxy

Signal = Literal["traces", "metrics", "logs"]
Protocol = Literal["grpc", "http/protobuf", "http/json"]
Temporality = Literal["cumulative", "delta", "lowmemory"]
ExemplarFilter = Literal["always_on", "always_off", "trace_based"]

SIGNALS: Final[tuple[Signal, ...]] = ("traces", "metrics", "logs")
MAX_QUEUE_SIZE: Final = 8192
"""Spans that may wait. The specification's 2,048 is less than one burst of the budgets together; this holds three."""

_PROTOCOLS: Final = ("grpc", "http/protobuf", "http/json")
_SAMPLERS: Final = tuple(
    prefix + root for prefix in ("", "parentbased_") for root in ("always_on", "always_off", "traceidratio")
)
_MS: Final = 1000


@dataclass(frozen=True)
class SignalSettings:
    """Where one signal goes. `endpoint` is a URL: whole for HTTP, its path without a meaning for gRPC."""

    endpoint: str = field(repr=False)
    protocol: Protocol = "grpc"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = 10.0
    """For one request with all its retries."""
    gzip: bool = False
    certificate: str | None = None
    """File of the authorities to trust, instead of every other source."""
    client_key: str | None = None
    client_certificate: str | None = None
    ssl_cert_file: str | None = None
    ssl_cert_dir: str | None = None
    user: str = field(default="", repr=False)
    """`user:password` of the URL, which only HTTP can send."""
    proxy: Proxy | None = None

    @property
    def secure(self) -> bool:
        return self.endpoint.startswith("https:")

    @property
    def shown(self) -> str:
        """The endpoint for logs: without a query, which may hold a key."""
        return self.endpoint.partition("?")[0].partition("#")[0]

    @property
    def origin(self) -> str:
        """The endpoint without its path."""
        return "{0.scheme}://{0.netloc}".format(urlsplit(self.endpoint))


@dataclass(frozen=True)
class BatchSettings:
    """A queue of spans or log records: how many may wait, how many go together, how long the first may wait."""

    delay_s: float
    max_queue_size: int
    max_batch_size: int


@dataclass(frozen=True)
class Sampler:
    """OTEL_TRACES_SAMPLER. `root` decides about spans without a parent; a float is a ratio between 0 and 1."""

    root: Literal["on", "off"] | float = "on"
    parent_based: bool = True

    @property
    def plain_always_on(self) -> bool:
        """Nothing but "everything" was asked for: the budgets apply."""
        return self.root == "on"


@dataclass(frozen=True)
class ExportSettings:
    """Everything about export; a signal that is None is not exported over OTLP."""

    traces: SignalSettings | None = None
    metrics: SignalSettings | None = None
    logs: SignalSettings | None = None
    spans: BatchSettings = BatchSettings(5.0, MAX_QUEUE_SIZE, 512)
    log_records: BatchSettings = BatchSettings(1.0, 2048, 512)
    metric_interval_s: float = 60.0
    temporality: Temporality = "cumulative"
    exemplar_filter: ExemplarFilter = "trace_based"
    sampler: Sampler = Sampler()
    service_name: str | None = None
    resource_attributes: Mapping[str, str] = field(default_factory=dict)
    azure_connection_string: str | None = field(default=None, repr=False)
    """APPLICATIONINSIGHTS_CONNECTION_STRING: a secret."""
    proxies: Proxies = field(default_factory=lambda: Proxies({}), repr=False, compare=False)

    def signal(self, signal: Signal) -> SignalSettings | None:
        return {"traces": self.traces, "metrics": self.metrics, "logs": self.logs}[signal]

    @property
    def otlp(self) -> bool:
        """Whether anything goes out over OTLP."""
        return any(self.signal(signal) for signal in SIGNALS)


def read(environ: Mapping[str, str]) -> tuple[ExportSettings, list[str]]:
    """The settings, and a sentence for each variable that could not be used. Never raises."""
    env = Environment(environ)
    if env.switch("OTEL_SDK_DISABLED"):
        return ExportSettings(), env.warnings
    limits = {
        "traces": "OTEL_BSP_EXPORT_TIMEOUT",
        "metrics": "OTEL_METRIC_EXPORT_TIMEOUT",
        "logs": "OTEL_BLRP_EXPORT_TIMEOUT",
    }
    proxies = Proxies(environ)
    signals = {signal: _signal(env, signal, limits[signal], proxies) for signal in SIGNALS}
    attributes = env.pairs("OTEL_RESOURCE_ATTRIBUTES")
    settings = ExportSettings(
        traces=signals["traces"],
        metrics=signals["metrics"],
        logs=signals["logs"],
        spans=_batch(env, "OTEL_BSP", delay_ms=5000, queue_size=MAX_QUEUE_SIZE),
        log_records=_batch(env, "OTEL_BLRP", delay_ms=1000, queue_size=2048),
        metric_interval_s=env.number("OTEL_METRIC_EXPORT_INTERVAL", default=60_000, least=1) / _MS,
        temporality=cast(
            Temporality,
            env.choice(
                "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
                allowed=("cumulative", "delta", "lowmemory"),
                default="cumulative",
            ),
        ),
        exemplar_filter=cast(
            ExemplarFilter,
            env.choice(
                "OTEL_METRICS_EXEMPLAR_FILTER",
                allowed=("always_on", "always_off", "trace_based"),
                default="trace_based",
            ),
        ),
        sampler=_sampler(env),
        service_name=env.text("OTEL_SERVICE_NAME") or attributes.get("service.name") or None,
        resource_attributes=attributes,
        azure_connection_string=env.text("APPLICATIONINSIGHTS_CONNECTION_STRING"),
        proxies=proxies,
    )
    if settings.azure_connection_string:
        proxies.of("https")  # what is wrong with it
    for warning in proxies.warnings:
        env.warn(warning)
    return settings, env.warnings


def _signal(env: Environment, signal: Signal, limit: str, proxies: Proxies) -> SignalSettings | None:
    """Settings of one signal; None where it is off."""
    prefix, general = f"OTEL_EXPORTER_OTLP_{signal.upper()}_", "OTEL_EXPORTER_OTLP_"

    def both(name: str) -> tuple[str, str]:
        return prefix + name, general + name

    exporters = _exporters(env, signal)
    if not (env.text(*both("ENDPOINT")) if exporters is None else "otlp" in exporters):
        return None
    protocol = cast(Protocol, env.choice(*both("PROTOCOL"), allowed=_PROTOCOLS, default="grpc"))
    url = _endpoint(env, signal, protocol)
    if url is None:
        return None
    user, _, host = url.netloc.rpartition("@")
    proxy = proxies.to(url._replace(netloc=host).geturl())
    if protocol == "grpc":
        for name in proxies.ignored:
            env.warn(f"{name}: this is not used, only the variables that every exporter follows.")
        if proxy is not None and proxy.scheme != "http":
            env.warn(f"{proxy.variable}: gRPC can't use a proxy that speaks TLS itself; {signal} are not exported.")
            return None
    timeout_ms = env.number(*both("TIMEOUT"), default=10_000, least=1)
    return SignalSettings(
        endpoint=url._replace(netloc=host).geturl(),
        protocol=protocol,
        headers=env.headers(*both("HEADERS")),
        timeout_s=min(timeout_ms, env.number(limit, default=30_000, least=1)) / _MS,
        gzip=env.choice(*both("COMPRESSION"), allowed=("none", "gzip"), default="none") == "gzip",
        certificate=env.text(*both("CERTIFICATE")),
        client_key=env.text(*both("CLIENT_KEY")),
        client_certificate=env.text(*both("CLIENT_CERTIFICATE")),
        ssl_cert_file=env.text("SSL_CERT_FILE"),
        ssl_cert_dir=env.text("SSL_CERT_DIR"),
        user=unquote(user),
        proxy=proxy,
    )


def _exporters(env: Environment, signal: Signal) -> set[str] | None:
    """What OTEL_x_EXPORTER asks for; None when it is unset."""
    name = f"OTEL_{signal.upper()}_EXPORTER"
    words = env.words(name)
    for word in words:
        if word == "console":
            env.warn(f"{name}: console is not here; logs go to standard output, metrics are at /metrics.")
        elif word == "prometheus" and signal == "metrics":
            continue  # /metrics is always there
        elif word not in ("otlp", "none"):
            env.warn(f"{name}: {word[:40]!r} is not here (only otlp and none are) and is left out.")
    if "none" in words and len(words) > 1:
        env.warn(f"{name}: none stands beside others; nothing is exported.")
        return set()
    return set(words) if words else None


def _endpoint(env: Environment, signal: Signal, protocol: Protocol) -> SplitResult | None:
    """The URL to send to; None when it cannot be one."""
    own, general = f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"
    http = protocol != "grpc"
    text = env.text(own, general)
    if text is None:
        text = "http://localhost:4318" if http else "http://localhost:4317"
    if "://" not in text and not http:
        insecure = env.switch(f"OTEL_EXPORTER_OTLP_{signal.upper()}_INSECURE", "OTEL_EXPORTER_OTLP_INSECURE")
        text = ("http://" if insecure else "https://") + text
    try:
        url = urlsplit(text)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
        usable = usable and text.isascii() and text.isprintable() and " " not in text
    except ValueError:
        usable = False
    if not usable:
        name = env.name_of(own, general)
        env.warn(f"{name}: this is no URL like http://host:4317; {signal} are not exported.")
        return None
    if http and env.text(own) is None:
        return url._replace(path=url.path.rstrip("/") + f"/v1/{signal}")
    return url


def _batch(env: Environment, prefix: str, delay_ms: int, queue_size: int) -> BatchSettings:
    size = int(env.number(f"{prefix}_MAX_QUEUE_SIZE", default=queue_size, least=1))
    batch = int(env.number(f"{prefix}_MAX_EXPORT_BATCH_SIZE", default=min(512, size), least=1))
    if batch > size:
        env.warn(f"{prefix}_MAX_EXPORT_BATCH_SIZE is more than {prefix}_MAX_QUEUE_SIZE; {size} is used.")
    delay_s = env.number(f"{prefix}_SCHEDULE_DELAY", default=delay_ms) / _MS
    return BatchSettings(delay_s, size, min(batch, size))


def _sampler(env: Environment) -> Sampler:
    name = env.choice("OTEL_TRACES_SAMPLER", allowed=_SAMPLERS, default="parentbased_always_on")
    root = name.removeprefix("parentbased_")
    parent_based = root != name
    if root == "traceidratio":
        ratio = env.number("OTEL_TRACES_SAMPLER_ARG", default=1.0, whole=False)
        if ratio > 1:
            env.warn(f"OTEL_TRACES_SAMPLER_ARG: {ratio:g} is more than 1, which is used.")
        return Sampler(min(ratio, 1.0), parent_based)
    return Sampler("on" if root == "always_on" else "off", parent_based)
