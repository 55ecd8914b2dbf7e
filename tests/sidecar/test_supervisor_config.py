from __future__ import annotations

import re
import shutil
import socket
from pathlib import Path

import pytest
import valkey

from sidecar.listener_settings import LISTENER_DIRECTIVES
from sidecar.settings import SETTINGS
from tests.conftest import Start, free_port, receive, wait_until


def refuses(port: int, host: str = "127.0.0.1") -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


# ---- CONFIG SET


def test_a_new_port_is_listened_on_and_the_old_one_left(start_here: Start) -> None:
    server = start_here("--save", "").wait_ready()
    client = server.client(single_connection_client=True)
    new = free_port()
    assert client.config_set("port", new)
    assert valkey.Valkey(port=new).ping()
    wait_until(lambda: refuses(server.port), "the old port is closed")
    assert client.ping()  # who is connected stays connected
    assert client.config_get("port") == {"port": str(new)}


def test_a_port_that_is_taken_changes_nothing(start_here: Start) -> None:
    server = start_here("--save", "").wait_ready()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(valkey.ResponseError, match=r"argument 'port'.*Unable to listen on this port"):
            server.client().config_set("port", taken.getsockname()[1])
        assert server.client().config_get("port") == {"port": str(server.port)}


def test_fewer_addresses_of_the_same_port(start_here: Start) -> None:
    server = start_here("--save", "", "--bind", "127.0.0.1", "127.0.0.2").wait_ready()
    client = server.client(single_connection_client=True)
    assert client.config_set("bind", "127.0.0.2")
    wait_until(lambda: refuses(server.port), "127.0.0.1 is closed")
    assert valkey.Valkey(host="127.0.0.2", port=server.port).ping()
    assert client.config_set("bind", "* -::*")  # covers the one that is held already
    assert server.client().ping()
    assert server.client().config_get("bind") == {"bind": "* -::*"}


def test_addresses_that_do_not_exist_change_nothing(start_here: Start) -> None:
    server = start_here("--save", "", "--bind", "127.0.0.1").wait_ready()
    with pytest.raises(valkey.ResponseError, match="Failed to bind to specified addresses"):
        server.client().config_set("bind", "192.0.2.77")
    wait_until(lambda: not refuses(server.port), "clients are served again")
    assert server.client().ping()


@pytest.mark.parametrize("name", [b"127.0.0..1", b"a" * 64, b"\xff"])
def test_addresses_that_cannot_be_ones_change_nothing(start_here: Start, name: bytes) -> None:
    server = start_here("--save", "", "--bind", "127.0.0.1").wait_ready()
    client = server.client(single_connection_client=True)
    with pytest.raises(valkey.ResponseError, match="Failed to bind to specified addresses"):
        client.execute_command("CONFIG", "SET", "bind", name)
    wait_until(lambda: not refuses(server.port), "clients are served again")
    assert server.client().config_get("bind") == {"bind": "127.0.0.1"}
    assert client.config_set("bind", "127.0.0.1 127.0.0.2")
    wait_until(lambda: not refuses(server.port, "127.0.0.2"), "the next good address is served")


def test_maxclients_holds_at_once_and_the_engine_follows(start_here: Start) -> None:
    server = start_here("--save", "", "--maxclients", "10").wait_ready()
    client = server.client(single_connection_client=True)
    assert client.config_set("maxclients", 1)
    with pytest.raises(valkey.ValkeyError, match="max number of clients"):
        server.client(retry=None).ping()
    assert client.config_set("maxclients", 100)
    others = [server.client(single_connection_client=True) for _ in range(60)]
    assert all(other.ping() for other in others)
    for other in others:
        other.close()


def test_maxclients_beyond_the_descriptors_is_refused(start_here: Start) -> None:
    server = start_here("--save", "").wait_ready()
    with pytest.raises(valkey.ResponseError, match="not able to handle the specified number of clients, try with"):
        server.client().config_set("maxclients", 100_000_000)


# ---- CONFIG REWRITE


CONF = """# my server

port {port}
# listens here
bind 127.0.0.1 -::1
sidecar-drain-timeout 3
include {folder}/included.conf
maxmemory 100mb
save 900 1
# the end
"""


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    (tmp_path / "included.conf").write_text("# included\ntimeout 77\nmaxmemory-policy allkeys-lru\n")
    path = tmp_path / "valkey.conf"
    path.write_text(CONF.format(port=free_port(), folder=tmp_path))
    path.chmod(0o640)
    return path


def connect(conf: Path) -> valkey.Valkey:
    port = next(line.split()[1] for line in conf.read_text().splitlines() if line.startswith("port "))
    return valkey.Valkey(port=int(port), decode_responses=True)


def test_a_rewrite_keeps_the_users_file_right(start_here: Start, conf: Path, tmp_path: Path) -> None:
    server = start_here("valkey.conf", "--hz", "50", "--tcp-keepalive", "60", port_in_file=True).wait_ready()
    client = connect(conf)
    port = client.config_get("port")["port"]
    client.config_set("maxmemory", "200mb")
    client.config_set("timeout", "33")
    client.config_set("maxclients", "77")
    assert client.config_rewrite()
    lines = conf.read_text().splitlines()
    assert lines[:9] == [
        "# my server",
        "",
        f"port {port}",
        "# listens here",
        "bind 127.0.0.1 -::1",
        "sidecar-drain-timeout 3",
        f"include {tmp_path}/included.conf",
        "maxmemory 200mb",
        "save 900 1",
    ]
    rest = lines[9:]
    assert rest[:3] == ["# the end", "", "# Generated by CONFIG REWRITE"]
    assert {"hz 50", "timeout 33", "tcp-keepalive 60", "maxclients 77", f'dir "{tmp_path}"'} <= set(rest)
    for ours in ("unixsocket", "port", "replica-announce-port", "protected-mode", "logfile"):
        assert not [line for line in rest if line.startswith(f"{ours} ")]
    assert (tmp_path / "included.conf").read_text() == "# included\ntimeout 77\nmaxmemory-policy allkeys-lru\n"
    assert conf.stat().st_mode & 0o777 == 0o640
    assert server.terminate() == 0


def test_what_a_rewrite_wrote_gives_the_same_settings_again(start_here: Start, conf: Path) -> None:
    first = start_here("valkey.conf", "--appendonly", "yes", "--notify-keyspace-events", "KEA", port_in_file=True)
    first.wait_ready()
    client = connect(conf)
    client.config_set("requirepass", 'se"cret')
    client.execute_command("AUTH", 'se"cret')
    client.config_set("protected-mode", "no")
    new = free_port()
    client.config_set("port", new)
    client = valkey.Valkey(port=new, password='se"cret', decode_responses=True)
    assert client.config_rewrite()
    before = client.config_get("*")
    again_rewritten = conf.read_text()
    assert client.config_rewrite()
    assert conf.read_text() == again_rewritten
    assert first.terminate() == 0
    start_here("valkey.conf", port_in_file=True).wait_ready()
    after = client.config_get("*")
    assert after == before
    assert after["port"] == str(new)
    assert set(LISTENER_DIRECTIVES) <= set(after)


def test_a_supervisor_that_does_not_answer_is_no_success(start_here: Start, conf: Path) -> None:
    server = start_here(str(conf)).wait_ready()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        sock.sendall(f"MULTI\r\nCONFIG SET port {free_port()}\r\n".encode())
        receive(sock, b"+QUEUED\r\n")
        server.process.suspend()
        try:
            sock.sendall(b"EXEC\r\n")
            answer = receive(sock, b"or never\r\n")
        finally:
            server.process.resume()
    assert answer.startswith(b"*1\r\n-ERR CONFIG SET failed (possibly related to argument 'port') - the supervisor")


def test_a_rewrite_keeps_the_users_file_right_when_our_own_was_swept_away(start_here: Start, conf: Path) -> None:
    server = start_here("valkey.conf", port_in_file=True).wait_ready()
    server.port = int(connect(conf).config_get("port")["port"])
    before = conf.read_text()
    for path in server.private_folder.glob("*"):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "engine.sock":
            path.unlink()
    assert server.client().config_rewrite()
    assert conf.read_text().startswith(before.removesuffix("# the end\n"))


def test_what_the_user_has_edited_meanwhile_is_kept(start_here: Start, conf: Path) -> None:
    start_here("valkey.conf", port_in_file=True).wait_ready()
    client = connect(conf)
    conf.write_text("# edited by hand\n" + conf.read_text())
    client.config_set("maxmemory", "300mb")
    assert client.config_rewrite()
    lines = conf.read_text().splitlines()
    assert lines[0] == "# edited by hand"
    assert "maxmemory 300mb" in lines


def test_a_rewritten_password_lets_us_back_in_after_a_crash(start_here: Start, conf: Path) -> None:
    server = start_here("valkey.conf", port_in_file=True).wait_ready()
    client = connect(conf)
    client.config_set("requirepass", "new")
    client.execute_command("AUTH", "new")
    assert client.config_rewrite()
    server.engine.kill()
    server.wait_said("engine.restarted")
    server.wait_ready()
    assert not server.said("engine.no_rights")
    with pytest.raises(valkey.AuthenticationError):
        connect(conf).ping()
    assert valkey.Valkey(port=int(client.connection_pool.connection_kwargs["port"]), password="new").ping()


def test_users_given_beside_the_file_survive_a_rewrite_and_a_crash(
    start_here: Start, conf: Path, tmp_path: Path
) -> None:
    (tmp_path / "more.conf").write_text("user carol on >pw ~* +@all\n")
    conf.write_text(f"{conf.read_text()}include more.conf\n")
    server = start_here("valkey.conf", "--user", "bob", "on", ">pw", "~*", "+@all", port_in_file=True).wait_ready()
    client = connect(conf)
    assert client.config_rewrite()
    server.engine.kill()
    server.wait_said("engine.restarted")
    server.wait_ready()
    assert {"bob", "carol", "default"} <= set(client.acl_users())


def test_an_unwritable_file_is_told_as_valkey_tells_it(start_here: Start, conf: Path, tmp_path: Path) -> None:
    start_here("valkey.conf", port_in_file=True).wait_ready()
    client = connect(conf)
    conf.unlink()
    conf.mkdir()
    with pytest.raises(valkey.ResponseError, match="Rewriting config file: "):
        client.config_rewrite()


def test_standard_input_counts_after_the_file(start_here: Start, conf: Path, tmp_path: Path) -> None:
    given = tmp_path / "stdin"
    given.write_text("maxmemory 7mb\nmaxclients 99\n")
    with given.open() as stdin:
        start_here("valkey.conf", "-", port_in_file=True, stdin=stdin).wait_ready()
    client = connect(conf)
    assert client.config_get("maxmemory") == {"maxmemory": str(7 * 1024 * 1024)}
    assert client.config_get("maxclients") == {"maxclients": "99"}


# ---- rights


def rights_we_need() -> str:
    """As the setting's text lists them: "PING, INFO and ..."."""
    (setting,) = (setting for setting in SETTINGS if setting.name == "engine-user")
    return setting.about.partition("needs the rights to run ")[2].removesuffix(".")


def test_an_engine_that_refuses_us_serves_clients_all_the_same(start_here: Start, tmp_path: Path) -> None:
    (tmp_path / "users.acl").write_text("user default off\nuser app on >secret ~* +@all\n")
    server = start_here("--aclfile", "users.acl", "--save", "").wait_ready()
    (warning,) = server.said("engine.no_rights")
    assert f"may call {rights_we_need()} with" in warning["message"]
    client = server.client(username="app", password="secret")
    assert client.set("a", "b")
    assert server.metric('valkey_command_calls_total{db_operation_name="SET"') == 1  # the table is known
    assert server.terminate() == 0


def test_a_user_of_our_own_lets_us_in(start_here: Start, tmp_path: Path) -> None:
    (tmp_path / "users.acl").write_text("user default off\nuser watch on >see ~* +@all\n")
    server = start_here(
        "--aclfile", "users.acl", "--save", "", "--sidecar-engine-user", "watch",
        env={"SIDECAR_ENGINE_PASSWORD": "see"},
    ).wait_ready()  # fmt: skip
    assert not server.said("engine.no_rights")


def test_a_higher_loglevel_at_run_time_silences_us_too(start_here: Start) -> None:
    server = start_here("--save", "", "--loglevel", "debug").wait_ready()
    assert server.client().config_set("loglevel", "nothing")
    before = len(server.events)
    worker = server.worker
    worker.kill()
    worker.wait()
    wait_until(server.answers, "another worker serves")
    server.wait_ready()
    assert [event["event_name"] for event in server.events[before:] if event["event_name"] != "engine.log"] == []


def test_a_rewritten_loglevel_is_ours_too_when_the_engine_begins_anew(start_here: Start, tmp_path: Path) -> None:
    (tmp_path / "valkey.conf").write_text('save ""\n')
    server = start_here("valkey.conf").wait_ready()
    with server.client() as client:
        client.config_set("loglevel", "warning")
        client.config_rewrite()
    server.engine.kill()
    wait_until(server.answers, "another engine serves")
    server.wait_ready()
    assert server.stop() == 0
    assert not server.said("server.stopping")


def test_the_rights_that_we_ask_for_are_all_that_we_need(start_here: Start, tmp_path: Path, outer_address: str) -> None:
    rules = " ".join("+" + right.lower().replace(" ", "|") for right in re.split(", | and ", rights_we_need()))
    (tmp_path / "users.acl").write_text(f"user default on nopass ~* &* +@all\nuser watch on >see {rules}\n")
    (tmp_path / "valkey.conf").write_text('save ""\naclfile users.acl\n')
    server = start_here(
        "valkey.conf", "--sidecar-engine-user", "watch", env={"SIDECAR_ENGINE_PASSWORD": "see"}
    ).wait_ready()
    client = server.client()
    assert client.config_set("maxclients", 77)
    assert client.config_rewrite()
    assert client.client_list()
    with socket.create_connection((outer_address, server.port), timeout=5) as stranger:
        assert receive(stranger).startswith(b"-DENIED")
    assert not server.said("engine.no_rights")
    assert client.acl_log() == []


def test_a_lower_loglevel_at_run_time_shows_the_engines_lines(start_here: Start) -> None:
    server = start_here("--save", "").wait_ready()
    server.client().config_set("loglevel", "debug")
    server.wait_said("clients connected")
    assert any(event["level"] in ("verbose", "debug") for event in server.said("engine.log"))
