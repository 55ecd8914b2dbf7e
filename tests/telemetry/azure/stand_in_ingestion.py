"""A local stand-in of Application Insights' ingestion endpoint: it collects envelopes and answers as it is told.

It knows POST /v2.1/track with a JSON list, gzip'd or not, and nothing else of the real service.
"""

from __future__ import annotations

import gzip
import json
import threading
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0b1c2d3e-1111-2222-3333-444455556666"


@dataclass
class Answer:
    """One answer: by default everything is taken. `errors`: of a 206, {index: status}."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    errors: dict[int, int] = field(default_factory=dict)


class StandInIngestion:
    """Listens on loopback until closed. `answers` are given in order, then everything is taken."""

    def __init__(self) -> None:
        self.answers: deque[Answer] = deque()
        self.always: Answer | None = None
        self.taken: list[dict[str, Any]] = []
        self.requests: list[tuple[str, int]] = []  # path, items
        self.open = threading.Event()
        self.open.set()
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                stand_in.open.wait(30)
                answer, text = stand_in._answer(self.path, json.loads(body))
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                """Nothing on standard error."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """A client that went away is part of some tests."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def connection_string(self) -> str:
        return f"InstrumentationKey={KEY};IngestionEndpoint={self.url}/"

    def _answer(self, path: str, items: list[dict[str, Any]]) -> tuple[Answer, bytes]:
        answer = self.answers.popleft() if self.answers else self.always or Answer()
        self.requests.append((path, len(items)))
        accepted = []
        if answer.status in (200, 206):
            accepted = [item for index, item in enumerate(items) if index not in answer.errors]
            self.taken += accepted
        errors = [
            {"index": index, "statusCode": status, "message": f"{KEY} refused"}
            for index, status in answer.errors.items()
        ]
        body = {"itemsReceived": len(items), "itemsAccepted": len(accepted), "errors": errors}
        return answer, json.dumps(body).encode()

    def envelopes(self, name: str) -> list[dict[str, Any]]:
        """The taken envelopes of one kind: Request, RemoteDependency, Metric, Message, Exception."""
        return [item for item in self.taken if item["name"] == f"Microsoft.ApplicationInsights.{name}"]

    def close(self) -> None:
        self.open.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
