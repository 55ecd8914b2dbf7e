from __future__ import annotations

import socket
from pathlib import Path

import pytest

from sidecar.daemon import Notifier, PidFile, supervisor_kind


@pytest.mark.parametrize(
    ("setting", "environment", "kind"),
    [
        ("no", {"NOTIFY_SOCKET": "/x", "UPSTART_JOB": "y"}, None),
        ("auto", {}, None),
        ("auto", {"NOTIFY_SOCKET": "/x"}, "systemd"),
        ("auto", {"UPSTART_JOB": "y"}, "upstart"),
        ("systemd", {"UPSTART_JOB": "y"}, None),
        ("upstart", {"NOTIFY_SOCKET": "/x"}, None),
    ],
)
def test_who_supervises_us_follows_setting_and_environment(
    monkeypatch: pytest.MonkeyPatch, setting: str, environment: dict[str, str], kind: str | None
) -> None:
    for name in ("NOTIFY_SOCKET", "UPSTART_JOB"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert supervisor_kind(setting) == kind


def test_readiness_is_told_once_even_through_an_abstract_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0valkey-sidecar-test")
        systemd.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", "@valkey-sidecar-test")
        notifier = Notifier("systemd")
        notifier.ready()
        notifier.ready()
        notifier.stopping()
        assert b"READY=1" in systemd.recv(1000)
        assert systemd.recv(1000) == b"STOPPING=1\n"


def test_nobody_is_told_when_nobody_supervises() -> None:
    notifier = Notifier(None)
    notifier.ready()
    notifier.stopping()
    notifier.resumed()


def test_a_pid_file_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    pidfile = PidFile(str(tmp_path / "missing" / "our.pid"))
    assert pidfile.write() == "Failed to write PID file: No such file or directory"
    pidfile.remove()
