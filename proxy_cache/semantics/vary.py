"""Variants: the request fields that a response depends on, and their comparison (RFC 9111 §4.1)."""

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
"""Names in Vary. A response with more matches no request, since each hit compares all of them."""
NORMALISED_MAX: Final = 2048
"""Characters of a value that is normalised. A longer one only equals itself: that costs its sender a variant, while
parsing it once for each stored variant would cost all others time."""
_REMEMBER_LENGTH: Final = 256  # characters of values whose normalised form is cached

SHORT: Final = 128
"""Characters of a selecting value that :func:`in_short` leaves as it is."""

_TOKEN: Final = re.compile(TOKEN)
# Begins with the semicolon, not with the space before it: otherwise the search would restart at each space of a run.
_WEIGHT: Final = re.compile(r";[ \t]*+q=([01](?:\.[0-9]{0,3}+)?+)", re.IGNORECASE)

# RFC 9111 §4.1 allows normalising values "in a way that is known to have identical semantics, according to the header
# field's specification": white space around commas in list fields. In other fields, a User-Agent say, a comma is just a
# character.
_LISTS: Final = frozenset({"prefer", "te", "access-control-request-headers", "cache-control"})
# In these, members have weights (RFC 9110 §12.4.2), and case does not count (§8.3.1, §8.3.2, §8.4.1, §12.5.4).
_NEGOTIATION: Final = frozenset({"accept", "accept-charset", "accept-encoding", "accept-language"})
# The order among equal weights is meaningless by the standard, but for some fields servers take the first one ("some
# recipients treat the order […] as an indication of descending priority", §12.5.4): it is preserved.
_ORDERED: Final = frozenset({"accept", "accept-language"})
# Credentials must not be in the index on disk, and only have to be compared for equality.
_DIGEST: Final = "sha256:"


def vary_names(response: Headers) -> tuple[str, ...] | None:
    """The fields that Vary names, lower-case and sorted; ``()`` if absent, ``None`` if no request ever matches.

    That is so for ``*``, for an invalid field name, and for more than :data:`NAMES_MAX` names.
    """
    if "vary" not in response:
        return ()
    names = set()
    for value in response.get_all("vary"):
        members = value.split(",", 2 * NAMES_MAX)  # a rest in the last member is an invalid name
        for member in members:
            name = member.strip(" \t").lower()
            if not name:
                continue
            # RFC 9111 §4.1: 'A stored response with a Vary header field value containing a member "*" always fails to
            # match.' An invalid name can't be compared either.
            if name == "*" or _TOKEN.fullmatch(name) is None:
                return None
            names.add(name)
            if len(names) > NAMES_MAX:
                return None
    return tuple(sorted(names))


def selecting_values(
    names: Iterable[str], request: Headers, credentials: Set[str] = frozenset()
) -> tuple[tuple[str, str | None], ...]:
    """The request's normalised values of these fields; ``None`` for an absent field.

    Credentials (those of :mod:`.credentials`, and ``credentials``) are digested.
    """
    return tuple([(name, _selecting_value(name, request, credentials)) for name in names])


def _selecting_value(name: str, request: Headers, credentials: Set[str]) -> str | None:
    value = request.get(name)  # "combining multiple header field lines with the same field name"
    # A value that looks like a digest is digested, too: so a digest never equals a client's plain value.
    if value is not None and (is_credential(name, credentials) or value.startswith(_DIGEST)):
        return _digest(value)
    return normalised(name, value)


def in_short(
    values: tuple[tuple[str, str | None], ...], request: Headers, longest: int = SHORT
) -> tuple[tuple[str, str | None], ...]:
    """Selecting values of this request in a compact form: longer ones are digests of the value as sent, which only
    match the same spelling."""
    return tuple(
        [
            (name, value if value is None or len(value) <= longest else _digest(request.get(name) or ""))
            for name, value in values
        ]
    )


def _digest(value: str) -> str:
    return _DIGEST + hashlib.sha256(value.encode("latin-1", "replace")).hexdigest()


def normalised(name: str, value: str | None) -> str | None:
    """The canonical spelling of a value. Idempotent."""
    if value is None or len(value) > NORMALISED_MAX or '"' in value:
        return value
    if name in _NEGOTIATION:
        return (_remembered if len(value) <= _REMEMBER_LENGTH else _negotiation)(value, name in _ORDERED)
    if name in _LISTS:
        return ",".join([member.strip(" \t") for member in value.split(",")])
    return value


def _negotiation(value: str, ordered: bool) -> str:
    """The members of a list of preferences in canonical spelling, the strongest first; parameters are unchanged."""
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
    """Whether the request selects a response that was stored with these values.

    RFC 9111 §4.1: a field that is absent "can only match another request if it is also absent there".
    """
    if not vary:
        return True
    # (Entries of earlier versions may exceed the limit.)
    return len(vary) <= NAMES_MAX and all(_selects(name, value, request) for name, value in vary)


def mismatches(vary: tuple[tuple[str, str | None], ...], request: Headers) -> tuple[str, ...]:
    """The fields by which a request does not select a response that was stored with these values."""
    return tuple(name for name, value in vary if not _selects(name, value, request))


def _selects(name: str, value: str | None, request: Headers) -> bool:
    given = request.get(name)
    if given is None or value is None or name == "*":
        return given is value and name != "*"
    # Whether to compare digests was decided when the response was stored.
    return (_digest(given) if value.startswith(_DIGEST) else normalised(name, given)) == value


NEVER: Final[tuple[tuple[str, str | None], ...]] = (("*", None),)
"""Selecting values that match no request."""
