from __future__ import annotations

import os
import resource
import socket
from pathlib import Path

import psutil
import pytest

from tests.conftest import Start
from tests.sidecar.test_supervisor_config import refuses

# The supervisor and one worker, idle.
MEMORY_LIMIT = 100 * 1024 * 1024


def test_clients_are_served_and_probes_say_so(start_here: Start) -> None:
    server = start_here("--save", "").wait_ready()
    client = server.client()
    assert client.set("key", "value")
    assert client.get("key") == b"value"
    assert server.get("/livez")[0] == 200
    assert server.get("/readyz") == (200, "ready\n")
    assert server.metric('valkey_command_calls_total{db_operation_name="SET"') == 1


def test_what_kubernetes_injects_for_a_service_called_sidecar_is_no_obstacle(start_here: Start) -> None:
    address = "tcp://10.0.0.1:6379"
    server = start_here(
        "--save", "",
        env={
            "SIDECAR_SERVICE_HOST": "10.0.0.1",
            "SIDECAR_SERVICE_PORT": "6379",
            "SIDECAR_SERVICE_PORT_VALKEY": "6379",
            "SIDECAR_PORT": address,
            "SIDECAR_PORT_6379_TCP": address,
            "SIDECAR_PORT_6379_TCP_PROTO": "tcp",
            "SIDECAR_PORT_6379_TCP_PORT": "6379",
            "SIDECAR_PORT_6379_TCP_ADDR": "10.0.0.1",
        },
    ).wait_ready()  # fmt: skip
    assert server.client().ping()
    assert not server.said("configuration.warning")


def test_nobody_else_reaches_the_engine(start_here: Start) -> None:
    folder = start_here("--save", "").wait_ready().private_folder
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "engine.sock").stat().st_mode & 0o777 == 0o600


def test_http_is_for_this_machine_only_unless_told_otherwise(start_here: Start, outer_address: str) -> None:
    server = start_here("--save", "").wait_ready()
    assert not refuses(server.port, outer_address)
    assert refuses(server.http_port, outer_address)
    other = start_here("--save", "", "--sidecar-http-bind", outer_address)
    other.wait_said("server.ready")
    assert not refuses(other.http_port, outer_address)
    assert refuses(other.http_port)


def test_idle_memory_stays_small(start_here: Start) -> None:
    server = start_here("--save", "").wait_ready()
    server.get("/metrics")
    used = sum(process.memory_info().rss for process in (server.process, server.worker))
    assert used <= MEMORY_LIMIT


def test_a_second_server_on_the_port_is_refused_as_valkeys_is(start_here: Start) -> None:
    first = start_here("--save", "").wait_ready()
    second = start_here("--save", "", port=first.port)
    assert second.wait_end() == 1
    assert f"Could not create server TCP listening socket *:{first.port}: bind: Address already in use" in second.stderr
    assert "Traceback" not in second.stderr
    assert not second.said("engine.started")
    assert first.client().ping()


def test_an_address_that_cannot_be_one_stops_the_start_in_valkeys_words(start_here: Start) -> None:
    server = start_here("--save", "", "--bind", "127.0.0..1")
    assert server.wait_end() == 1
    name = f"127.0.0..1:{server.port}"
    assert f"Warning: Could not create server TCP listening socket {name}: " in server.stderr
    assert "Traceback" not in server.stderr


def test_a_second_server_that_saves_into_the_same_folder_is_refused(start_here: Start, tmp_path: Path) -> None:
    first = start_here("--save", "60 1").wait_ready()
    second = start_here("--appendonly", "yes")
    assert second.wait_end() == 1
    (line,) = second.stderr.splitlines()
    assert str(tmp_path) in line
    assert f"pid {first.process.pid}" in line
    assert first.client().ping()


def test_a_save_that_outlives_a_killed_server_is_waited_for(start_here: Start) -> None:
    # Microseconds for each key: the save lives for a second after the kill, when it would report to its engine.
    first = start_here("--save", "60 1000", "--rdb-key-save-delay", "1000000").wait_ready()
    first.client().set("key", "value")
    assert first.client().bgsave()
    first.process.kill()
    first.wait_end()
    assert start_here("--save", "60 1000").wait_ready().client().ping()


def test_servers_that_do_not_save_may_share_a_folder(start_here: Start) -> None:
    first = start_here("--save", "").wait_ready()
    second = start_here("--save", "").wait_ready()
    assert first.client().ping()
    assert second.client().ping()


def test_an_engine_that_outlives_its_supervisor_keeps_the_folder(start_here: Start, tmp_path: Path) -> None:
    first = start_here("--save", "60 1").wait_ready()
    inherited = {file.path for file in first.engine.open_files()}
    assert str(tmp_path / ".valkey-sidecar.lock") in inherited


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--no-such-directive", "1"), "Bad directive or wrong number of arguments"),
        (("--maxmemory", "lots"), "argument must be a memory value"),
        (("--dir", "missing"), "No such file or directory"),
        (
            ("--aclfile", "users.acl", "--user", "bob", "on"),
            "please define either an ACL file or declare users directly",
        ),
    ],
)
def test_an_engine_that_cannot_start_ends_the_start_with_its_words(
    start_here: Start, arguments: tuple[str, ...], message: str
) -> None:
    server = start_here(*arguments)
    assert server.wait_end() == 1
    assert message in server.stderr
    assert "Traceback" not in server.stderr


def test_a_corrupt_snapshot_ends_the_start_with_the_engines_words(start_here: Start, tmp_path: Path) -> None:
    (tmp_path / "dump.rdb").write_bytes(b"REDIS0011 and nothing more")
    server = start_here()
    assert server.wait_end() == 1
    assert "rdb" in server.stderr.lower()
    assert server.said("engine.log")


def test_a_corrupt_append_only_file_ends_the_start_with_the_engines_words(start_here: Start, tmp_path: Path) -> None:
    folder = tmp_path / "appendonlydir"
    folder.mkdir()
    (folder / "appendonly.aof.manifest").write_text("file appendonly.aof.1.incr.aof seq 1 type i\n")
    (folder / "appendonly.aof.1.incr.aof").write_bytes(b"*1\r\n$4\r\nPING\r\nno command\r\n")
    server = start_here("--appendonly", "yes")
    assert server.wait_end() == 1
    assert "Bad file format reading the append only file appendonly.aof.1.incr.aof" in server.stderr
    assert not server.said("engine.restarted")


def test_a_quoted_password_of_a_bad_line_is_in_no_message(start_here: Start, tmp_path: Path) -> None:
    (tmp_path / "valkey.conf").write_text("requirepass top secret\n")
    server = start_here("valkey.conf")
    assert server.wait_end() == 1
    assert "requirepass" in server.stderr
    assert "secret" not in server.stderr
    assert "secret" not in server.log_text()


def test_an_engine_that_ends_content_before_it_serves_is_a_failed_start(start_here: Start) -> None:
    server = start_here("--sidecar-engine-binary", "true")
    assert server.wait_end() == 1
    assert server.stderr == "valkey-sidecar: the engine ended with code 0 before it was ready\n"


def test_closed_standard_descriptors_are_no_obstacle(start_here: Start) -> None:
    def close() -> None:
        os.closerange(0, 3)

    server = start_here("--save", "", "-", preexec_fn=close).wait_ready()
    assert server.client().ping()
    for process in (server.process, server.worker):
        standard = {Path(f"/proc/{process.pid}/fd/{number}").readlink() for number in range(3)}
        assert standard == {Path("/dev/null")}
    assert server.terminate() == 0


def test_a_folder_that_is_gone_is_no_obstacle(start_here: Start, tmp_path: Path) -> None:
    def leave() -> None:
        gone = tmp_path / "gone"
        gone.mkdir()
        os.chdir(gone)
        gone.rmdir()

    server = start_here("--save", "", preexec_fn=leave).wait_ready()
    assert server.client().ping()
    assert server.terminate() == 0


def test_modules_in_the_folder_are_none_of_ours(start_here: Start, tmp_path: Path) -> None:
    (tmp_path / "uvloop.py").write_text("raise SystemExit('not this one')\n")
    server = start_here("--save", "").wait_ready()
    assert server.client().ping()


@pytest.mark.parametrize("limit", ["64kb", "1kb"])
def test_a_small_limit_of_the_output_buffer_is_no_obstacle(start_here: Start, limit: str) -> None:
    server = start_here("--save", "", "--client-output-buffer-limit", "normal", limit, "0", "0").wait_ready()
    assert server.client().ping()


def test_a_port_for_http_that_was_asked_for_and_is_taken_stops_the_start(start_here: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = start_here("--sidecar-http-port", str(port), default_http=True)
        assert server.wait_end() == 1
    (line,) = server.stderr.splitlines()
    assert f"sidecar-http-port: 127.0.0.1:{port} (from argument --sidecar-http-port) cannot be listened on: " in line
    assert "Address already in use" in line


def test_a_default_port_for_http_that_is_taken_is_a_warning(start_here: Start) -> None:
    taken = socket.socket()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind(("127.0.0.1", 9121))
        taken.listen()
    except OSError:
        pass  # somebody else has it: as good
    with taken:
        # An address was asked for, as in our container image; the port was not.
        server = start_here("--save", "", default_http=True, env={"SIDECAR_HTTP_BIND": "* -::*"})
        server.wait_said("server.ready")
        assert server.said("http.port_taken")
        assert server.client().ping()
        assert (server.private_folder / "http").read_text() == ""


def test_an_address_for_http_that_is_not_this_machines_stops_the_start(start_here: Start) -> None:
    server = start_here("--sidecar-http-bind", "192.0.2.77")
    assert server.wait_end() == 1
    assert "(from argument --sidecar-http-bind" in server.stderr
    assert "Cannot assign requested address" in server.stderr


def test_http_listens_on_all_addresses_it_was_given(start_here: Start, outer_address: str) -> None:
    server = start_here("--save", "", env={"SIDECAR_HTTP_BIND": "* -::*"}).wait_ready()
    assert not refuses(server.http_port)
    assert not refuses(server.http_port, outer_address)
    if socket.has_dualstack_ipv6():
        assert not refuses(server.http_port, "::1")


def test_a_health_check_finds_the_address_of_http_in_the_private_folder(start_here: Start) -> None:
    everywhere = start_here("--save", "", "--sidecar-http-bind", "*").wait_ready()
    assert (everywhere.private_folder / "http").read_text() == f"127.0.0.1 {everywhere.http_port}\n"
    one = start_here("--save", "", "--sidecar-http-bind", "127.0.0.2")
    one.wait_said("server.ready")
    assert (one.private_folder / "http").read_text() == f"127.0.0.2 {one.http_port}\n"


def test_no_password_is_in_any_process_list(start_here: Start, tmp_path: Path) -> None:
    (tmp_path / "valkey.conf").write_text("masterauth hunter1\n")
    server = start_here(
        "valkey.conf", "--requirepass", "hunter2", "--user", "bob", "on", ">hunter3", "~*", "+@all", "--save", "",
        env={"SIDECAR_ENGINE_PASSWORD": "hunter4"},
    ).wait_ready()  # fmt: skip
    assert server.client(password="hunter2").ping()
    family = [server.process, *server.process.children(recursive=True)]
    assert len(family) == 3
    for process in family:
        assert "hunter" not in " ".join(process.cmdline())
    for child in family[1:]:
        assert "hunter" not in " ".join(child.environ().values())


def test_too_few_descriptors_lower_maxclients_with_a_warning(start_here: Start) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (196, 196))

    server = start_here("--save", "", preexec_fn=few).wait_ready()
    limit = server.process.rlimit(psutil.RLIMIT_NOFILE)[0]
    shown = int(server.client().config_get("maxclients")["maxclients"])
    if limit == 196:  # else we may raise it, as Valkey would
        assert shown == 50
        assert server.said("maxclients has been reduced to 50")
    else:
        assert shown == 10000


def test_a_relative_unix_socket_lies_in_the_data_folder_and_goes_with_us(start_here: Start, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "our.sock"
    server = start_here(
        "--save", "", "--dir", "data", "--unixsocket", "our.sock", "--unixsocketperm", "700"
    ).wait_ready()
    assert path.stat().st_mode & 0o777 == 0o700
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"PING\r\n")
        assert client.recv(100) == b"+PONG\r\n"
    assert server.terminate() == 0
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file to a group that is not its own")
def test_the_unix_socket_belongs_to_the_group_that_was_asked_for(start_here: Start, tmp_path: Path) -> None:
    path = tmp_path / "our.sock"
    start_here("--save", "", "--unixsocket", str(path), "--unixsocketgroup", "daemon").wait_ready()
    assert path.group() == "daemon"


def test_a_server_that_listens_nowhere_does_not_start(start_here: Start) -> None:
    server = start_here(port=0)
    assert server.wait_end() == 1
    assert "Configured to not listen anywhere, exiting." in server.stderr
