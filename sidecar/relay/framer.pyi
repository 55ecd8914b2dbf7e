from sidecar.relay.commands import CommandTable

class RequestFramer:
    argc: int
    size: int
    def __init__(self, table: CommandTable) -> None: ...
    def feed(self, data: bytes) -> list[tuple[str, str, int, int]]: ...

class ReplyFramer:
    type: int
    null: bool
    count: int
    nulls: int
    integer: int
    size: int
    def feed(self, data: bytes) -> list[tuple[str, str, int]]: ...

def split_inline(line: bytes) -> list[bytes] | None: ...
