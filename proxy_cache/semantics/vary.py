"""Variants: which request fields a response depends on, and whether another request has the same (RFC 9111 §4.1)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Set
from functools import lru_cache
from typing import Final

from .credentials import is_credential
from .directives import TOKEN
from .headers import Headers

NAMES_MAX: Final = 32
"""Fields that Vary may name. A response with more matches no request: each hit compares all of them."""
NORMALISED_MAX: Final = 2048
"""Characters of the longest value that is normalised. A longer one stands for itself alone, which costs its sender a
variant; taking it apart, once for each stored variant, would cost all others time."""
_REMEMBER_LENGTH: Final = 256  # characters; what is longer is normalised each time, and not kept in memory

SHORT: Final = 128
"""Characters of the longest selecting value that is remembered as it is, where many are (:func:`in_short`)."""

_TOKEN: Final = re.compile(TOKEN)
# Begins with the semicolon, not with the space before it: a search would try each space of a long run anew.
_WEIGHT: Final = re.compile(r";[ \t]*+q=([01](?:\.[0-9]{0,3}+)?+)", re.IGNORECASE)

# RFC 9111 §4.1 allows to normalise values "in a way that is known to have identical semantics, according to the header
# field's specification": white space around commas in fields that are lists. In others, a User-Agent say, a comma is
# just a character.
_LISTS: Final = frozenset({"prefer", "te", "access-control-request-headers", "cache-control"})
# In these, members have weights (RFC 9110 §12.4.2), and case does not count (§8.3.1, §8.3.2, §8.4.1, §12.5.4).
_NEGOTIATION: Final = frozenset({"accept", "accept-charset", "accept-encoding", "accept-language"})
# Among equal weights any order is the same by the standard, but in some fields there are servers which take the first
# ("some recipients treat the order […] as an indication of descending priority", §12.5.4): left as it is.
_ORDERED: Final = frozenset({"accept", "accept-language"})
# Credentials would end in the index on the disk. Equality is all that is needed of them.
_DIGEST: Final = "sha256:"


def vary_names(response: Headers) -> tuple[str, ...] | None:
    """The fields that Vary names, lower-case and sorted; ``()`` if absent, ``None`` if no request ever matches.

    That is so with ``*``, with what is no field name, and with more than :data:`NAMES_MAX` names.
    """
    if "vary" not in response:
        return ()
    names = set()
    for value in response.get_all("vary"):
        members = value.split(",", 2 * NAMES_MAX)  # what is left over in the last one is no field name
        for member in members:
            name = member.strip(" \t").lower()
            if not name:
                continue
            # RFC 9111 §4.1: 'A stored response with a Vary header field value containing a member "*" always fails to
            # match.' What is no field name can't be compared either.
            if name == "*" or _TOKEN.fullmatch(name) is None:
                return None
            names.add(name)
            if len(names) > NAMES_MAX:
                return None
    return tuple(sorted(names))


def selecting_values(
    names: Iterable[str], request: Headers, credentials: Set[str] = frozenset()
) -> tuple[tuple[str, str | None], ...]:
    """The request's values of those fields, normalised; ``None`` for a field that it doesn't have.

    Credentials (those of :mod:`.credentials`, and these) come as a digest.
    """
    return tuple([(name, _selecting_value(name, request, credentials)) for name in names])


def _selecting_value(name: str, request: Headers, credentials: Set[str]) -> str | None:
    value = request.get(name)  # "combining multiple header field lines with the same field name"
    # What looks like a digest becomes one, so that a digest is never taken for somebody's value.
    if value is not None and (is_credential(name, credentials) or value.startswith(_DIGEST)):
        return _digest(value)
    return normalised(name, value)


def in_short(
    values: tuple[tuple[str, str | None], ...], request: Headers, longest: int = SHORT
) -> tuple[tuple[str, str | None], ...]:
    """Selecting values of this request, for those who remember many: what is longer comes as a digest of what was sent,
    which only the same spelling matches."""
    return tuple(
        [
            (name, value if value is None or len(value) <= longest else _digest(request.get(name) or ""))
            for name, value in values
        ]
    )


def _digest(value: str) -> str:
    return _DIGEST + hashlib.sha256(value.encode("latin-1", "replace")).hexdigest()


def normalised(name: str, value: str | None) -> str | None:
    """The value in the one spelling that stands for all that mean the same. Idempotent."""
    if value is None or len(value) > NORMALISED_MAX or '"' in value:
        return value
    if name in _NEGOTIATION:
        return (_remembered if len(value) <= _REMEMBER_LENGTH else _negotiation)(value, name in _ORDERED)
    if name in _LISTS:
        return ",".join([member.strip(" \t") for member in value.split(",")])
    return value


def _negotiation(value: str, ordered: bool) -> str:
    """The members of a list of preferences, the strongest first, in one spelling; parameters are left as they are."""
    members: dict[str, float] = {}
    for member in value.split(","):
        member = member.strip(" \t")
        if not member:
            continue
        weight = _WEIGHT.search(member)
        quality = float(weight[1]) if weight else 1.0
        before = member[: weight.start()].rstrip(" \t") if weight else member
        name, semicolon, parameters = before.partition(";")
        rest = member[weight.end() :] if weight else ""
        text = f"{name.strip().lower()}{semicolon}{parameters.strip()}"
        members.setdefault(f"{text};q={quality:g}{rest}" if weight and quality != 1 else text + rest, quality)
    listed = list(members) if ordered else sorted(members)
    return ",".join(sorted(listed, key=lambda member: -members[member]))


_remembered = lru_cache(maxsize=1024)(_negotiation)


def matches(vary: tuple[tuple[str, str | None], ...], request: Headers) -> bool:
    """Whether the request selects the response that was stored with these values.

    RFC 9111 §4.1: a field that is absent "can only match another request if it is also absent there".
    """
    if not vary:
        return True
    # An entry may be older than the limit.
    return len(vary) <= NAMES_MAX and all(_selects(name, value, request) for name, value in vary)


def _selects(name: str, value: str | None, request: Headers) -> bool:
    given = request.get(name)
    if given is None or value is None or name == "*":
        return given is value and name != "*"
    # Whether it is a digest was decided when it was stored.
    return (_digest(given) if value.startswith(_DIGEST) else normalised(name, given)) == value


NEVER: Final[tuple[tuple[str, str | None], ...]] = (("*", None),)
"""Selecting values that no request has."""
