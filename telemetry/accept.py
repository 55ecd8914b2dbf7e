"""HTTP content negotiation: what of an offer a client's Accept header likes best.

Owns the header's grammar and the order of preference of RFC 9110 (12.4.2 and 12.5.1): q-values, wildcards, quoted
parameters, names in any case. What doesn't follow the grammar counts as not said. Knows no media type itself.

    best(["text/plain;q=0.2, application/*"], [Offer("text", "plain", {}), Offer("application", "json", {})])

Not a library's: those that follow the RFC take five megabytes and more to import (werkzeug, WebOb), and the small ones
don't (mimeparse takes `version=9` for any version and parts quoted commas; prometheus-client knows no q-values).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

# All quantifiers are possessive: a strange header takes no more time than another.
_TOKEN: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_QUOTED: Final = r'"(?:[^"\\]|\\.)*+"'
_PARAMETER: Final = re.compile(rf"[ \t]*+;[ \t]*+(?:({_TOKEN})=({_TOKEN}|{_QUOTED}))?+")
_RANGE: Final = re.compile(rf"({_TOKEN})/({_TOKEN})((?:{_PARAMETER.pattern})*+)")
# One element of the list: commas in quotes belong to it.
_ELEMENT: Final = re.compile(rf'(?:[^",]|{_QUOTED}|")++')
_QUALITY: Final = re.compile(r"0(?:\.[0-9]*)?|1(?:\.0*)?")
_ESCAPED: Final = re.compile(r"\\(.)")

Accepts = Callable[[str], bool]
"""Whether a parameter's value, in lower case, is one that this offer has."""


class Offer(NamedTuple):
    """A media type that can be sent. parameters: those that a range may ask for."""

    type: str
    subtype: str
    parameters: Mapping[str, Accepts]


class Range(NamedTuple):
    """One media range of the header, in lower case. quality: 0 means "not this"."""

    type: str
    subtype: str
    parameters: Mapping[str, str]
    quality: float

    def likes(self, offer: Offer) -> bool:
        return (
            self.type in ("*", offer.type)
            and self.subtype in ("*", offer.subtype)
            and all(name in offer.parameters and offer.parameters[name](text) for name, text in self.parameters.items())
        )

    @property
    def precision(self) -> tuple[bool, bool, int]:
        """The more precise range decides about an offer."""
        return self.type != "*", self.subtype != "*", len(self.parameters)


class Choice(NamedTuple):
    """The offer that is liked best, and the range that says so."""

    offer: Offer
    range: Range


def best(headers: Iterable[str], offers: Sequence[Offer]) -> Choice | None:
    """What to send; None where nothing is acceptable, or nothing was asked for.

    headers: the values of all Accept headers. Of offers that are liked equally it's the one that was asked for more
    precisely, then the one that was asked for first, then the first one.
    """
    ranges = list(_ranges(",".join(headers)))
    choices: list[tuple[float, tuple[bool, bool, int], int, Choice]] = []
    for offer in offers:
        # The first of equally precise ones.
        found = max((each for each in ranges if each.likes(offer)), key=lambda each: each.precision, default=None)
        if found is not None and found.quality > 0:
            choices.append((found.quality, found.precision, -ranges.index(found), Choice(offer, found)))
    return max(choices, key=lambda each: each[:3])[3] if choices else None


def _ranges(header: str) -> Iterator[Range]:
    for element in _ELEMENT.findall(header):
        matched = _RANGE.fullmatch(element.strip(" \t"))
        if matched is None or (matched[1] == "*" and matched[2] != "*"):
            continue
        parameters = {name.lower(): _plain(value).lower() for name, value in _PARAMETER.findall(matched[3]) if name}
        quality = parameters.pop("q", "1")
        if _QUALITY.fullmatch(quality):
            yield Range(matched[1].lower(), matched[2].lower(), parameters, float(quality))


def _plain(value: str) -> str:
    return _ESCAPED.sub(r"\1", value[1:-1]) if value.startswith('"') else value
