"""Error texts without what a client has sent.

Owns which parts of an error reply may hold arguments: Valkey quotes them. It never looks at what is quoted, and hides
too much rather than too little.

    >>> redact_error("ERR unknown command 'FOO', with args beginning with: 'secret' ")
    "ERR unknown command '?'"
"""

from __future__ import annotations

import re

_ARGUMENTS = ", with args beginning with"
# An apostrophe inside a word opens nothing: "Can't".
_OPENING = re.compile(r"""(?<!\w)'|"|`""")


def redact_error(text: str) -> str:
    """The text with a `?` in the place of everything between quotes, and without the arguments at its end.

    An argument may hold quotes itself: what one opens reaches to the last one of its kind that no word follows, and to
    the end of the text where there is none.
    """
    text = text.partition(_ARGUMENTS)[0]
    parts: list[str] = []
    at = 0
    while opening := _OPENING.search(text, at):
        quote = opening[0]
        parts += [text[at : opening.end()], "?"]
        at = _closing(text, quote, opening.end())
        if at < 0:
            return "".join(parts)
        parts.append(quote)
        at += 1
    return "".join([*parts, text[at:]])


def _closing(text: str, quote: str, start: int) -> int:
    """Where the argument ends; -1: nowhere."""
    at = text.rfind(quote, start)
    while at >= 0 and text[at + 1 : at + 2].isalnum():
        at = text.rfind(quote, start, at)
    return at
