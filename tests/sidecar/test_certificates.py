"""How often the certificates' files are looked at."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from sidecar import certificates
from sidecar.certificates import Certificates
from sidecar.journal import Journal
from sidecar.listener_settings import ListenerSettings
from tests.authority import Authority


def test_a_longer_interval_holds_and_may_be_changed_at_any_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    issued = Authority(tmp_path).issue()
    settings = ListenerSettings(
        tls_port=1, tls_auth_clients="no", tls_cert_file=str(issued.certificate), tls_key_file=str(issued.key)
    )
    now = 0.0
    turns = looks = 0

    def monotonic() -> float:
        return now

    def look(_self: Certificates) -> None:
        nonlocal looks
        looks += 1

    async def a_second(_interval: float) -> None:
        nonlocal now, turns
        now += 1.0
        turns += 1
        if turns == 3:
            watched.adopt(watched.checked(replace(settings, tls_auto_reload_interval=5)))
        elif turns == 13:
            watched.adopt(watched.checked(settings))
        elif turns == 15:
            watched.adopt(watched.checked(replace(settings, tls_port=0)))
        elif turns == 20:
            raise asyncio.CancelledError
        seen.append(looks)

    monkeypatch.setattr(certificates, "monotonic", monotonic)
    monkeypatch.setattr(Certificates, "_look_again", look)
    monkeypatch.setattr(certificates.asyncio, "sleep", a_second)
    watched = Certificates(str, Journal())
    watched.adopt(watched.checked(settings))
    seen: list[int] = []
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(watched.watch())
    # Every second; from the third on every five; every second again; and never without TLS.
    assert seen == [0, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 4, 5, 6, 6, 6, 6, 6]
