"""Certificates that change, TLS that is set up while the server runs, and what else has to do with its files."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest
import valkey

from tests.authority import Authority, Issued, serial
from tests.conftest import Start, free_port, receive, wait_until
from tests.sidecar.tls_server import StartTls, TlsServer

# ---- they change


def replace_files(new: Issued, old: Issued) -> None:
    """As a careful program does it, file by file."""
    for source, target in ((new.certificate, old.certificate), (new.key, old.key)):
        copy = target.with_suffix(".new")
        shutil.copy(source, copy)
        copy.replace(target)


def test_new_files_are_used_without_a_restart_and_open_connections_stay(start_tls: StartTls) -> None:
    tls = start_tls(env={"SIDECAR_WORKERS": "3"})
    before = Issued(tls.authority.folder / "server.pem", tls.authority.folder / "server.key")
    sock = tls.connect()
    assert tls.shown_serial() == tls.client().info("tls")["tls_server_cert_serial"] == serial(before.certificate)
    new = tls.authority.issue("renewed", days=20)
    replace_files(new, before)
    message = tls.server.wait_said("tls.reloaded")["message"]
    assert message.startswith("The TLS files have changed and are used for new connections; the certificate ends on 20")
    wait_until(lambda: all(tls.shown_serial() == serial(new.certificate) for _ in range(10)), "every worker has it")
    shown = tls.client().info("tls")
    assert shown["tls_server_cert_serial"] == serial(new.certificate)
    assert 19 * 86400 < shown["tls_server_cert_expires_in_seconds"] <= 20 * 86400
    assert 29 * 86400 < shown["tls_ca_cert_expires_in_seconds"] <= 30 * 86400
    assert shown["tls_client_cert_serial"] == "none"
    sock.sendall(b"PING\r\n")
    assert receive(sock, b"\n") == b"+PONG\r\n"


def test_links_that_point_elsewhere_are_a_change(start: Start, authority: Authority, tmp_path: Path) -> None:
    """Kubernetes mounts a secret so: the files are links into a folder that is a link itself."""
    versions = [Authority(tmp_path / f"version{n}") for n in range(2)]
    for one in versions:
        one.issue()
    (tmp_path / "..data").symlink_to(versions[0].folder)
    port = free_port()
    # fmt: off
    server = start(
        "--save", "", "--tls-port", str(port), "--tls-auth-clients", "no",
        "--tls-cert-file", str(tmp_path / "..data" / "server.pem"),
        "--tls-key-file", str(tmp_path / "..data" / "server.key"),
    )
    # fmt: on
    assert TlsServer(server, port, versions[0]).client().ping()
    (tmp_path / "..new").symlink_to(versions[1].folder)
    (tmp_path / "..new").replace(tmp_path / "..data")
    server.wait_said("tls.reloaded")
    wait_until(lambda: TlsServer(server, port, versions[1]).pings(), "the new authority's certificate is shown")


def test_files_that_are_wrong_change_nothing_and_are_told_once(start_tls: StartTls) -> None:
    tls = start_tls(env={"SIDECAR_WORKERS": "1"})
    certificate, key = (tls.authority.folder / name for name in ("server.pem", "server.key"))
    right = serial(certificate)
    saved = certificate.read_bytes()
    certificate.write_bytes(saved[: len(saved) // 2])
    key.unlink()
    message = tls.server.wait_said("tls.not_reloaded")["message"]
    assert message.startswith("The TLS files have changed and cannot be used, so the earlier ones stay in use: tls-")
    assert tls.shown_serial() == right
    tls.server.worker.kill()  # its successor has what is in use, not what is in the files
    tls.server.wait_said("worker.restarted")
    wait_until(lambda: tls.pings(), "a new worker serves")
    assert tls.shown_serial() == right
    new = tls.authority.issue("renewed")
    replace_files(new, Issued(certificate, key))
    tls.server.wait_said("tls.reloaded")
    wait_until(lambda: tls.shown_serial() == serial(new.certificate), "the worker has it")
    assert len(tls.server.said("tls.not_reloaded")) == 1


def test_a_certificate_that_ends_soon_is_worth_a_warning(start: Start, authority: Authority) -> None:
    for days, words in ((5.0, "ends on "), (-1.0, "has ended on ")):
        issued = authority.issue("short", days=days)
        # fmt: off
        server = start(
            "--save", "", "--tls-port", str(free_port()), "--tls-auth-clients", "no",
            "--tls-cert-file", str(issued.certificate), "--tls-key-file", str(issued.key),
        )
        # fmt: on
        assert f"Our TLS certificate {words}" in server.wait_said("tls.certificate_ends")["message"]


# ---- CONFIG


def test_tls_can_be_switched_on_moved_and_off_while_it_runs(start: Start, authority: Authority) -> None:
    server = start("--save", "")
    issued = authority.issue()
    first, second = free_port(), free_port()
    with server.client() as client:
        with pytest.raises(valkey.ResponseError) as refused:
            client.config_set("tls-port", first)
        assert str(refused.value) == (
            "CONFIG SET failed (possibly related to argument 'tls-port') - "
            "Unable to update TLS configuration: tls-cert-file: it is not configured, and tls-port needs it"
        )
        # fmt: off
        client.config_set(
            "tls-cert-file", str(issued.certificate), "tls-key-file", str(issued.key), "tls-auth-clients", "no",
            "tls-port", first,
        )
        # fmt: on
        one = TlsServer(server, first, authority)
        assert one.client().ping()
        kept = one.connect()
        client.config_set("tls-port", second)
        other = TlsServer(server, second, authority)
        assert other.client().ping()
        with pytest.raises(valkey.ConnectionError):
            one.client().ping()
        kept.sendall(b"PING\r\n")
        assert receive(kept, b"\n") == b"+PONG\r\n"
        assert client.config_get("tls-*")["tls-port"] == str(second)
        # The two ports change places.
        client.config_set("port", second, "tls-port", server.port)
    assert TlsServer(server, server.port, authority).client().ping()
    plain = valkey.Valkey(port=second)
    assert plain.ping()
    plain.config_set("tls-port", 0)
    wait_until(lambda: not TlsServer(server, server.port, authority).pings(), "nobody listens there any more")
    plain.close()


def test_an_engine_that_starts_anew_brings_back_the_tls_of_the_start(start_tls: StartTls) -> None:
    """What was only set at run time is forgotten; files that are wrong meanwhile matter to nobody."""
    tls = start_tls("--appendonly", "yes")
    moved = TlsServer(tls.server, free_port(), tls.authority)
    with tls.server.client() as client:
        client.config_set("tls-port", moved.port, "maxclients", 100)
    assert moved.client().ping()
    tls.server.engine.kill()
    wait_until(tls.pings, "it listens where the start said")
    assert not moved.pings()

    with tls.server.client() as client:
        client.config_set("maxclients", 100)
    (tls.authority.folder / "server.pem").write_text("not a certificate")
    tls.server.engine.kill()
    wait_until(lambda: tls.server.metrics()["valkey_sidecar_engine_restarts_total"] == 2, "it is started again")
    wait_until(tls.pings, "it serves with the certificate that it has")
    assert tls.client().config_get("maxclients") != {"maxclients": "100"}
    assert tls.server.said("listener.kept") == []


def test_a_port_that_is_taken_and_a_wrong_value_change_nothing(start_tls: StartTls) -> None:
    tls = start_tls()
    with tls.server.client() as client, socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(valkey.ResponseError, match=r"argument 'tls-port'.*Unable to listen on this port"):
            client.config_set("tls-port", taken.getsockname()[1])
        for name, value, text in (
            ("tls-cert-file", "/none.pem", 'tls-cert-file: "/none.pem" cannot be read: No such file or directory'),
            ("TLS-Protocols", "TLSv9", 'tls-protocols: "TLSv9" must be versions separated by blanks'),
            ("tls-ciphers", "x", 'tls-ciphers: OpenSSL knows no cipher of "x"'),
            ("tls-auth-clients", "maybe", "argument(s) must be one of the following: no, yes, optional"),
        ):
            with pytest.raises(valkey.ResponseError) as refused:
                client.config_set(name, value)
            assert f"argument '{name}') - " in str(refused.value)
            assert text in str(refused.value)
        client.config_set("tls-protocols", "TLSv1.3")
        assert client.config_get("tls-protocols") == {"tls-protocols": "TLSv1.3"}
    assert tls.client().ping()
    assert tls.shown_serial() == serial(tls.authority.folder / "server.pem")


def test_rewrite_keeps_what_is_set_and_the_key_password_is_never_shown(
    start: Start, authority: Authority, tmp_path: Path
) -> None:
    issued = authority.issue(password="s3cret")
    port = free_port()
    conf = tmp_path / "valkey.conf"
    conf.write_text(
        f"save ''\n# ours\ntls-port {port}\ntls-cert-file {issued.certificate}\ntls-key-file {issued.key}\n"
        "tls-key-file-pass s3cret\ntls-auth-clients no\n"
    )
    tls = TlsServer(start(str(conf)), port, authority)
    with tls.server.client() as client:
        assert client.config_get("tls-key-file-pass") == {"tls-key-file-pass": "s3cret"}
        client.config_set("tls-protocols", "TLSv1.2 TLSv1.3", "tls-session-caching", "no")
        client.config_rewrite()
    text = conf.read_text()
    assert "# ours\n" in text
    assert 'tls-protocols "TLSv1.2 TLSv1.3"\n' in text
    assert "tls-session-caching no\n" in text
    assert "tls-key-file-pass s3cret\n" in text
    assert tls.server.stop() == 0
    assert "s3cret" not in tls.server.log_text()
    again = TlsServer(start(str(conf)), port, authority)
    assert again.client().ping()
    assert "s3cret" not in again.server.get("/metrics")[1]


# ---- replication and the engine


def test_replication_by_tls_needs_an_engine_with_tls(start: Start, authority: Authority) -> None:
    issued = authority.issue(password="s3cret")
    # fmt: off
    server = start(
        "--tls-replication", "yes", "--tls-cert-file", str(issued.certificate), "--tls-key-file", str(issued.key),
        "--tls-key-file-pass", "s3cret", "--tls-ca-cert-file", str(authority.file), wait=False,
    )
    # fmt: on
    assert server.wait_end() == 1
    assert (
        "tls-replication: the engine was built without TLS; give one that has it with --sidecar-engine-binary"
        in server.stderr
    )
    assert "s3cret" not in server.log_text()


def test_a_start_that_cannot_speak_tls_says_why_and_ends(start: Start) -> None:
    server = start("--tls-port", str(free_port()), "--tls-cert-file", "/none.pem", wait=False)
    assert server.wait_end() == 1
    assert server.stderr == "valkey-sidecar: tls-key-file: it is not configured, and tls-port needs it\n"


def test_a_tls_port_that_is_taken_ends_the_start(start_tls: StartTls) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        tls = start_tls("--bind", "127.0.0.1", "--tls-port", str(port), wait=False)
        assert tls.server.wait_end() == 1
    assert f"Failed listening on port {port} (tls), aborting." in tls.server.stderr
