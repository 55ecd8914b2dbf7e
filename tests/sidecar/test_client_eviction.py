"""`maxmemory-clients` closes as many clients as with a bare engine: our own connection takes nobody's place."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import valkey

from tests.conftest import Server, Start, receive, wait_until
from tests.sidecar.test_identity import talk
from tests.sidecar.test_limits import riders

_CLIENTS = 10
_BYTES = 1 << 20


def crowd(server: Server) -> list[socket.socket]:
    """Clients of whom the engine keeps a megabyte each."""
    socks = []
    for n in range(_CLIENTS):
        sock = server.connect()
        sock.sendall(b"CLIENT SETNAME client%d\r\n" % n)
        assert receive(sock, b"\r\n") == b"+OK\r\n"
        sock.sendall(b"*1\r\n$%d\r\n" % _BYTES + b"v" * (_BYTES - 1))
        socks.append(sock)
    return socks


def clients(control: valkey.Valkey) -> list[dict[str, str]]:
    listed: Any = control.client_list()
    return list(listed)


def memory(control: valkey.Valkey) -> dict[str, int]:
    """What the engine keeps for each client, by its name, once it has all that they sent."""

    def listed() -> dict[str, dict[str, str]] | None:
        found = {client["name"]: client for client in clients(control)}
        crowd = [client for name, client in found.items() if name.startswith("client")]
        return found if all(int(client["qbuf"]) >= _BYTES - 1 for client in crowd) else None

    return {name: int(client["tot-mem"]) for name, client in wait_until(listed, "the engine has it all").items()}


def left(control: valkey.Valkey) -> int:
    return sum(client["name"].startswith("client") for client in clients(control))


def evicted_by_a_limit_without_room(server: Server, *, percent: bool) -> list[int]:
    """How many clients stay as the limit is set to what the rest of them take, to the byte, more than once."""
    found = []
    with server.client(decode_responses=True, single_connection_client=True) as control:
        control.client_setname("control")
        control.client_no_evict("ON")
        crowd(server)
        for stay in (8, 5, 1):
            taken = memory(control)
            largest = max(size for name, size in taken.items() if name != "control")
            limit = stay * largest + taken["control"]
            if percent:
                control.config_set("maxmemory", limit * 2)
                control.config_set("maxmemory-clients", "50%")
            else:
                control.config_set("maxmemory-clients", limit)
            wait_until(lambda most=stay: left(control) <= most, "some are closed")  # type: ignore[misc]
            found.append(left(control))
        assert control.info("stats")["evicted_clients"] == _CLIENTS - found[-1]
    return found


@pytest.mark.parametrize("percent", [False, True])
def test_as_many_are_closed_as_a_bare_engine_closes(start: Start, start_bare: Start, percent: bool) -> None:
    arguments = ("--save", "", "--maxmemory-clients", "1gb", "--maxmemory-policy", "noeviction")
    ours = evicted_by_a_limit_without_room(start(*arguments), percent=percent)
    assert ours == evicted_by_a_limit_without_room(start_bare(*arguments), percent=percent) == [8, 5, 1]


def test_a_lane_takes_nobodys_place_either(start: Start) -> None:
    server = start("--save", "")
    riders(server)
    talk(server, "CONFIG SET maxmemory-clients 100mb")
    with valkey.Valkey(unix_socket_path=str(server.private_folder / "engine.sock"), decode_responses=True) as engine:
        names = [client["name"] for client in clients(engine)]
    assert "valkey-sidecar" in names
    assert "valkey-sidecar-lane" not in names


VALUES = ["0", "1", "100mb", "5%", "0%", "100%", "101%", "-1", "-5%", "x", "%", "5 %", "1k", "1tb", "", "mb", "9" * 30]
VALUES += ["18446744073709551615", "18446744073709551616", "9223372036854775808", "20000000000gb", "1TB", "1GB", "007%"]


def test_it_is_set_and_shown_as_valkey_does(server: Server, bare: Server) -> None:
    for value in VALUES:
        requests = [f'CONFIG SET maxmemory-clients "{value}"', "CONFIG GET maxmemory-clients"]
        assert talk(server, *requests) == talk(bare, *requests), value
        requests = [f'CONFIG SET timeout 0 maxmemory-clients "{value}" maxmemory-samples 7', "CONFIG GET maxmemory-*"]
        assert talk(server, *requests) == talk(bare, *requests), value
        assert talk(server, "CONFIG SET maxmemory-clients 0") == talk(bare, "CONFIG SET maxmemory-clients 0")


def engine_value(server: Server) -> str:
    with valkey.Valkey(unix_socket_path=str(server.private_folder / "engine.sock"), decode_responses=True) as engine:
        return str(engine.config_get("maxmemory-clients")["maxmemory-clients"])


OURS = 24 << 10


def test_the_engine_has_room_for_our_connection_whatever_is_set(start: Start, tmp_path: Path) -> None:
    conf = tmp_path / "valkey.conf"
    conf.write_text("maxmemory 200mb\nmaxmemory-clients 10%\n")
    server = start(str(conf), "--save", "")
    wait_until(lambda: engine_value(server) == str((20 << 20) + OURS), "the engine has the limit")
    talk(server, "CONFIG SET maxmemory 400mb")
    wait_until(lambda: engine_value(server) == str((40 << 20) + OURS), "the engine has the new limit")
    assert talk(server, "CONFIG SET maxmemory 100mb maxmemory-clients 50%") == b"+OK\r\n"
    wait_until(lambda: engine_value(server) == str((50 << 20) + OURS), "the engine has both")
    talk(server, "CONFIG SET maxmemory 0")
    wait_until(lambda: engine_value(server) == "50%", "there is no limit")
    talk(server, "CONFIG SET maxmemory-clients 100mb", "CONFIG REWRITE")
    assert "maxmemory-clients 100mb\n" in conf.read_text()
    assert engine_value(server) == str((100 << 20) + OURS)
    answer = talk(server, "MULTI", "CONFIG SET maxmemory-clients 1", "CONFIG GET maxmemory-clients", "EXEC")
    assert answer.endswith(b"$1\r\n1\r\n")
    assert engine_value(server) == str((128 << 10) + OURS)  # Valkey's least
    server.engine.kill()
    server.wait_said("engine.restarted")
    server.wait_ready()
    assert engine_value(server) == str((100 << 20) + OURS)
    assert talk(server, "CONFIG GET maxmemory-clients").endswith(b"$9\r\n104857600\r\n")


def test_what_fails_after_it_leaves_the_engine_its_limit(start: Start) -> None:
    server = start("--save", "", "--maxmemory-clients", "100mb")
    with socket.create_server(("0.0.0.0", 0)) as taken:
        answer = talk(server, f"CONFIG SET maxmemory-clients 50mb port {taken.getsockname()[1]}")
    assert b"Unable to listen on this port" in answer
    assert engine_value(server) == str((100 << 20) + OURS)
    assert talk(server, "CONFIG GET maxmemory-clients").endswith(b"$9\r\n104857600\r\n")
