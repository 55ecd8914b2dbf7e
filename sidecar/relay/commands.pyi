from collections.abc import Collection, Iterable, Mapping, Sequence

OTHER: str
FIRST_KEY: str

class CommandTable:
    names: list[str]
    first_keys: dict[str, int]
    def update(
        self,
        commands: Iterable[tuple[str, Sequence[str]]],
        held: Collection[str] = (),
        renamed: Mapping[str, str] | None = None,
    ) -> None: ...
    def knows(self, name: bytes) -> bool: ...
    def lack(self, known: Iterable[str]) -> None: ...
    @property
    def lacking(self) -> frozenset[str]: ...
    def lookup(self, name: bytes) -> tuple[str, int]: ...
