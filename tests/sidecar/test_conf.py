from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.conf import (
    ConfError,
    ConfigurationError,
    ConfReader,
    Directive,
    Origin,
    decode,
    encode,
    quote,
    split_args,
    split_words,
)


def read(path: Path, folder: Path | None = None) -> ConfReader:
    reader = ConfReader(str(folder or path.parent))
    reader.read_file(str(path))
    return reader


def said(reader: ConfReader) -> list[tuple[str, ...]]:
    return [(directive.name, *directive.args) for directive in reader.directives]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", []),
        (" \t ", []),
        ("port 6380", ["port", "6380"]),
        ("  port\t6380  ", ["port", "6380"]),
        ('save ""', ["save", ""]),
        ("save ''", ["save", ""]),
        ('a "b c" d', ["a", "b c", "d"]),
        ('a "x\\n\\r\\t\\b\\ay"', ["a", "x\n\r\t\b\ay"]),
        ('a "\\x41\\xzz\\q\\\\\\""', ["a", 'Axzzq\\"']),
        (r"a 'it\'s \n \x41'", ["a", r"it's \n \x41"]),
        ('a b"c d"', ["a", "bc d"]),
        ('a "b"c\'d e\'"f"', ["a", "bcd ef"]),
        ("a 'b'\"\" ''", ["a", "b", ""]),
        ("a\vb", ["a\vb"]),
        ("\v\fa", ["a"]),
        ('a "b"\vc', ["a", "b\vc"]),
        ('a "\\xc3\\xa9"', ["a", "é"]),
        ('a "\\xff"', ["a", "\udcff"]),
        ("a x\udcffy '\udcff' \"\udcff\"", ["a", "xy", "", ""]),
    ],
)
def test_words_are_split_as_valkey_splits_them(line: str, words: list[str]) -> None:
    assert split_args(line) == words


@pytest.mark.parametrize("line", ['"', "'", 'a "b', "a 'b", "a'", '"a\\', '"a\\"', "'a\\'", 'a "b"\'c'])
def test_unbalanced_quotes_are_an_error(line: str) -> None:
    with pytest.raises(ConfError, match="unbalanced quotes"):
        split_args(line)


def test_a_backslash_before_the_end_of_an_inline_request_escapes_nothing() -> None:
    assert split_words(b'a "b\\"', inline=True) == [b"a", b"b\\"]
    assert split_words(b"a 'b\\'", inline=True) == [b"a", b"b\\"]
    assert split_words(b'a "b\\" "', inline=True) == [b"a", b'b" ']


@given(st.lists(st.binary(max_size=20), max_size=5))
def test_whatever_is_quoted_is_read_back_byte_for_byte(values: list[bytes]) -> None:
    line = " ".join(quote(decode(value)) for value in values)
    assert split_words(encode(line)) == values
    assert line.isascii()
    assert line.isprintable()


@given(st.lists(st.text(alphabet=st.characters(blacklist_characters="\0", codec="utf-8"), max_size=10), max_size=4))
def test_a_rendered_directive_means_the_same(args: list[str]) -> None:
    directive = Directive("name", tuple(args), Origin("default"))
    assert split_args(directive.render()) == ["name", *args]


def test_files_keep_comments_blank_lines_and_order(tmp_path: Path) -> None:
    conf = tmp_path / "valkey.conf"
    conf.write_bytes(b'# first\r\n\r\nPort 6380\r\n   # indented\nrequirepass "#no comment"\n\tsave 60 1 # 2\n')
    reader = read(conf)
    assert said(reader) == [
        ("port", "6380"),
        ("requirepass", "#no comment"),
        ("save", "60", "1", "#", "2"),
    ]
    (file,) = reader.files
    assert file.path == str(conf)
    assert file.text == conf.read_bytes().decode()
    assert [line.directive.name if line.directive else None for line in file.lines] == [
        None,
        None,
        "port",
        None,
        "requirepass",
        "save",
    ]
    assert str(reader.directives[1].origin) == f"{conf}, line 5"


def test_bytes_that_are_not_utf8_survive(tmp_path: Path) -> None:
    conf = tmp_path / "valkey.conf"
    conf.write_bytes(b"requirepass p\xfe\xe9 \n")
    reader = read(conf)
    assert encode(reader.directives[0].args[0]) == b"p\xfe\xe9"
    assert encode(reader.files[0].text) == conf.read_bytes()


def test_includes_are_read_in_place_sorted_and_without_hidden_files(tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    (parts / "folder.conf").mkdir(parents=True)
    for name in ("b", "a", ".hidden"):
        (parts / f"{name}.conf").write_text(f"timeout {len(name)}\nmaxmemory-policy {name}")
    conf = tmp_path / "valkey.conf"
    conf.write_text("hz 1\ninclude parts/*.conf\nhz 2\ninclude none/*.conf\n")
    reader = read(conf)
    assert said(reader) == [
        ("hz", "1"),
        ("timeout", "1"),
        ("maxmemory-policy", "a"),
        ("timeout", "1"),
        ("maxmemory-policy", "b"),
        ("hz", "2"),
    ]
    assert [file.path for file in reader.files] == [str(conf), str(parts / "a.conf"), str(parts / "b.conf")]
    assert [file.is_included for file in reader.files] == [False, True, True]
    assert reader.directives[2].origin.file == str(parts / "a.conf")


def test_included_paths_follow_the_dir_directives_before_them(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "more.conf").write_text("hz 7\n")
    conf = tmp_path / "valkey.conf"
    conf.write_text("dir data\ninclude more.conf\n")
    reader = read(conf)
    assert said(reader)[-1] == ("hz", "7")
    assert reader.folder == str(tmp_path / "data")


def test_a_file_may_be_included_twice(tmp_path: Path) -> None:
    (tmp_path / "more.conf").write_text("save 60 1")
    conf = tmp_path / "valkey.conf"
    conf.write_text("include more.conf\ninclude more.conf")
    reader = read(conf)
    assert said(reader) == [("save", "60", "1")] * 2
    assert len(reader.files) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("include more.conf", 'include: "{folder}/more.conf" (from {conf}, line 1) cannot be read: '),
        ("\ninclude .", 'include: "{folder}" (from {conf}, line 2) cannot be read: Is a directory'),
        ("include ./valkey.conf", 'include: "{conf}" (from {conf}, line 1) is already being read: a circle'),
        ('requirepass "s3cret', "conf file: unbalanced quotes (from {conf}, line 1): a quote is not closed"),
        ("a\0b", "conf file: a NUL byte (from {conf}, line 1): conf files are text"),
    ],
)
def test_a_broken_file_is_told_in_one_line_that_says_where(tmp_path: Path, text: str, message: str) -> None:
    conf = tmp_path / "valkey.conf"
    conf.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        read(conf)
    assert str(caught.value).startswith(message.format(folder=tmp_path, conf=conf))
    assert "\n" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_missing_file_is_told_with_its_full_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ConfReader(str(tmp_path)).read_file("none.conf")
    assert str(caught.value) == f'conf file: "{tmp_path}/none.conf" cannot be read: No such file or directory'


def test_no_repr_shows_a_value(tmp_path: Path) -> None:
    conf = tmp_path / "valkey.conf"
    conf.write_text("requirepass s3cret\n")
    reader = read(conf)
    assert "s3cret" not in repr(reader.directives) + repr(reader.files)
