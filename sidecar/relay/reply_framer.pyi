class ReplyFramer:
    type: int
    null: bool
    count: int
    nulls: int
    integer: int
    size: int
    def feed(self, data: bytes) -> list[tuple[str, str, int]]: ...
