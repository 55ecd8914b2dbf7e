from collections.abc import Callable, Mapping
from typing import Any

BUDGETS_BYTES: int
REASONS_OF_DROPS: tuple[str, ...]

class Identity:
    address: str
    port: int
    transport: str
    database: int
    client_name: str
    lib_name: str
    lib_version: str
    user: str
    def __init__(self, address: str, port: int, transport: str) -> None: ...
    def changed(self) -> None: ...

class Tracer:
    enabled: bool
    made: int
    on_packet: Callable[[bytes], None]
    def __init__(self, names: list[str]) -> None: ...
    def configure(self, settings: Mapping[str, Any], budgets_fd: int) -> None: ...
    def names_grew(self, first_keys: Mapping[str, int]) -> None: ...
    def take_drops(self) -> dict[str, int]: ...
    def flush(self) -> None: ...
