from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest

from telemetry.otlp import trust
from telemetry.otlp.trust import Trust, TrustError
from tests.telemetry.otlp.helpers import signal_for
from tests.telemetry.otlp.receivers import make_authority


def bundle(**variables: str) -> bytes:
    return trust.load(signal_for("https://c:1", **variables)).authorities


def test_the_folders_certificates_and_the_systems_are_one_bundle(tmp_path: Path) -> None:
    first, second = make_authority(tmp_path / "a"), make_authority(tmp_path / "b")
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    (one / "any name").write_bytes(b"text before\n" + first.authority_pem + b"text between\n" + second.authority_pem)
    (two / "same.crt").write_bytes(first.authority_pem.replace(b"\n", b"\r\n"))
    (two / "12ab34cd.0").symlink_to("same.crt")
    (two / "broken.pem").write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (two / "private.key").write_bytes(first.key_pem)
    (two / "dangling").symlink_to("nowhere")
    (two / "folder").mkdir()
    os.mkfifo(two / "fifo")
    system = bundle(SSL_CERT_DIR=str(tmp_path / "missing"))
    found = bundle(SSL_CERT_DIR=f"{one}:/nonexistent::{two}")
    assert found.startswith(first.authority_pem)
    assert found.count(first.authority_pem) == found.count(second.authority_pem) == 1
    assert found.count(b"BEGIN") == system.count(b"BEGIN") + 2
    assert b"AAAA\n-----END" not in found
    assert b"PRIVATE" not in found
    assert len(Trust(found).context().get_ca_certs()) >= 2


def test_one_file_stands_for_all_others(tmp_path: Path) -> None:
    first, second = make_authority(tmp_path / "a"), make_authority(tmp_path / "b")
    file, folder = str(first.folder / "ca.pem"), str(second.folder)
    assert bundle(SSL_CERT_FILE=file, SSL_CERT_DIR=folder) == first.authority_pem
    named = str(second.folder / "ca.pem")
    assert bundle(EXPORTER_OTLP_CERTIFICATE=named, SSL_CERT_FILE=file) == second.authority_pem
    assert second.authority_pem in bundle(SSL_CERT_FILE="/nonexistent", SSL_CERT_DIR=folder)


@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_a_named_certificate_that_cannot_be_used_is_an_error_and_no_other_is_trusted(
    content: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TrustError, match=r"^OTEL_EXPORTER_OTLP_CERTIFICATE: "):
        bundle(EXPORTER_OTLP_CERTIFICATE=str(path))


def test_our_own_certificate_is_shown_to_who_asks(tmp_path: Path) -> None:
    made = make_authority(tmp_path)
    files = {
        "EXPORTER_OTLP_CLIENT_CERTIFICATE": str(tmp_path / "server.pem"),
        "EXPORTER_OTLP_CLIENT_KEY": str(tmp_path / "server.key"),
    }
    found = trust.load(signal_for("https://c:1", **files))
    assert found.pair() == (made.key_pem, made.certificate_pem)
    assert found.context().verify_mode is ssl.CERT_REQUIRED
    broken = trust.load(signal_for("https://c:1", **files | {"EXPORTER_OTLP_CLIENT_KEY": "/nonexistent"}))
    for use in (broken.pair, broken.context):
        with pytest.raises(TrustError, match="CLIENT_CERTIFICATE or _KEY"):
            use()
