"""Whole servers, started as people start them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.authority import Authority
from tests.conftest import Server, Start, free_port
from tests.sidecar.tls_server import StartTls, TlsServer


@pytest.fixture
def start_here(start: Start, tmp_path: Path) -> Start:
    """Starts a server with one worker in the test's folder and does not wait: it may be up, or ended, only later."""

    def start_one(*args: str, env: dict[str, str] | None = None, **options: Any) -> Server:
        return start(*args, env={"SIDECAR_WORKERS": "1", **(env or {})}, folder=tmp_path, wait=False, **options)

    return start_one


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def start_tls(start: Start, authority: Authority) -> StartTls:
    """Starts a server with a certificate of the authority; clients need none."""
    issued = authority.issue()

    def start_one(*args: str, auth: str = "no", **options: Any) -> TlsServer:
        port = free_port()
        # fmt: off
        server = start(
            "--save", "", "--tls-port", str(port), "--tls-cert-file", str(issued.certificate),
            "--tls-key-file", str(issued.key), "--tls-ca-cert-file", str(authority.file), "--tls-auth-clients", auth,
            *args, **options,
        )
        # fmt: on
        return TlsServer(server, port, authority)

    return start_one
