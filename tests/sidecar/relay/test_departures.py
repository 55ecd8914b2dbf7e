"""Who leaves, is cut or waits is treated as by the engine itself: nothing is taken for a client that has left, and no place is kept."""

from __future__ import annotations

import contextlib
import socket

import pytest

from tests.conftest import PATIENCE_S, Server, Start, receive, receive_exactly, wait_until
from tests.sidecar.relay.test_streams import Peak
from tests.sidecar.relay.test_transparency import bulk, lines
from tests.sidecar.tls_server import StartTls

_MIB = 1 << 20


@pytest.mark.parametrize(
    "sent",
    ["CLIENT REPLY SKIP\nBLPOP l 0\nGET a", "CLIENT REPLY OFF\nBLPOP l 0\nCLIENT REPLY ON\nGET a", "BLPOP l 0\nGET a"],
)
def test_a_blocked_call_takes_nothing_for_a_client_that_has_left(server: Server, sent: str) -> None:
    sock = server.connect()
    sock.sendall(lines(sent))
    with server.client() as client:
        wait_until(lambda: client.info("clients")["blocked_clients"] == 1, "the call waits")
        sock.close()
        wait_until(lambda: client.info("clients")["blocked_clients"] == 0, "the engine has dropped the call")
        client.rpush("l", "x")
        assert client.llen("l") == 1


@pytest.mark.parametrize("group", ["g", "streams-g", "block"])
def test_a_message_stays_for_others_when_its_reader_has_left(server: Server, group: str) -> None:
    with server.client() as client:
        client.xgroup_create("st", group, "$", mkstream=True)
        sock = server.connect()
        sock.sendall(lines(f"XREADGROUP GROUP {group} c1 BLOCK 0 STREAMS st >"))
        wait_until(lambda: client.info("clients")["blocked_clients"] == 1, "the call waits")
        sock.close()
        wait_until(lambda: client.info("clients")["blocked_clients"] == 0, "the engine has dropped the call")
        client.xadd("st", {"f": "v"})
        assert client.xpending("st", group)["pending"] == 0


@pytest.mark.parametrize(
    "sent",
    [
        "BLPOP l 0\nPING",
        "BLPOP l 0",
        "CLIENT REPLY SKIP\nBLPOP l 0\nPING",
        "XREAD BLOCK 0 STREAMS st 0\nPING",
        "WAIT 0 1\nPING",
    ],
)
def test_a_half_closed_client_gets_what_its_blocking_call_finds(server: Server, bare: Server, sent: str) -> None:
    for each in (server, bare):
        with each.client() as client:
            client.rpush("l", *range(20))
            client.xadd("st", {"f": "v"}, id="1-1")
    for _ in range(20):
        answers = []
        for each in (server, bare):
            sock = each.connect()
            sock.sendall(lines(sent))
            sock.shutdown(socket.SHUT_WR)
            answers.append(receive(sock))
        assert answers[0] == answers[1] != b""


@pytest.mark.parametrize("behind", ["PSYNC", "SYNC x", "SYNC"])
def test_a_client_that_waits_before_a_copy_is_dropped_when_it_leaves(server: Server, behind: str) -> None:
    with server.client() as client:
        sock = server.connect()
        sock.sendall(lines(f"BLPOP gh 0\n{behind}"))
        wait_until(lambda: client.info("clients")["blocked_clients"] == 1, "the call waits")
        sock.close()
        wait_until(lambda: client.info("clients")["blocked_clients"] == 0, "the engine has dropped the call")


def test_a_long_xread_is_one_request(server: Server, bare: Server) -> None:
    names = "".join(f"*2\r\n$1\r\nk{number}" for number in range(3)).encode()
    request = bulk(
        "XREAD", "COUNT", "1", "STREAMS", *[names + b"%d" % number for number in range(40_000)], *["0"] * 40_000
    )
    answers = []
    for each in (server, bare):
        sock = each.connect()
        for at in range(0, len(request), 70_001):
            sock.sendall(request[at : at + 70_001])
        sock.sendall(lines("PING"))
        answers.append(receive(sock, b"+PONG\r\n"))
    assert answers[0] == answers[1] == b"*-1\r\n+PONG\r\n"


def test_a_client_that_is_cut_and_does_not_read_keeps_no_place(start: Start) -> None:
    server = start("--save", "", "--maxclients", "5", "--sidecar-workers", "1")
    with server.client() as client:
        client.config_set("client-output-buffer-limit", "normal 5mb 5mb 1")
        client.set("big", b"x" * _MIB)
    for _ in range(5):
        server.connect().sendall(lines("GET big") * 60)

    def admitted() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
            sock.sendall(b"PING\r\n")
            return receive(sock, b"\r\n") == b"+PONG\r\n"
        return False

    wait_until(admitted, "there is room again")


@pytest.mark.parametrize("reads", [True, False])
def test_a_client_that_is_cut_gets_what_there_is_if_it_reads(start: Start, reads: bool) -> None:
    server = start("--save", "", "--sidecar-workers", "1")
    sock = server.connect()
    sock.sendall(lines("CLIENT ID"))
    identifier = receive(sock, b"\r\n")[1:-2].decode()
    with server.client() as client:
        client.set("big", b"x" * (30 * _MIB))
        sock.sendall(lines("GET big"))
        wait_until(lambda: server.metrics()["valkey_command_in_flight"] == 1, "the reply waits for its client")
        client.client_kill_filter(_id=identifier)
    if reads:
        assert len(receive(sock)) > 100_000
    metric = 'valkey_client_connections{network_transport="tcp",tls="false"}'
    wait_until(lambda: server.metrics()[metric] == 0, "its place is free")


def test_a_client_that_waits_for_a_reply_is_not_idle(start: Start) -> None:
    server = start("--save", "", "--timeout", "1", "--enable-debug-command", "yes", "--sidecar-workers", "1")
    busy, waiting, silent = server.connect(), server.connect(), server.connect()
    silent.sendall(lines("CLIENT REPLY OFF\nBLPOP nosuch 4\nCLIENT REPLY ON"))
    busy.sendall(lines("DEBUG SLEEP 3"))
    waiting.sendall(lines("SET a 1\nGET a"))
    assert receive(waiting, b"$1\r\n1\r\n") == b"+OK\r\n$1\r\n1\r\n"
    assert receive(silent, b"+OK\r\n") == b"+OK\r\n"


def test_who_has_not_authenticated_is_told_so_however_many_clients_there_are(start: Start) -> None:
    server = start("--save", "", "--requirepass", "secret", password="secret")
    for _ in range(15):
        server.connect().sendall(b"PING\r\n")
    for command in ("CLIENT LIST IP 127.0.0.1", "CLIENT KILL LADDR 1.2.3.4:5", "CLIENT KILL IP 127.0.0.1"):
        sock = server.connect()
        sock.sendall(lines(command + "\nPING"))
        refusals = b"-NOAUTH Authentication required.\r\n" * 2
        assert receive(sock, refusals) == refusals
    sock.sendall(lines("AUTH secret"))
    assert receive(sock, b"\r\n") == b"+OK\r\n"
    sock.sendall(lines("CLIENT KILL IP 127.0.0.1"))
    assert receive_exactly(sock, 5) == b":17\r\n"


def test_a_deep_pipeline_of_inspected_commands_costs_little(start: Start) -> None:
    server = start("--save", "", "--sidecar-workers", "1")
    count = 200_000
    sock = server.connect()
    sock.settimeout(120)
    with Peak(server) as peak:
        for _ in range(count // 1000):
            sock.sendall(lines("CONFIG GET save") * 1000)
        sock.sendall(lines("ECHO end-of-test"))
        assert receive(sock, b"end-of-test\r\n", timeout=120).count(b"$4\r\nsave") == count
    assert peak.above < 32 * _MIB


def late(port: int) -> socket.socket:
    """A client whose kernel takes little of what it has not read."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(PATIENCE_S)
    sock.connect(("127.0.0.1", port))
    return sock


def quit_late(server: Server, sock: socket.socket) -> bytes:
    """Ask for much, and QUIT, and read nothing until the engine has closed; what is to be read then."""
    with server.client() as client:
        client.set("large", b"x" * 300_000)
        sock.sendall(lines("CLIENT SETNAME late"))
        assert receive(sock, b"\r\n") == b"+OK\r\n"
        sock.sendall(lines("GET large\nQUIT"))
        wait_until(lambda: all(each["name"] != "late" for each in client.client_list()), "the engine has closed")
    return b"$300000\r\n%b\r\n+OK\r\n" % (b"x" * 300_000)


@pytest.mark.parametrize("behind", ["more", "an end"])
def test_who_reads_late_and_sends_on_behind_quit_gets_every_reply(server: Server, behind: str) -> None:
    """The connection would be reset, and what the kernel had not sent yet lost: that is what Valkey does."""
    with late(server.port) as sock:
        replies = quit_late(server, sock)
        if behind == "more":
            sock.sendall(lines("PING"))
        else:
            sock.shutdown(socket.SHUT_WR)
        assert receive(sock) == replies


def test_who_reads_late_by_tls_gets_every_reply_and_a_proper_end(start_tls: StartTls) -> None:
    tls = start_tls()
    context = tls.context()
    with context.wrap_socket(late(tls.port), server_hostname="localhost", suppress_ragged_eofs=False) as sock:
        replies = quit_late(tls.server, sock)
        sock.sendall(lines("PING"))
        assert receive(sock) == replies


@pytest.mark.parametrize("ending", [b"*1\r\n$4\r\x89PING\r\n", b"*1\r\x89$4\r\nPING\r\n", b"*1\r\n$4\r\nPING\x89\n"])
def test_who_leaves_behind_a_request_that_was_refused_in_silence_is_gone_at_once(
    server: Server, bare: Server, ending: bytes
) -> None:
    for each in (bare, server):
        with each.client() as client:
            sock = each.connect()
            sock.sendall(lines("CLIENT REPLY SKIP"))
            wait_until(lambda: "client|reply" in {c["cmd"] for c in client.client_list()}, "it is executed")
            sock.sendall(ending + lines("GET a\nGET b"))
            sock.close()
            wait_until(lambda: len(client.client_list()) == 1, "it is gone", timeout=20)
