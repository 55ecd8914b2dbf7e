from __future__ import annotations

import asyncio
import contextlib
import http.client
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import CollectorRegistry

from sidecar.control.http import create_app, serve
from sidecar.secret import SecretStr
from telemetry import prometheus
from telemetry.figures import Figures
from telemetry.otlp.stats import ExportStats
from telemetry.totals import Totals
from tests.telemetry.frames import frame, outcome

_LIMIT_S = 30


@dataclass
class FakeState:
    """The supervisor's side, with a refresh that a test can hold up or break."""

    totals: Totals = field(default_factory=Totals)
    answer: tuple[bool, str] = (True, "ready")
    refreshes: int = 0
    on_refresh: Callable[[], None] = lambda: None
    held: asyncio.Event | None = None
    refreshing: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.registry: CollectorRegistry = prometheus.registry(Figures(self.totals, FakeFacts(), ExportStats()))

    def ready(self) -> tuple[bool, str]:
        return self.answer

    async def refresh(self) -> None:
        self.refreshes += 1
        self.refreshing.set()
        if self.held is not None:
            await self.held.wait()
        self.on_refresh()


class FakeFacts:
    version, valkey_version, worker_restarts, engine_restarts = "1.2.3", "9.1.2", 0, 0
    engine_limits: Mapping[str, int] = {}

    def processes(self) -> Mapping[str, Sequence[int]]:
        return {}


class Server:
    """The real server on a free port, with its event loop in a thread."""

    def __init__(self, state: FakeState, token: SecretStr | None = None) -> None:
        self.state = state
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.loop = asyncio.new_event_loop()
        self._task = self.loop.create_task(serve(create_app(state, token), [self.socket]))
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.loop.run_until_complete(asyncio.wait([self._task]))
        finally:
            self.loop.close()

    def stop(self) -> None:
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(_LIMIT_S)
        assert not self._thread.is_alive()
        assert self._task.cancelled()

    def ask(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_LIMIT_S)
        try:
            connection.request(method, path, headers=dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read().decode())
        finally:
            connection.close()

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self.ask("GET", path, headers)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    def calls(self) -> float:
        return calls(self.text)


def calls(metrics: str) -> float:
    """Calls of all commands, out of the metrics."""
    families = {family.name: family for family in parse_text(metrics)}
    return sum(sample.value for sample in families["valkey_command_calls"].samples)


@pytest.fixture
def server() -> Iterator[Server]:
    result = Server(FakeState())
    yield result
    result.stop()


def test_livez_says_ok_while_the_supervisor_runs(server: Server) -> None:
    server.state.answer = (False, "The engine is loading its data.")
    answer = server.get("/livez")
    assert (answer.status, answer.text) == (200, "ok\n")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_who_connects_and_says_nothing_takes_neither_descriptors_nor_turns(server: Server) -> None:
    with ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=_LIMIT_S))
            for _ in range(150)
        ]
        for sock in silent[:20]:  # the oldest gave way
            assert sock.recv(1) == b""
        assert server.get("/livez").status == 200
        silent[-1].sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        assert silent[-1].recv(100).startswith(b"HTTP/1.1 200")


def test_readyz_follows_the_supervisor_and_says_why(server: Server) -> None:
    server.state.answer = (False, "The engine is loading its data.")
    answer = server.get("/readyz")
    assert (answer.status, answer.text) == (503, "The engine is loading its data.\n")
    server.state.answer = (True, "ready")
    answer = server.get("/readyz")
    assert (answer.status, answer.text) == (200, "ready\n")


def test_metrics_are_those_of_the_moment_of_the_scrape(server: Server) -> None:
    state = server.state
    state.on_refresh = lambda: state.totals.apply(1, frame(outcome("GET", calls=10 * state.refreshes)))
    assert [server.get("/metrics").calls() for _ in range(3)] == [10, 20, 30]


def test_metrics_come_in_the_format_that_is_asked_for(server: Server) -> None:
    plain = server.get("/metrics")
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    openmetrics = server.get("/metrics", {"Accept": "application/openmetrics-text; version=1.0.0"})
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    families = parse_openmetrics(openmetrics.text)  # type: ignore[no-untyped-call]
    assert {family.name for family in families} == {
        family.name.removesuffix("_info") for family in parse_text(plain.text)
    }


def test_several_accept_headers_count_as_one(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=_LIMIT_S)
    with contextlib.closing(connection):
        connection.putrequest("GET", "/metrics")
        connection.putheader("Accept", "text/plain;q=0.5")
        connection.putheader("Accept", "application/openmetrics-text")
        connection.endheaders()
        kind = connection.getresponse().headers["content-type"]
    assert kind.startswith("application/openmetrics-text; version=1.0.0")


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
def test_head_is_get_without_the_body(server: Server, path: str) -> None:
    answer, expected = server.ask("HEAD", path), server.get(path)
    assert (answer.status, answer.text) == (200, "")
    assert answer.headers["content-length"] == str(len(expected.text.encode()))


@pytest.mark.parametrize("path", ["/", "/livez/", "/metrics/x", "/favicon.ico", "//livez", "/livez%00"])
def test_a_path_that_is_none_of_ours_is_not_found(server: Server, path: str) -> None:
    answer = server.get(path)
    assert (answer.status, answer.text) == (404, "Not Found")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_not_allowed(server: Server, method: str) -> None:
    answer = server.ask(method, "/metrics")
    assert answer.status == 405
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}
    assert server.state.refreshes == 0


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/livez"), ("GET", "/metrics"), ("GET", "/no"), ("PUT", "/livez")]
)
def test_every_answer_forbids_guessing_and_storing_and_names_no_server(server: Server, method: str, path: str) -> None:
    headers = server.ask(method, path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert "server" not in headers


def test_workers_that_do_not_answer_hold_up_a_scrape_for_half_a_second_at_most(server: Server) -> None:
    server.state.totals.apply(1, frame(outcome("GET", calls=7)))
    server.state.held = asyncio.Event()
    started = server.loop.time()
    assert server.get("/metrics").calls() == 7
    assert 0.4 < server.loop.time() - started < 5


def test_a_refresh_that_fails_leaves_the_last_figures(server: Server) -> None:
    def fail() -> None:
        raise ConnectionResetError("the worker died")

    server.state.totals.apply(1, frame(outcome("GET", calls=7)))
    server.state.on_refresh = fail
    assert server.get("/metrics").calls() == 7
    server.state.on_refresh = lambda: server.state.totals.apply(1, frame(outcome("GET", calls=8)))
    assert server.get("/metrics").calls() == 8


def test_scrapes_that_come_together_share_one_refresh_that_began_after_them(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.control.http._REFRESH_LIMIT_S", _LIMIT_S)
    state = server.state
    state.held = asyncio.Event()
    state.on_refresh = lambda: state.totals.apply(1, frame(outcome("GET", calls=state.refreshes)))
    with ExitStack() as stack:

        def scrape() -> http.client.HTTPConnection:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=_LIMIT_S)
            stack.callback(connection.close)
            connection.request("GET", "/metrics")
            return connection

        scrape()
        assert state.refreshing.wait(_LIMIT_S)
        others = [scrape() for _ in range(5)]
        assert server.get("/livez").status == 200  # by now the others wait too: requests are read in their order
        assert state.refreshes == 1
        server.loop.call_soon_threadsafe(state.held.set)
        assert [calls(other.getresponse().read().decode()) for other in others] == [2] * 5
    assert state.refreshes == 2


def test_a_scrape_that_is_given_up_takes_the_refresh_from_no_other() -> None:
    async def scenario() -> None:
        state = FakeState(held=asyncio.Event())
        app = create_app(state)
        statuses: list[int] = []

        async def scrape() -> None:
            scope = {"type": "http", "method": "GET", "path": "/metrics", "headers": [], "query_string": b""}

            async def receive() -> MutableMapping[str, Any]:
                return {"type": "http.request"}

            async def send(message: MutableMapping[str, Any]) -> None:
                statuses.extend([message["status"]] if "status" in message else [])

            await app(scope, receive, send)

        given_up, patient = asyncio.create_task(scrape()), asyncio.create_task(scrape())
        assert await asyncio.to_thread(state.refreshing.wait, _LIMIT_S)
        given_up.cancel()
        await asyncio.wait([given_up])
        assert state.held is not None
        state.held.set()
        await asyncio.wait_for(patient, _LIMIT_S)
        assert (statuses, state.refreshes) == ([200], 1)

    asyncio.run(scenario())


def test_a_request_that_is_no_http_is_answered_and_harms_nobody(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.settimeout(_LIMIT_S)
        client.sendall(b"*1\r\n$4\r\nPING\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 400 ")
    assert server.get("/livez").status == 200


def test_serving_takes_no_signal_and_ends_when_cancelled_even_with_an_open_connection() -> None:
    async def scenario() -> None:
        handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        serving = asyncio.create_task(serve(create_app(FakeState()), [listener]))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(serving, _LIMIT_S)
        assert listener.fileno() == -1
        await reader.read()
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)

    asyncio.run(scenario())
