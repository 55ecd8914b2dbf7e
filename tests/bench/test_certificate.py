from __future__ import annotations

import ssl
import stat
from pathlib import Path

from bench import certificate


def test_the_certificate_serves_and_verifies_itself(tmp_path: Path) -> None:
    files = certificate.make(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.certificate, files.key)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.both)
    client = ssl.create_default_context(cafile=str(files.certificate))
    sides = [(ssl.MemoryBIO(), ssl.MemoryBIO())]
    (to_server, to_client) = sides[0]
    ours = client.wrap_bio(to_client, to_server, server_hostname="127.0.0.1")
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(2):
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert ours.version() == theirs.version() == "TLSv1.3"


def test_only_the_owner_reads_the_key(tmp_path: Path) -> None:
    files = certificate.make(tmp_path)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (files.key, files.both)} == {0o600}
