"""Owns the wrapper that keeps a password out of every repr, log and error; never encrypts anything."""

from __future__ import annotations


class SecretStr:
    """A string that shows itself only when asked by name.

    >>> SecretStr("hunter2")
    SecretStr('**********')
    >>> SecretStr("hunter2").get_secret_value()
    'hunter2'
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def get_secret_value(self) -> str:
        return self._value

    def __str__(self) -> str:
        return "**********"

    def __repr__(self) -> str:
        return f"SecretStr('{self}')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretStr) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)
