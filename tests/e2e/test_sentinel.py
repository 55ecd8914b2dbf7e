"""Sentinel watches over two of us as over two Valkeys: it finds the replica, and promotes it when it should."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import valkey

from tests.conftest import Server, Start, free_port, wait_until

pytestmark = pytest.mark.e2e

_GROUP = "mygroup"

# Sentinel looks at every server each 10 s, a changed one each second, and believes a role after 8 s.
_PATIENCE_S = 40.0

_CONF = """# kept: this server belongs to a group

port {port}
save ""
# kept: as large as it gets
maxmemory-samples 7
repl-diskless-sync-delay 0
"""


@dataclass
class Sentinel:
    client: valkey.Valkey
    log: Path

    def primary(self) -> tuple[str, int]:
        host, port = self.client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", _GROUP)
        return host, int(port)

    def replicas(self) -> list[tuple[str, int]]:
        found = self.client.execute_command("SENTINEL", "REPLICAS", _GROUP)
        return [(replica["ip"], int(replica["port"])) for replica in map(_as_dict, found)]

    def settled(self, primary: Server, replica: Server) -> bool:
        """Whether it knows exactly these two, reachable and with these roles."""
        state = _as_dict(self.client.execute_command("SENTINEL", "MASTER", _GROUP))
        replicas = [_as_dict(found) for found in self.client.execute_command("SENTINEL", "REPLICAS", _GROUP)]
        return (
            int(state["port"]) == primary.port
            and state["flags"] == "master"
            and [int(found["port"]) for found in replicas] == [replica.port]
            and replicas[0]["flags"] == "slave"
            and replicas[0]["master-link-status"] == "ok"
            and replicas[0]["master-port"] == str(primary.port)
        )


def _as_dict(reply: object) -> dict[str, str]:
    if isinstance(reply, dict):
        return {str(name): str(value) for name, value in reply.items()}
    assert isinstance(reply, list)
    return dict(zip(reply[::2], reply[1::2], strict=True))


Watch = Callable[[Server], Sentinel]


@pytest.fixture(params=["Valkey's", "Redis's"])
def watch(request: pytest.FixtureRequest, tmp_path: Path, engine_binary: Path) -> Iterator[Watch]:
    """Starts a Sentinel that watches a primary."""
    if request.param == "Valkey's":
        program = str(engine_binary)
    else:
        found = shutil.which("redis-sentinel")
        if found is None:
            pytest.skip("redis-sentinel is not installed")
        program = found
    processes: list[subprocess.Popen[bytes]] = []
    clients: list[valkey.Valkey] = []

    def start_one(primary: Server) -> Sentinel:
        port = free_port()
        folder = tmp_path / "sentinel"
        folder.mkdir()
        (folder / "sentinel.conf").write_text(
            f"port {port}\ndir {folder}\nprotected-mode no\n"
            f"sentinel monitor {_GROUP} 127.0.0.1 {primary.port} 1\n"
            f"sentinel down-after-milliseconds {_GROUP} 1500\n"
            f"sentinel failover-timeout {_GROUP} 20000\n"
        )
        log = folder / "log"
        with log.open("wb") as out:
            command = [program, str(folder / "sentinel.conf"), "--sentinel"]
            processes.append(subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL))
        # RESP2: both Sentinels answer in the same form.
        client = valkey.Valkey(port=port, decode_responses=True, socket_timeout=10)
        clients.append(client)

        def answers() -> bool:
            try:
                return bool(client.execute_command("PING"))
            except valkey.ConnectionError:
                return False

        wait_until(answers, "Sentinel answers")
        return Sentinel(client, log)

    yield start_one
    for client in clients:
        client.close()
    for process in processes:
        process.kill()
        process.wait()


def start_member(start: Start, folder: Path, name: str, primary: Server | None = None) -> tuple[Server, Path]:
    port = free_port()
    home = folder / name
    home.mkdir(exist_ok=True)
    conf = home / "valkey.conf"
    conf.write_text(_CONF.format(port=port) + (f"replicaof 127.0.0.1 {primary.port}\n" if primary is not None else ""))
    return start(str(conf), folder=home, port=port), conf


def role(server: Server) -> str:
    try:
        with server.client(decode_responses=True) as client:
            return str(client.execute_command("ROLE")[0])
    except valkey.ValkeyError:
        return ""


def assert_file_is_right(conf: Path, server: Server, follows: Server | None) -> None:
    text = conf.read_text()
    lines = text.splitlines()
    assert lines[:6] == _CONF.format(port=server.port).splitlines()[:6]
    replicaof = [line for line in lines if line.startswith("replicaof")]
    assert replicaof == ([f"replicaof 127.0.0.1 {follows.port}"] if follows is not None else [])
    for private in ("unixsocket", "engine.sock", "port 0", "announce", "valkey-sidecar-", "protected-mode"):
        assert private not in text, text


def test_a_failover_that_is_asked_for_swaps_the_two(start: Start, watch: Watch, tmp_path: Path) -> None:
    primary, primary_conf = start_member(start, tmp_path, "one")
    replica, replica_conf = start_member(start, tmp_path, "two", primary)
    sentinel = watch(primary)
    wait_until(lambda: sentinel.settled(primary, replica), "Sentinel knows both", _PATIENCE_S)
    assert sentinel.replicas() == [("127.0.0.1", replica.port)]
    with primary.client() as client:
        client.set("k", "before")
    assert sentinel.client.execute_command("SENTINEL", "FAILOVER", _GROUP)
    wait_until(lambda: sentinel.settled(replica, primary), "the two have changed places", _PATIENCE_S)
    assert (role(replica), role(primary)) == ("master", "slave")
    with replica.client(single_connection_client=True) as client:
        client.set("k", "after")
        assert client.wait(1, 10_000) == 1
    with primary.client() as client:
        assert client.get("k") == b"after"
    assert_file_is_right(replica_conf, replica, None)
    assert_file_is_right(primary_conf, primary, replica)
    assert primary.stop() == 0
    again = start(str(primary_conf), folder=primary_conf.parent, port=primary.port)
    wait_until(lambda: sentinel.settled(replica, again), "it is back as a replica", _PATIENCE_S)


def test_a_primary_that_dies_is_replaced_and_comes_back_as_a_replica(
    start: Start, watch: Watch, tmp_path: Path
) -> None:
    primary, primary_conf = start_member(start, tmp_path, "one")
    replica, replica_conf = start_member(start, tmp_path, "two", primary)
    sentinel = watch(primary)
    wait_until(lambda: sentinel.settled(primary, replica), "Sentinel knows both", _PATIENCE_S)
    with primary.client(single_connection_client=True) as client:
        client.set("k", "v")
        assert client.wait(1, 10_000) == 1
    primary.process.send_signal(signal.SIGKILL)
    primary.process.wait()
    wait_until(lambda: sentinel.primary() == ("127.0.0.1", replica.port), "the replica is the primary", _PATIENCE_S)
    assert role(replica) == "master"
    assert_file_is_right(replica_conf, replica, None)
    with replica.client() as client:
        assert client.get("k") == b"v"
        client.set("k", "written by the new primary")
    again = start(str(primary_conf), folder=primary_conf.parent, port=primary.port)
    wait_until(lambda: sentinel.settled(replica, again), "the old one follows the new one", _PATIENCE_S)
    assert_file_is_right(primary_conf, again, replica)
    with again.client() as client:
        assert client.get("k") == b"written by the new primary"


def test_a_file_edited_meanwhile_is_right_after_a_failover_too(start: Start, watch: Watch, tmp_path: Path) -> None:
    primary, primary_conf = start_member(start, tmp_path, "one")
    replica, replica_conf = start_member(start, tmp_path, "two", primary)
    sentinel = watch(primary)
    wait_until(lambda: sentinel.settled(primary, replica), "Sentinel knows both", _PATIENCE_S)
    # Sentinel's transaction also cuts the connection that the rewrite of an edited file needs.
    for conf in (primary_conf, replica_conf):
        conf.write_text(conf.read_text() + "# edited by hand\n")
    assert sentinel.client.execute_command("SENTINEL", "FAILOVER", _GROUP)
    wait_until(lambda: sentinel.settled(replica, primary), "the two have changed places", _PATIENCE_S)
    assert_file_is_right(replica_conf, replica, None)
    assert_file_is_right(primary_conf, primary, replica)
    for conf in (primary_conf, replica_conf):
        assert "# edited by hand" in conf.read_text()


def test_servers_without_files_change_places_too(start: Start, watch: Watch) -> None:
    arguments = ("--save", "", "--repl-diskless-sync-delay", "0")
    primary = start(*arguments)
    replica = start(*arguments, "--replicaof", "127.0.0.1", str(primary.port))
    sentinel = watch(primary)
    wait_until(lambda: sentinel.settled(primary, replica), "Sentinel knows both", _PATIENCE_S)
    assert sentinel.client.execute_command("SENTINEL", "FAILOVER", _GROUP)
    wait_until(lambda: sentinel.settled(replica, primary), "the two have changed places", _PATIENCE_S)
