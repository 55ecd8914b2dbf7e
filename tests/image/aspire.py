"""What an Aspire AppHost gives to a container resource: developer certificate, dashboard, environment.

Owns stand-ins for what only an AppHost has: the certificate's folder, and the address that containers reach the
dashboard by. The dashboard itself is the real one (samples.demo).
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hashlib
import ipaddress
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from samples.demo.dashboard import Dashboard

FOLDER = "/usr/lib/ssl/aspire"
SSL_CERT_DIR = f"{FOLDER}/certs:/etc/ssl/certs:/usr/local/share/ca-certificates:/etc/pki/tls/certs"
HOST = "aspire.dev.internal"

_NAMES = ("localhost", "*.dev.localhost", "*.dev.internal", "host.docker.internal")


@dataclass(frozen=True)
class DeveloperCertificate:
    """A self-signed one with the names that `dotnet dev-certs` gives, and its files."""

    certificate: Path
    key: Path
    thumbprint: str

    @classmethod
    def make(cls, folder: Path) -> Self:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        now = datetime.datetime.now(datetime.UTC)
        alternatives: list[x509.GeneralName] = [x509.DNSName(each) for each in _NAMES]
        alternatives.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        thumbprint = hashlib.sha1(certificate.public_bytes(serialization.Encoding.DER)).hexdigest().upper()
        found = cls(folder / "cert.pem", folder / "key.pem", thumbprint)
        found.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        found.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return found

    @property
    def server_certificate(self) -> str:
        """Its path in a container."""
        return f"{FOLDER}/private/{self.thumbprint}.crt"

    @property
    def server_key(self) -> str:
        """Its key's path in a container."""
        return f"{FOLDER}/private/{self.thumbprint}.key"

    def files(self) -> dict[str, bytes | str]:
        """What an AppHost copies into a container between create and start."""
        certificate = self.certificate.read_bytes()
        return {
            f"{FOLDER}/cert.pem": certificate,
            f"{FOLDER}/certs/{self.thumbprint}.pem": certificate,
            f"{FOLDER}/certs/0a1b2c3d.0": f"{self.thumbprint}.pem",  # OpenSSL's link by hash
            self.server_certificate: certificate,
            self.server_key: self.key.read_bytes(),
        }


class Doorway:
    """A port on one address of this machine that leads to a port of its loopback. Use it as a context manager."""

    def __init__(self, host: str, target: int) -> None:
        self._host, self._target = host, target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._carry, self._host, 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
            await asyncio.gather(_pump(reader, back), _pump(there, writer))

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


@dataclass(frozen=True)
class AppHost:
    """A dashboard that containers reach, by http or by https with the developer certificate."""

    dashboard: Dashboard
    gateway: str
    port: int
    certificate: DeveloperCertificate | None

    def options(self, name: str, **environment: str) -> list[str]:
        """Options of `docker create`: the environment of a resource `WithOtlpExporter()`, and the dashboard's name."""
        given = self.dashboard.environment_for(name, f"{name}-abcd"[-8:])
        scheme = "http" if self.certificate is None else "https"
        given["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"{scheme}://{HOST}:{self.port}"
        if self.certificate is not None:
            given["SSL_CERT_DIR"] = SSL_CERT_DIR
        given |= environment
        variables = [word for variable, value in given.items() for word in ("--env", f"{variable}={value}")]
        return ["--add-host", f"{HOST}:{self.gateway}", *variables]


@contextlib.contextmanager
def app_host(gateway: str, certificate: DeveloperCertificate | None) -> Iterator[AppHost]:
    files = None if certificate is None else (certificate.certificate, certificate.key)
    with Dashboard(files) as dashboard:
        target = int(dashboard.grpc_endpoint.rpartition(":")[2])
        with Doorway(gateway, target) as doorway:
            yield AppHost(dashboard, gateway, doorway.port, certificate)
