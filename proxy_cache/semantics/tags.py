"""Tags of a response, by which it is purged together with others: ``Surrogate-Key`` (names with spaces between them, as
Fastly and Varnish's xkey have it) and ``Cache-Tag`` (with commas, as Cloudflare and Akamai have it)."""

from __future__ import annotations

import re
from typing import Final

from .headers import Headers

TAGS_MAX: Final = 1024
"""Of one response; further ones are not looked at."""
TAG_LENGTH_MAX: Final = 1024
"""Characters; a longer one is not taken."""
_TAG: Final = re.compile(r"[\x21-\x2b\x2d-\x7e]{1,1024}")
_FIELDS: Final = (("surrogate-key", None), ("cache-tag", ","))


def tags_of(headers: Headers) -> tuple[str, ...]:
    """Each once, in order. Upper and lower case differ."""
    found: dict[str, None] = {}
    for name, separator in _FIELDS:
        if name not in headers:
            continue
        for value in headers.get_all(name):
            for tag in value.split(separator):
                if is_tag(tag := tag.strip()):
                    found[tag] = None
                    if len(found) == TAGS_MAX:
                        return tuple(found)
    return tuple(found)


def has_tag(headers: Headers, tag: str) -> bool:
    """Whether a response has this one, which :func:`is_tag`. It looks at all of them, in much less time than
    :func:`tags_of` takes, which a purge does not have for each of very many entries."""
    return any(
        tag in ([one.strip() for one in value.split(separator)] if separator else value.split())
        for name, separator in _FIELDS
        if name in headers
        for value in headers.get_all(name)
    )


def is_tag(text: str) -> bool:
    """Whether it can be one: visible ASCII, without commas."""
    return _TAG.fullmatch(text) is not None
