"""The image's HEALTHCHECK follows the server over time."""

from __future__ import annotations

import pytest

from tests.image.conftest import StartContainer
from tests.image.docker import Container

pytestmark = pytest.mark.image


def test_health_follows_the_server_over_time(start: StartContainer) -> None:
    container = start("--health-interval", "1s", "--health-start-period", "5s", wait=False)
    assert container.health == "starting"
    assert container.wait_health("healthy") == "ready\n"
    engine = container.engine()
    container.sh(f"kill -STOP {engine}")
    assert "the engine did not answer" in container.wait_health("unhealthy")
    container.sh(f"kill -CONT {engine}")
    assert container.wait_health("healthy") == "ready\n"


def test_who_loads_is_not_healthy(start: StartContainer, volume: str) -> None:
    first = start("--volume", f"{volume}:/data", command=("--enable-debug-command", "yes"))
    first.client().execute_command("DEBUG", "POPULATE", 100_000)
    assert first.stop()[1] == 0
    first.remove()
    options = ("--volume", f"{volume}:/data", "--health-interval", "1s", "--health-start-period", "1s")
    # It answers while it loads, after every kilobyte, and takes 20 seconds for it.
    delay = ("--key-load-delay", "200", "--loading-process-events-interval-bytes", "1024")
    slow = start(*options, command=delay, wait=False)
    assert slow.wait_health("unhealthy") == "the engine is loading its data\n"


def test_health_needs_no_http_and_finds_a_port_of_the_conf_file(start: StartContainer) -> None:
    first = start()
    beside = start(
        "--network", f"container:{first.id}", "--health-interval", "1s", command=("--port", "6380"), wait=False
    )  # 9121 is taken there
    assert beside.wait_health("healthy") == "PONG\n"
    assert "http.port_taken" in beside.logs()
    conf = b"sidecar-http-port 9200\n"
    other = start("--health-interval", "1s", command=("/etc/valkey.conf",), files={"/etc/valkey.conf": conf})
    assert other.wait_health("healthy") == "ready\n"


def test_a_health_check_costs_little(start: StartContainer) -> None:
    container = start()
    container.wait_health("healthy")
    before = cpu_ns(container)
    for _ in range(20):
        container.sh("healthcheck.sh >/dev/null")
    each_ms = (cpu_ns(container) - before) / 20 / 1e6
    assert each_ms < 50, each_ms  # a Python start alone costs 20 and more; runc's own work is in it


def cpu_ns(container: Container) -> int:
    """What the container has used of the CPU."""
    for path in ("/sys/fs/cgroup/cpuacct/cpuacct.usage", "/sys/fs/cgroup/cpu.stat"):
        done = container.docker.attempt("exec", container.id, "cat", path)
        if done.returncode == 0:
            return int(done.stdout) if path.endswith("usage") else int(done.stdout.split()[1]) * 1000
    raise AssertionError("no cgroup says")
