"""Secrets that a server is given in every way there is, and the search for them in whatever it puts out.

Owns the secrets, each a random text of its own that says where it went in, the requests that hold them, and the forms
in which one may come out. It starts no server and judges nothing.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Iterable
from pathlib import Path

from tests.sidecar.relay.traced import command

_HALF = re.compile(rb"Zq[0-9a-f]{10}")


class Vault:
    """What was given as a secret, and by which way."""

    def __init__(self) -> None:
        self._halves: dict[bytes, str] = {}
        self._coded: dict[bytes, str] = {}

    def new(self, way: str, *, coded: bool = False) -> str:
        """A new secret for this way in. coded: its hash and its base64 are sought, too."""
        halves = [f"Zq{secrets.token_hex(5)}" for _ in range(2)]
        secret = "".join(halves)
        # A text may have been cut: either half tells.
        self._halves |= {half.encode(): way for half in halves}
        if coded:
            self.keep(way, secret)
        return secret

    def keep(self, way: str, secret: str) -> None:
        """One that the test has made by itself; the same forms of it are sought."""
        self._coded |= dict.fromkeys(_forms(secret), way)

    def found(self, output: bytes) -> set[str]:
        """The ways whose secrets, or a form of them, are in the output."""
        halves = {self._halves[half] for half in _HALF.findall(output) if half in self._halves}
        return halves | {way for form, way in self._coded.items() if form in output}


def _forms(secret: str) -> Iterable[bytes]:
    """Itself, its hash, and its base64 wherever it begins in what was encoded."""
    raw = secret.encode()
    yield raw
    yield hashlib.sha256(raw).hexdigest().encode()
    for before in range(3):
        coded = base64.b64encode(bytes(before) + raw).rstrip(b"=")
        # The first and the last letters depend on the neighbours.
        yield coded[4 if before else 0 : -1]


def files(folder: Path) -> dict[str, bytes]:
    """Every file below the folder, by its path there."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def commands(vault: Vault, password: str) -> list[tuple[str, ...]]:
    """Commands with secrets, right and wrong ones; the session is the default user's again after each that is right."""
    new = vault.new
    return [
        ("AUTH", new("AUTH wrong", coded=True)),
        ("AUTH", "nobody", new("AUTH user wrong")),
        ("AUTH", new("AUTH three"), new("AUTH three"), new("AUTH three")),
        ("HELLO", "3", "AUTH", "default", new("HELLO AUTH wrong")),
        ("HELLO", "9", "AUTH", "default", new("HELLO 9 AUTH")),
        ("HELLO", "2", "SETNAME", "x", "AUTH", "default", new("HELLO SETNAME AUTH")),
        ("HELLO", "2", "AUTH", new("HELLO AUTH alone")),
        ("AUTH", password),
        ("HELLO", "3", "AUTH", "default", password, "SETNAME", "name"),
        ("HELLO", "2", "AUTH", "default", password),
        ("ACL", "SETUSER", "bob", "on", f">{new('ACL SETUSER >', coded=True)}", "~*", "+@all"),
        ("ACL", "SETUSER", "bob", f"#{hashlib.sha256(new('ACL SETUSER #').encode()).hexdigest()}"),
        ("ACL", "SETUSER", "bob", f"#{new('ACL SETUSER # no hash')}"),
        ("ACL", "SETUSER", "bob", f"<{new('ACL SETUSER <')}"),
        ("ACL", "SETUSER", "bob", new("ACL SETUSER without >")),
        ("ACL", "SETUSER", "bob", ">x", f"({new('ACL SETUSER selector')})"),
        ("ACL", "DRYRUN", "default", "auth", new("ACL DRYRUN")),
        ("ACL", "GENPASS", new("ACL GENPASS")),
        ("ACL", "DELUSER", "bob", new("ACL DELUSER")),
        ("CONFIG", "SET", "requirepass", new("CONFIG SET requirepass", coded=True)),
        ("CONFIG", "SET", "requirepass", password),
        ("CONFIG", "SET", "requirepass", new("CONFIG SET refused"), "maxmemory", "none"),
        ("CONFIG", "SET", "requirepass"),
        ("CONFIG", "SET", "primaryauth", new("CONFIG SET primaryauth")),
        ("CONFIG", "SET", "masterauth", new("CONFIG SET masterauth")),
        ("CONFIG", "SET", "masteruser", new("CONFIG SET masteruser")),
        ("CONFIG", "SET", "masterauth", "", "masteruser", ""),
        ("CONFIG", "SET", "tls-key-file-pass", new("CONFIG SET tls-key-file-pass")),
        ("CONFIG", "SET", "tls-client-key-file-pass", new("CONFIG SET tls-client-key-file-pass")),
        ("CONFIG", "SET", "tls-key-file-pass", "", "tls-client-key-file-pass", ""),
        ("CONFIG", "SET", new("CONFIG SET name"), new("CONFIG SET name")),
        ("CONFIG", "SET", "sidecar-http-token", new("CONFIG SET sidecar-http-token")),
        ("CONFIG", new("CONFIG subcommand")),
        ("CONFIG", "GET", "requirepass"),
        ("MIGRATE", "127.0.0.1", "1", "key", "0", "10", "AUTH", new("MIGRATE AUTH")),
        ("MIGRATE", "127.0.0.1", "1", "key", "0", "10", "AUTH2", "user", new("MIGRATE AUTH2")),
        ("MIGRATE", "127.0.0.1", "1", "", "0", "10", "AUTH", new("MIGRATE KEYS"), "KEYS", "key"),
        ("MIGRATE", "127.0.0.1", "1", "key", "0", "10", new("MIGRATE option")),
        ("EVAL", f"return '{new('EVAL script')}'", "1", new("EVAL key"), new("EVAL argument")),
        ("EVAL", f"return redis.error_reply('ERR {new('EVAL error')}')", "0"),
        ("EVAL", f"error('{new('EVAL raises')}')", "0"),
        ("EVAL", f"return {new('EVAL global')}", "0"),
        ("EVAL", f"return redis.call('{new('EVAL unknown command')}', '{new('EVAL unknown command')}')", "0"),
        ("EVAL", f"return redis.call('GET', 'a', '{new('EVAL too many')}')", "0"),
        ("EVAL", "local t = 0; for i = 1, 3e5 do t = t + i end; return ARGV[1]", "0", new("EVAL slow")),
        ("EVALSHA", new("EVALSHA"), "0"),
        ("SCRIPT", "LOAD", f"return '{new('SCRIPT LOAD')}'"),
        ("FUNCTION", "LOAD", f"#!lua name={new('FUNCTION LOAD')}\n"),
        ("FCALL", new("FCALL"), "0"),
        (new("unknown command"), new("unknown command argument")),
        ("NOSUCHCOMMAND", new("argument of an unknown command")),
        ("SET", "key", new("value")),
        ("LPUSH", "key", new("value of a failing command")),
        ("SET", "key", "value", new("option")),
        ("EXPIRE", "key", new("number")),
        ("GET", "key", new("too many arguments")),
        ("SELECT", new("SELECT")),
        ("CLIENT", "SETNAME", f"{new('CLIENT SETNAME')} with a blank"),
        ("CLIENT", "SETINFO", "lib-name", f"{new('CLIENT SETINFO')} with a blank"),
        ("CLIENT", new("CLIENT subcommand"), new("CLIENT subcommand")),
        ("TRACEPARENT", new("TRACEPARENT")),
        ("TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", new("TRACEPARENT option")),
        ("PUBLISH", "channel", new("message")),
        ("REPLCONF", new("REPLCONF"), new("REPLCONF")),
        ("DEBUG", new("DEBUG"), new("DEBUG")),
        ("MODULE", "LOAD", new("MODULE LOAD"), new("MODULE LOAD")),
        ("ECHO", new("ECHO")),
        ("BLPOP", "nothing", "0.01" + new("BLPOP timeout")),
    ]


def broken(vault: Vault, password: str) -> list[bytes]:
    """What is no RESP, or ends in the middle; each for a connection of its own, whose end it is."""
    new = vault.new
    auth = command("AUTH", password)
    return [
        f"AUTH {new('inline AUTH')}\r\nQUIT\r\n".encode(),
        f'AUTH "{new("inline, a quote open")}\r\n'.encode(),
        f"{new('inline, unknown')} {new('inline, unknown')}\r\nQUIT\r\n".encode(),
        f"*2\r\n$4\r\nAUTH\r\n{new('no bulk string')}\r\n".encode(),
        f"*2\r\n$4\r\nAUTH\r\n${new('no length')}\r\n".encode(),
        f"*{new('no count')}\r\n".encode(),
        f"*2\r\n$4\r\nAUTH\r\n$4\r\n{new('too long')}\r\n".encode(),
        auth + f"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$-1\r\n{new('behind a null')}\r\n".encode(),
        f"GET /?{new('HTTP')} HTTP/1.1\r\nHost: {new('HTTP Host')}\r\nAuthorization: {new('HTTP')}\r\n\r\n".encode(),
        f"*2\r\n$4\r\nAUTH\r\n$100\r\n{new('cut off')}".encode(),
        auth + command("CLIENT", "REPLY", "OFF") + command("AUTH", new("without reply")) + command("QUIT"),
        auth + command("MULTI") + command("SET", "key", new("MULTI left open")),
    ]
