"""Every exporter goes through the proxy that the environment names, and past it where NO_PROXY says so."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from telemetry.azure.export import AzureExport
from telemetry.otlp.settings import read
from telemetry.otlp.stats import ExportStats
from telemetry.otlp.transport import make_transport
from tests.conftest import Start, wait_until
from tests.sidecar.exported import environment
from tests.telemetry.azure.stand_in_ingestion import StandInIngestion
from tests.telemetry.forward_proxy import ForwardProxy
from tests.telemetry.otlp.conftest import Receive
from tests.telemetry.otlp.receivers import GrpcReceiver, HttpReceiver, make_authority
from tests.telemetry.otlp.test_transport import REQUEST

_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "grpc_proxy", "no_grpc_proxy")
_BINARY = ("grpc", "http/protobuf")
_METHODS = {"grpc": "CONNECT", "http/protobuf": "POST"}


@pytest.fixture
def proxy() -> Iterator[ForwardProxy]:
    with ForwardProxy() as made:
        yield made


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def _send(monkeypatch: pytest.MonkeyPatch, endpoint: str, protocol: str, **variables: str) -> None:
    """One request, with these variables in the process's environment, where libraries find them too."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    own = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
    settings, warnings = read({**own, **variables})
    assert warnings == []
    assert settings.traces is not None
    transport = make_transport("traces", settings.traces, ExportStats())
    try:
        transport.send(REQUEST, 2)
    finally:
        transport.close()


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("protocol", _BINARY)
def test_a_request_goes_through_the_proxy(
    protocol: str, variable: str, proxy: ForwardProxy, receive: Receive, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = receive(protocol)
    address = proxy.url.replace("://", "://bob:p%40ss@")
    _send(monkeypatch, receiver.endpoint, protocol, **{variable: address})
    assert len(receiver.accepted) == 1
    basic = "Basic " + base64.b64encode(b"bob:p@ss").decode()
    assert proxy.asked == [(_METHODS[protocol], f"127.0.0.1:{receiver.port}", basic)]


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY"])
@pytest.mark.parametrize("protocol", _BINARY)
def test_tls_goes_through_the_proxy_to_the_receiver(
    protocol: str, variable: str, proxy: ForwardProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_authority(tmp_path)
    with (GrpcReceiver if protocol == "grpc" else HttpReceiver)(tls=made) as receiver:
        certificate = {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(tmp_path / "ca.pem")}
        _send(monkeypatch, receiver.endpoint, protocol, **{variable: proxy.url}, **certificate)
        assert len(receiver.accepted) == 1
        assert proxy.asked == [("CONNECT", f"127.0.0.1:{receiver.port}", "")]


@pytest.mark.parametrize(
    "variables",
    [
        {"no_proxy": "127.0.0.1"},
        {"NO_PROXY": "127.0.0.1"},
        {"NO_PROXY": "127.0.0.0/8"},
        {"NO_PROXY": "*"},
        {"http_proxy": "", "HTTP_PROXY": "http://127.0.0.1:1"},
    ],
    ids=str,
)
@pytest.mark.parametrize("protocol", _BINARY)
def test_what_is_exempt_goes_past_the_proxy(
    protocol: str,
    variables: dict[str, str],
    proxy: ForwardProxy,
    receive: Receive,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    receiver = receive(protocol)
    _send(monkeypatch, receiver.endpoint, protocol, **{"http_proxy": proxy.url, **variables})
    assert len(receiver.accepted) == 1
    assert proxy.asked == []


@pytest.mark.parametrize("protocol", _BINARY)
def test_a_proxy_for_tls_is_none_for_plain_endpoints(
    protocol: str, proxy: ForwardProxy, receive: Receive, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = receive(protocol)
    _send(monkeypatch, receiver.endpoint, protocol, https_proxy=proxy.url)
    assert len(receiver.accepted) == 1
    assert proxy.asked == []


@pytest.mark.parametrize("exempt", ["", "127.0.0.1"])
def test_application_insights_does_the_same(exempt: str, proxy: ForwardProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("://", "://bob:p%40ss@"))
    monkeypatch.setenv("NO_PROXY", exempt)
    stand_in = StandInIngestion()
    export = AzureExport(stand_in.connection_string, {"service.name": "cache"}, ExportStats())
    export.start()
    try:
        head = {"timestamp": "2026-02-28T23:02:03.456001Z", "level": "notice", "severity_number": 9}
        export.log({**head, "event_name": "server.ready", "message": "ready"})
        wait_until(lambda: stand_in.taken, "a record arrives")
    finally:
        export.stop(5)
        stand_in.close()
    basic = "Basic " + base64.b64encode(b"bob:p@ss").decode()
    expected = set() if exempt else {("POST", stand_in.url.partition("//")[2], basic)}
    assert set(proxy.asked) == expected


@pytest.mark.parametrize("protocol", _BINARY)
def test_the_start_log_says_which_proxy_is_used(
    protocol: str, start: Start, proxy: ForwardProxy, receive: Receive
) -> None:
    receiver = receive(protocol)
    env = environment(receiver.endpoint, protocol, HTTP_PROXY=proxy.url.replace("://", "://bob:s3cret@"))
    server = start("--save", "", env=env).wait_ready()
    server.wait_said("export.proxy")
    (told,) = server.said("export.proxy")
    assert told["message"] == (
        f"Exporting traces, metrics, logs to {receiver.endpoint} through the proxy {proxy.url}, as HTTP_PROXY says."
    )
    wait_until(lambda: receiver.metrics, "metrics arrive")
    assert server.stop() == 0
    assert proxy.asked
    assert "s3cret" not in server.log_text()
