"""Entity tags: the validator in ETag, and its comparison (RFC 9110 §8.8.3)."""

from __future__ import annotations

import re
from typing import Final

from .headers import Headers

# Space is not an etagc, but it occurs, and is harmless between quotes.
_TAG: Final = r'(?:W/)?+"[\x20\x21\x23-\x7e\x80-\xff]*+"'
_ENTITY_TAG: Final = re.compile(_TAG)
TAG_IN_LIST: Final = re.compile(rf"(?:^|,)[ \t]*+({_TAG})[ \t]*+(?=,|$)")
"""A tag in If-Match or If-None-Match."""


def entity_tag(headers: Headers) -> str | None:
    """The ETag of a response, if there is exactly one and it is well-formed."""
    value = headers.get("etag")
    return value if value is not None and _ENTITY_TAG.fullmatch(value) else None


def opaque_tag(headers: Headers) -> str | None:
    """The single ETag of a response if it is malformed, most often unquoted. Its origin may recognise it, and it can be
    compared for equality. It is never strong."""
    values = headers.get_all("etag")
    return values[0] if len(values) == 1 and values[0] and not _ENTITY_TAG.fullmatch(values[0]) else None


def strong_match(a: str, b: str) -> bool:
    """RFC 9110 §8.8.3.2: "equivalent if both are not weak and their opaque-tags match character-by-character"."""
    return a == b and not a.startswith("W/")


def weak_match(a: str, b: str) -> bool:
    """RFC 9110 §8.8.3.2: equivalent if the opaque-tags match, "regardless of either or both being tagged as weak"."""
    return a.removeprefix("W/") == b.removeprefix("W/")
