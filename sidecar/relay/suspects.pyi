from collections.abc import Callable
from typing import Any

class Suspects:
    ask: Callable[[dict[str, Any], Callable[[dict[str, Any] | None], None]], None] | None
    waiting: int
    def give_up(self) -> None: ...
