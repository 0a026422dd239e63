"""Targeted cache control (RFC 9213): a field for one kind of cache that replaces Cache-Control and Expires.

``CDN-Cache-Control: max-age=600`` is only for the caches of a content delivery network, so this cache uses such a field
only if the operator has named it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import http_sf

from .directives import LENGTH_MAX, TOO_LONG, CacheControl, cache_control_of, parse_cache_control
from .headers import Headers


def response_directives(headers: Headers, targeted: Iterable[str] = ()) -> tuple[CacheControl, str | None]:
    """The directives of a response for this cache, and the targeted field they are from (``None``: Cache-Control).

    ``targeted``: lower-case field names, in order of preference (RFC 9213 §2.2, the target list).
    """
    for name in targeted:
        if name in headers:
            directives = parse_targeted(headers.get(name) or "")
            if directives is not None:
                return directives, name
    return parse_cache_control(headers.get_all("cache-control")), None


def parse_targeted(value: str) -> CacheControl | None:
    """The directives of a targeted field; ``None`` if it must be ignored.

    RFC 9213 §2.1: "If a targeted field in a given response is empty, or a parsing error is encountered, that field MUST
    be ignored by the cache (i.e., it behaves as if the field were not present […])".
    One beyond :data:`~.directives.LENGTH_MAX` counts as restricting.
    """
    if len(value) > LENGTH_MAX:
        return TOO_LONG
    try:
        members: Any = http_sf.parse(value.encode("latin-1", "replace"), tltype="dictionary")
    except ValueError:
        return None
    if not members:
        return None
    directives = []
    for name, (member, _) in members.items():  # "Parameters received on directives are to be ignored"
        if member is False:
            continue
        directives.append((name, None if member is True else _text(member)))
    return cache_control_of(directives)


def _text(member: Any) -> str:
    """A member as an argument of Cache-Control; empty unless it is an Integer, Token or String."""
    if isinstance(member, int):
        return str(max(member, 0))
    return str(member) if isinstance(member, str) else ""
