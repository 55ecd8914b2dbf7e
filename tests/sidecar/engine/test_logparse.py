from __future__ import annotations

import re

import pytest

from sidecar.engine.logparse import LogLine, LogParser


@pytest.mark.parametrize(
    "line",
    [
        "7039:M 23 Nov 2026 09:39:01.099 # Memory overcommit!",
        "7039:M 2026-11-23T09:39:01.099+00:00 # Memory overcommit!",
        "7039:M 1795426741099 # Memory overcommit!",
        'pid=7039 role=primary timestamp="x" level=warning message="Memory overcommit!"',
        '{"pid":7039,"role":"primary","timestamp":"x","level":"warning","message":"Memory overcommit!"}',
    ],
)
def test_every_form_of_a_line_means_the_same(line: str) -> None:
    assert LogParser().parse(line + "\n") == LogLine("Memory overcommit!", "warning", "primary", 7039)


@pytest.mark.parametrize(
    ("letter", "role", "mark", "level"),
    [
        ("M", "primary", ".", "debug"),
        ("S", "replica", "-", "verbose"),
        ("C", "child", "*", "notice"),
        ("X", "sentinel", "#", "warning"),
    ],
)
def test_letters_and_marks_are_roles_and_levels(letter: str, role: str, mark: str, level: str) -> None:
    line = LogParser().parse(f"12:{letter} 01 Jan 2026 00:00:00.000 {mark} a * b # c")
    assert line is not None
    assert (line.role, line.level, line.message) == (role, level, "a * b # c")


@pytest.mark.parametrize(
    "form",
    [
        'pid=1 role={} timestamp="x" level={} message="a"',
        '{{"pid":1,"role":"{}","timestamp":"x","level":"{}","message":"a"}}',
    ],
)
def test_the_words_of_the_other_formats_are_roles_and_levels(form: str) -> None:
    assert LogParser().parse(form.format("RDB/AOF", "info")) == LogLine("a", "verbose", "child", 1)


def test_a_backslash_in_logfmt_is_one() -> None:
    line = LogParser().parse(r'pid=1 role=replica timestamp="x" level=notice message="C:\new \"')
    assert line is not None
    assert line.message == "C:\\new \\"


def test_json_escapes_are_resolved() -> None:
    line = LogParser().parse(
        r'{"pid":1,"role":"replica","timestamp":"x","level":"notice","message":"say \"hi\"\\ \u001b\t é"}'
    )
    assert line is not None
    assert line.message == 'say "hi"\\ \x1b\t é'


def test_a_raw_line_has_the_level_of_the_message_before_it() -> None:
    parser = LogParser()
    parser.parse("1:M 01 Jan 2026 00:00:00.000 # crashed by signal: 11")
    assert parser.parse("RAX:fffffffffffffffc") == LogLine("RAX:fffffffffffffffc", "warning", raw=True)


def test_a_fatal_configuration_error_is_a_warning() -> None:
    parser = LogParser()
    assert parser.parse("") is None
    first = parser.parse("*** FATAL CONFIG FILE ERROR (Version 9.1.2) ***")
    assert first is not None
    assert first.level == "warning"


@pytest.mark.parametrize(
    "quoted",
    [
        "requirepass my hunter2",
        "user bob on >hunter2 ~*",
        "masterauth a hunter2",
        '"requirepass" "my" "hunter2"',
        "requirepas hunter2",
        "RequirePass: hunter2",
        "requirepass=hunter2",
        "reqirepwd hunter2",
        "sentinel auth-pass mine hunter2",
        "sentinel sentinel-pass hunter2",
        "SENTINEL AUTH-PASS mine hunter2",
        "usr bob on >hunter2",
        'usr bob on ">hunter2"',
        "usr bob on <hunter2",
        "tls-key-file-pass hunter2",
        "tls-key hunter2",
        "aclfile hunter2",
        "api-token hunter2",
        "client-secret hunter2",
        "credentials hunter2",
        "include /etc/passwords/hunter2",
    ],
)
def test_a_quoted_line_that_may_hold_a_secret_shows_only_its_first_word(quoted: str) -> None:
    line = LogParser().parse(f">>> '{quoted}'")
    assert line is not None
    assert line.message == f">>> '{re.split('[ =:]', quoted)[0]} (not shown)'"


@pytest.mark.parametrize(
    "quoted", ["maxmemory lots", 'dir "/none"', "appendonly maybe", "maxmemory 100mb # enough", "requirepass"]
)
def test_any_other_quoted_line_is_shown(quoted: str) -> None:
    line = LogParser().parse(f">>> '{quoted}'")
    assert line is not None
    assert line.message == f">>> '{quoted}'"


def test_the_private_engines_lack_of_a_port_is_not_shown() -> None:
    line = LogParser().parse("1:M 01 Jan 2026 00:00:00.000 * Running mode=standalone, port=0.")
    assert line is not None
    assert line.message == "Running mode=standalone."


def test_a_signal_handlers_line_is_a_message() -> None:
    line = LogParser().parse("7313:signal-handler (1795426876) Received SIGTERM scheduling shutdown...")
    assert line == LogLine("Received SIGTERM scheduling shutdown...", "notice", None, 7313)


def test_what_a_script_was_refused_is_no_matter_for_a_log() -> None:
    text = "<lua> command returned an error: ERR unknown command 'secret', with args beginning with: 'secret' "
    line = LogParser().parse(f"7039:M 23 Nov 2026 09:39:01.099 . {text}")
    assert line is not None
    assert line.message == "<lua> command returned an error"
