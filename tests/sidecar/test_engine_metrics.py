"""The engine's own figures at /metrics are those that a client of our port sees, and reading them costs little."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tests.conftest import Server, Start, wait_until
from tests.sidecar.test_identity import our_connection


def engine_lines(server: Server) -> dict[str, float]:
    return {name: value for name, value in server.metrics().items() if name.startswith("redis_")}


def wait_up(server: Server) -> dict[str, float]:
    """The figures once there are some: the first poll waits for the start, and later ones are a second apart."""
    return dict(wait_until(lambda: len(found := engine_lines(server)) > 1 and found, "the engine tells its figures"))


def test_they_are_what_a_client_sees(start_here: Start) -> None:
    server = start_here("--save", "", "--maxclients", "77").wait_ready()
    client = server.client()
    client.set("a", "1")
    found = wait_up(server)
    assert found["redis_up"] == 1
    assert found["redis_connected_clients"] == 1  # our own connection is not among them
    assert found["redis_config_maxclients"] == 77
    (instance,) = (name for name in found if name.startswith("redis_instance_info{"))
    assert f'tcp_port="{server.port}"' in instance
    assert f'process_id="{server.engine.pid}"' in instance
    assert found['redis_commands_total{cmd="set"}'] == 1


def test_a_change_of_what_is_ours_shows_at_the_next_poll(start_here: Start) -> None:
    server = start_here("--save", "").wait_ready()
    server.client().config_set("maxclients", 55)
    wait_until(lambda: engine_lines(server).get("redis_config_maxclients") == 55, "the new limit shows")


def test_clients_that_we_refused_are_counted(start_here: Start) -> None:
    server = start_here("--save", "", "--maxclients", "1").wait_ready()
    with server.client() as client:
        client.ping()
        with pytest.raises(Exception, match="max number of clients reached"):
            server.client().ping()
    wait_until(lambda: engine_lines(server).get("redis_rejected_connections_total") == 1, "it is counted")


def test_many_scrapers_share_one_poll_a_second(start_here: Start) -> None:
    server = start_here("--save", "").wait_ready()
    wait_up(server)

    def polls() -> int:
        return int(server.client().info("commandstats")["cmdstat_slowlog|len"]["calls"])

    before, began = polls(), time.monotonic()
    threads = [threading.Thread(target=lambda: [server.get("/metrics") for _ in range(10)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert polls() - before <= time.monotonic() - began + 1


def test_a_new_engine_tells_its_own_figures(start_here: Start) -> None:
    server = start_here("--save", "").wait_ready()
    server.client().set("a", "1")
    assert 'redis_commands_total{cmd="set"}' in wait_up(server)
    server.engine.kill()
    server.wait_said("engine.restarted")
    server.wait_ready()
    assert 'redis_commands_total{cmd="set"}' not in wait_up(server)  # never what the dead one said


def test_losing_our_connection_is_no_outage(start_here: Start) -> None:
    server = start_here("--save", "").wait_ready()
    wait_up(server)
    with server.client() as client:
        assert client.client_kill_filter(_id=our_connection(server).decode()) == 1
        before = int(client.info("commandstats")["cmdstat_slowlog|len"]["calls"])
        wait_until(
            lambda: (
                engine_lines(server)["redis_up"] == 1
                and int(client.info("commandstats")["cmdstat_slowlog|len"]["calls"]) > before
            ),
            "it is read again, and never was down",
        )


def test_without_rights_there_are_none_and_one_warning(start_here: Start, tmp_path: Path) -> None:
    (tmp_path / "users.acl").write_text("user default off\nuser app on >secret ~* +@all\n")
    server = start_here("--aclfile", "users.acl", "--save", "").wait_ready()

    def warned() -> bool:
        assert engine_lines(server) == {"redis_up": 0}
        return bool(server.said("engine.metrics_off"))

    wait_until(warned, "it says so")
    (warning,) = server.said("engine.metrics_off")
    assert "sidecar-engine-user" in warning["message"]
    assert "secret" not in server.log_text()


def test_rights_for_info_alone_are_enough_for_most_and_denied_once(start_here: Start, tmp_path: Path) -> None:
    (tmp_path / "users.acl").write_text(
        "user default on nopass ~* &* +@all\nuser watch on >see +ping +info +command +client\n"
    )
    server = start_here(
        "--aclfile", "users.acl", "--save", "", "--sidecar-engine-user", "watch", env={"SIDECAR_ENGINE_PASSWORD": "see"}
    ).wait_ready()
    found = wait_up(server)
    assert found["redis_connected_clients"] == 0
    assert "redis_config_maxclients" not in found
    info = 'redis_commands_total{cmd="info"}'
    wait_until(lambda: engine_lines(server)[info] > found[info] + 2, "it has been read again")
    assert not server.said("engine.metrics_off")
    denied = {entry["object"]: entry["count"] for entry in server.client().acl_log()}
    assert denied["slowlog|len"] == 1


def test_an_answer_that_is_more_than_we_may_have_is_given_up(start_here: Start) -> None:
    server = start_here("--save", "", "--client-output-buffer-limit", "normal", "1kb", "0", "0").wait_ready()
    wait_until(lambda: engine_lines(server) and server.said("engine.metrics_off"), "it says so")
    (warning,) = server.said("engine.metrics_off")
    assert "client-output-buffer-limit" in warning["message"]
    assert engine_lines(server) == {"redis_up": 0}
    assert server.get("/readyz")[0] == 200
    assert server.client().ping()
