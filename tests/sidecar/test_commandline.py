from __future__ import annotations

import pytest

from sidecar.commandline import mode, parse_arguments
from sidecar.conf import split_args


def lines(*argv: str) -> list[list[str]]:
    return [split_args(line) for line in parse_arguments(argv).options.split("\n")]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], [[]]),
        (["--port", "6380"], [["port", "6380"]]),
        (["--port 6380"], [["port", "6380"]]),
        (["--port 6380", "--hz 1"], [["port", "6380"], ["hz", "1"]]),
        (["--requirepass", "--secret"], [["requirepass", "--secret"]]),
        (["--requirepass", "--x", "--port", "1"], [["requirepass", "--x"], ["port", "1"]]),
        (["--requirepass", "a b\n\"c'"], [["requirepass", "a b\n\"c'"]]),
        (["--save", "60", "1", "--save", "300", "10"], [["save", "60", "1"], ["save", "300", "10"]]),
        (["--save", "60 1"], [["save", "60 1"]]),
        (["--save", "--port", "1"], [["save", ""], ["port", "1"]]),
        (["--SAVE", "--port", "1"], [["SAVE", ""], ["port", "1"]]),
        (["--save"], [["save", ""]]),
        (["--save", ""], [["save", ""]]),
        (["--save", "", "--hz", "1"], [["save", ""], ["hz", "1"]]),
        (["--port"], [["port"]]),
        (["--bind", "127.0.0.1", "::1"], [["bind", "127.0.0.1", "::1"]]),
        (["port", "1"], [["1"]]),  # the first word is the conf file
        (["a.conf", "port", "1"], [["port", "1"]]),
        (["--user", "default on", "nopass"], [["user", "default on", "nopass"]]),
        (["--loglevel", "-", "--hz", "1"], [["loglevel", "-"], ["hz", "1"]]),
        (["--", "--port"], [["--port"]]),
    ],
)
def test_options_become_the_conf_lines_that_valkey_makes_of_them(argv: list[str], expected: list[list[str]]) -> None:
    assert lines(*argv) == expected


@pytest.mark.parametrize(
    ("argv", "conf_file", "reads_stdin"),
    [
        ([], None, False),
        (["my.conf"], "my.conf", False),
        (["--port", "1"], None, False),
        (["-"], None, True),
        (["my.conf", "-"], "my.conf", True),
        (["my.conf", "--port", "1", "-"], "my.conf", True),
        (["-", "--port", "1"], None, True),
        (["--loglevel", "-", "--port", "1"], None, False),
    ],
)
def test_the_conf_file_comes_first_and_a_dash_first_or_last(
    argv: list[str], conf_file: str | None, reads_stdin: bool
) -> None:
    arguments = parse_arguments(argv)
    assert (arguments.conf_file, arguments.reads_stdin) == (conf_file, reads_stdin)


@pytest.mark.parametrize(
    ("argv", "masked"),
    [
        (["my.conf", "--requirepass", "s3cret", "--port", "1", "-"], "my.conf --requirepass *** --port 1 -"),
        (["--REQUIREPASS", "s3cret"], "--REQUIREPASS ***"),
        (["--requirepass s3cret"], "--requirepass ***"),
        (["--requirepass", "--s3cret"], "--requirepass ***"),
        (["--requirepass 's3cret"], "--requirepass ***"),
        (["--masterauth", "s3cret", "--primaryauth", "s3cret"], "--masterauth *** --primaryauth ***"),
        (["--sidecar-engine-password", "s3cret"], "--sidecar-engine-password ***"),
        (["--sidecar-http-token", "s3cret"], "--sidecar-http-token ***"),
        (["--tls-key-file-pass", "s3cret"], "--tls-key-file-pass ***"),
        (["--user", "bob", "on", ">s3cret", "<s3cret", "#s3cret", "~*"], "--user bob on *** *** *** ~*"),
        (["--user", "bob on >s3cret"], "--user ***"),
        (["--user bob on >s3cret"], "--user ***"),
        (["--port 1\nrequirepass s3cret"], "--port ***"),
        (["--sidecar-engine-user bob"], "--sidecar-engine-user bob"),
        (["--port", "1", "--bind 127.0.0.1"], "--port 1 --bind 127.0.0.1"),
    ],
)
def test_passwords_are_masked_and_nothing_else(argv: list[str], masked: str) -> None:
    arguments = parse_arguments(argv)
    assert " ".join(arguments.masked) == masked
    assert len(arguments.masked) == len(argv)
    assert "s3cret" not in repr(arguments)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], "serve"),
        (["--help"], "help"),
        (["-h"], "help"),
        (["--version"], "version"),
        (["-v"], "version"),
        (["--help", "me"], "help"),
        (["-v", "--port", "1"], "version"),
        (["--requirepass", "--help"], "serve"),
        (["sentinel.conf", "--sentinel"], "engine"),
        (["--test-memory", "10"], "engine"),
        (["--check-system"], "engine"),
    ],
)
def test_special_modes_are_those_of_valkey(argv: list[str], expected: str) -> None:
    assert mode(argv) == expected
