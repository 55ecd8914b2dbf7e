"""samples/python-service as a person runs it: in an environment of its own, with the helper's own files beside it."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PATIENCE_S, Server, Start, free_port, wait_until
from tests.sidecar.exported import attributes, environment
from tests.telemetry.otlp.receivers import GrpcReceiver, Receiver

pytestmark = pytest.mark.e2e

_ROOT = Path(__file__).parents[2]
_SAMPLE = _ROOT / "samples" / "python-service"
_HELPER = ("__init__.py", "client.py", "clientlink.py", "housekeeping.py")
"""Of telemetry/: all that the README says a service needs."""
_INTERNAL, _SERVER, _CLIENT = 1, 2, 3
_ERROR = 2
_INSTALL_WITHIN_S = 300
_PASSWORD = "open-sesame-4711"


@dataclass
class Shop:
    """The running service."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def ask(self, method: str, path: str, traceparent: str = "") -> int:
        """The status of the answer."""
        request = urllib.request.Request(self.url + path, method=method)
        if traceparent:
            request.add_header("traceparent", traceparent)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code

    def is_up(self) -> bool:
        assert self.process.poll() is None, f"the service ended:\n{self.log.read_text()}"
        try:
            return self.ask("GET", "/health") == 200
        except OSError:
            return False


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with the sample's own requirements, and nothing of this repository's environment."""
    folder = tmp_path_factory.mktemp("shop") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=_INSTALL_WITHIN_S)
    command = [folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    done = subprocess.run(
        [*command, "--requirement", _SAMPLE / "requirements.txt"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_INSTALL_WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "bin" / "python"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with GrpcReceiver() as receiver:
        yield receiver


@pytest.fixture
def server(start: Start, receiver: Receiver) -> Server:
    return start("--save", "", "--requirepass", _PASSWORD, env=environment(receiver.endpoint), password=_PASSWORD)


@pytest.fixture
def shop(python: Path, server: Server, receiver: Receiver, tmp_path: Path) -> Iterator[Shop]:
    """Started as Aspire starts it: with the variables of a resource "cache" and of OTLP."""
    folder = tmp_path / "shop"
    shutil.copytree(_SAMPLE, folder)
    (folder / "telemetry").mkdir()
    for name in _HELPER:
        shutil.copy(_ROOT / "telemetry" / name, folder / "telemetry")
    port, log = free_port(), tmp_path / "shop.log"
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "CACHE_", "PYTHON"))}
    told = {
        "CACHE_URI": f"valkey://:{_PASSWORD}@127.0.0.1:{server.port}",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "PORT": str(port),
    }
    with log.open("wb") as out:
        process = subprocess.Popen(
            [python, "app.py"],
            cwd=folder,
            env=inherited | told,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        shop = Shop(f"http://127.0.0.1:{port}", process, log)
        wait_until(shop.is_up, "the service answers")
        yield shop
    finally:
        process.kill()
        process.wait()


def _trace(receiver: Receiver, trace_id: str, size: int) -> list[Any]:
    """The spans of a trace, when there are so many."""

    def found() -> list[Any]:
        spans = [span for span in receiver.spans if span.trace_id.hex() == trace_id]
        return spans if len(spans) >= size else []

    return list(receiver.wait_for(found, f"{size} spans of the trace"))


def _paths(spans: list[Any], root: str) -> list[str]:
    """Each span as the names that lead to it, `SERVER GET > CLIENT GET`, sorted."""
    kinds = {_INTERNAL: "INTERNAL", _SERVER: "SERVER", _CLIENT: "CLIENT"}
    by_id = {span.span_id.hex(): span for span in spans}

    def path(span: Any) -> str:
        own = f"{kinds[span.kind]} {span.name}"
        parent = span.parent_span_id.hex()
        return own if parent == root else f"{path(by_id[parent])} > {own}"

    return sorted(path(span) for span in spans)


@pytest.fixture
def traced(shop: Shop, receiver: Receiver) -> Callable[..., tuple[list[str], list[Any]]]:
    """Asks the service within a trace of ours; the paths of its spans, and the spans."""

    def ask(method: str, path: str, status: int, size: int) -> tuple[list[str], list[Any]]:
        trace_id, parent = secrets.token_hex(16), secrets.token_hex(8)
        assert shop.ask(method, path, f"00-{trace_id}-{parent}-01") == status
        spans = _trace(receiver, trace_id, size)
        return _paths(spans, parent), spans

    return ask


def test_one_trace_leads_from_the_request_to_the_command_in_the_server(
    traced: Callable[..., tuple[list[str], list[Any]]],
) -> None:
    request = "SERVER GET /products/{number}"
    paths, spans = traced("GET", "/products/7", 200, 5)
    assert paths == [
        request,
        f"{request} > CLIENT GET",
        f"{request} > CLIENT GET > SERVER GET",
        f"{request} > CLIENT SET",
        f"{request} > CLIENT SET > SERVER SET",
    ]
    # The server's own are those that know how many bytes went over the wire.
    assert {span.name for span in spans if "valkey.request.size" in attributes(span)} == {"GET", "SET"}
    again, _ = traced("GET", "/products/7", 200, 3)
    assert again == [request, f"{request} > CLIENT GET", f"{request} > CLIENT GET > SERVER GET"]


def test_pipelines_and_transactions_are_one_span_with_their_commands_inside(
    traced: Callable[..., tuple[list[str], list[Any]]],
) -> None:
    request = "SERVER GET /products"
    pipeline = f"{request} > CLIENT PIPELINE > SERVER PIPELINE"
    paths, _ = traced("GET", "/products", 200, 13)
    assert paths == [request, f"{request} > CLIENT PIPELINE", pipeline, *[f"{pipeline} > INTERNAL GET"] * 10]
    request = "SERVER POST /orders/{number}"
    transaction = f"{request} > CLIENT MULTI > SERVER MULTI"
    paths, _ = traced("POST", "/orders/7", 200, 6)
    assert paths == [
        request,
        f"{request} > CLIENT MULTI",
        transaction,
        *(f"{transaction} > INTERNAL {name}" for name in ("INCRBY", "LPUSH", "LTRIM")),
    ]


def test_a_mistake_is_red_from_the_request_to_the_command(traced: Callable[..., tuple[list[str], list[Any]]]) -> None:
    request = "SERVER POST /reviews/{number}"
    paths, spans = traced("POST", "/reviews/7", 500, 5)
    assert f"{request} > CLIENT LPUSH > SERVER LPUSH" in paths
    failed = {span.name for span in spans if span.status.code == _ERROR}
    assert failed == {"POST /reviews/{number}", "LPUSH"}
    assert {attributes(s)["error.type"] for s in spans if s.name == "LPUSH" and s.kind == _SERVER} == {"WRONGTYPE"}


def test_visitors_make_traffic_and_the_end_sends_what_is_left(
    shop: Shop, python: Path, server: Server, receiver: Receiver
) -> None:
    command = [python, "visitors.py", shop.url, "3"]
    done = subprocess.run(
        command, cwd=shop.log.parent / "shop", capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    shop.process.send_signal(signal.SIGTERM)
    shop.process.wait(PATIENCE_S)
    assert server.stop() == 0
    requests = {s.span_id for s in receiver.spans if s.kind == _SERVER and " /" in s.name}
    assert len(requests) >= 5
    assert not [s for s in receiver.spans if "health" in s.name]
    # Nothing of ours stands alone but for what the client library does by itself.
    known = {span.span_id for span in receiver.spans}
    assert not [s.name for s in receiver.spans if s.span_id not in requests and s.parent_span_id not in known]
    text = shop.log.read_text() + "".join(str(request.message) for request in receiver.requests)
    assert _PASSWORD not in text
