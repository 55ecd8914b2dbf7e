"""Error texts without what a client has sent.

Owns which parts of an error reply may hold arguments: Valkey quotes them. It never looks at what is quoted, and hides
too much rather than too little.

    >>> redact_error("ERR unknown command 'FOO', with args beginning with: 'secret' ")
    "ERR unknown command '?'"
"""

from __future__ import annotations

import re

_ARGUMENTS = ", with args beginning with"

# An apostrophe between two letters is none of the quotes: "Can't", "it's". A quote that is never closed reaches to the
# end. Letters and digits are ASCII's, so that compiled code can tell them by their bytes.
_QUOTED = re.compile(
    r"(?P<apostrophe>(?<![A-Za-z0-9])'|'(?![A-Za-z0-9]))(?:.*?(?:(?<![A-Za-z0-9])'|'(?![A-Za-z0-9]))|.*)"
    r'|".*?(?:"|\Z)'
    r"|`.*?(?:`|\Z)",
    re.DOTALL,
)


def redact_error(text: str) -> str:
    """The text with a `?` in the place of everything between quotes, and without the arguments at its end."""
    return _QUOTED.sub(lambda match: f"{match[0][0]}?{match[0][0]}", text.partition(_ARGUMENTS)[0])
