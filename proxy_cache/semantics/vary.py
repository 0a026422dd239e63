"""Variants: which request fields a response depends on, and whether another request has the same (RFC 9111 §4.1)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from .directives import TOKEN
from .headers import Headers

_TOKEN: Final = re.compile(TOKEN)
_COMMA: Final = re.compile(r"[ \t]*,[ \t]*")
_WEIGHT: Final = re.compile(r"[ \t]*;[ \t]*q=([01](?:\.[0-9]{0,3})?)", re.IGNORECASE)

# RFC 9111 §4.1 allows to normalise values "in a way that is known to have identical semantics, according to the header
# field's specification": white space around commas in fields that are lists. In others, a User-Agent say, a comma is
# just a character.
_LISTS: Final = frozenset({"prefer", "te", "access-control-request-headers", "cache-control"})
# In these, members have weights (RFC 9110 §12.4.2), and case does not count (§8.3.1, §8.3.2, §8.4.1, §12.5.4).
_NEGOTIATION: Final = frozenset({"accept", "accept-charset", "accept-encoding", "accept-language"})
# Among equal weights any order is the same by the standard, but in some fields there are servers which take the first
# ("some recipients treat the order […] as an indication of descending priority", §12.5.4): left as it is.
_ORDERED: Final = frozenset({"accept", "accept-language"})
# These values end in the index on the disk. Equality is all that is needed of them.
_SECRETS: Final = frozenset({"authorization", "cookie", "x-api-key", "private-token"})


def vary_names(response: Headers) -> tuple[str, ...] | None:
    """The fields that Vary names, lower-case and sorted; ``()`` if absent, ``None`` if no request ever matches."""
    if "vary" not in response:
        return ()
    names = set()
    for value in response.get_all("vary"):
        for member in value.split(","):
            name = member.strip(" \t").lower()
            if not name:
                continue
            # RFC 9111 §4.1: 'A stored response with a Vary header field value containing a member "*" always fails to
            # match.' What is no field name can't be compared either.
            if name == "*" or _TOKEN.fullmatch(name) is None:
                return None
            names.add(name)
    return tuple(sorted(names))


def selecting_values(names: Iterable[str], request: Headers) -> tuple[tuple[str, str | None], ...]:
    """The request's values of those fields, normalised; ``None`` for a field that it doesn't have.

    Credentials come as a digest.
    """
    return tuple([(name, _selecting_value(name, request)) for name in names])


def _selecting_value(name: str, request: Headers) -> str | None:
    value = request.get(name)  # "combining multiple header field lines with the same field name"
    if value is not None and name in _SECRETS:
        return "sha256:" + hashlib.sha256(value.encode("latin-1", "replace")).hexdigest()
    return normalised(name, value)


def normalised(name: str, value: str | None) -> str | None:
    """The value in the one spelling that stands for all that mean the same. Idempotent."""
    if value is None or '"' in value:
        return value
    if name in _NEGOTIATION:
        normalise = _negotiation if len(value) <= _REMEMBER_LENGTH else _negotiation.__wrapped__
        return normalise(value, name in _ORDERED)
    if name in _LISTS:
        return _COMMA.sub(",", value)
    return value


_REMEMBER_LENGTH: Final = 512
"""Characters of the longest value that is remembered in its one spelling."""


@lru_cache(maxsize=1024)
def _negotiation(value: str, ordered: bool) -> str:
    """The members of a list of preferences, the strongest first, in one spelling; parameters are left as they are."""
    members: dict[str, float] = {}
    for member in value.split(","):
        member = member.strip(" \t")
        if not member:
            continue
        weight = _WEIGHT.search(member)
        quality = float(weight[1]) if weight else 1.0
        name, semicolon, parameters = (member[: weight.start()] if weight else member).partition(";")
        rest = member[weight.end() :] if weight else ""
        text = f"{name.strip().lower()}{semicolon}{parameters.strip()}"
        members.setdefault(f"{text};q={quality:g}{rest}" if weight and quality != 1 else text + rest, quality)
    listed = list(members) if ordered else sorted(members)
    return ",".join(sorted(listed, key=lambda member: -members[member]))


def matches(vary: tuple[tuple[str, str | None], ...], request: Headers) -> bool:
    """Whether the request selects the response that was stored with these values.

    RFC 9111 §4.1: a field that is absent "can only match another request if it is also absent there".
    """
    return not vary or all(name != "*" and _selecting_value(name, request) == value for name, value in vary)


NEVER: Final[tuple[tuple[str, str | None], ...]] = (("*", None),)
"""Selecting values that no request has."""
