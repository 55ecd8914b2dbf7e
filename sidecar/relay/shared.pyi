import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from sidecar.relay.commands import CommandTable
from sidecar.relay.session import Session
from sidecar.relay.special import Special
from sidecar.relay.suspects import Suspects
from telemetry.ledger import Ledger
from telemetry.spans import Tracer

class Relay:
    loop: asyncio.AbstractEventLoop
    table: CommandTable
    ledger: Ledger
    tracer: Tracer
    suspects: Suspects
    booked: deque[tuple[str, int]]
    auth_required: bool
    strict: bool
    special: Special
    on_closed: Callable[[Session], None] | None
    on_quiet: Callable[[], None] | None
    on_unknown: Callable[[], None] | None
    on_limit: Callable[[str, str], None] | None
    request_limit: int
    unread_limit: int
    kept_limit: int
    flight_limit: int
    flights_limit: int
    kept_by_all: int
    engine_socket: str
    engine_timeout: float
    sessions: set[Session]
    stopped: bool
    parking: bool
    lanes: bool
    lanes_most: int
    suspended: bool
    homes: int
    lane_count: int
    on_upstreams: Callable[[], None] | None
    lane_ids: list[int]
    by_engine_id: dict[int, Session]
    by_first_id: dict[int, Session]
    lane_pool: Any
    unmatched: int
    in_flight: int
    quiet: bool
    at_rest: bool
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        table: CommandTable,
        ledger: Ledger,
        tracer: Tracer,
        engine_socket: str,
        engine_timeout: float = 5.0,
    ) -> None: ...
    def reached(self, limit: str, peer: str) -> None: ...
    def suspend_lanes(self) -> asyncio.Future[None]: ...
    def close_lanes(self) -> None: ...
    def resume_lanes(self) -> None: ...
    async def bring_home(self, sessions: Iterable[Session], within_s: float = 2.0) -> None: ...
    def park_idle(self, home_timeout_s: float) -> None: ...
    def stop_requests(self) -> None: ...
    def last_replies(self, limit_s: float) -> None: ...
    def resume_requests(self) -> None: ...
    def close_idle(self, timeout_s: float) -> None: ...
    def give_back_memory(self) -> None: ...
