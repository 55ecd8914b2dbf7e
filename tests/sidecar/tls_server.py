"""A server that speaks TLS, and clients that do."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import Any

import valkey

from tests.authority import Authority, Issued
from tests.conftest import PATIENCE_S, Server

StartTls = Callable[..., "TlsServer"]


class TlsServer:
    """A server with a plain port and one for TLS."""

    def __init__(self, server: Server, port: int, authority: Authority) -> None:
        self.server = server
        self.port = port
        self.authority = authority

    def context(self, mine: Issued | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.authority.file))
        if mine is not None:
            context.load_cert_chain(mine.certificate, mine.key)
        return context

    def connect(self, context: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> ssl.SSLSocket:
        plain = socket.create_connection((host, self.port), timeout=PATIENCE_S)
        try:
            sock = (context or self.context()).wrap_socket(plain, server_hostname="localhost")
        except BaseException:
            plain.close()
            raise
        self.server.sockets.append(sock)
        return sock

    def client(self, **options: Any) -> valkey.Valkey:
        return valkey.Valkey(
            port=self.port, ssl=True, ssl_ca_certs=str(self.authority.file), socket_timeout=PATIENCE_S, **options
        )

    def pings(self) -> bool:
        """Whether a client gets in and is answered."""
        try:
            return bool(self.client().ping())
        except (valkey.ConnectionError, ssl.SSLError, ConnectionError):
            return False

    def shown_serial(self) -> str:
        """Of the certificate that a client gets now."""
        with self.connect() as sock:
            peer = sock.getpeercert()
        assert peer is not None
        return str(peer["serialNumber"])
