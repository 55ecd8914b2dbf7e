"""Stops, kills, limits, and the data that is there again."""

from __future__ import annotations

import pytest

from tests.conftest import wait_until
from tests.image.conftest import StartContainer

pytestmark = pytest.mark.image

_IDLE_STOP_S = 3.0
_BIG_STOP_S = 10.0


def test_data_is_there_again_on_the_same_volume(start: StartContainer, volume: str) -> None:
    first = start("--volume", f"{volume}:/data")
    assert first.client().set("kept", "yes")
    assert first.stop()[1] == 0
    first.start()
    assert first.wait().client().get("kept") == b"yes"
    assert first.stop()[1] == 0
    first.remove()
    assert start("--volume", f"{volume}:/data").client().get("kept") == b"yes"


def test_an_idle_container_stops_within_three_seconds(start: StartContainer) -> None:
    container = start()
    seconds, code = container.stop()
    assert code == 0
    assert seconds < _IDLE_STOP_S
    assert "server.ended" in container.logs()


def test_a_gigabyte_is_saved_before_docker_loses_patience(start: StartContainer, volume: str) -> None:
    container = start("--volume", f"{volume}:/data", command=("--enable-debug-command", "yes"))
    client = container.client(socket_timeout=120)
    client.execute_command("DEBUG", "POPULATE", 1 << 20, "key", 1000)
    assert client.info("memory")["used_memory"] > 1 << 30
    seconds, code = container.stop()
    assert code == 0, container.logs()[-2000:]
    assert seconds < _BIG_STOP_S
    container.start()
    wait_until(container.answers, "it has loaded", 120)
    assert container.client().dbsize() == 1 << 20


def test_a_save_that_takes_longer_than_docker_waits_is_told_in_the_log(start: StartContainer) -> None:
    container = start(command=("--enable-debug-command", "yes", "--rdb-key-save-delay", "200"))
    container.client().execute_command("DEBUG", "POPULATE", 100_000)  # 20 seconds of saving
    seconds, code = container.stop()
    assert code == 137
    assert seconds > _BIG_STOP_S
    assert "The engine still saves its data" in container.logs()


def test_a_kill_costs_what_was_not_written_and_nothing_else(start: StartContainer) -> None:
    container = start(command=("--appendonly", "yes", "--appendfsync", "always"))
    assert container.client().set("kept", "yes")
    container.docker.run("kill", "--signal", "KILL", container.id)
    wait_until(lambda: not container.state["Running"], "it has ended")
    assert container.state["ExitCode"] == 137
    container.start()
    container.wait()
    assert container.client().get("kept") == b"yes"
    assert container.sh("ls -d /tmp/valkey-sidecar-* | wc -l") == "1"  # what the killed one left is gone


def test_an_engine_that_is_killed_is_started_again(start: StartContainer) -> None:
    container = start(command=("--appendonly", "yes", "--appendfsync", "always"))
    assert container.client().set("kept", "yes")
    before = container.engine()
    container.sh(f"kill -9 {before}")
    wait_until(lambda: "engine.restarted" in container.logs(), "the engine is started again")
    container.wait()
    assert container.client().get("kept") == b"yes"
    assert container.engine() != before
    states = container.sh("for p in /proc/[0-9]*; do read -r _ _ s _ <$p/stat; echo $s; done 2>/dev/null")
    assert "Z" not in states  # PID 1 collects what ends


def test_256_megabytes_are_enough(start: StartContainer) -> None:
    container = start("--memory", "256m", "--memory-swap", "256m", command=("--enable-debug-command", "yes"))
    client = container.client()
    client.execute_command("DEBUG", "POPULATE", 50_000, "key", 1000)
    for _ in range(20):
        with client.pipeline(transaction=False) as pipeline:
            for number in range(1000):
                pipeline.get(f"key:{number}")
            pipeline.execute()
    container.page("/metrics")
    client.bgsave()
    wait_until(lambda: not client.info("persistence")["rdb_bgsave_in_progress"], "it is saved")
    assert client.info("persistence")["rdb_last_bgsave_status"] == "ok"
    used = container.docker.run("stats", "--no-stream", "--format", "{{.MemUsage}}", container.id)
    assert used.endswith("256MiB")
    assert container.state["OOMKilled"] is False
    assert container.client().dbsize() == 50_000
