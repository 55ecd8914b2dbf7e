"""Whom we trust behind an https endpoint, and who we are there.

Owns the bundle of authorities: OTEL_EXPORTER_OTLP_CERTIFICATE, else SSL_CERT_FILE, else every certificate in the
folders of SSL_CERT_DIR together with the system's. OpenSSL finds certificates in folders by hashed names and gRPC not
at all, so the bundle is made here. Never trusts anything else, and never switches verification off.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from telemetry.otlp.settings import SignalSettings

_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")
_LARGEST_FILE_BYTES: Final = 8 << 20
# Where distributions keep their bundle, whatever the OpenSSL that Python was built with believes.
_SYSTEM_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


class TrustError(Exception):
    """A file that the settings name cannot be used; the message says which variable and why."""


@dataclass(frozen=True)
class Trust:
    """Authorities, and our own certificate where the endpoint wants one; all PEM."""

    authorities: bytes = field(repr=False)
    certificate_file: str | None = None
    key_file: str | None = None

    def context(self) -> ssl.SSLContext:
        """For HTTP. Raises TrustError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as gRPC: what lies in a folder is trusted itself
        if self.authorities:
            context.load_verify_locations(cadata=self.authorities.decode("ascii"))
        if self.certificate_file is not None:
            try:
                context.load_cert_chain(self.certificate_file, self.key_file, password=lambda: "")
            except OSError as error:  # ssl.SSLError is one
                raise TrustError(f"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE or _KEY: {_why(error)}") from None
        return context

    def pair(self) -> tuple[bytes | None, bytes | None]:
        """Our key and certificate, for gRPC. Raises TrustError."""
        if self.certificate_file is None:
            return None, None
        try:
            certificate = Path(self.certificate_file).read_bytes()
            return Path(self.key_file or self.certificate_file).read_bytes(), certificate
        except OSError as error:
            raise TrustError(f"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE or _KEY: {_why(error)}") from None


def load(settings: SignalSettings) -> Trust:
    """The trust for one signal. Raises TrustError when OTEL_EXPORTER_OTLP_CERTIFICATE cannot be read."""
    return Trust(_authorities(settings), settings.client_certificate, settings.client_key)


def _authorities(settings: SignalSettings) -> bytes:
    if settings.certificate is not None:
        try:
            bundle = _bundle([Path(settings.certificate).read_bytes()])
        except OSError as error:
            raise TrustError(f"OTEL_EXPORTER_OTLP_CERTIFICATE: {_why(error)}") from None
        if not bundle:
            raise TrustError("OTEL_EXPORTER_OTLP_CERTIFICATE: the file holds no certificate in PEM form")
        return bundle
    if settings.ssl_cert_file is not None:
        bundle = _bundle(_contents([Path(settings.ssl_cert_file)]))
        if bundle:
            return bundle
    paths: list[Path] = []
    for folder in (settings.ssl_cert_dir or "").split(":"):
        if folder:
            paths += _files(Path(folder))
    return _bundle(_contents([*paths, *_system()]))


def _files(folder: Path) -> list[Path]:
    """Its files; a link by a hashed name and what it points to are one."""
    try:
        return sorted({path.resolve() for path in folder.iterdir() if path.is_file()})
    except OSError:
        return []


def _system() -> list[Path]:
    defaults = ssl.get_default_verify_paths()
    for bundle in (defaults.openssl_cafile, *_SYSTEM_BUNDLES):
        if Path(bundle).is_file():
            return [Path(bundle)]
    return _files(Path(defaults.openssl_capath))


def _contents(paths: Iterable[Path]) -> Iterator[bytes]:
    for path in paths:
        try:
            if path.is_file() and path.stat().st_size <= _LARGEST_FILE_BYTES:
                yield path.read_bytes()
        except OSError:
            continue


def _bundle(contents: Iterable[bytes]) -> bytes:
    """Every certificate once. One that cannot be read would spoil the whole bundle for gRPC, so it is left out."""
    found: dict[bytes, bytes] = {}
    probe = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for content in contents:
        for block in _PEM.findall(content):
            lines = b"\n".join(block.split(b"\n")).replace(b"\r", b"")
            if lines in found:
                continue
            try:
                probe.load_verify_locations(cadata=lines.decode("ascii"))
            except (ssl.SSLError, ValueError):
                continue
            found[lines] = lines
    return b"".join(block + b"\n" for block in found)


def _why(error: OSError) -> str:
    return error.strerror or "it cannot be used"
