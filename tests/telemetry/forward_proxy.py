"""A small HTTP proxy on loopback that knows CONNECT and plain requests, and keeps what it was asked for.

with ForwardProxy() as proxy:
    ...                 # go through proxy.url
    proxy.asked         # [("CONNECT", "127.0.0.1:4317", "Basic dTpw")]
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from types import TracebackType
from typing import NamedTuple
from urllib.parse import urlsplit


class Asked(NamedTuple):
    """method, host and port, and what came as Proxy-Authorization."""

    method: str
    target: str
    authorization: str


class ForwardProxy:
    """Listens on loopback until it's left."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        proxy = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    self._serve()

            def _serve(self) -> None:
                method, target, _ = self.rfile.readline().decode().split()
                headers: dict[str, str] = {}
                while line := self.rfile.readline().strip().decode():
                    name, _, value = line.partition(":")
                    headers[name.lower()] = value.strip()
                url = urlsplit(target)
                where = target if method == "CONNECT" else url.netloc
                proxy.asked.append(Asked(method, where, headers.pop("proxy-authorization", "")))
                host, _, port = where.rpartition(":")
                with socket.create_connection((host, int(port))) as upstream:
                    if method == "CONNECT":
                        self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    else:
                        headers["connection"] = "close"
                        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                        body = self.rfile.read(int(headers.get("content-length", 0)))
                        upstream.sendall(f"{method} {url.path} HTTP/1.1\r\n{head}\r\n".encode() + body)
                    back = threading.Thread(target=_copy, args=(upstream, self.connection))
                    back.start()
                    _copy(self.connection, upstream)
                    back.join()

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"http://{self.address}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def __enter__(self) -> ForwardProxy:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for sock in (source, target):
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
