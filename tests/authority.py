"""A made-up certificate authority, for tests of TLS on either side."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Issued:
    """A certificate and its key: PEM files."""

    certificate: Path
    key: Path


class Authority:
    """One authority, with its certificate in ca.pem of the folder. What it issues is for localhost and 127.0.0.1."""

    def __init__(self, folder: Path, name: str = "made-up authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.file = folder / "ca.pem"
        self.file.write_bytes(_pem(self._build(name, self._key, days=30, ca=True)))

    def issue(
        self,
        file: str = "server",
        *,
        name: str = "localhost",
        days: float = 30,
        password: str = "",
        with_rsa: bool = False,
    ) -> Issued:
        """Write FILE.pem and FILE.key. days: until it ends; password: encrypts the key; with_rsa: not of a curve."""
        key: Any = rsa.generate_private_key(65537, 2048) if with_rsa else ec.generate_private_key(ec.SECP256R1())
        issued = Issued(self.folder / f"{file}.pem", self.folder / f"{file}.key")
        issued.certificate.write_bytes(_pem(self._build(name, key, days=days, ca=False)))
        encryption: Any = serialization.NoEncryption()
        if password:
            encryption = serialization.BestAvailableEncryption(password.encode())
        issued.key.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        )
        return issued

    def _build(self, name: str, key: Any, *, days: float, ca: bool) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self._name)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=60))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if ca:
            usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, critical=True)
        else:
            names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def serial(certificate: Path) -> str:
    """The serial number as INFO shows it."""
    digits = f"{x509.load_pem_x509_certificate(certificate.read_bytes()).serial_number:X}"
    return digits if len(digits) % 2 == 0 else f"0{digits}"


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
