from __future__ import annotations

import pytest

from telemetry.clientlink import command_name
from telemetry.housekeeping import is_housekeeping


@pytest.mark.parametrize(
    ("args", "name", "is_one"),
    [
        ((b"ping",), "PING", True),
        (("CLIENT", "SETNAME", "x"), "CLIENT SETNAME", True),
        (("CLIENT SETINFO", "LIB-NAME", "x"), "CLIENT SETINFO", True),
        (("COMMAND",), "COMMAND", True),
        (("config", b"get", "port"), "CONFIG GET", True),
        (("CONFIG", "SET", "maxmemory", 0), "CONFIG SET", False),
        (("INFO", "memory"), "INFO", True),
        (("MULTI",), "MULTI", False),
        (("GET", "key"), "GET", False),
        (("OBJECT", "ENCODING", "key"), "OBJECT ENCODING", False),
        (("ACL", "se:cret"), "ACL", False),
        (("SUBSCRIBE", "news"), "SUBSCRIBE", False),
    ],
)
def test_the_bare_name_tells_housekeeping(args: tuple[str | bytes | int, ...], name: str, is_one: bool) -> None:
    assert command_name(args) == name
    assert is_housekeeping(name) is is_one
