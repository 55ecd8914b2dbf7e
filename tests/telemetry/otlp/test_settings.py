from __future__ import annotations

import subprocess
import sys

import hypothesis
import pytest
from hypothesis import strategies as st

from telemetry.otlp.settings import BatchSettings, ExportSettings, Sampler, read

BASE = "http://collector:4317"


def good(**variables: str) -> ExportSettings:
    settings, warnings = read({f"OTEL_{name}": value for name, value in variables.items()})
    assert warnings == []
    return settings


def test_nothing_is_exported_unless_an_endpoint_is_set_or_otlp_is_asked_for() -> None:
    assert not good().otlp
    assert not good(EXPORTER_OTLP_ENDPOINT="  ").otlp
    settings = good(TRACES_EXPORTER="otlp")
    assert (settings.metrics, settings.logs) == (None, None)
    assert settings.traces is not None
    assert (settings.traces.endpoint, settings.traces.protocol) == ("http://localhost:4317", "grpc")
    http = good(METRICS_EXPORTER="otlp", EXPORTER_OTLP_PROTOCOL="http/protobuf").metrics
    assert http is not None
    assert http.endpoint == "http://localhost:4318/v1/metrics"


def test_one_endpoint_serves_all_signals_and_one_of_a_signal_only_that() -> None:
    settings = good(EXPORTER_OTLP_ENDPOINT=BASE)
    assert settings.traces == settings.metrics == settings.logs
    settings = good(EXPORTER_OTLP_LOGS_ENDPOINT=BASE)
    assert (settings.traces, settings.metrics) == (None, None)
    assert settings.logs is not None


@pytest.mark.parametrize(
    ("variables", "endpoint"),
    [
        ({"ENDPOINT": "http://c:4318"}, "http://c:4318/v1/traces"),
        ({"ENDPOINT": "http://c:4318/"}, "http://c:4318/v1/traces"),
        ({"ENDPOINT": "http://c/base/?k=v"}, "http://c/base/v1/traces?k=v"),
        ({"TRACES_ENDPOINT": "http://c:4318"}, "http://c:4318"),
        ({"TRACES_ENDPOINT": "http://c/own", "ENDPOINT": "http://other"}, "http://c/own"),
    ],
)
def test_http_adds_the_signals_path_to_the_general_endpoint_only(variables: dict[str, str], endpoint: str) -> None:
    prefixed = {f"EXPORTER_OTLP_{name}": value for name, value in variables.items()}
    settings = good(EXPORTER_OTLP_PROTOCOL="http/protobuf", **prefixed).traces
    assert settings is not None
    assert settings.endpoint == endpoint


@pytest.mark.parametrize(
    ("endpoint", "insecure", "secure"),
    [
        ("collector:4317", "", True),
        ("collector:4317", "true", False),
        ("https://collector:4317", "true", True),
        ("http://[::1]:4317", "false", False),
    ],
)
def test_insecure_counts_where_the_endpoint_has_no_scheme(endpoint: str, insecure: str, secure: bool) -> None:
    settings = good(EXPORTER_OTLP_ENDPOINT=endpoint, EXPORTER_OTLP_INSECURE=insecure).traces
    assert settings is not None
    assert settings.secure is secure


def test_a_signals_own_variable_comes_before_the_general_one() -> None:
    variables = {
        "PROTOCOL": ("grpc", "http/json"),
        "HEADERS": ("a=1", "B=%322,c=x=y"),
        "TIMEOUT": ("5000", "1500"),
        "COMPRESSION": ("none", "gzip"),
        "CERTIFICATE": ("/a", "/b"),
        "CLIENT_KEY": ("/k", "/l"),
        "CLIENT_CERTIFICATE": ("/c", "/d"),
    }
    environ = {f"EXPORTER_OTLP_{name}": general for name, (general, _) in variables.items()}
    environ |= {f"EXPORTER_OTLP_METRICS_{name}": own for name, (_, own) in variables.items()}
    settings = good(EXPORTER_OTLP_ENDPOINT=BASE, **environ)
    traces, metrics = settings.traces, settings.metrics
    assert traces is not None
    assert metrics is not None
    assert (traces.protocol, traces.headers, traces.timeout_s, traces.gzip) == ("grpc", {"a": "1"}, 5, False)
    assert (metrics.protocol, metrics.headers, metrics.timeout_s) == ("http/json", {"b": "22", "c": "x=y"}, 1.5)
    assert metrics.gzip
    assert (traces.certificate, traces.client_key, traces.client_certificate) == ("/a", "/k", "/c")
    assert (metrics.certificate, metrics.client_key, metrics.client_certificate) == ("/b", "/l", "/d")


def test_an_exporters_name_switches_a_signal() -> None:
    settings = good(EXPORTER_OTLP_ENDPOINT=BASE, TRACES_EXPORTER="none", METRICS_EXPORTER="prometheus, OTLP")
    assert settings.traces is None
    assert settings.metrics is not None
    settings, warnings = read({"OTEL_LOGS_EXPORTER": "console", "OTEL_TRACES_EXPORTER": "otlp,zipkin"})
    assert settings.logs is None
    assert settings.traces is not None
    assert len(warnings) == 2
    assert "OTEL_LOGS_EXPORTER: console is not here" in warnings[1]
    assert "'zipkin' is not here" in warnings[0]


def test_what_aspire_injects_is_understood() -> None:
    settings = good(
        EXPORTER_OTLP_ENDPOINT="https://aspire.dev.internal:21030",
        EXPORTER_OTLP_PROTOCOL="grpc",
        EXPORTER_OTLP_HEADERS="x-otlp-api-key=0123456789abcdef",
        RESOURCE_ATTRIBUTES="service.instance.id=abcdefgh",
        SERVICE_NAME="cache",
        BLRP_SCHEDULE_DELAY="1000",
        BSP_SCHEDULE_DELAY="1000",
        METRIC_EXPORT_INTERVAL="1000",
        TRACES_SAMPLER="always_on",
        METRICS_EXEMPLAR_FILTER="trace_based",
    )
    assert settings.traces is not None
    assert settings.traces.secure
    assert settings.traces.headers == {"x-otlp-api-key": "0123456789abcdef"}
    assert "0123456789abcdef" not in repr(settings)
    assert settings.resource_attributes == {"service.instance.id": "abcdefgh"}
    assert settings.service_name == "cache"
    assert settings.spans == BatchSettings(1.0, 8192, 512)
    assert settings.log_records == BatchSettings(1.0, 2048, 512)
    assert settings.metric_interval_s == 1.0
    assert settings.sampler == Sampler("on", parent_based=False)
    assert settings.sampler.plain_always_on


@pytest.mark.parametrize(
    ("name", "argument", "sampler", "plain"),
    [
        ("", "", Sampler("on", True), True),
        ("always_off", "", Sampler("off", False), False),
        ("traceidratio", "0.25", Sampler(0.25, False), False),
        ("traceidratio", "", Sampler(1.0, False), False),
        ("ParentBased_TraceIdRatio", "0.01", Sampler(0.01, True), False),
        ("parentbased_always_off", "", Sampler("off", True), False),
    ],
)
def test_samplers(name: str, argument: str, sampler: Sampler, plain: bool) -> None:
    found = good(TRACES_SAMPLER=name, TRACES_SAMPLER_ARG=argument).sampler
    assert found == sampler
    assert found.plain_always_on is plain


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EXPORTER_OTLP_PROTOCOL", "carrier-pigeon"),
        ("EXPORTER_OTLP_TIMEOUT", "soon"),
        ("EXPORTER_OTLP_TIMEOUT", "-1"),
        ("EXPORTER_OTLP_COMPRESSION", "zstd"),
        ("EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "sometimes"),
        ("METRICS_EXEMPLAR_FILTER", "all"),
        ("BSP_SCHEDULE_DELAY", "1e9"),
        ("BSP_MAX_QUEUE_SIZE", "0"),
        ("BLRP_MAX_EXPORT_BATCH_SIZE", "many"),
        ("METRIC_EXPORT_INTERVAL", "9" * 400),
        ("TRACES_SAMPLER", "jaeger_remote"),
        ("SDK_DISABLED", "maybe"),
    ],
)
def test_a_wrong_value_is_one_warning_and_the_default(name: str, value: str) -> None:
    settings, warnings = read({"OTEL_EXPORTER_OTLP_ENDPOINT": BASE, f"OTEL_{name}": value})
    assert settings == good(EXPORTER_OTLP_ENDPOINT=BASE)
    assert len(warnings) == 1
    assert warnings[0].startswith(f"OTEL_{name}: ")
    assert len(warnings[0]) < 250


@pytest.mark.parametrize(
    "endpoint", ["http://", "ftp://c", "http://c:99999", "http://me:secret@:1", "http://a b", "c d"]
)
def test_a_malformed_endpoint_switches_its_signal_off(endpoint: str) -> None:
    settings, warnings = read({"OTEL_EXPORTER_OTLP_ENDPOINT": BASE, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": endpoint})
    assert settings.traces is None
    assert settings.metrics is not None
    (warning,) = warnings
    assert warning.startswith("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: ")
    assert "secret" not in warning


def test_secrets_are_in_no_warning_and_no_repr() -> None:
    settings, warnings = read(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://me:secret@c:1/?token=secret",
            "OTEL_EXPORTER_OTLP_HEADERS": "secret,key=secret%0d%0aInjected: 1,né=secret,ok=secret",
            "APPLICATIONINSIGHTS_CONNECTION_STRING": "InstrumentationKey=secret",
        }
    )
    assert settings.traces is not None
    assert settings.traces.headers == {"ok": "secret"}
    assert settings.traces.user == "me:secret"
    assert settings.azure_connection_string == "InstrumentationKey=secret"
    assert len(warnings) == 3
    assert "secret" not in repr(settings) + "".join(warnings) + settings.traces.shown


def test_disabled_is_disabled() -> None:
    environ = {"APPLICATIONINSIGHTS_CONNECTION_STRING": "x", "OTEL_SDK_DISABLED": "True"}
    settings, _ = read(environ | {"OTEL_TRACES_EXPORTER": "otlp"})
    assert not settings.otlp
    assert settings.azure_connection_string is None


NAMES = st.sampled_from(
    ["ENDPOINT", "PROTOCOL", "HEADERS", "TIMEOUT", "TRACES_ENDPOINT", "LOGS_INSECURE", "COMPRESSION"]
).map("EXPORTER_OTLP_{}".format) | st.sampled_from(["RESOURCE_ATTRIBUTES", "TRACES_EXPORTER", "BSP_MAX_QUEUE_SIZE"])


@hypothesis.given(st.dictionaries(NAMES.map("OTEL_{}".format), st.text(max_size=30), max_size=6))
def test_no_environment_is_an_exception(environ: dict[str, str]) -> None:
    _, warnings = read(environ)
    assert len(warnings) <= 30


def test_settings_and_the_pipelines_frame_import_nothing_heavy() -> None:
    code = "import telemetry.otlp.settings, telemetry.otlp.resource, telemetry.otlp.pipeline, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = {module.partition(".")[0] for module in done.stdout.split()}
    assert not {"grpc", "google", "opentelemetry", "urllib3", "requests"} & loaded
