"""Takes what a client has sent out of an error reply's text. Owns the rule; never changes the error's first word.

Valkey puts arguments into quotes, or behind "with args beginning with": both may be keys, values and passwords.

    >>> redact("ERR unknown command 'SECRET', with args beginning with: 'a' 'b' ")
    "ERR unknown command '?'"
    >>> redact("MISCONF Valkey is configured to save RDB snapshots, but it's currently unable to persist to disk.")
    "MISCONF Valkey is configured to save RDB snapshots, but it's currently unable to persist to disk."
"""

from __future__ import annotations

import re
from typing import Final

_ARGUMENTS: Final = ", with args beginning with"
# The few errors of Valkey that show an argument without quotes, at their end.
_UNQUOTED: Final = re.compile(
    r"((?:Unrecognized REPLCONF option|Unsupported rdb-filter-only option|Unknown option given"
    r"|Unrecognized version format|(?:Unknown|Invalid) node name): "
    r"|Unsupported option |Unknown argument |(?:Unknown|about) node |\bmember (?=.* does not)).*",
    re.DOTALL,
)
# An apostrophe inside a word opens nothing.
_OPENING: Final = re.compile(r"""(?<!\w)'|"|`""")


def redact(text: str) -> str:
    """The text with `?` for everything between quotes, and for an argument without them where Valkey has one.

    An argument may hold quotes itself: what one opens reaches to the last one of its kind that can close it, and to the
    text's end when none can.
    """
    text = _UNQUOTED.sub(r"\1?", text.partition(_ARGUMENTS)[0])
    parts = []
    at = 0
    while (opening := _OPENING.search(text, at)) is not None:
        quote = opening[0]
        parts += [text[at : opening.end()], "?"]
        at = _closing(text, quote, opening.end())
        if at < 0:
            return "".join(parts)
        parts.append(quote)
        at += 1
    return "".join([*parts, text[at:]])


def _closing(text: str, quote: str, start: int) -> int:
    """Where the last quote stands that is followed by no word; -1: nowhere."""
    at = text.rfind(quote, start)
    while at >= 0 and text[at + 1 : at + 2].isalnum():
        at = text.rfind(quote, start, at)
    return at


SCRIPTS: Final = frozenset(
    {
        "EVAL",
        "EVALSHA",
        "EVAL_RO",
        "EVALSHA_RO",
        "FCALL",
        "FCALL_RO",
        "FUNCTION LOAD",
        "FUNCTION RESTORE",
        "SCRIPT LOAD",
    }
)
_ENGINES_OWN: Final = ("NOSCRIPT ", "NOPERM ", "NOAUTH ", "BUSY ", "LOADING ", "READONLY ", "OOM ", "MISCONF ")
_CODE: Final = re.compile(r"[A-Z][A-Z0-9_]{0,31}(?=\s|$)")
_LACKING: Final = re.compile(r"ERR unknown (?:sub)?command (['`])([^'`]+)\1")
_OTHER: Final = "_OTHER"


def redact_reply(command: str, text: str) -> str:
    """The text of an error reply to this command. What a script says may be anything: only its code is shown.

    command: as the span shows it. A name that stands there is no secret: the engine may say that it does not know it.

        >>> redact_reply("SENTINEL MASTERS", "ERR unknown command 'sentinel', with args beginning with: 'masters' ")
        "ERR unknown command 'SENTINEL'"
    """
    if command not in SCRIPTS or text.startswith(_ENGINES_OWN):
        shown = redact(text)
        lacking = _LACKING.match(text)
        if lacking is not None and command != _OTHER and lacking[2].upper() in command.split(" "):
            return shown.replace("?", lacking[2].upper(), 1)
        return shown
    code = _CODE.match(text)
    return f"{code[0] if code else 'ERR'} (a script's own words are not shown)"
