from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

import pytest

from sidecar import listeners
from sidecar.front import Front, SettingError
from sidecar.journal import Journal
from sidecar.listener_settings import ListenerSettings
from sidecar.listeners import ListenError


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def greets(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


def test_all_addresses_of_both_protocols_are_bound_beside_each_other() -> None:
    port = free_port()
    bound, _ = listeners.bind_tcp(["*", "-::*"], port, 10)
    try:
        assert bound[0].address == f"0.0.0.0:{port}"
        assert greets("127.0.0.1", port)
        if len(bound) == 2:  # this machine has IPv6
            assert bound[1].address == f"[::]:{port}"
    finally:
        listeners.close_all(bound)


def test_an_optional_address_that_is_not_ours_is_passed_over() -> None:
    bound, warnings = listeners.bind_tcp(["-192.0.2.77", "127.0.0.1"], port := free_port(), 10)
    listeners.close_all(bound)
    assert [listener.address for listener in bound] == [f"127.0.0.1:{port}"]
    (warning,) = warnings
    assert warning.startswith(f"Warning: Could not create server TCP listening socket 192.0.2.77:{port}: ")
    assert warning.endswith("bind: Cannot assign requested address")


def test_an_address_that_must_be_there_fails_and_leaves_nothing_bound() -> None:
    port = free_port()
    with pytest.raises(ListenError) as failure:
        listeners.bind_tcp(["127.0.0.1", "192.0.2.77"], port, 10)
    assert failure.value.lines[0].endswith(f"192.0.2.77:{port}: bind: Cannot assign requested address")
    assert failure.value.lines[1] == f"Failed listening on port {port} (tcp), aborting."
    assert not greets("127.0.0.1", port)


def test_a_taken_port_is_refused_even_when_the_address_is_optional() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ListenError, match="aborting"):
        listeners.bind_tcp(["-127.0.0.1"], taken.getsockname()[1], 10)


def test_a_name_that_means_nothing_is_told() -> None:
    with pytest.raises(ListenError) as failure:
        listeners.bind_tcp(["no.such.host.invalid"], 7000, 10)
    assert "no.such.host.invalid:7000: " in failure.value.lines[0]


@pytest.mark.parametrize("name", ["127.0.0..1", "a" * 64, "\udcff", "é.invalid"])
def test_a_name_that_cannot_be_one_is_told_in_valkeys_words(name: str) -> None:
    with pytest.raises(ListenError) as failure:
        listeners.bind_tcp([name], 7000, 10)
    assert failure.value.lines[0].startswith(f"Warning: Could not create server TCP listening socket {name}:7000: ")


def test_port_zero_is_no_listener() -> None:
    assert listeners.bind_tcp(["*"], 0, 10) == ([], [])


def test_a_stale_unix_socket_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "our.sock")
    listeners.bind_unix(path, 0o700, 10).close()
    listener = listeners.bind_unix(path, 0o770, 10)
    try:
        assert Path(path).stat().st_mode & 0o777 == 0o770
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
    finally:
        listener.close()


def test_a_unix_socket_that_cannot_be_is_told(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match="Failed opening Unix socket: bind: No such file or directory"):
        listeners.bind_unix(str(tmp_path / "missing" / "our.sock"), 0, 10)
    with pytest.raises(ListenError, match="too long"):
        listeners.bind_unix(str(tmp_path / ("x" * 120)), 0, 10)
    with pytest.raises(ListenError, match="no group no-such-group"):
        listeners.bind_unix(str(tmp_path / "our.sock"), 0, 10, "no-such-group")


def test_a_unix_socket_belongs_to_the_group_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "our.sock"
    listeners.bind_unix(str(path), 0, 10, str(os.getegid())).close()
    assert path.stat().st_gid == os.getegid()


# ---- Front: what CONFIG SET does with them


@pytest.fixture
def front() -> Front:
    settings = ListenerSettings(port=free_port(), bind=("127.0.0.1", "127.0.0.2"), tcp_backlog=10)
    return Front(settings, lambda path: path, Journal())


def test_sockets_that_stay_are_kept_and_the_others_closed(front: Front) -> None:
    front.open()
    try:
        kept = front.listeners[1]
        settings = front.checked({"bind": "127.0.0.2 127.0.0.3"})
        listeners.close_all(front.rebind(settings))
        assert kept in front.listeners
        port = settings.port
        assert [greets(f"127.0.0.{n}", port) for n in (1, 2, 3)] == [False, True, True]
    finally:
        front.close()


def test_tcp_backlog_is_as_long_as_it_was_asked_for(front: Front) -> None:
    front.open()
    try:
        assert [backlog(listener.socket) for listener in front.listeners] == [10, 10]
    finally:
        front.close()


def backlog(listening: socket.socket) -> int:
    """How many may wait: tcpi_sacked of tcp_info, which has this meaning for a listening socket (Linux, tcp.c)."""
    return int(struct.unpack_from("=I", listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32), 28)[0])


def test_what_cannot_be_bound_leaves_the_old_sockets_listening(front: Front) -> None:
    front.open()
    try:
        with pytest.raises(SettingError, match="Failed to bind") as refusal:
            front.rebind(front.checked({"bind": "192.0.2.77"}))
        assert refusal.value.argument == "bind"
        assert greets("127.0.0.1", front.settings.port)
        assert greets("127.0.0.2", front.settings.port)
    finally:
        front.close()


def test_a_fault_of_ours_leaves_the_old_sockets_listening(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise RuntimeError

    front.open()
    try:
        monkeypatch.setattr(listeners, "bind_tcp", fail)
        with pytest.raises(RuntimeError):
            front.rebind(front.checked({"bind": "127.0.0.3"}))
        assert greets("127.0.0.1", front.settings.port)
        assert greets("127.0.0.2", front.settings.port)
    finally:
        front.close()


def test_a_wrong_value_names_its_argument_in_valkeys_words(front: Front) -> None:
    with pytest.raises(SettingError, match="argument must be between 0 and 65535 inclusive") as refusal:
        front.checked({"timeout": "5", "port": "70000"})
    assert refusal.value.argument == "port"


def test_info_names_the_listeners_as_valkey_does() -> None:
    settings = ListenerSettings(port=7000, bind=("127.0.0.1", "-::1"), unixsocket="/run/v.sock")
    assert Front(settings, lambda path: path, Journal()).info_listeners() == [
        "name=tcp,bind=127.0.0.1,bind=-::1,port=7000",
        "name=unix,bind=/run/v.sock",
    ]
