from __future__ import annotations

import fcntl
import json
import logging
import os
import pty
import re
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from telemetry import logs
from tests.conftest import PATIENCE_S


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Logging is one per process: leave it as it was found."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logs.configure()
    root.handlers[:], root.level = handlers, level


class Output:
    """The reading end of what the log takes for standard output."""

    def __init__(self, reading: int, writing: int) -> None:
        self.reading, self.writing = reading, writing
        fcntl.fcntl(reading, fcntl.F_SETFL, os.O_NONBLOCK)

    def text(self) -> str:
        try:
            return os.read(self.reading, 1 << 20).decode()
        except BlockingIOError:
            return ""

    def lines_to(self, end: bytes) -> list[bytes]:
        """What arrives up to the line that holds `end`."""
        data = b""
        while end not in data or not data.endswith(b"\n"):
            assert select.select([self.reading], [], [], PATIENCE_S)[0], "nothing arrives any more"
            data += os.read(self.reading, 1 << 20)
        return data.splitlines()

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]


@pytest.fixture
def pipe() -> Iterator[Output]:
    reading, writing = os.pipe()
    yield Output(reading, writing)
    os.close(reading)
    os.close(writing)


@pytest.fixture
def terminal() -> Iterator[Output]:
    reading, writing = pty.openpty()
    yield Output(reading, writing)
    os.close(writing)
    os.close(reading)


def test_a_record_is_one_json_line_with_its_fields_in_order(pipe: Output) -> None:
    logs.configure(stdout=pipe.writing)
    before = datetime.now(UTC)
    logs.get_logger().bind(role="supervisor").notice("engine.started", "The engine answers\non its socket.", pid=123)
    (record,) = pipe.records()
    assert list(record) == ["timestamp", "level", "severity_number", "event_name", "message", "role", "pid"]
    timestamp = record.pop("timestamp")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", timestamp)
    assert before <= datetime.fromisoformat(timestamp) <= datetime.now(UTC)
    assert record == {
        "level": "notice",
        "severity_number": 9,
        "event_name": "engine.started",
        "message": "The engine answers\non its socket.",
        "role": "supervisor",
        "pid": 123,
    }


@pytest.mark.parametrize(
    ("loglevel", "kept"),
    [
        ("debug", ["debug", "verbose", "notice", "warning", "error"]),
        ("verbose", ["verbose", "notice", "warning", "error"]),
        ("notice", ["notice", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("nothing", []),
    ],
)
def test_valkeys_loglevel_filters_our_lines_too(pipe: Output, loglevel: logs.Threshold, kept: list[str]) -> None:
    logs.configure(stdout=pipe.writing)
    logs.set_level(loglevel)
    log = logs.get_logger()
    for write in (log.debug, log.verbose, log.notice, log.warning, log.error):
        write("test.event", "Something happened.")
    severities = {"debug": 5, "verbose": 7, "notice": 9, "warning": 13, "error": 17}
    assert [(record["level"], record["severity_number"]) for record in pipe.records()] == [
        (level, severities[level]) for level in kept
    ]


def test_a_line_of_the_engine_keeps_its_own_time_and_role(pipe: Output) -> None:
    logs.configure(stdout=pipe.writing)
    when = datetime(2026, 3, 1, 1, 2, 3, 456000, tzinfo=timezone(timedelta(hours=2)))
    attributes = {"role": "replica", "pid": 7}
    logs.get_logger().record("warning", "engine.log", "Low memory.", attributes, timestamp=when)
    (record,) = pipe.records()
    assert record["timestamp"] == "2026-02-28T23:02:03.456000Z"
    assert (record["role"], record["pid"], record["severity_number"]) == ("replica", 7, 13)


def test_a_level_that_is_none_of_ours_is_logged_as_notice(pipe: Output) -> None:
    logs.configure(stdout=pipe.writing)
    logs.get_logger().record("info", "test.event", "Something happened.")
    (record,) = pipe.records()
    assert (record["level"], record["severity_number"]) == ("notice", 9)


def test_a_logger_kept_from_before_the_configuration_follows_it(pipe: Output) -> None:
    kept = logs.get_logger().bind(role="supervisor")
    logs.configure(stdout=pipe.writing)
    kept.notice("test.event", "Something happened.")
    assert pipe.records()[0]["role"] == "supervisor"


def test_attributes_cannot_take_the_place_of_a_records_own_fields(pipe: Output) -> None:
    logs.configure(stdout=pipe.writing)
    attributes = {"message": "forged", "level": "forged", "event": "kept", "self": 1, "format": "kept"}
    logs.get_logger().record("notice", "test.event", "True.", attributes)
    logs.get_logger().notice("test.event", "True.", **attributes)
    for record in pipe.records():
        assert (record["message"], record["level"]) == ("True.", "notice")
        assert (record["event"], record["self"], record["format"]) == ("kept", 1, "kept")


def test_only_a_fault_of_ours_carries_a_traceback_and_that_as_an_attribute(pipe: Output) -> None:
    logs.configure(stdout=pipe.writing)
    try:
        raise ValueError("no such thing")
    except ValueError as error:
        logs.get_logger().error("test.fault", "It broke.", exception=error)
    (record,) = pipe.records()
    assert record["message"] == "It broke."
    assert (record["exception.type"], record["exception.message"]) == ("builtins.ValueError", "no such thing")
    assert record["exception.stacktrace"].startswith("Traceback (most recent call last):")


def test_values_that_json_does_not_know_are_written_as_text(pipe: Output) -> None:
    logs.configure(stdout=pipe.writing)
    logs.get_logger().notice(
        "test.event", "A path: caf\udce9", path=Path("/data"), when=datetime(2026, 1, 1, tzinfo=UTC)
    )
    (record,) = pipe.records()
    assert record["path"] == "/data"
    assert record["message"] == "A path: caf\udce9"


def test_a_terminal_gets_colours_and_sentences_first(terminal: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    logs.configure(stdout=terminal.writing)
    logs.get_logger().notice("engine.started", "The engine answers.", pid=123)
    text = terminal.text()
    assert "\x1b[" in text
    plain = re.sub(r"\x1b\[\d*m", "", text)
    assert re.fullmatch(r"\S+Z notice  The engine answers\. +engine\.started pid=123\r\n", plain)


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_without_colours_gets_none(
    terminal: Output, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    logs.configure(stdout=terminal.writing)
    logs.get_logger().notice("engine.started", "The engine answers.")
    assert "The engine answers." in (text := terminal.text())
    assert "\x1b" not in text


def test_the_format_that_was_asked_for_wins_over_the_terminal(terminal: Output, pipe: Output) -> None:
    logs.configure(format="json", stdout=terminal.writing)
    logs.get_logger().notice("test.event", "One.")
    logs.configure(format="console", stdout=pipe.writing)
    logs.get_logger().notice("test.event", "Two.")
    assert terminal.records()[0]["message"] == "One."
    assert re.fullmatch(r"\S+Z notice  Two\. +test\.event\n", pipe.text())


def test_what_clients_send_cannot_command_a_terminal_or_forge_a_line(pipe: Output) -> None:
    logs.configure(format="console", stdout=pipe.writing)
    logs.get_logger().notice("test.event", "Name \x1b[31mred\nforged", name="a\rb")
    assert pipe.text().count("\n") == 1
    logs.get_logger().notice("test.event", "Name \x1b[31mred", name="a\rb")
    text = pipe.text()
    assert r"\x1b[31mred" in text
    assert r"name=a\rb" in text
    assert "\x1b" not in text


def test_the_console_shows_a_traceback_below_its_line(pipe: Output) -> None:
    logs.configure(format="console", stdout=pipe.writing)
    try:
        raise ValueError("no such thing")
    except ValueError as error:
        logs.get_logger().error("test.fault", "It broke.", exception=error)
    first, second, *_, last = pipe.text().splitlines()
    assert "It broke." in first
    assert second == "Traceback (most recent call last):"
    assert last == "ValueError: no such thing"


def test_a_log_file_is_appended_to_and_made_anew_after_a_rotation(tmp_path: Path, pipe: Output) -> None:
    file = tmp_path / "valkey.log"
    file.write_text("earlier\n")
    logs.configure(logfile=str(file), stdout=pipe.writing)
    logs.get_logger().notice("test.event", "One.")
    file.rename(tmp_path / "valkey.log.1")
    logs.get_logger().notice("test.event", "Two.")
    earlier, one = (tmp_path / "valkey.log.1").read_text().splitlines()
    assert (earlier, json.loads(one)["message"]) == ("earlier", "One.")
    assert json.loads(file.read_text())["message"] == "Two."
    assert pipe.text() == ""


def test_a_relative_log_file_stays_where_it_was_when_the_folder_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    logs.configure(logfile="valkey.log")
    monkeypatch.chdir("/")
    logs.get_logger().notice("test.event", "One.")
    assert "One." in (tmp_path / "valkey.log").read_text()


def test_a_log_file_that_cannot_be_opened_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=re.escape("No such file or directory")):
        logs.configure(logfile=str(tmp_path / "none" / "valkey.log"))


def test_a_full_disk_or_a_reader_that_left_harms_no_caller() -> None:
    logs.configure(logfile="/dev/full")
    logs.get_logger().notice("test.event", "Lost.")
    reading, writing = os.pipe()
    logs.configure(stdout=writing)
    os.close(reading)
    logs.get_logger().notice("test.event", "Lost.")
    os.close(writing)
    logs.get_logger().notice("test.event", "Lost.")


def test_an_attribute_that_cannot_show_itself_harms_no_caller(pipe: Output) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    logs.configure(stdout=pipe.writing)
    logs.get_logger().notice("test.event", "Lost.", what=Broken())
    logs.get_logger().notice("test.event", "Kept.")
    assert [record["message"] for record in pipe.records()] == ["Kept."]


def test_syslog_gets_the_sentence_with_ident_facility_and_priority(tmp_path: Path, pipe: Output) -> None:
    address = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslogd:
        syslogd.bind(address)
        syslogd.settimeout(10)
        logs.configure(
            level="debug",
            stdout=pipe.writing,
            syslog_enabled=True,
            syslog_ident="cache",
            syslog_facility="local3",
            syslog_address=address,
        )
        log = logs.get_logger()
        for write in (log.debug, log.verbose, log.notice, log.warning, log.error):
            write("test.event", "100 %s\ndone.", pid=1)
        local3 = 19 << 3  # RFC 5424, 6.2.1
        for severity in (7, 6, 5, 4, 3):
            expected = f"<{local3 + severity}>cache[{os.getpid()}]: 100 %s done."
            assert syslogd.recv(1000).rstrip(b"\0").decode() == expected
    assert len(pipe.records()) == 5


def test_a_syslog_that_is_not_there_harms_no_caller(
    tmp_path: Path, pipe: Output, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(stdout=pipe.writing, syslog_enabled=True, syslog_address=str(tmp_path / "log"))
    logs.get_logger().notice("test.event", "Kept.")
    assert [record["message"] for record in pipe.records()] == ["Kept."]
    assert capsys.readouterr().err == ""


def test_what_libraries_log_goes_through_the_same_lines(pipe: Output) -> None:
    logs.configure(stdout=pipe.writing, level="verbose")
    library = logging.getLogger("uvicorn.error")
    library.debug("Too much.")
    library.info("Started %d.", 1)
    library.error("A client's mistake.")
    try:
        raise ValueError("no such thing")
    except ValueError:
        library.exception("It broke.")
    records = pipe.records()
    assert [(record["level"], record["event_name"], record["message"]) for record in records] == [
        ("verbose", "library.log", "Started 1."),
        ("warning", "library.log", "A client's mistake."),
        ("error", "library.fault", "It broke."),
    ]
    assert records[2]["exception.message"] == "no such thing"
    assert {record["logger"] for record in records} == {"uvicorn.error"}


def test_configuring_twice_writes_every_line_once(pipe: Output) -> None:
    logs.configure(stdout=pipe.writing)
    logs.configure(stdout=pipe.writing)
    logging.getLogger("uvicorn.error").warning("Once.")
    assert [record["message"] for record in pipe.records()] == ["Once."]


def test_at_the_exit_a_reader_that_comes_back_gets_what_waits() -> None:
    script = """
import sys
import threading
from telemetry import logs
logs._LAST_LINES_WITHIN_S = 60
for i in range(2000):
    logs.get_logger().notice("test.event", str(i), filling="x" * 100)
print("all said", file=sys.stderr, flush=True)
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert select.select([process.stderr], [], [], PATIENCE_S)[0], "a line waits for the reader"
        assert [json.loads(line)["message"] for line in process.stdout] == [str(i) for i in range(2000)]
        assert process.wait() == 0


def test_at_the_exit_a_reader_that_does_not_come_back_is_not_waited_for() -> None:
    script = """
from telemetry import logs
for i in range(10_000):
    logs.get_logger().notice("test.event", str(i), filling="x" * 200)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.wait(PATIENCE_S) == 0


def test_a_reader_that_comes_back_learns_in_the_logs_own_form_what_it_has_missed(pipe: Output) -> None:
    logs.configure(stdout=pipe.writing)
    said = 10_000

    def say() -> None:
        for i in range(said):
            logs.get_logger().notice("test.event", str(i), filling="x" * 200)

    thread = threading.Thread(target=say, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert not thread.is_alive(), "a line waits for the reader"
    *kept, loss = [json.loads(line) for line in pipe.lines_to(b"log.lines_lost")]
    assert [record["message"] for record in kept] == [str(i) for i in range(len(kept))]
    assert (loss["level"], loss["severity_number"], loss["lines"]) == ("warning", 13, said - len(kept))
    assert loss["message"] == f"Log lines were lost because nobody read them: {said - len(kept)}."


def test_an_exporter_gets_the_same_records_as_the_reader_and_none_below_the_level(pipe: Output) -> None:
    got: list[dict[str, Any]] = []

    def exporter(record: Any) -> None:
        got.append(dict(record))

    logs.configure(stdout=pipe.writing, level="notice")
    logs.exporters_complete()  # what other tests have said is none of ours
    logs.add_exporter(exporter)
    try:
        logs.get_logger().verbose("test.event", "Too much.")
        logs.get_logger().warning("test.event", "Look.", trace_id="0af7651916cd43dd8448eb211c80319c", count=3)
    finally:
        logs.remove_exporter(exporter)
    logs.get_logger().warning("test.event", "Too late.")
    assert got == pipe.records()[:1]
    assert list(got[0])[:5] == ["timestamp", "level", "severity_number", "event_name", "message"]
