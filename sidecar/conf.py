"""Owns the grammar of Valkey's conf files: words, quotes, comments, `include`. Never knows what a directive means.

Text is `str` in which bytes that are not UTF-8 stand as lone surrogates (`surrogateescape`), so every byte of a
file or an argument survives until it is written back with the same error handler.

Two corners are kinder than Valkey's own reader: a file always ends its last line (Valkey glues it to the next
file or to standard input when the newline is missing), and a NUL byte is an error (Valkey drops the rest of the line).
"""

from __future__ import annotations

import glob
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

OriginKind = Literal["argument", "environment", "conf file", "standard input", "default"]

_ENCODING: Final = "utf-8"
_ERRORS: Final = "surrogateescape"
_TRIMMED: Final = b" \t\r\n"
_WORD_END: Final = b" \t\r\n"
# A word is made of parts without a blank between them, as in a shell: plain characters, "double" and 'single' quotes.
# Word ends are narrower than blanks: a vertical tab inside a word belongs to it.
_PART: Final = re.compile(
    rb"(?P<plain>[^ \t\n\r\"']+)|\"(?P<double>(?:[^\"\\]|\\.)*)\"|'(?P<single>(?:[^'\\]|\\'|\\(?!'))*)'", re.DOTALL
)
# In an inline request, a backslash before the line's last byte escapes nothing: "\" is a backslash there.
_INLINE_PART: Final = re.compile(
    rb"(?P<plain>[^ \t\n\r\"']+)"
    rb"|\"(?P<double>(?:[^\"\\]|\\.(?=.)|\\(?=\"\Z))*)\""
    rb"|'(?P<single>(?:[^'\\]|\\'(?=.)|\\(?='\Z)|\\(?!'))*)'",
    re.DOTALL,
)
_BLANKS: Final = re.compile(rb"[ \t\n\v\f\r]*")
# Valkey 9.1 loses a byte 0xff wherever it stands, unless it is written as \xff.
_LOST: Final = b"\xff"
_ESCAPE: Final = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)|" + _LOST, re.DOTALL)
_UNESCAPED: Final = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}
_ESCAPED: Final = {
    0x5C: "\\\\",
    0x22: '\\"',
    0x0A: "\\n",
    0x0D: "\\r",
    0x09: "\\t",
    0x07: "\\a",
    0x08: "\\b",
}
_SHOWN_LENGTH: Final = 300
_INCLUDE_DEPTH: Final = 64


class ConfigurationError(Exception):
    """What is wrong with the given configuration: one line for the person who gave it, without secrets."""


class ConfError(ValueError):
    """A line with a quote that is not closed."""


@dataclass(frozen=True)
class Origin:
    """Where a setting came from."""

    kind: OriginKind
    name: str = ""
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        if self.kind == "argument":
            return f"argument --{self.name}"
        if self.kind == "environment":
            return f"environment variable {self.name}"
        if self.kind == "default":
            return "default"
        return f"{self.file or self.kind}, line {self.line}"


@dataclass(frozen=True)
class Directive:
    """One line that says something: `name` in lower case and its words, quotes and escapes resolved.

    `args` are not in the repr: they may be a password.
    """

    name: str
    args: tuple[str, ...] = field(repr=False)
    origin: Origin

    def render(self) -> str:
        """The directive as a conf line that Valkey reads back to the same words."""
        return " ".join([self.name, *(quote(arg) if needs_quotes(arg) else arg for arg in self.args)])


@dataclass(frozen=True)
class Line:
    """One physical line, without its newline; `directive` is None for comments and blank lines."""

    text: str = field(repr=False)
    directive: Directive | None


@dataclass(frozen=True)
class ConfFile:
    """One physical file as it was read, comments and `include` lines in their places."""

    path: str
    lines: tuple[Line, ...]
    is_included: bool = False

    @property
    def text(self) -> str:
        return "".join(f"{line.text}\n" for line in self.lines)


def split_args(line: str) -> list[str]:
    r"""Split a line into words as Valkey's sdssplitargs does. Raises ConfError.

    >>> split_args('requirepass "a\\x20b"')
    ['requirepass', 'a b']
    """
    return [decode(word) for word in split_words(encode(line))]


def split_words(line: bytes, *, inline: bool = False) -> list[bytes]:
    """The same for bytes of whatever encoding; `inline`: as Valkey splits an inline request. Raises ConfError."""
    part_pattern = _INLINE_PART if inline else _PART
    words: list[bytes] = []
    position = _end_of_blanks(line, 0)
    while position < len(line):
        word = b""
        while position < len(line) and line[position] not in _WORD_END:
            part = part_pattern.match(line, position)
            if part is None:
                raise ConfError("unbalanced quotes")
            position = part.end()
            if part["double"] is not None:
                word += _ESCAPE.sub(_unescape, part["double"])
            elif part["single"] is not None:
                word += part["single"].replace(b"\\'", b"'").replace(_LOST, b"")
            else:
                word += part["plain"].replace(_LOST, b"")
        words.append(word)
        position = _end_of_blanks(line, position)
    return words


def quote(arg: str) -> str:
    r"""Write `arg` in double quotes as Valkey's sdscatrepr does: ASCII only, on one line.

    >>> print(quote('say "hi"\n'))
    "say \"hi\"\n"
    """
    body = "".join(
        _ESCAPED.get(byte) or (chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}") for byte in encode(arg)
    )
    return f'"{body}"'


def needs_quotes(arg: str) -> bool:
    """Whether `arg` would not survive as a bare word."""
    return not arg or len(quote(arg)) != len(arg) + 2 or any(c in " '#" for c in arg)


def shown(value: str) -> str:
    """A value as an error message quotes it: one line, ASCII, of bounded length. Not for secrets."""
    return quote(value) if len(value) <= _SHOWN_LENGTH else quote(value[:_SHOWN_LENGTH]) + "..."


class ConfReader:
    """Reads files and text in the order of their precedence into `directives`, `include` lines expanded.

    Like Valkey, it resolves an included path against the folder that the `dir` directives before it lead to.
    After reading, `folder` is the effective `dir` and `files` holds each physical file once, in order of opening.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.directives: list[Directive] = []
        self.files: list[ConfFile] = []
        self._open: list[str] = []

    def read_file(self, path: str, included_by: Origin | None = None) -> None:
        """Read one conf file, or every file that a path with wildcards matches (none is no error, as in Valkey)."""
        where = absolute(self.folder, path)
        if not any(c in path for c in "*?["):
            self._read_path(where, included_by)
            return
        # Not Path.glob: like glob(3), a wildcard must not match hidden files.
        for match in sorted(glob.glob(encode(where))):
            if not os.path.isdir(match):
                self._read_path(decode(match), included_by)

    def read_text(self, text: bytes, kind: OriginKind) -> None:
        """Read lines from standard input or from the arguments joined to text."""
        self._read_lines(text, kind, None)

    def _read_path(self, path: str, included_by: Origin | None) -> None:
        if path in self._open or len(self._open) >= _INCLUDE_DEPTH:
            raise ConfigurationError(f"include: {shown(path)} (from {included_by}) is already being read: a circle")
        try:
            data = file_path(path).read_bytes()
        except OSError as error:
            where = f"include: {shown(path)} (from {included_by})" if included_by else f"conf file: {shown(path)}"
            raise ConfigurationError(f"{where} cannot be read: {error.strerror}") from None
        self._open.append(path)
        place = len(self.files)
        lines = self._read_lines(data, "conf file", path)
        self._open.pop()
        if all(file.path != path for file in self.files):
            self.files.insert(place, ConfFile(path, lines, included_by is not None))

    def _read_lines(self, data: bytes, kind: OriginKind, file: str | None) -> tuple[Line, ...]:
        raw_lines = data.split(b"\n")
        if raw_lines[-1] == b"":
            raw_lines.pop()
        lines: list[Line] = []
        for number, raw in enumerate(raw_lines, start=1):
            directive = _parse_line(raw, kind, file, number)
            lines.append(Line(decode(raw), directive))
            if directive is None:
                continue
            if directive.name == "include" and len(directive.args) == 1:
                self.read_file(directive.args[0], directive.origin)
                continue
            if directive.name == "dir" and len(directive.args) == 1:
                self.folder = absolute(self.folder, directive.args[0])
            self.directives.append(directive)
        return tuple(lines)


def encode(text: str) -> bytes:
    """The bytes that `text` stands for."""
    return text.encode(_ENCODING, _ERRORS)


def decode(data: bytes) -> str:
    """Bytes as text; those that are not UTF-8 become lone surrogates."""
    return data.decode(_ENCODING, _ERRORS)


def file_path(path: str) -> Path:
    """The path that `path`'s bytes name, whatever the locale's encoding is."""
    return Path(os.fsdecode(encode(path)))


def working_folder() -> str:
    """The folder that we were started in; "." when it is gone: then nothing relative is found, as with Valkey."""
    try:
        return decode(os.getcwdb())
    except OSError:
        return "."


def absolute(folder: str, path: str) -> str:
    """`path` seen from `folder`, without `.` and `..`, symbolic links left alone (Valkey's getAbsolutePath)."""
    return os.path.normpath(f"{folder}/{path}" if not path.startswith("/") else path)


def _parse_line(raw: bytes, kind: OriginKind, file: str | None, number: int) -> Directive | None:
    text = raw.strip(_TRIMMED)
    if not text or text.startswith(b"#"):
        return None
    # An argument's line number would mean nothing to its author; its name does.
    name = decode(text.split(maxsplit=1)[0])
    origin = Origin(kind, name=name.lower(), file=file, line=None if kind == "argument" else number)
    if b"\0" in text:
        raise ConfigurationError(f"{kind}: a NUL byte (from {origin}): conf files are text")
    try:
        words = split_args(decode(text))
    except ConfError:
        # The line itself is not shown: it may hold a password.
        raise ConfigurationError(f"{kind}: unbalanced quotes (from {origin}): a quote is not closed") from None
    if not words:
        return None
    lowered = decode(encode(words[0]).lower())
    if kind == "argument":
        origin = Origin(kind, name=lowered)
    return Directive(lowered, tuple(words[1:]), origin)


def _end_of_blanks(data: bytes, position: int) -> int:
    match = _BLANKS.match(data, position)
    return match.end() if match else position


def _unescape(match: re.Match[bytes]) -> bytes:
    escaped = match[1]
    if escaped is None or escaped == _LOST:
        return b""
    if len(escaped) == 3:
        return bytes([int(escaped[1:], 16)])
    return _UNESCAPED.get(escaped, escaped)
