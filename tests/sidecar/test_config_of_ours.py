"""CONFIG SET, CONFIG GET and INFO speak of our listener, as if the engine listened itself."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from tests.conftest import Server, Start, free_port, receive, wait_until
from tests.sidecar.relay.test_transparency import lines
from tests.sidecar.test_client_identity import ask, fields, is_open
from tests.sidecar.test_identity import OPEN, assert_engine_has_no_port, comparable, connect, settings_of, talk

# ---- CONFIG SET of what is ours


def test_no_change_opens_a_port_around_us(start: Start, outer_address: str) -> None:
    server = start(*OPEN)
    with server.client(single_connection_client=True) as client:
        for _ in range(2):
            server.port = free_port()
            client.config_set("port", server.port)
            assert_engine_has_no_port(server)
        client.config_set("bind", "127.0.0.1")
        with pytest.raises(ConnectionRefusedError):
            connect(server, outer_address).close()
        client.config_set("bind", f"127.0.0.1 {outer_address}")
        assert_engine_has_no_port(server)
        new = free_port()
        answer = talk(server, "MULTI", f"CONFIG SET port {new}", "CONFIG GET port", "EXEC")
        assert answer.endswith(b"*2\r\n+OK\r\n*2\r\n$4\r\nport\r\n$5\r\n%d\r\n" % new)
        server.port = new
        assert_engine_has_no_port(server)
    assert talk(server, "PING", host=outer_address) == b"+PONG\r\n"


def test_a_discarded_change_is_none(server: Server) -> None:
    answer = talk(server, "MULTI", f"CONFIG SET port {free_port()}", "DISCARD", "CONFIG GET port")
    assert answer.endswith(b"\r\n%d\r\n" % server.port)
    assert talk(server, "PING") == b"+PONG\r\n"


@pytest.mark.parametrize(
    "change",
    [
        "maxmemory-samples 9 timeout -5 maxclients 500",
        "timeout 5 maxmemory-samples none",
        "timeout 5 no-such-setting 1",
        "Timeout 5 tcp-keepalive x",
        "timeout 5 TIMEOUT 6",
        "maxclients 0 timeout 7",
        "timeout 5 tcp-backlog 9",
        "port 70000",
        "timeout",
        "port 1 timeout",
        "bind 1.2.3.4.5 maxmemory-samples 9",
        "protected-mode maybe timeout 9",
    ],
)
def test_several_settings_change_together_or_not_at_all(server: Server, bare: Server, change: str) -> None:
    before = settings_of(server)
    answer = talk(server, f"CONFIG SET {change}")
    assert answer == talk(bare, f"CONFIG SET {change}")
    assert answer.startswith(b"-ERR")
    assert settings_of(server) == before


def test_a_port_that_is_taken_takes_the_other_settings_back(start: Start) -> None:
    server = start("--save", "", "--maxclients", "100")
    before = settings_of(server)
    with socket.create_server(("0.0.0.0", 0)) as taken:
        change = f"CONFIG SET maxmemory-samples 9 requirepass new port {taken.getsockname()[1]} maxclients 50 timeout 9"
        assert b"argument 'port') - Unable to listen on this port" in talk(server, change)
    assert settings_of(server) == before
    assert talk(server, "CONFIG SET maxmemory-samples 9 timeout 9", "CONFIG GET timeout").endswith(b"$1\r\n9\r\n")


def test_a_client_limit_holds_from_now_on(start: Start, start_bare: Start) -> None:
    answers = []
    for server in (start("--save", ""), start_bare()):
        first = connect(server)
        assert is_open(first)
        wait_until(lambda server=server: _connected(server) == 1, "the others have left")
        first.sendall(b"CONFIG SET maxclients 1\r\n")
        assert receive(first, b"\r\n") == b"+OK\r\n"
        answers.append(receive(connect(server)))
    assert answers == [b"-ERR max number of clients reached\r\n"] * 2


def _connected(server: Server) -> int:
    match = re.search(rb"connected_clients:(\d+)", server_info(server))
    assert match is not None
    return int(match[1]) - (0 if server.sockets else 1)


def server_info(server: Server) -> bytes:
    sock = server.sockets[-1] if server.sockets else connect(server)
    sock.sendall(b"INFO everything\r\nECHO \x01\r\n")
    return receive(sock, b"$1\r\n\x01\r\n")


def test_idle_clients_are_closed_from_now_on(start: Start) -> None:
    server = start("--save", "")
    idle, listening = connect(server), connect(server)
    listening.sendall(b"SUBSCRIBE news\r\n")
    receive(listening, b":1\r\n")
    assert is_open(idle)
    talk(server, "CONFIG SET timeout 1")
    assert receive(idle) == b""
    with server.client() as client:
        assert client.publish("news", "x") == 1  # Valkey spares subscribers


def test_keepalive_probes_follow_the_setting(start: Start) -> None:
    server = start("--save", "")

    def timer() -> str:
        """What the kernel's table says of our side of a new connection: the kind of timer that runs."""
        sock = connect(server)
        assert is_open(sock)
        far = sock.getsockname()[1]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, remote, _, _, kind, *_ = line.split()
            if local.endswith(f":{server.port:04X}") and remote.endswith(f":{far:04X}"):
                return kind.partition(":")[0]
        raise AssertionError("the connection is not in the table")

    assert timer() == "02"  # keepalive
    talk(server, "CONFIG SET tcp-keepalive 0")
    assert timer() == "00"
    talk(server, "CONFIG SET tcp-keepalive 60")
    assert timer() == "02"


# ---- what CONFIG GET and INFO show


def test_settings_are_those_of_a_bare_server(start: Start, start_bare: Start, tmp_path: Path) -> None:
    socket_path = tmp_path / "valkey.sock"
    common = ("--save", "", "--maxclients", "777", "--timeout", "99", "--unixsocketperm", "700", "--tcp-backlog", "44")
    ours = start(*common, "--unixsocket", str(socket_path), "--logfile", "our.log", wait=False)
    wait_until(lambda: socket_path.exists(), "the socket is there")
    wait_until(lambda: _pings(ours), "the server answers")
    theirs = start_bare(*common, "--unixsocket", str(socket_path) + "2", "--logfile", "our.log")
    shown, expected = settings_of(ours), settings_of(theirs)
    assert shown["port"] == str(ours.port)
    assert shown["unixsocket"] == str(socket_path)
    different = {"port", "unixsocket", "dir"}
    assert {k: v for k, v in shown.items() if k not in different} == {
        k: v for k, v in expected.items() if k not in different
    }
    assert "valkey-sidecar-" not in "".join(shown.values())


def test_the_port_that_is_announced_is_the_one_we_listen_on(start: Start) -> None:
    server = start("--save", "")
    with server.client(decode_responses=True, single_connection_client=True) as client:
        assert client.config_get("[rs]*-announce-port") == {"replica-announce-port": "0", "slave-announce-port": "0"}
        client.config_set("replica-announce-port", 7000)
        assert client.config_get("slave-announce-port") == {"slave-announce-port": "7000"}
        client.config_set("port", free_port())
        assert client.config_get("replica-announce-port") == {"replica-announce-port": "7000"}
        client.config_set("slave-announce-port", 0)
        assert client.config_get("replica-announce-port") == {"replica-announce-port": "0"}


def _pings(server: Server) -> bool:
    try:
        return talk(server, "PING") == b"+PONG\r\n"
    except OSError:
        return False


@pytest.mark.parametrize("protocol", [2, 3])
def test_settings_have_the_same_form_in_both_protocols(server: Server, bare: Server, protocol: int) -> None:
    requests = [f"HELLO {protocol}", "CONFIG GET maxclients* *backlog", "CONFIG GET nothing", "CONFIG GET"]
    ours, theirs = (comparable(talk(one, *requests)) for one in (server, bare))
    # The limit of open files may be too low for Valkey's default, and differs by what each of us needs for itself.
    limit = re.compile(rb"maxclients\r\n\$\d+\r\n\d+")
    assert limit.sub(b"", ours) == limit.sub(b"", theirs)


def test_info_names_us(start: Start, tmp_path: Path) -> None:
    conf = tmp_path / "my valkey.conf"
    socket_path = tmp_path / "s"
    conf.write_text(f'save ""\nunixsocket {socket_path}\nmaxclients 55\n')
    server = start(str(conf), "--bind", "127.0.0.1 -::1")
    shown = dict(line.split(":", 1) for line in server_info(server).decode().splitlines() if ":" in line)
    assert shown["tcp_port"] == str(server.port)
    assert shown["config_file"] == str(conf)
    assert shown["maxclients"] == "55"
    assert shown["listener0"] == f"name=tcp,bind=127.0.0.1,bind=-::1,port={server.port}"
    assert shown["listener1"] == f"name=unix,bind={socket_path}"
    assert "valkey-sidecar-" not in "".join(shown.values())


def test_our_own_connection_is_no_client_of_the_users(start: Start) -> None:
    server = start("--save", "")
    one = connect(server)
    wait_until(lambda: _connected(server) == 1, "the test's first connections have left")
    others = [connect(server) for _ in range(3)]
    assert all(is_open(sock) for sock in others)
    assert _connected(server) == 4
    assert len(fields(ask(one, "CLIENT LIST"))) == 4
    assert fields(ask(one, "CLIENT LIST NAME valkey-sidecar")) == []
    assert len(fields(ask(one, "CLIENT LIST NOT-IP 127.0.0.1"))) == 0
    assert ask(one, "CLIENT KILL NOT-IP 127.0.0.1") == b":0\r\n"
    assert server.metrics()['valkey_client_connections{network_transport="tcp",tls="false"}'] == 4


def test_info_lists_the_same_fields_as_a_bare_server(server: Server, bare: Server) -> None:
    ours, theirs = (
        [line.partition(b":")[0] for line in talk(one, "INFO everything").splitlines()[1:]] for one in (server, bare)
    )
    # A bare server's listener loses its line to a CONFIG SET bind that fails.
    volatile = re.compile(rb"cmdstat_|latency_|errorstat_|listener")
    assert [name for name in ours if not volatile.match(name)] == [name for name in theirs if not volatile.match(name)]


# ---- CONFIG REWRITE without a file


def test_without_a_file_there_is_nothing_to_rewrite(server: Server, bare: Server) -> None:
    for requests in (["CONFIG REWRITE"], ["MULTI", "CONFIG REWRITE", "PING", "EXEC"], ["CONFIG REWRITE x"]):
        assert talk(server, *requests) == talk(bare, *requests)


@pytest.mark.parametrize("prelude", ["", "MULTI\nSUBSCRIBE a\nEXEC\nUNSUBSCRIBE"], ids=["followed", "raw"])
@pytest.mark.parametrize("name", ["tls-replication", "TLS-Replication", "tls-auth-clients-user", "rdma-port"])
def test_the_engine_cannot_be_made_to_speak_tls_or_rdma_by_itself(start: Start, name: str, prelude: str) -> None:
    server = start("--save", "")
    sock = server.connect()
    sock.sendall(lines(f"{prelude}\nCONFIG SET {name} yes\nECHO end".strip()))
    text = receive(sock, b"end\r\n")
    assert b"-ERR CONFIG SET failed" in text
    if not prelude:
        assert f"argument '{name}') - not available at run time in valkey-sidecar".encode() in text
    with server.client() as client:
        assert client.ping()
    assert server.metrics()["valkey_sidecar_engine_restarts_total"] == 0
