from __future__ import annotations

import json
import os
import pty
import re

from tests.conftest import Start


def test_on_a_terminal_the_log_is_for_people(start_here: Start) -> None:
    reading, writing = pty.openpty()
    server = start_here("--save", "", env={"TERM": "dumb"}, preexec_fn=lambda: os.dup2(writing, 1)).wait_ready()
    os.close(writing)
    assert server.terminate() == 0
    lines = everything(reading).decode().splitlines()
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\S+Z (notice|warning) .+", line) for line in lines)
    (ready,) = [line for line in lines if "Ready to accept connections on " in line]
    assert ready.rstrip().endswith("server.ready")
    assert any("role=primary" in line for line in lines)


def everything(terminal: int) -> bytes:
    """What was written to a terminal that its last writer has closed."""
    data = bytearray()
    while True:
        try:
            data += os.read(terminal, 1 << 16)
        except OSError:  # this is how its end reads
            os.close(terminal)
            return bytes(data)


def test_elsewhere_the_log_is_one_json_object_a_line(start_here: Start) -> None:
    server = start_here("--save", "").wait_ready()
    assert server.terminate() == 0
    names = [json.loads(line)["event_name"] for line in server.log.read_text().splitlines()]
    assert {"engine.started", "engine.log", "server.ready", "server.ended"} <= set(names)


def test_a_line_of_the_engine_says_in_which_role_it_was_written(start_here: Start) -> None:
    server = start_here("--save", "").wait_ready()
    client = server.client()
    client.bgsave()
    assert server.wait_said("DB saved on disk")["role"] == "child"
    assert server.wait_said("Background saving terminated with success")["role"] == "primary"
    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    assert server.wait_said("Connecting to PRIMARY")["role"] == "replica"


def test_the_log_says_once_what_clients_connect_with_and_hides_the_password(start_here: Start) -> None:
    server = start_here("--requirepass", "Hunter2", "--bind", "127.0.0.1", "--save", "")
    told = server.wait_said("server.connection_string")
    address = f"127.0.0.1:{server.port}"
    assert told["message"] == (
        f"Clients connect with {address},password=*** (StackExchange.Redis) or redis://:***@{address}"
    )
    server.engine.kill()
    server.wait_said("server.ready", times=2)
    assert server.terminate() == 0
    assert len(server.said("server.connection_string")) == 1
    assert "Hunter2" not in server.log_text()
