"""The handshake of one client, over a socket pair: what takes too long, is too much, or is cut anywhere."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from sidecar.relay import handshake
from sidecar.relay.handshake import Handshake, Turns
from sidecar.relay.tls_stream import TlsStream
from tests.authority import Authority


class Peer:
    """The client's side, byte by byte, and how the handshake ended on ours."""

    def __init__(self, authority: Authority, server: ssl.SSLContext) -> None:
        self.ours, self.sock = socket.socketpair()
        for sock in (self.ours, self.sock):
            sock.setblocking(False)
        self.ended: asyncio.Future[TlsStream | str | None] = asyncio.get_running_loop().create_future()
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = ssl.create_default_context(cafile=str(authority.file))
        self.connection = client.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        loop = asyncio.get_running_loop()
        self.handshake = Handshake(loop, Turns(loop), self.ours, server, self._end, self._end)

    def _end(self, _handshake: Handshake, result: TlsStream | str | None) -> None:
        self.ended.set_result(result)

    async def send(self, data: bytes, piece: int = 1 << 20) -> None:
        for at in range(0, len(data), piece):
            await asyncio.get_running_loop().sock_sendall(self.sock, data[at : at + piece])
            await asyncio.sleep(0)  # one turn of the loop: the other side reads it

    def step(self) -> bytes:
        with contextlib.suppress(ssl.SSLWantReadError):
            self.connection.do_handshake()
        return self.outgoing.read()

    async def receive(self) -> None:
        self.incoming.write(await asyncio.get_running_loop().sock_recv(self.sock, 1 << 16))

    def close(self) -> None:
        self.handshake.abandon()
        self.sock.close()
        self.ours.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> ssl.SSLContext:
    issued = authority.issue()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.certificate, issued.key)
    return context


@pytest.fixture
def run(authority: Authority, server: ssl.SSLContext) -> Callable[[Callable[[Peer], Awaitable[None]]], None]:
    def run_one(scene: Callable[[Peer], Awaitable[None]]) -> None:
        async def play() -> None:
            peer = Peer(authority, server)
            try:
                async with asyncio.timeout(30):
                    await scene(peer)
            finally:
                peer.close()

        uvloop.run(play())

    return run_one


Run = Callable[[Callable[[Peer], Awaitable[None]]], None]


@pytest.mark.parametrize("piece", [1, 3, 1 << 20])
def test_what_follows_the_handshake_stays_in_the_kernel(run: Run, piece: int) -> None:
    async def scene(peer: Peer) -> None:
        await peer.send(peer.step(), piece)
        await peer.receive()
        last = peer.step()
        while not last:  # the certificate came in two parts
            await peer.receive()
            last = peer.step()
        peer.connection.write(b"PING\r\n")
        request = peer.outgoing.read()
        await peer.send(last + request, piece)
        stream = await peer.ended
        assert isinstance(stream, TlsStream)
        left = await asyncio.get_running_loop().sock_recv(peer.ours, 1000)
        assert left == request[: len(left)]
        assert left

    run(scene)


def test_one_that_takes_too_long_is_over(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "_WITHIN_S", 0.05)

    async def scene(peer: Peer) -> None:
        await peer.send(peer.step()[:-1])
        assert await peer.ended == "it was not over within 0.05 seconds"
        assert await asyncio.get_running_loop().sock_recv(peer.sock, 1) == b""

    run(scene)


def test_one_that_says_too_much_is_over(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "_BYTES_MOST", 100)

    async def scene(peer: Peer) -> None:
        hello = peer.step()
        await peer.send(hello)
        await peer.send(hello)
        assert await peer.ended == "it says too much"

    run(scene)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"PING\r\n", handshake.NO_TLS),
        (b"\x80\x2e\x01\x03\x01", handshake.NO_TLS),  # a hello of SSL 2
        (b"\x16\x02\x00\x00\x05hello", handshake.NO_TLS),
        (b"\x16\x03\x01\x00\x05hello", "unexpected message"),
        (b"\x16\x03\x01\x00\x00", handshake.NO_TLS),
        (b"\x16\x03\x01\xff\xff", handshake.NO_TLS),
    ],
)
def test_what_is_no_tls_is_told_in_words(run: Run, data: bytes, why: str) -> None:
    async def scene(peer: Peer) -> None:
        with contextlib.suppress(ConnectionError):
            await peer.send(data)
        assert await peer.ended == why

    run(scene)


def test_who_leaves_without_a_word_is_not_worth_one(run: Run) -> None:
    async def silent(peer: Peer) -> None:
        peer.sock.close()
        assert await peer.ended is None

    async def midway(peer: Peer) -> None:
        await peer.send(peer.step())
        await peer.receive()
        peer.sock.close()
        assert isinstance(await peer.ended, str)

    run(silent)
    run(midway)


def test_a_client_that_does_not_read_is_waited_for(run: Run, authority: Authority) -> None:
    async def scene(peer: Peer) -> None:
        hello = peer.step()
        # The way to the client is full, until it reads.
        peer.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        filled = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                filled += peer.ours.send(b"x" * 4096)
        await peer.send(hello)
        while filled:
            filled -= len(await asyncio.get_running_loop().sock_recv(peer.sock, filled))
        while not peer.connection.version() or not peer.ended.done():
            await peer.send(peer.step())
            if not peer.ended.done():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await peer.receive()
        assert isinstance(peer.ended.result(), TlsStream)

    run(scene)


def test_the_loop_serves_others_between_two_steps() -> None:
    async def play() -> list[str]:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        happened: list[str] = []
        turns = Turns(loop)
        ours.setblocking(False)
        done: asyncio.Future[None] = loop.create_future()

        def read() -> None:
            happened.append(ours.recv(1).decode())
            if happened[-1] == "c":
                done.set_result(None)

        loop.add_reader(ours.fileno(), read)

        def step(name: str) -> None:
            happened.append(name)
            theirs.send(name.lower().encode())

        def fails() -> None:
            happened.append("fault")
            raise ZeroDivisionError

        loop.set_exception_handler(lambda _loop, _context: None)
        for name in "AB":
            turns.wait(lambda name=name: step(name))  # type: ignore[misc]
        turns.wait(fails)
        turns.wait(lambda: step("C"))
        await done
        loop.remove_reader(ours.fileno())
        ours.close()
        theirs.close()
        return happened

    assert uvloop.run(play()) == ["A", "a", "B", "b", "fault", "C", "c"]
