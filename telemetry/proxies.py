"""The proxy that an exporter goes through: the variables of the environment, read once, for every transport alike.

Owns their names, which of them counts, and what NO_PROXY exempts. Never opens a connection, and never shows a proxy's
password. Standard library only: it is read before the first client is served.

    proxies = Proxies(os.environ)
    proxy = proxies.to("https://collector.example:4317")    # None: directly
    proxy.url                                               # http://user:password@proxy.example:3128
    proxy.shown                                             # http://proxy.example:3128
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

_PORTS: Final = {"http": 80, "https": 443}
IGNORED: Final = ("grpc_proxy", "GRPC_PROXY", "no_grpc_proxy", "NO_GRPC_PROXY")
"""What gRPC knows beside the variables that everybody does."""


@dataclass(frozen=True)
class Proxy:
    """A proxy, and the variable that names it."""

    variable: str
    scheme: str
    address: str
    """Host and port."""
    user: str = field(default="", repr=False)
    """`user:password`, percent-encoded: a secret. Empty for none."""

    @property
    def url(self) -> str:
        """With the secret."""
        return f"{self.scheme}://{self.user}@{self.address}" if self.user else self.shown

    @property
    def basic_auth(self) -> str:
        """`user:password` as it is sent; empty for none."""
        return unquote(self.user)

    @property
    def shown(self) -> str:
        """For people: without the secret."""
        return f"{self.scheme}://{self.address}"


class Proxies:
    """The rules of one environment. `warnings`: a sentence for each variable that `to` couldn't use."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.warnings: list[str] = []
        self.ignored = [name for name in IGNORED if environ.get(name, "").strip()]
        self._environ = environ
        self._exempt = _first(environ, "no_proxy")[1].replace(",", " ").split()

    def to(self, endpoint: str) -> Proxy | None:
        """The proxy on the way to a URL; None for a direct connection."""
        url = urlsplit(endpoint)
        if url.scheme not in _PORTS or self._is_exempt(url.hostname or "", url.port or _PORTS[url.scheme]):
            return None
        return self.of(url.scheme)

    def of(self, scheme: str) -> Proxy | None:
        """The proxy for `http` or `https`, where nothing exempts the endpoint."""
        for name in (f"{scheme}_proxy", "all_proxy"):
            variable, text = _first(self._environ, name)
            if not variable:
                continue
            if not text:
                return None  # said outright: none
            try:
                url = urlsplit(text if "://" in text else f"http://{text}")
                usable = url.scheme in _PORTS and bool(url.hostname) and url.port != 0
                usable = usable and text.isascii() and text.isprintable() and " " not in text
            except ValueError:
                usable = False
            if not usable:
                warning = f"{variable}: this isn't a proxy's URL like http://host:3128; it is not used."
                if warning not in self.warnings:
                    self.warnings.append(warning)
                return None
            user, _, _ = url.netloc.rpartition("@")
            host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
            return Proxy(variable, url.scheme, f"{host}:{url.port or _PORTS[url.scheme]}", user)
        return None

    def _is_exempt(self, host: str, port: int) -> bool:
        host = host.rstrip(".").lower()
        return any(_exempts(rule.lower(), host, port) for rule in self._exempt)


def _first(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    """The variable that counts, and its value: the one in lower case, even an empty one, else the one in capitals."""
    for variable in (name, name.upper()):
        if variable in environ:
            return variable, environ[variable].strip()
    return "", ""


def _exempts(rule: str, host: str, port: int) -> bool:
    """Whether a rule of NO_PROXY means this host: `*`, a name with all below it, an address or a network."""
    if rule == "*":
        return True
    address = _address(host)
    if address is not None:
        try:
            return address in ipaddress.ip_network(rule.strip("[]"), strict=False)
        except ValueError:
            pass
    name, colon, of_port = rule.rpartition(":")
    if colon and of_port.isdigit() and (":" not in name or name.endswith("]")):
        return int(of_port) == port and _exempts(name, host, port)
    if address is not None:
        return False
    name = rule.removeprefix("*").removeprefix(".").rstrip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
