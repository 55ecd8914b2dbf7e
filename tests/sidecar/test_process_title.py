"""`proc-title-template` is what `ps` shows of us, as it is what `ps` shows of a valkey-server."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import valkey

from tests.conftest import Server, Start, free_port, wait_until
from tests.sidecar.test_identity import talk

FULL = "x {title} {listen-addr} {server-mode} {port} {tls-port} [{unixsocket}] {config-file} {{y}"
WRONG = ["{", "{nope}", "", " ", "{title", "{TITLE}", "{}", "{ title}", "{server-mode}", "{title}"]
INVALID = "template format is invalid or contains unknown variables"


def command_line(server: Server) -> str:
    return Path(f"/proc/{server.process.pid}/cmdline").read_bytes().decode().replace("\0", " ")


def title_of(server: Server) -> str:
    """What `ps` shows, with a name in the place of the program's, and of the port."""
    shown = Path(f"/proc/{server.process.pid}/cmdline").read_bytes().partition(b"\0")[0].decode()
    for program in (server.process.exe(), "valkey-sidecar"):
        shown = shown.replace(program, "PROGRAM")
    return shown.replace(str(server.port), "PORT")


def titles(server: Server) -> list[object]:
    """What a server shows and says as the template changes."""
    found: list[object] = [title_of(server)]
    with server.client(decode_responses=True, single_connection_client=True) as client:
        for template in (FULL, "a{{b}c", "  lead {listen-addr}  ", "}", "é" + "y" * 90, "a\nb", "z", *WRONG):
            try:
                client.config_set("proc-title-template", template)
            except valkey.ResponseError as error:
                found.append(str(error))
            found += [title_of(server), client.config_get("proc-title-template")]
        client.config_set("proc-title-template", "now {listen-addr}")
        server.port = free_port()
        client.config_set("port", server.port)
        found.append(title_of(server))
        client.config_set("bind", "127.0.0.1")
        found.append(title_of(server))
    return found


@pytest.mark.parametrize("template", [FULL, "shop {title}"])
def test_the_title_is_valkeys(start: Start, start_bare: Start, template: str) -> None:
    arguments = ("--save", "", "--bind", "127.0.0.1", "--proc-title-template", template)
    ours, theirs = titles(start(*arguments)), titles(start_bare(*arguments))
    assert ours == theirs


def test_it_may_be_set_at_run_time_and_only_then(start: Start, start_bare: Start) -> None:
    found = []
    for begin in (start, start_bare):
        server = begin("--save", "", "--set-proc-title", "no", "--proc-title-template", "quiet")
        assert " --port " in command_line(server)
        with server.client() as client:
            client.config_set("bind", "127.0.0.1")
            assert " --port " in command_line(server)
            client.config_set("proc-title-template", "loud {listen-addr}")
            client.config_set("bind", "*")
            found.append(title_of(server))
    assert found == ["loud 127.0.0.1:PORT"] * 2


def test_without_one_the_command_line_stays_and_its_passwords_masked(start: Start) -> None:
    server = start("--save", "", "--requirepass", "s3cret", password="s3cret")
    assert " --requirepass *** " in command_line(server)
    assert "s3cret" not in command_line(server)
    with server.client() as client:
        client.config_set("proc-title-template", "{title} {listen-addr}")
    assert title_of(server) == "PROGRAM *:PORT"


def test_a_long_title_costs_our_children_no_variable(start: Start) -> None:
    server = start("--save", "", "--proc-title-template", "T" * 2000, env={"SHOP": "open", "ROOM": "x" * 3000})
    assert title_of(server) == "T" * 1024  # Valkey's bound
    talk(server, f"CONFIG SET proc-title-template {'U' * 1000}")
    assert title_of(server) == "U" * 1000
    worker = server.worker
    worker.kill()
    wait_until(lambda: [w for w in server.children("worker") if w != worker], "there is another worker")
    assert server.worker.environ()["SHOP"] == "open"
    assert server.worker.environ()["PATH"] == os.environ["PATH"]


def test_one_that_comes_later_has_the_room_of_the_arguments(start: Start) -> None:
    server = start("--save", "")
    room = len(command_line(server)) - 1
    talk(server, f"CONFIG SET proc-title-template {'T' * 900}")
    assert title_of(server) == "T" * room
    assert server.process.environ()["PATH"] == os.environ["PATH"]


def test_the_engine_and_workers_keep_their_own(start: Start) -> None:
    server = start("--save", "", "--proc-title-template", "cache")
    others = [" ".join(process.cmdline()) for process in server.process.children()]
    assert len(others) == 2
    assert not any("cache" in title.split() for title in others)
    talk(server, "CONFIG SET proc-title-template cash")
    others = [" ".join(process.cmdline()) for process in server.process.children()]
    assert not any("cash" in title.split() for title in others)


@pytest.mark.parametrize("template", WRONG)
def test_a_template_that_valkey_refuses_stops_the_start(start: Start, template: str) -> None:
    server = start("--proc-title-template", template, wait=False)
    assert server.wait_end() == 1
    assert server.stderr.startswith("valkey-sidecar: proc-title-template: ")
    assert "{title}, {listen-addr}, {server-mode}, {port}, {tls-port}, {unixsocket}, {config-file}" in server.stderr


def test_a_rewritten_file_has_it(start: Start, tmp_path: Path) -> None:
    conf = tmp_path / "valkey.conf"
    conf.write_text('save ""\n')
    server = start(str(conf))
    assert talk(server, 'CONFIG SET proc-title-template "my {port}"', "CONFIG REWRITE") == b"+OK\r\n" * 2
    assert 'proc-title-template "my {port}"' in conf.read_text()
    server.engine.send_signal(signal.SIGKILL)
    server.wait_said("engine.restarted")
    server.wait_ready()
    assert title_of(server) == "my PORT"
