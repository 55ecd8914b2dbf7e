"""Accepting clients: the rules a connection must pass before it becomes a session.

Owns the listening sockets of one worker, maxclients (counted over all workers in shared memory), protected mode and the
socket options of clients. It never reads what a client sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sidecar.counts import ClientCount
from sidecar.link import Body, Link
from sidecar.relay import limits
from sidecar.relay.complaints import Complaints
from sidecar.relay.handshake import NO_TLS, Handshake, Turns
from sidecar.relay.session import Session
from sidecar.relay.tls_stream import TlsStream

if TYPE_CHECKING:
    import ssl

    from sidecar.relay.shared import Relay

_ACCEPTS_PER_TURN = 8
"""Few, so that workers share a rush of connections."""
_PAUSE_S = 0.05
"""After a failed accept (no descriptors left), before the next try."""

MAXCLIENTS_ERROR = b"-ERR max number of clients reached\r\n"
PROTECTED_ERROR = (
    b"-DENIED Running in protected mode because protected mode is enabled and no password is set for the "
    b"default user. In this mode connections are only accepted from the loopback interface. If you want to "
    b"connect from external computers, you may adopt one of the following solutions: 1) Just disable protected "
    b"mode sending the command 'CONFIG SET protected-mode no' from the loopback interface by connecting from "
    b"the same host the server is running, however MAKE SURE it's not publicly accessible from internet if you "
    b"do so. Use CONFIG REWRITE to make this change permanent. 2) Alternatively you can just disable the "
    b"protected mode by editing the configuration file, and setting the protected mode option to 'no', and then"
    b" restarting the server. 3) If you started the server manually just for testing, restart it with the '--"
    b"protected-mode no' option. 4) Set up an authentication password for the default user. NOTE: You only need"
    b" to do one of the above things in order for the server to start accepting connections from the outside."
    b"\r\n"
)


@dataclass(frozen=True, slots=True)
class _Newcomer:
    """A connection that has been counted and is no session yet. kind: its listener's, "tcp", "tls" or "unix"."""

    sock: socket.socket
    peer: str
    local: str
    kind: str
    is_local: bool
    tls: TlsStream | None = None


class Listener:
    """The listening sockets of one worker. settings is the live dict of the worker's settings.

    context: for clients of a listener that speaks TLS, from now on.
    """

    def __init__(self, relay: Relay, link: Link, settings: Body, count: ClientCount, complaints: Complaints) -> None:
        self._loop = relay.loop
        self._relay = relay
        self._link = link
        self._settings = settings
        self._count = count
        self.context: ssl.SSLContext | None = None
        self._sockets: list[tuple[socket.socket, str, str]] = []
        self._accepting = False
        self._retry: asyncio.TimerHandle | None = None
        self._complaints = complaints
        self._asking: asyncio.Task[bool] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._handshakes: dict[Handshake, _Newcomer] = {}
        self._turns = Turns(relay.loop)
        self.by_kind = {"tcp": 0, "tls": 0, "unix": 0}

    def replace(self, sockets: list[tuple[socket.socket, str, str]]) -> None:
        """Listen on these from now on. Each: the listening socket, its kind (tcp, tls, unix), its address or path."""
        accepting = self._accepting or self._retry is not None
        self.pause()
        for sock, _kind, _address in self._sockets:
            sock.close()
        self._sockets = sockets
        for sock, _kind, _address in sockets:
            sock.setblocking(False)
        if accepting:
            self.resume()

    def pause(self) -> None:
        """Accept nothing; who connects waits in the kernel's backlog."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._accepting:
            self._accepting = False
            for sock, _kind, _address in self._sockets:
                self._loop.remove_reader(sock.fileno())

    def resume(self) -> None:
        self._retry = None
        if not self._accepting:
            self._accepting = True
            for sock, kind, address in self._sockets:
                self._loop.add_reader(sock.fileno(), self._accept, sock, kind, address)

    def close(self) -> None:
        self.pause()
        self.replace([])
        for handshake, newcomer in self._handshakes.items():
            handshake.abandon()
            self._forget(newcomer)
        self._handshakes.clear()

    def closed(self, session: Session) -> None:
        """A session has ended."""
        self._count.add(-1)
        self.by_kind["tls" if session.is_tls else session.transport] -= 1
        self._relay.ledger.count("connections.closed")

    def _accept(self, listener: socket.socket, kind: str, address: str) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                sock, peer = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._complain(error)
                self.pause()
                self._retry = self._loop.call_later(_PAUSE_S, self.resume)
                return
            self._admit(sock, peer, kind, address)

    def _complain(self, error: OSError) -> None:
        message = f"Accepting a client failed: {error.strerror}. Clients wait until there is room again."
        self._complaints.say("client.accept_failed", message)

    def _admit(self, sock: socket.socket, peer: object, kind: str, address: str) -> None:
        sock.setblocking(False)
        local = True
        # As Valkey 9.1 has it: formatted twice, the second time like an IPv6 address.
        peer_text = local_text = f"[{address}:0]:0"
        if kind != "unix":
            assert isinstance(peer, tuple)
            name = sock.getsockname()
            peer_text, local_text = _text(peer), _text(name)
            ip = ipaddress.ip_address(peer[0].partition("%")[0])
            mapped = getattr(ip, "ipv4_mapped", None)
            local = (mapped or ip).is_loopback
            self._set_options(sock)
        newcomer = _Newcomer(sock, peer_text, local_text, kind, local)
        if self._count.total() >= self._settings["maxclients"]:
            self._relay.reached(limits.CONNECTIONS, peer_text)
            # As in Valkey, nothing is said before TLS is agreed on.
            self._refuse(newcomer, "maxclients", b"" if kind == "tls" else MAXCLIENTS_ERROR)
            return
        self._count.add(1)
        if kind == "tls":
            self._shake_hands(newcomer)
        else:
            self._judge(newcomer)

    def _shake_hands(self, newcomer: _Newcomer) -> None:
        assert self.context is not None
        handshake = Handshake(
            self._loop, self._turns, newcomer.sock, self.context, self._hands_shaken, self._hands_refused
        )
        self._handshakes[handshake] = newcomer

    def _hands_shaken(self, handshake: Handshake, stream: TlsStream) -> None:
        self._judge(replace(self._handshakes.pop(handshake), tls=stream))

    def _hands_refused(self, handshake: Handshake, why: str | None) -> None:
        newcomer = self._handshakes.pop(handshake)
        self._forget(newcomer)
        if why is not None:
            self._relay.ledger.count("connections.rejected", "tls")
            self._complaints.say("client.tls_failed", self._tls_failure(newcomer, why))

    def _tls_failure(self, newcomer: _Newcomer, why: str) -> str:
        port = newcomer.local.rpartition(":")[2]
        plain = self._settings["plain_port"]
        other = f", or use port {plain}, which is without TLS" if plain else ""
        hint = f" Have it use TLS (rediss://, ssl=true){other}." if why == NO_TLS else ""
        return f"The client {newcomer.peer} is cut off from port {port}, which speaks TLS: {why}.{hint}"

    def _judge(self, newcomer: _Newcomer) -> None:
        """Let a client in that has been counted, or find out first whether it may come in."""
        if not newcomer.is_local and self._settings["protected_mode"]:
            task = self._loop.create_task(self._ask_then_open(newcomer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._open(newcomer)

    def _open(self, new: _Newcomer) -> None:
        transport = "unix" if new.kind == "unix" else "tcp"
        try:
            Session(self._relay, new.sock, new.peer, new.local, transport, new.is_local, new.tls)
        except OSError as error:
            self._forget(new)
            self._complain(error)
            return
        self.by_kind[new.kind] += 1
        self._count.add_received()
        self._relay.ledger.count("connections.opened")

    async def _ask_then_open(self, newcomer: _Newcomer) -> None:
        """Protected mode follows the live state of the default user, which only the engine knows."""
        if self._asking is None:
            self._asking = self._loop.create_task(self._denied())
            self._asking.add_done_callback(self._answered)
        if await self._asking:
            self._count.add(-1)
            self._refuse(newcomer, "protected_mode", PROTECTED_ERROR)
        else:
            self._open(newcomer)

    async def _denied(self) -> bool:
        try:
            return bool((await self._link.request("protected"))["denied"])
        except (TimeoutError, ConnectionError):
            return True

    def _answered(self, _task: asyncio.Task[bool]) -> None:
        self._asking = None

    def _refuse(self, newcomer: _Newcomer, reason: str, error: bytes) -> None:
        """Send a client away that is not counted (any more)."""
        self._relay.ledger.count("connections.rejected", reason)
        self._count.add_rejected()
        with contextlib.suppress(OSError):
            newcomer.sock.send(error if newcomer.tls is None else newcomer.tls.sealed(error))
        newcomer.sock.close()

    def _forget(self, newcomer: _Newcomer) -> None:
        """Close a connection that has been counted and came to nothing."""
        self._count.add(-1)
        newcomer.sock.close()

    def _set_options(self, sock: socket.socket) -> None:
        """Valkey's: no delay, and keep-alive probes from tcp-keepalive seconds on (lost after about twice that)."""
        interval = self._settings["tcp_keepalive"]
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if interval:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, interval)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, interval // 3))
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def _text(address: tuple[object, ...]) -> str:
    host, port = str(address[0]), address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
