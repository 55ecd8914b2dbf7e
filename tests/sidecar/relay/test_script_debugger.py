"""`SCRIPT DEBUG`: from EVAL on, what a client sends are lines for the debugger and no commands."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Server
from tests.sidecar.relay.traced import Talk, command, lines

_SCRIPT = "local x = 1\nreturn redis.call('GET', KEYS[1])"
_EVAL = command("EVAL", _SCRIPT, "1", "key")
_RAW = 'valkey_sidecar_sessions_raw_total{reason="debugger"}'

Calls = dict[tuple[str, str], int]


@pytest.fixture
def counted(server: Server) -> Callable[[], Calls]:
    """What was counted since the test began, but for ECHO."""
    before = server.calls()

    def difference() -> Calls:
        after = server.calls()
        found = {key: n - before.get(key, 0) for key, n in after.items() if n != before.get(key, 0)}
        found.pop(("ECHO", ""), None)
        return found

    return difference


def _talk(server: Server, *parts: bytes) -> list[bytes]:
    """What came back for each part, which is sent when the one before was answered; the last: until the server closes."""
    found = []
    with contextlib.closing(server.connect()) as sock:
        for part in parts:
            sock.sendall(part)
            answer = sock.recv(1 << 16)
            if part is parts[-1]:
                while chunk := sock.recv(1 << 16):
                    answer += chunk
            found.append(answer)
    return found


@pytest.mark.parametrize("mode", ["YES", "sync"])
@pytest.mark.parametrize("name", ["EVAL", "eval_ro"])
def test_lines_of_the_debugger_count_as_nothing(
    server: Server, bare: Server, counted: Callable[[], Calls], mode: str, name: str
) -> None:
    raw = server.metric(_RAW)
    script = command(name, _SCRIPT, "1", "key")
    debugged = [lines(line) for line in ("step", "print x", "redis GET key", "nonesuch", "GET key", "continue")]
    parts = [lines("GET key"), lines(f"SCRIPT DEBUG {mode}"), script, *debugged]
    assert _talk(server, *parts) == _talk(bare, *parts)
    assert counted() == {("GET", ""): 1, ("SCRIPT DEBUG", ""): 1, (name.upper(), ""): 1}
    assert server.metric(_RAW) == raw + 1


def test_a_script_in_a_transaction_is_debugged_too(server: Server, bare: Server, counted: Callable[[], Calls]) -> None:
    parts = [
        lines("SCRIPT DEBUG YES"),
        lines("MULTI"),
        _EVAL,
        lines("GET key"),
        lines("EXEC"),
        lines("step"),
        lines("c"),
    ]
    assert _talk(server, *parts) == _talk(bare, *parts)
    assert counted() == {("SCRIPT DEBUG", ""): 1, ("MULTI", ""): 1}


@pytest.mark.parametrize(
    "before",
    [
        "SCRIPT DEBUG YES\nSCRIPT DEBUG NO",
        "SCRIPT DEBUG MAYBE",
        "MULTI\nSCRIPT DEBUG YES\nEXEC",
        "SCRIPT DEBUG YES\nEVAL x\nSCRIPT DEBUG NO",
        f"SCRIPT DEBUG YES\nEVALSHA {'a' * 40} 0\nSCRIPT DEBUG NO",
    ],
)
def test_a_session_is_measured_as_long_as_no_script_is_debugged(
    server: Server, bare: Server, counted: Callable[[], Calls], before: str
) -> None:
    raw = server.metric(_RAW)
    parts = [*(lines(line) for line in before.splitlines()), _EVAL, lines("GET key"), lines("QUIT")]
    assert _talk(server, *parts) == _talk(bare, *parts)
    found = counted()
    assert (found["EVAL", ""], found["GET", ""]) == (1, 1)
    assert ("_OTHER", "") not in found
    assert ("_OTHER", "ERR") not in found
    assert server.metric(_RAW) == raw


def test_a_debugged_script_is_one_span(talk: Talk) -> None:
    conversation = talk("SCRIPT DEBUG SYNC", _EVAL, "step", "print x", "continue")
    assert [span.name for span in conversation.spans] == ["SCRIPT DEBUG", "EVAL"]


@pytest.mark.e2e
def test_redis_cli_with_its_debugger(server: Server, counted: Callable[[], Calls], tmp_path: Path) -> None:
    program = shutil.which("redis-cli")
    assert program, "redis-cli is missing (Debian: apt-get install redis-tools)"
    (tmp_path / "script.lua").write_text(_SCRIPT)
    found = subprocess.run(
        [program, "-p", str(server.port), "--ldb", "--eval", "script.lua", "key"],
        input="step\nprint x\nnonesuch\ncontinue\nquit\n", capture_output=True, text=True, cwd=tmp_path, timeout=30,
    )  # fmt: skip
    assert "x = 1" in found.stdout, found
    assert {name for name, _ in counted()} == {"SCRIPT DEBUG", "EVAL"}
