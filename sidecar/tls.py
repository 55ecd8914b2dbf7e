"""TLS for clients: what the user's files hold, and the OpenSSL context made of it.

Owns reading and checking them and the words for what is wrong, which never hold a key or a password. The supervisor
reads the files; a worker is told what they held, so that one that starts while they are half written has the same. It
never opens a socket. Only imported where there is a tls-port.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import ssl
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from sidecar.conf import ConfigurationError, encode, shown
from sidecar.listener_settings import ListenerSettings

_VERIFY: Final = {"no": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "yes": ssl.CERT_REQUIRED}
_DEFAULT_PROTOCOLS: Final = "TLSv1.2 TLSv1.3"
_DEFAULT_SESSIONS: Final = (True, 20480, 300)
_WITHOUT: Final = {
    "TLSv1": "OP_NO_TLSv1",
    "TLSv1.1": "OP_NO_TLSv1_1",
    "TLSv1.2": "OP_NO_TLSv1_2",
    "TLSv1.3": "OP_NO_TLSv1_3",
}
_END: Final = "-----END CERTIFICATE-----"

# What Python's ssl cannot set: OpenSSL's ssl.h.
_SSL_CTRL_SET_SESS_CACHE_SIZE: Final = 42
_SSL_CTRL_SET_SESS_CACHE_MODE: Final = 44
_SSL_CTRL_SET_DH_AUTO: Final = 118
_SSL_SESS_CACHE_OFF: Final = 0
_SSL_SESS_CACHE_SERVER: Final = 2
# The first field of CPython's PySSLContext is the SSL_CTX, in these versions.
_LAYOUT_KNOWN: Final = sys.version_info < (3, 15)


class TlsError(ConfigurationError):
    """TLS cannot be as it is configured; the text is one line, and names the directive."""


@dataclass(frozen=True)
class Material:
    """What a context is made of. Texts are PEM; `ca_folder` is a path, because OpenSSL reads it when it needs it."""

    certificate: str
    key: str = field(repr=False)
    key_password: str | None = field(repr=False)
    authorities: str | None
    ca_folder: str | None
    dh_params: str | None
    auth_clients: str
    protocols: str
    ciphers: str | None
    ciphersuites: str | None
    prefer_server_ciphers: bool
    session_caching: bool
    session_cache_size: int
    session_cache_timeout: int

    def message(self) -> dict[str, Any]:
        """The form in which a worker is told."""
        return asdict(self)


def files(settings: ListenerSettings, path: Callable[[str], str]) -> list[str]:
    """The files that these settings name; `path` makes a user's path absolute."""
    named = (settings.tls_cert_file, settings.tls_key_file, settings.tls_ca_cert_file, settings.tls_dh_params_file)
    client = (settings.tls_client_cert_file, settings.tls_client_key_file) if settings.tls_replication else ()
    return [path(name) for name in (*named, *client) if name is not None]


def read(settings: ListenerSettings, path: Callable[[str], str]) -> Material:
    """Read what these settings name. Raises TlsError."""
    if settings.tls_cert_file is None:
        raise TlsError("tls-cert-file: it is not configured, and tls-port needs it")
    if settings.tls_key_file is None:
        raise TlsError("tls-key-file: it is not configured, and tls-port needs it")
    if settings.tls_auth_clients != "no" and settings.tls_ca_cert_file is None and settings.tls_ca_cert_dir is None:
        raise TlsError(
            f"tls-auth-clients: it is {settings.tls_auth_clients}, which needs tls-ca-cert-file or tls-ca-cert-dir; "
            "with tls-auth-clients no, clients need no certificate"
        )
    folder = settings.tls_ca_cert_dir and path(settings.tls_ca_cert_dir)
    if folder is not None and not os.path.isdir(encode(folder)):
        raise TlsError(f"tls-ca-cert-dir: {shown(folder)} is not a folder")
    password = settings.tls_key_file_pass
    return Material(
        certificate=_pem("tls-cert-file", path(settings.tls_cert_file), "CERTIFICATE"),
        key=_pem("tls-key-file", path(settings.tls_key_file), "PRIVATE KEY"),
        key_password=None if password is None else password.get_secret_value(),
        authorities=settings.tls_ca_cert_file
        and _pem("tls-ca-cert-file", path(settings.tls_ca_cert_file), "CERTIFICATE"),
        ca_folder=folder,
        dh_params=settings.tls_dh_params_file
        and _pem("tls-dh-params-file", path(settings.tls_dh_params_file), "DH PARAMETERS"),
        auth_clients=settings.tls_auth_clients,
        protocols=settings.tls_protocols or _DEFAULT_PROTOCOLS,
        ciphers=settings.tls_ciphers,
        ciphersuites=settings.tls_ciphersuites,
        prefer_server_ciphers=settings.tls_prefer_server_ciphers,
        session_caching=settings.tls_session_caching,
        session_cache_size=settings.tls_session_cache_size,
        session_cache_timeout=settings.tls_session_cache_timeout,
    )


def make_context(material: Material) -> ssl.SSLContext:
    """The context of connections that clients open. Raises TlsError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _set_protocols(context, material.protocols)
    # As OpenSSL's own servers, and as Valkey: no renegotiation by clients.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    if not material.prefer_server_ciphers:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    _load_identity(context, material)
    if material.authorities is not None or material.ca_folder is not None:
        try:
            context.load_verify_locations(cadata=material.authorities, capath=material.ca_folder)
        except (ssl.SSLError, ValueError) as error:
            raise TlsError(f"tls-ca-cert-file: its certificates cannot be used: {reason(error)}") from None
    context.verify_mode = _VERIFY[material.auth_clients]
    if material.ciphers is not None:
        try:
            context.set_ciphers(material.ciphers)
        except (ssl.SSLError, ValueError):
            raise TlsError(f"tls-ciphers: OpenSSL knows no cipher of {shown(material.ciphers)}") from None
    if material.dh_params is not None:
        with _as_file(material.dh_params) as file:
            try:
                context.load_dh_params(file)
            except (ssl.SSLError, OSError) as error:
                raise TlsError(f"tls-dh-params-file: it cannot be used: {reason(error)}") from None
    elif _LAYOUT_KNOWN:
        # OpenSSL's own parameters, as in Valkey. Without, those who know no elliptic curves could not agree.
        _OpenSsl(context, "tls-dh-params-file").control(_SSL_CTRL_SET_DH_AUTO, 1)
    _set_sessions(context, material)
    if material.ciphersuites is not None:
        _set_ciphersuites(context, material.ciphersuites)
    return context


@dataclass(frozen=True)
class CertificateFacts:
    """Of a certificate: its serial number in hexadecimal digits, and when it ends, in Unix seconds."""

    serial: str
    ends: float

    def days_left(self) -> float:
        """Until its end; negative when it has ended."""
        return (self.ends - time.time()) / 86400


def facts(pem: str) -> CertificateFacts | None:
    """Of the certificate of a text that ends first, or None where this Python does not tell."""
    import _ssl

    decode = getattr(_ssl, "_test_decode_cert", None)
    if decode is None:
        return None
    found = []
    for part in pem.split(_END)[:-1]:
        with _as_file(part + _END + "\n") as file, contextlib.suppress(ssl.SSLError, KeyError, ValueError):
            certificate = decode(file)
            ends = float(ssl.cert_time_to_seconds(certificate["notAfter"]))
            found.append(CertificateFacts(certificate["serialNumber"], ends))
    return min(found, key=lambda one: one.ends, default=None)


def own_facts(material: Material) -> CertificateFacts | None:
    """Of our certificate, which is the first of its file; those of its chain follow."""
    return facts(material.certificate.partition(_END)[0] + _END)


def reason(error: Exception) -> str:
    """OpenSSL's reason in words: "certificate verify failed"."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)


def _pem(name: str, path: str, kind: str) -> str:
    try:
        with open(encode(path), "rb") as file:
            text = file.read().decode("latin-1")
    except OSError as error:
        raise TlsError(f"{name}: {shown(path)} cannot be read: {error.strerror}") from None
    if f"{kind}-----" not in text:
        raise TlsError(f"{name}: {shown(path)} holds no {kind.lower()} in PEM form (a line -----BEGIN ...{kind}-----)")
    return text.encode("ascii", "replace").decode("ascii")


@contextlib.contextmanager
def _as_file(text: str) -> Iterator[str]:
    """A path under which only this process reads the text: Python takes keys from files only, and none is on a disk."""
    descriptor = os.memfd_create("valkey-sidecar-tls", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _load_identity(context: ssl.SSLContext, material: Material) -> None:
    asked: list[bool] = []

    def password() -> str:
        asked.append(True)
        return material.key_password or ""

    with _as_file(material.certificate) as certificate, _as_file(material.key) as key:
        try:
            context.load_cert_chain(certificate, key, password)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise TlsError("tls-key-file: the key does not belong to the certificate of tls-cert-file") from None
            if asked and material.key_password is None:
                raise TlsError("tls-key-file: the key is encrypted, and there is no tls-key-file-pass") from None
            if asked:
                raise TlsError("tls-key-file-pass: it does not open the key of tls-key-file") from None
            raise TlsError(f"tls-cert-file, tls-key-file: they cannot be used: {reason(error)}") from None
        except (OSError, ValueError) as error:  # a password that is too long for OpenSSL
            raise TlsError(f"tls-key-file: it cannot be used: {reason(error)}") from None


def _set_protocols(context: ssl.SSLContext, protocols: str) -> None:
    wanted = set(protocols.lower().split())
    if not wanted or not wanted.issubset(name.lower() for name in _WITHOUT):
        raise TlsError(f"tls-protocols: {shown(protocols)} must be versions separated by blanks: {', '.join(_WITHOUT)}")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED
    with warnings.catch_warnings():
        # Python would rather have a range; Valkey's setting is a set.
        warnings.simplefilter("ignore", DeprecationWarning)
        for name, option in _WITHOUT.items():
            if name.lower() not in wanted:
                context.options |= getattr(ssl, option)


def _set_sessions(context: ssl.SSLContext, material: Material) -> None:
    asked = (material.session_caching, material.session_cache_size, material.session_cache_timeout)
    if not _LAYOUT_KNOWN and asked == _DEFAULT_SESSIONS:
        return  # OpenSSL's own default differs from Valkey's by the time only
    library = _OpenSsl(context, "tls-session-caching, tls-session-cache-size or tls-session-cache-timeout")
    mode = _SSL_SESS_CACHE_SERVER if material.session_caching else _SSL_SESS_CACHE_OFF
    library.control(_SSL_CTRL_SET_SESS_CACHE_MODE, mode)
    if material.session_caching:
        library.control(_SSL_CTRL_SET_SESS_CACHE_SIZE, material.session_cache_size)
        library.call("SSL_CTX_set_timeout", ctypes.c_long(material.session_cache_timeout))


def _set_ciphersuites(context: ssl.SSLContext, suites: str) -> None:
    set_suites = getattr(context, "set_ciphersuites", None)  # from Python 3.15 on
    if set_suites is not None:
        try:
            set_suites(suites)
        except (ssl.SSLError, ValueError):
            raise TlsError(f"tls-ciphersuites: OpenSSL does not take {shown(suites)}") from None
    elif not _OpenSsl(context, "tls-ciphersuites").call("SSL_CTX_set_ciphersuites", suites.encode()):
        raise TlsError(f"tls-ciphersuites: OpenSSL does not take {shown(suites)}")


class _OpenSsl:
    """OpenSSL's functions on a context, where Python's ssl has no words for them. Raises TlsError."""

    def __init__(self, context: ssl.SSLContext, directive: str) -> None:
        import _ssl

        self._directive = directive
        if not _LAYOUT_KNOWN:
            raise TlsError(f"{directive}: it cannot be set with this version of Python")
        # The module's own OpenSSL: a second one would not know the context.
        self._library = ctypes.CDLL(getattr(_ssl, "__file__", None))
        self._context = ctypes.c_void_p.from_address(id(context) + object.__basicsize__)

    def control(self, command: int, value: int) -> None:
        self.call("SSL_CTX_ctrl", ctypes.c_int(command), ctypes.c_long(value), None)

    def call(self, name: str, *arguments: Any) -> int:
        try:
            function = getattr(self._library, name)
        except AttributeError:
            raise TlsError(f"{self._directive}: it cannot be set, because this Python hides its OpenSSL") from None
        function.restype = ctypes.c_long
        return int(function(self._context, *arguments))
