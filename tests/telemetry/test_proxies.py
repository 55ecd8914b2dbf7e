"""Which proxy an endpoint is reached through."""

from __future__ import annotations

import pytest

from telemetry.otlp.settings import read
from telemetry.proxies import Proxies

HTTP, HTTPS = "http://collector.example:4317", "https://collector.example:4317"
_SECRET = "s3cret"


def way(endpoint: str, **variables: str) -> str | None:
    proxy = Proxies(variables).to(endpoint)
    return None if proxy is None else proxy.shown


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY"])
def test_each_spelling_is_followed(name: str) -> None:
    assert way(HTTP, **{name: "http://proxy:3128"}) == "http://proxy:3128"
    assert way(HTTPS, **{name: "http://proxy:3128"}) is None
    other = name.replace("http", "https").replace("HTTP", "HTTPS")
    assert way(HTTPS, **{other: "proxy:3128"}) == "http://proxy:3128"
    assert way(HTTP, **{other: "proxy:3128"}) is None
    both = name.replace("http", "all").replace("HTTP", "ALL")
    assert way(HTTP, **{both: "proxy"}) == way(HTTPS, **{both: "proxy"}) == "http://proxy:80"


def test_lower_case_takes_precedence_and_an_empty_one_means_none() -> None:
    assert way(HTTP, http_proxy="http://a:1", HTTP_PROXY="http://b:2", all_proxy="http://c:3") == "http://a:1"
    assert way(HTTP, HTTP_PROXY="http://b:2", all_proxy="http://c:3") == "http://b:2"
    assert way(HTTP, http_proxy="", HTTP_PROXY="http://b:2", all_proxy="http://c:3") is None
    assert way(HTTP, http_proxy="http://a:1", no_proxy="", NO_PROXY="*") == "http://a:1"


@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
@pytest.mark.parametrize(
    ("rule", "endpoint", "exempt"),
    [
        ("*", HTTP, True),
        ("collector.example", HTTP, True),
        ("Collector.Example.", HTTP, True),
        (".example", HTTP, True),
        ("*.example", HTTP, True),
        ("example", HTTP, True),
        ("other, example other", HTTP, True),
        ("llector.example", HTTP, False),
        ("a.collector.example", HTTP, False),
        ("collector.example:4317", HTTP, True),
        ("collector.example:4318", HTTP, False),
        ("example:443", "https://collector.example", True),
        ("127.0.0.1", "http://127.0.0.1:4317", True),
        ("127.0.0.1:4317", "http://127.0.0.1:4317", True),
        ("127.0.0.1:4318", "http://127.0.0.1:4317", False),
        ("0.0.1", "http://127.0.0.1:4317", False),
        ("10.0.0.0/8", "http://10.1.2.3:4317", True),
        ("10.0.0.0/8", "http://11.1.2.3:4317", False),
        ("fd00::/8", "http://[fd00::1]:4317", True),
        ("[::1]", "http://[::1]:4317", True),
        ("[::1]:4317", "http://[::1]:4317", True),
        ("::1", "http://[::1]:4317", True),
        ("localhost", "http://127.0.0.1:4317", False),
        (",", HTTP, False),
        (".", HTTP, False),
    ],
)
def test_what_no_proxy_exempts(name: str, rule: str, endpoint: str, exempt: bool) -> None:
    found = way(endpoint, all_proxy="http://proxy:3128", **{name: rule})
    assert found == (None if exempt else "http://proxy:3128")


def test_the_password_is_not_shown() -> None:
    proxy = Proxies({"HTTP_PROXY": f"http://bob:{_SECRET}%40@proxy:3128/"}).to(HTTP)
    assert proxy is not None
    assert (proxy.url, proxy.basic_auth) == (f"http://bob:{_SECRET}%40@proxy:3128", f"bob:{_SECRET}@")
    assert (proxy.shown, proxy.variable) == ("http://proxy:3128", "HTTP_PROXY")
    settings, _ = read({"HTTP_PROXY": f"http://bob:{_SECRET}@proxy:3128", "OTEL_EXPORTER_OTLP_ENDPOINT": HTTP})
    assert settings.traces is not None
    assert settings.traces.proxy is not None
    assert _SECRET not in repr(proxy) + repr(settings)


@pytest.mark.parametrize(
    "text", [f"socks5://bob:{_SECRET}@proxy", f"http://bob:{_SECRET}@:1", f"http://{_SECRET}:99999", f"a b{_SECRET}"]
)
def test_what_cannot_be_used_is_a_warning_without_the_value(text: str) -> None:
    settings, warnings = read({"all_proxy": text, "OTEL_EXPORTER_OTLP_ENDPOINT": HTTP})
    assert settings.traces is not None
    assert settings.traces.proxy is None
    assert warnings == ["all_proxy: this isn't a proxy's URL like http://host:3128; it is not used."]
    assert read({"all_proxy": text})[1] == []  # nothing is exported
    _, warnings = read({"all_proxy": text, "APPLICATIONINSIGHTS_CONNECTION_STRING": "x"})
    assert len(warnings) == 1


def test_grpc_is_told_what_it_cannot_do() -> None:
    settings, warnings = read({"https_proxy": "https://proxy", "OTEL_EXPORTER_OTLP_ENDPOINT": HTTPS})
    assert settings.traces is None  # nothing goes past a proxy
    assert warnings[0] == "https_proxy: gRPC can't use a proxy that speaks TLS itself; traces are not exported."
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": HTTPS, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
    settings, warnings = read({"https_proxy": "https://proxy", **variables})
    assert settings.traces is not None
    assert settings.traces.proxy is not None
    assert (settings.traces.proxy.shown, warnings) == ("https://proxy:443", [])
    _, warnings = read({"grpc_proxy": "http://proxy", "OTEL_EXPORTER_OTLP_ENDPOINT": HTTPS})
    assert warnings == ["grpc_proxy: this is not used, only the variables that every exporter follows."]
