import socket
from collections.abc import Awaitable

from sidecar.relay.attributes import Attributes
from sidecar.relay.client_lines import LineForm, Shown
from sidecar.relay.shared import Relay
from sidecar.relay.tls_stream import TlsStream

class Session:
    relay: Relay
    peer: str
    local: str
    transport: str
    is_local: bool
    is_tls: bool
    announced_address: bool
    upstream_inode: int
    engine_id: int
    client_id: int
    connected: bool
    newcomer: bool
    parked: bool
    reopened: bool
    closed: bool
    connected_ns: int
    stranger: bool
    trusted: bool
    attributes: Attributes | None
    user: bytes
    requesting_multi: bool
    kept: int
    age_s: int
    idle_s: int
    last_command: str
    def listed_parked(self, form: LineForm) -> bytes: ...
    def fields(self) -> dict[bytes, bytes]: ...
    def shown(self) -> Shown: ...
    def __init__(
        self,
        relay: Relay,
        sock: socket.socket,
        peer: str,
        local: str,
        transport: str,
        is_local: bool,
        tls: TlsStream | None = None,
    ) -> None: ...
    def unfollow(self, reason: str) -> None: ...
    def reply_mode(self, mode: str) -> None: ...
    @property
    def has_lane_to_ask(self) -> bool: ...
    def wait_on_lane(self, request: bytes) -> Awaitable[bytes] | None: ...
    def pin(self) -> None: ...
    def keep_home(self) -> None: ...
    def come_home(self) -> bool: ...
    def identify(self, engine_id: int) -> None: ...
    def park(self, before_ns: int) -> bool: ...
    def stop(self) -> None: ...
    def go_on(self) -> None: ...
    def close_if_idle(self, now: int, timeout_s: float) -> None: ...
    def close(self) -> None: ...
