"""What the user's TLS files may hold, and what is said about what they may not."""

from __future__ import annotations

import os
import ssl
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidecar import tls
from sidecar.listener_settings import ListenerSettings
from sidecar.secret import SecretStr
from tests.authority import Authority, Issued, serial


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def issued(authority: Authority) -> Issued:
    return authority.issue()


def settings(issued: Issued, **changes: Any) -> ListenerSettings:
    whole = ListenerSettings(
        tls_port=1, tls_cert_file=str(issued.certificate), tls_key_file=str(issued.key), tls_auth_clients="no"
    )
    return replace(whole, **changes)


def read(wanted: ListenerSettings) -> tls.Material:
    return tls.read(wanted, lambda path: os.path.join("/nowhere", path))


def context(wanted: ListenerSettings) -> ssl.SSLContext:
    return tls.make_context(read(wanted))


def refused(wanted: ListenerSettings) -> str:
    with pytest.raises(tls.TlsError) as error:
        context(wanted)
    text = str(error.value)
    assert "\n" not in text
    assert "s3cret" not in text
    return text


def agreed(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """A handshake in memory. Raises ssl.SSLError."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(up, down, server_side=True)
    theirs = client.wrap_bio(down, up, server_hostname="localhost")
    done = {theirs: False, ours: False}
    for _ in range(10):
        for one in done:
            try:
                one.do_handshake()
                done[one] = True
            except ssl.SSLWantReadError:
                pass
        if all(done.values()):
            return ours, theirs
    raise AssertionError("no end of the handshake")


def client(authority: Authority, **options: Any) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(authority.file))
    for name, value in options.items():
        setattr(made, name, value)
    return made


# ---- what is wrong


def test_a_certificate_and_a_key_are_needed(issued: Issued) -> None:
    assert refused(ListenerSettings(tls_port=1)) == "tls-cert-file: it is not configured, and tls-port needs it"
    assert refused(settings(issued, tls_key_file=None)) == "tls-key-file: it is not configured, and tls-port needs it"


@pytest.mark.parametrize("mode", ["yes", "optional"])
def test_clients_certificates_need_an_authority(issued: Issued, mode: str) -> None:
    assert refused(settings(issued, tls_auth_clients=mode)) == (
        f"tls-auth-clients: it is {mode}, which needs tls-ca-cert-file or tls-ca-cert-dir; "
        "with tls-auth-clients no, clients need no certificate"
    )


def test_a_file_that_cannot_be_read_is_named(issued: Issued, tmp_path: Path) -> None:
    assert refused(settings(issued, tls_cert_file="none.pem")) == (
        'tls-cert-file: "/nowhere/none.pem" cannot be read: No such file or directory'
    )
    assert refused(settings(issued, tls_key_file=str(tmp_path))) == (
        f'tls-key-file: "{tmp_path}" cannot be read: Is a directory'
    )
    assert 'tls-ca-cert-file: "/nowhere/ca" cannot be read' in refused(settings(issued, tls_ca_cert_file="ca"))
    assert refused(settings(issued, tls_ca_cert_dir="cas")) == 'tls-ca-cert-dir: "/nowhere/cas" is not a folder'
    assert 'tls-dh-params-file: "/nowhere/dh" cannot be read' in refused(settings(issued, tls_dh_params_file="dh"))


def test_a_file_that_holds_something_else_is_told(issued: Issued, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"\0\xffs3cret")
    assert refused(settings(issued, tls_cert_file=str(other))) == (
        f'tls-cert-file: "{other}" holds no certificate in PEM form (a line -----BEGIN ...CERTIFICATE-----)'
    )
    assert "holds no private key in PEM form" in refused(settings(issued, tls_key_file=str(issued.certificate)))
    assert "holds no dh parameters in PEM form" in refused(settings(issued, tls_dh_params_file=str(other)))
    other.write_text("-----BEGIN CERTIFICATE-----\ns3cret\n-----END CERTIFICATE-----\n")
    assert refused(settings(issued, tls_cert_file=str(other))).startswith(
        "tls-cert-file, tls-key-file: they cannot be used"
    )
    text = refused(settings(issued, tls_ca_cert_file=str(other)))
    assert text.startswith("tls-ca-cert-file: its certificates cannot be used: ")
    other.write_text("-----BEGIN DH PARAMETERS-----\ns3cret\n-----END DH PARAMETERS-----\n")
    assert refused(settings(issued, tls_dh_params_file=str(other))).startswith("tls-dh-params-file: it cannot be used:")


def test_a_key_of_another_certificate_is_told(authority: Authority, issued: Issued) -> None:
    other = authority.issue("other")
    assert refused(settings(issued, tls_key_file=str(other.key))) == (
        "tls-key-file: the key does not belong to the certificate of tls-cert-file"
    )


def test_an_encrypted_key_needs_its_password(authority: Authority) -> None:
    locked = authority.issue("locked", password="s3cret")
    assert refused(settings(locked)) == "tls-key-file: the key is encrypted, and there is no tls-key-file-pass"
    assert refused(settings(locked, tls_key_file_pass=SecretStr("s3cret!"))) == (
        "tls-key-file-pass: it does not open the key of tls-key-file"
    )
    assert "tls-key-file: it cannot be used: " in refused(settings(locked, tls_key_file_pass=SecretStr("s3cret" * 999)))
    material = read(settings(locked, tls_key_file_pass=SecretStr("s3cret")))
    assert "s3cret" not in repr(material)
    assert "PRIVATE KEY" not in repr(material)
    agreed(tls.make_context(material), client(authority))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tls_protocols": "TLSv9"}, 'tls-protocols: "TLSv9" must be versions separated by blanks: TLSv1, TLSv1.1, '),
        ({"tls_protocols": " "}, 'tls-protocols: " " must be versions separated by blanks'),
        ({"tls_ciphers": "NO-SUCH"}, 'tls-ciphers: OpenSSL knows no cipher of "NO-SUCH"'),
        ({"tls_ciphersuites": "NO-SUCH"}, 'tls-ciphersuites: OpenSSL does not take "NO-SUCH"'),
    ],
)
def test_a_value_that_openssl_does_not_take_is_told(issued: Issued, change: dict[str, Any], message: str) -> None:
    assert message in refused(settings(issued, **change))


# ---- what is right


def test_clients_get_our_certificate_and_the_better_protocol(authority: Authority, issued: Issued) -> None:
    ours, theirs = agreed(context(settings(issued)), client(authority))
    assert ours.version() == theirs.version() == "TLSv1.3"
    peer = theirs.getpeercert()
    assert peer is not None
    assert peer["serialNumber"] == serial(issued.certificate)


@pytest.mark.parametrize("protocol", ["TLSv1.2", "tlsv1.3"])
def test_only_the_wanted_protocols_are_spoken(authority: Authority, issued: Issued, protocol: str) -> None:
    server = context(settings(issued, tls_protocols=protocol))
    ours, _ = agreed(server, client(authority))
    assert str(ours.version()).lower() == protocol.lower()
    other = ssl.TLSVersion.TLSv1_3 if protocol == "TLSv1.2" else ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        agreed(server, client(authority, minimum_version=other, maximum_version=other))


def test_the_older_protocols_are_not_spoken_by_default(authority: Authority, issued: Issued) -> None:
    old = client(authority)
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        agreed(context(settings(issued, tls_ciphers="ALL:@SECLEVEL=0")), old)
    spoken = context(settings(issued, tls_ciphers="ALL:@SECLEVEL=0", tls_protocols="TLSv1.1 TLSv1.3"))
    assert agreed(spoken, old)[0].version() == "TLSv1.1"


def test_ciphers_and_ciphersuites_are_the_chosen_ones(authority: Authority, issued: Issued) -> None:
    server = context(
        settings(issued, tls_ciphers="ECDHE-ECDSA-AES128-GCM-SHA256", tls_ciphersuites="TLS_CHACHA20_POLY1305_SHA256")
    )
    for version, cipher in (
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-GCM-SHA256"),
        (ssl.TLSVersion.TLSv1_3, "TLS_CHACHA20_POLY1305_SHA256"),
    ):
        chosen = agreed(server, client(authority, maximum_version=version))[0].cipher()
        assert chosen is not None
        assert chosen[0] == cipher


@pytest.mark.parametrize("ours_first", [True, False])
def test_whose_order_of_ciphers_counts(authority: Authority, issued: Issued, ours_first: bool) -> None:
    a, b = "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384"
    server = context(settings(issued, tls_ciphers=f"{a}:{b}", tls_prefer_server_ciphers=ours_first))
    theirs = client(authority, maximum_version=ssl.TLSVersion.TLSv1_2)
    theirs.set_ciphers(f"{b}:{a}")
    chosen = agreed(server, theirs)[0].cipher()
    assert chosen is not None
    assert chosen[0] == (a if ours_first else b)


@pytest.mark.parametrize("from_a_file", [True, False])
def test_clients_that_know_no_curves_can_agree(authority: Authority, tmp_path: Path, from_a_file: bool) -> None:
    params = tmp_path / "dh.pem"
    command = [
        "openssl",
        "genpkey",
        "-genparam",
        "-algorithm",
        "DH",
        "-pkeyopt",
        "group:ffdhe3072",
        "-out",
        str(params),
    ]
    subprocess.run(command, check=True, capture_output=True)
    issued = authority.issue("rsa", with_rsa=True)
    server = context(settings(issued, tls_dh_params_file=str(params) if from_a_file else None))
    old = client(authority, maximum_version=ssl.TLSVersion.TLSv1_2)
    old.set_ciphers("DHE-RSA-AES128-GCM-SHA256")
    chosen = agreed(server, old)[0].cipher()
    assert chosen is not None
    assert chosen[0] == "DHE-RSA-AES128-GCM-SHA256"


@pytest.mark.parametrize("caching", [True, False])
def test_sessions_are_kept_or_not(issued: Issued, caching: bool) -> None:
    made = context(
        settings(issued, tls_session_caching=caching, tls_session_cache_size=7, tls_session_cache_timeout=11)
    )
    openssl = tls._OpenSsl(made, "")
    get_size, get_mode = 43, 45  # SSL_CTRL_GET_SESS_CACHE_SIZE, SSL_CTRL_GET_SESS_CACHE_MODE
    control = [openssl.call("SSL_CTX_ctrl", command, 0, None) for command in (get_mode, get_size)]
    if caching:
        assert [*control, openssl.call("SSL_CTX_get_timeout")] == [2, 7, 11]
    else:
        assert control[0] == 0


def test_authorities_of_clients_come_from_a_file_or_a_folder(
    authority: Authority, issued: Issued, tmp_path: Path
) -> None:
    certified = client(authority)
    certified.load_cert_chain(issued.certificate, issued.key)
    stranger = Authority(tmp_path / "stranger", "a stranger")
    foreign = client(authority)
    its = stranger.issue("theirs")
    foreign.load_cert_chain(its.certificate, its.key)
    folder = tmp_path / "hashed"
    folder.mkdir()
    (folder / f"{_hash(authority.file)}.0").symlink_to(authority.file)
    for where in ({"tls_ca_cert_file": str(authority.file)}, {"tls_ca_cert_dir": str(folder)}):
        for mode, right, wrong, none in (("yes", 1, 0, 0), ("optional", 1, 0, 1), ("no", 1, 1, 1)):
            server = context(settings(issued, tls_auth_clients=mode, tls_protocols="TLSv1.2", **where))
            for theirs, comes_in in ((certified, right), (foreign, wrong), (client(authority), none)):
                if comes_in:
                    agreed(server, theirs)
                else:
                    with pytest.raises(ssl.SSLError):
                        agreed(server, theirs)


def _hash(certificate: Path) -> str:
    command = ["openssl", "x509", "-noout", "-subject_hash", "-in", str(certificate)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_facts_of_a_certificate(authority: Authority, issued: Issued) -> None:
    late = authority.issue("late", days=-1)
    own = tls.own_facts(read(settings(issued)))
    assert own is not None
    assert own.serial == serial(issued.certificate)
    assert 29 < own.days_left() < 30
    first = tls.facts(issued.certificate.read_text() + "\nnotes\n" + late.certificate.read_text())
    assert first is not None
    assert first.serial == serial(late.certificate)
    assert -2 < first.days_left() < 0
    assert tls.facts("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n") is None
