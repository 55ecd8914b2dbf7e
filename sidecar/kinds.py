"""Owns the kinds of values that a setting can have: how one is read, checked, printed and described.
Never knows which setting a value belongs to.

A kind's ValueError has the wording of Valkey's CONFIG SET; `allowed` finishes the sentence "... must be ...".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from sidecar import process_title
from sidecar.secret import SecretStr

INT_MAX: Final = 2**31 - 1
UINT_MAX: Final = 2**32 - 1
_INT64_MAX: Final = 2**63 - 1
_UINT64_MAX: Final = 2**64 - 1
_BIND_ADDRESSES_MAX: Final = 16

# Valkey's string2ll: no sign but a minus, no leading zero, no blanks.
_DECIMAL: Final = re.compile(r"0|-?[1-9][0-9]*")
# strtoll with base 8, which also takes the empty string for 0.
_OCTAL: Final = re.compile(r"|[ \t\n\v\f\r]*[+-]?[0-7]+")
_DURATION: Final = re.compile(r"(?P<number>[0-9]+(\.[0-9]+)?)(?P<unit>us|ms|s)?")
_UNITS_S: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_MEMORY: Final = re.compile(r"(?P<number>[0-9]+)(?P<unit>b|k|kb|m|mb|g|gb)?")
_UNITS_BYTES: Final = {"b": 1, "k": 1000, "kb": 1 << 10, "m": 1000**2, "mb": 1 << 20, "g": 1000**3, "gb": 1 << 30}
# Valkey's memtoull: no digits are a zero.
_MEMORY_OF_VALKEY: Final = re.compile(r"(?P<number>[0-9]*)(?P<unit>b|k|kb|m|mb|g|gb)?")
_COMMAND: Final = re.compile(r"[!-~]+( ([!-~]+))?")
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]*")
_SECONDS: Final = re.compile(r"[0-9]+(\.[0-9]+)?")

T = TypeVar("T")


class Kind(Protocol[T]):
    """How the values of a setting are read and printed."""

    @property
    def allowed(self) -> str: ...

    def parse(self, args: Sequence[str]) -> T:
        """Raises ValueError with Valkey's wording."""

    def show(self, value: T) -> str: ...


@dataclass(frozen=True)
class Integer:
    """A whole number within inclusive bounds."""

    lowest: int
    highest: int

    @property
    def allowed(self) -> str:
        return f"a number between {self.lowest} and {self.highest}"

    def parse(self, args: Sequence[str]) -> int:
        text = single(args)
        if not _DECIMAL.fullmatch(text) or abs(int(text)) > _INT64_MAX:
            raise ValueError("argument couldn't be parsed into an integer")
        return _within(int(text), self.lowest, self.highest, "d")

    def show(self, value: int) -> str:
        return str(value)


@dataclass(frozen=True)
class Memory:
    """A number of bytes within inclusive bounds, with Valkey's units. or_none: 0, for no limit, is allowed as well."""

    lowest: int
    highest: int
    or_none: bool = False

    @property
    def allowed(self) -> str:
        within = f"a number of bytes between {self.show(self.lowest)} and {self.show(self.highest)}, such as 64mb"
        return f"0 for no limit, or {within}" if self.or_none else within

    def parse(self, args: Sequence[str]) -> int:
        match = _MEMORY.fullmatch(single(args).lower())
        if match is None:
            raise ValueError("argument must be a memory value")
        number = int(match["number"]) * _UNITS_BYTES[match["unit"] or "b"]
        return number if self.or_none and number == 0 else _within(number, self.lowest, self.highest, "d")

    def show(self, value: int) -> str:
        return shown_bytes(value)


@dataclass(frozen=True)
class MemoryOrPercent:
    """A number of bytes with Valkey's units, or a percentage, which Valkey keeps as a negative number."""

    @property
    def allowed(self) -> str:
        return "0 for no limit, a number of bytes such as 64mb, or a percentage up to 100%"

    def parse(self, args: Sequence[str]) -> int:
        text = single(args)
        number = bytes_of(text)
        if number is None:
            percentage = text.removesuffix("%")
            if text == percentage or not _DECIMAL.fullmatch(percentage) or int(percentage) < 0:
                raise ValueError("argument must be a memory or percent value")
            number = -int(percentage)
        if number < -100:
            raise ValueError("percentage argument must be less or equal to 100")
        return number

    def show(self, value: int) -> str:
        return f"{-value}%" if value < 0 else str(value)


@dataclass(frozen=True)
class Permissions:
    """The mode of a file, in octal."""

    @property
    def allowed(self) -> str:
        return "an octal number between 0 and 777"

    def parse(self, args: Sequence[str]) -> int:
        text = single(args)
        if not _OCTAL.fullmatch(text):
            raise ValueError("argument couldn't be parsed as an octal number")
        return _within(int(text or "0", 8), 0, 0o777, "o")

    def show(self, value: int) -> str:
        return f"{value:o}"


@dataclass(frozen=True)
class Switch:
    """One of two words."""

    on: str = "yes"
    off: str = "no"

    @property
    def allowed(self) -> str:
        return f"{self.on} or {self.off}"

    def parse(self, args: Sequence[str]) -> bool:
        text = single(args).lower()
        if text not in (self.on, self.off):
            raise ValueError(f"argument must be '{self.on}' or '{self.off}'")
        return text == self.on

    def show(self, value: bool) -> str:
        return self.on if value else self.off


@dataclass(frozen=True)
class Choice:
    """One of several words."""

    words: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return "one of " + ", ".join(self.words)

    def parse(self, args: Sequence[str]) -> str:
        text = single(args).lower()
        if text not in self.words:
            raise ValueError("argument(s) must be one of the following: " + ", ".join(self.words))
        return text

    def show(self, value: str) -> str:
        return value


@dataclass(frozen=True)
class Text:
    """Any text; `what` describes it."""

    what: str
    may_be_empty: bool = True

    @property
    def allowed(self) -> str:
        return self.what

    def parse(self, args: Sequence[str]) -> str:
        text = single(args)
        if not text and not self.may_be_empty:
            raise ValueError("argument can't be empty")
        return text

    def show(self, value: str) -> str:
        return value


@dataclass(frozen=True)
class TitleTemplate:
    """What a process calls itself, with variables in braces."""

    @property
    def allowed(self) -> str:
        variables = ", ".join(f"{{{name}}}" for name in process_title.VARIABLES)
        return f"text, not empty, with no variables but {variables}"

    def parse(self, args: Sequence[str]) -> str:
        text = single(args)
        process_title.check(text)
        return text

    def show(self, value: str) -> str:
        return value


@dataclass(frozen=True)
class OptionalText:
    """Text that may be missing: nothing by default, and an empty value means nothing too."""

    what: str

    @property
    def allowed(self) -> str:
        return self.what

    def parse(self, args: Sequence[str]) -> str | None:
        return single(args) or None

    def show(self, value: str | None) -> str:
        return value or ""


@dataclass(frozen=True)
class Password:
    """A secret that may be missing."""

    @property
    def allowed(self) -> str:
        return "a password"

    def parse(self, args: Sequence[str]) -> SecretStr | None:
        text = single(args)
        return SecretStr(text) if text else None

    def show(self, value: SecretStr | None) -> str:
        return str(value) if value else ""


@dataclass(frozen=True)
class BearerToken(Password):
    """A secret that fits into HTTP's Authorization header."""

    @property
    def allowed(self) -> str:
        return "a token of letters, digits and - . _ ~ + / ="

    def parse(self, args: Sequence[str]) -> SecretStr | None:
        if not _TOKEN.fullmatch(single(args)):
            raise ValueError("argument must be a token")
        return super().parse(args)


@dataclass(frozen=True)
class KeyPassword(Password):
    """A secret that CONFIG GET and CONFIG REWRITE show, as Valkey's do."""

    def show(self, value: SecretStr | None) -> str:
        return value.get_secret_value() if value else ""


@dataclass(frozen=True)
class Addresses:
    """Up to 16 addresses to listen on; a `-` before one makes it optional, `*` is every address of IPv4."""

    may_be_empty: bool = True

    @property
    def allowed(self) -> str:
        return f"{'at most' if self.may_be_empty else '1 to'} {_BIND_ADDRESSES_MAX} addresses"

    def parse(self, args: Sequence[str]) -> tuple[str, ...]:
        words = args[0].split(" ") if len(args) == 1 else args
        addresses = tuple(word for word in words if word)
        if len(addresses) > _BIND_ADDRESSES_MAX:
            raise ValueError("Too many bind addresses specified.")
        if not addresses and not self.may_be_empty:
            raise ValueError("argument can't be empty")
        return addresses

    def show(self, value: tuple[str, ...]) -> str:
        return " ".join(value)


@dataclass(frozen=True)
class Seconds:
    """A duration in seconds, fractions allowed."""

    highest: int

    @property
    def allowed(self) -> str:
        return f"a number of seconds between 0 and {self.highest}"

    def parse(self, args: Sequence[str]) -> float:
        text = single(args)
        if not _SECONDS.fullmatch(text):
            raise ValueError("argument couldn't be parsed into a number of seconds")
        if float(text) > self.highest:
            raise ValueError(f"argument must be between 0 and {self.highest} inclusive")
        return float(text)

    def show(self, value: float) -> str:
        return f"{value:g}"


@dataclass(frozen=True)
class Milliseconds:
    """A duration, kept in seconds; `off` (None) is none."""

    highest_s: int

    @property
    def allowed(self) -> str:
        return f"off or a duration such as 10ms, 500us or 1s, at most {self.highest_s}s; a bare number is milliseconds"

    def parse(self, args: Sequence[str]) -> float | None:
        text = single(args).lower()
        if text == "off":
            return None
        match = _DURATION.fullmatch(text)
        if match is None:
            raise ValueError("argument couldn't be parsed into a duration")
        seconds = float(match["number"]) * _UNITS_S[match["unit"] or "ms"]
        if seconds > self.highest_s:
            raise ValueError(f"argument must be between 0 and {self.highest_s}s inclusive")
        return seconds

    def show(self, value: float | None) -> str:
        return "off" if value is None else f"{value * 1000:g}ms"


@dataclass(frozen=True)
class Commands:
    """Names of commands, separated by commas; `CLIENT *` is every subcommand, an empty value no command."""

    @property
    def allowed(self) -> str:
        return 'names of commands separated by commas, such as "PING, CLIENT *"'

    def parse(self, args: Sequence[str]) -> tuple[str, ...]:
        names = tuple(" ".join(name.upper().split()) for name in single(args).split(",") if name.strip())
        if not all(_COMMAND.fullmatch(name) for name in names):
            raise ValueError("argument must be names of commands separated by commas")
        return names

    def show(self, value: tuple[str, ...]) -> str:
        return ", ".join(value)


@dataclass(frozen=True)
class Auto:
    """A number, or `auto` (None) to leave the choice to us."""

    number: Integer

    @property
    def allowed(self) -> str:
        return f"auto or {self.number.allowed}"

    def parse(self, args: Sequence[str]) -> int | None:
        return None if single(args).lower() == "auto" else self.number.parse(args)

    def show(self, value: int | None) -> str:
        return "auto" if value is None else str(value)


def bytes_of(text: str) -> int | None:
    """What Valkey reads as a number of bytes, in 64 bits with a sign; None for what it does not."""
    match = _MEMORY_OF_VALKEY.fullmatch(text.lower())
    if match is None or (number := int(match["number"] or "0")) > _UINT64_MAX:
        return None
    wrapped = number * _UNITS_BYTES[match["unit"] or "b"] & _UINT64_MAX
    return wrapped if wrapped <= _INT64_MAX else wrapped - _UINT64_MAX - 1


def shown_bytes(number: int) -> str:
    """In the largest unit that needs no fraction, as CONFIG REWRITE writes it."""
    for unit in ("gb", "mb", "kb"):
        if number > 0 and number % _UNITS_BYTES[unit] == 0:
            return f"{number // _UNITS_BYTES[unit]}{unit}"
    return str(number)


def single(args: Sequence[str]) -> str:
    """The only word; Valkey's ValueError when there are none or several."""
    if len(args) != 1:
        raise ValueError("wrong number of arguments")
    return args[0]


def _within(number: int, lowest: int, highest: int, notation: str) -> int:
    if not lowest <= number <= highest:
        raise ValueError(f"argument must be between {lowest:{notation}} and {highest:{notation}} inclusive")
    return number
