from __future__ import annotations

import socket
import ssl
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench import load, peers, variants
from bench.load import Cell
from bench.peers import BARE, HAPROXY, NUTCRACKER, REDIS_TLS, Peer
from tests.conftest import receive_exactly, wait_until


def test_a_peer_without_tls_has_no_port_for_it() -> None:
    assert Peer("plain", 1, "1").port_for(Cell("GET", 1, 1, tls=True)) is None
    both = Peer("both", 1, "1", tls_port=2)
    assert [both.port_for(Cell("GET", 1, 1, tls)) for tls in (False, True)] == [1, 2]


def test_programs_that_are_not_installed_are_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "_found", lambda _program: "")
    with ExitStack() as stack:
        field = peers.start_all(tmp_path, {HAPROXY, NUTCRACKER, REDIS_TLS}, stack)
        assert [peer.name for peer in field.peers] == [BARE]
        assert [line.partition(":")[0] for line in field.missing] == [HAPROXY, NUTCRACKER, REDIS_TLS]
        assert all("apt-get install" in line for line in field.missing)


def test_ours_is_started_with_its_data_and_its_processes_are_known(tmp_path: Path) -> None:
    with ExitStack() as stack:
        field = peers.start_all(tmp_path, {variants.SIDECAR, variants.TWO_WORKERS}, stack)
        ours, two = field.peers[1:]
        assert {role: len(pids) for role, pids in ours.pids.items()} == {"supervisor": 1, "front": 1, "engine": 1}
        assert len(two.pids["front"]) == 2
        context = ssl.create_default_context(cafile=str(field.certificate))
        assert ours.tls_port is not None
        with (
            socket.create_connection(("127.0.0.1", ours.tls_port)) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            connection.sendall(b"*2\r\n$3\r\nGET\r\n$11\r\nbench:small\r\n")
            assert receive_exactly(connection, 9) == b"$3\r\nVXK\r\n"
    for pid in {pid for peer in field.peers for role in peer.pids.values() for pid in role}:
        wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), "the peers have ended")


@pytest.mark.e2e
def test_every_peer_meets_a_load(tmp_path: Path) -> None:
    names = {HAPROXY, NUTCRACKER, REDIS_TLS, *(variant.name for variant in variants.VARIANTS)}
    with ExitStack() as stack:
        field = peers.start_all(tmp_path, names, stack)
        assert {peer.name for peer in field.peers} == names | {BARE}
        for peer in field.peers:
            assert load.run(Cell("HGETALL 100", 2, 2), peer.port, 100).rate > 0
        with_tls = [peer for peer in field.peers if peer.tls_port is not None]
        assert {peer.name for peer in with_tls} == {variants.SIDECAR, HAPROXY, REDIS_TLS}
        for peer in with_tls:
            cell = Cell("GET", 2, 2, tls=True)
            port = peer.port_for(cell)
            assert port is not None
            assert load.run(cell, port, 100, field.certificate).rate > 0
