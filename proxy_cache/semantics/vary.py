"""Variants: which request fields a response depends on, and whether another request has the same (RFC 9111 §4.1)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final

from .directives import TOKEN
from .headers import Headers

_TOKEN: Final = re.compile(TOKEN)
_COMMA: Final = re.compile(r"[ \t]*,[ \t]*")

# RFC 9111 §4.1 allows "adding or removing whitespace, where allowed in the header field's syntax": that is around the
# commas of fields that are lists. In others, a User-Agent say, a comma is just a character.
_LISTS: Final = frozenset(
    {"accept", "accept-charset", "accept-encoding", "accept-language", "prefer", "te", "access-control-request-headers"}
)
# These values end in the index on the disk. Equality is all that is needed of them.
_SECRETS: Final = frozenset({"authorization", "cookie", "x-api-key", "private-token"})


def vary_names(response: Headers) -> tuple[str, ...] | None:
    """The fields that Vary names, lower-case and sorted; ``()`` if absent, ``None`` if no request ever matches."""
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
    return tuple((name, _normalised(name, request)) for name in names)


def _normalised(name: str, request: Headers) -> str | None:
    value = request.get(name)  # "combining multiple header field lines with the same field name"
    if value is None:
        return None
    if name in _SECRETS:
        return "sha256:" + hashlib.sha256(value.encode("latin-1", "replace")).hexdigest()
    if name in _LISTS and '"' not in value:
        return _COMMA.sub(",", value)
    return value


def matches(vary: tuple[tuple[str, str | None], ...], request: Headers) -> bool:
    """Whether the request selects the response that was stored with these values.

    RFC 9111 §4.1: a field that is absent "can only match another request if it is also absent there".
    """
    return all(name != "*" and _normalised(name, request) == value for name, value in vary)


NEVER: Final[tuple[tuple[str, str | None], ...]] = (("*", None),)
"""Selecting values that no request has."""
