"""Environment variables as the OpenTelemetry specification reads them.

Owns the kinds of values (number, choice, switch, list of pairs) and the warnings about what cannot be used. Never
decides what a variable is for, and never repeats a value that may be a secret.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import unquote

_SHOWN: Final = 40  # characters of a wrong value in a warning
_HEADER_NAME: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE: Final = re.compile(r"[\x20-\x7e\t]*")


class Environment:
    """Reads variables; an empty one counts as unset. What cannot be used becomes one sentence in `warnings`."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables
        self.warnings: list[str] = []

    def text(self, *names: str) -> str | None:
        """The first of these variables that is set, without the white space around it."""
        for name in names:
            value = self._variables.get(name, "").strip()
            if value:
                return value
        return None

    def name_of(self, *names: str) -> str:
        """Which of them `text` reads; the last one when none is set."""
        return next((name for name in names if self.text(name)), names[-1])

    def number(self, *names: str, default: float, least: float = 0, whole: bool = True) -> float:
        """A number of at least `least`."""
        value = self.text(*names)
        if value is None:
            return default
        try:
            number = float(int(value)) if whole else float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if not (least <= number < math.inf):
            kind = "a whole number" if whole else "a number"
            self._unusable(names, value, f"{kind} of at least {least:g}", f"{default:g}")
            return default
        return number

    def choice(self, *names: str, allowed: Sequence[str], default: str) -> str:
        """One of a few words, in any case."""
        value = self.text(*names)
        if value is None:
            return default
        if value.lower() in allowed:
            return value.lower()
        self._unusable(names, value, "one of " + ", ".join(allowed), default)
        return default

    def switch(self, *names: str) -> bool:
        """Only `true` is true."""
        return self.choice(*names, allowed=("true", "false"), default="false") == "true"

    def words(self, name: str) -> list[str]:
        """A list with commas, in lower case."""
        return [word.strip().lower() for word in (self.text(name) or "").split(",") if word.strip()]

    def pairs(self, *names: str) -> dict[str, str]:
        """`key=value,key=value`, both percent-encoded. The values are secrets to everyone but the caller."""
        pairs = {}
        for number, item in enumerate((self.text(*names) or "").split(","), 1):
            key, equals, value = item.partition("=")
            if key.strip() and equals:
                pairs[unquote(key.strip())] = unquote(value.strip())
            elif item.strip():
                self.warn(f"{self.name_of(*names)}: entry {number} is not key=value and is left out.")
        return pairs

    def headers(self, *names: str) -> dict[str, str]:
        """Pairs that HTTP and gRPC can send, names in lower case."""
        headers = {}
        for number, (name, value) in enumerate(self.pairs(*names).items(), 1):
            if _HEADER_NAME.fullmatch(name.lower()) and _HEADER_VALUE.fullmatch(value):
                headers[name.lower()] = value
            else:
                self.warn(f"{self.name_of(*names)}: header {number} cannot be sent (only ASCII can) and is left out.")
        return headers

    def warn(self, sentence: str) -> None:
        """Say once what was wrong."""
        if sentence not in self.warnings:
            self.warnings.append(sentence)

    def _unusable(self, names: Sequence[str], value: str, wanted: str, default: str) -> None:
        shown = value if len(value) <= _SHOWN else value[:_SHOWN] + "…"
        self.warn(f"{self.name_of(*names)}: {shown!r} is not {wanted}; the default, {default}, is used.")
