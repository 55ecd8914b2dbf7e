"""Owns the environment variables that stand for `requirepass`, so that a container needs no shell to set a password,
and the reading of files that hold a secret. Never shows what they hold, and never decides whether the variables count:
arguments and conf files come first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sidecar.conf import ConfigurationError, Directive, Origin, decode, file_path

PASSWORD: Final = "VALKEY_PASSWORD"
PASSWORD_FILE: Final = "VALKEY_PASSWORD_FILE"
VARIABLES: Final = {
    PASSWORD: "The default user's password.",
    PASSWORD_FILE: "A file that holds it, such as a mounted secret; one newline at its end does not count.",
}
"""Each with what it is for, for the documentation."""


def requirepass(environment: Mapping[str, str]) -> Directive | None:
    """The directive that the environment asks for; None without one. An empty variable is one that is not set.

    Values are UTF-8 with lone surrogates, as all text of the configuration.
    Raises ConfigurationError with one line.
    """
    password, path = environment.get(PASSWORD, ""), environment.get(PASSWORD_FILE, "")
    if password and path:
        raise ConfigurationError(f"{PASSWORD} and {PASSWORD_FILE} are both set: keep one of them")
    if path:
        return Directive(
            "requirepass", (read_secret(path, PASSWORD_FILE, "password"),), Origin("environment", PASSWORD_FILE)
        )
    if password:
        return Directive("requirepass", (password,), Origin("environment", PASSWORD))
    return None


def read_secret(path: str, setting: str, what: str) -> str:
    """What the file holds that a setting names; one newline at its end does not count.

    what: the secret in words. Raises ConfigurationError with one line.
    """
    # The path is not shown: people confuse the two settings, and then it is the secret.
    try:
        secret = file_path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{setting}: it cannot be read: {error.strerror}") from None
    secret = secret.removesuffix(b"\n").removesuffix(b"\r")
    if not secret:
        raise ConfigurationError(f"{setting}: it is empty: write the {what} into it, or leave the setting out")
    if b"\0" in secret:
        raise ConfigurationError(f"{setting}: it has a NUL byte: a {what} is text")
    return decode(secret)
