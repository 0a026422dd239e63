"""Cache-Control, of requests and responses (RFC 9111 §5.2), read as it comes on the wire."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from .headers import Headers

MAX_DELTA = 2**31
"""Seconds that stand for any larger number (RFC 9111 §1.2.2)."""

_DIRECTIVE = re.compile(
    r"""\s*([!#$%&'*+\-.^_`|~0-9A-Za-z]+)      # name
        (?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*)))?  # value, quoted or not
        [^,]*(?:,|$)                           # what else there is up to the comma is not heeded
     """,
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class CacheControl:
    """The directives that a shared cache knows. Times are seconds."""

    no_store: bool = False
    no_cache: bool = False
    no_cache_fields: frozenset[str] = frozenset()
    private: bool = False
    private_fields: frozenset[str] = frozenset()
    public: bool = False
    must_revalidate: bool = False
    proxy_revalidate: bool = False
    must_understand: bool = False
    immutable: bool = False
    no_transform: bool = False
    only_if_cached: bool = False
    max_age: int | None = None
    s_maxage: int | None = None
    stale_while_revalidate: int | None = None
    stale_if_error: int | None = None
    max_stale: int | None = None
    min_fresh: int | None = None


_FLAGS = {
    "no-store": "no_store",
    "public": "public",
    "must-revalidate": "must_revalidate",
    "proxy-revalidate": "proxy_revalidate",
    "must-understand": "must_understand",
    "immutable": "immutable",
    "no-transform": "no_transform",
    "only-if-cached": "only_if_cached",
}
_QUALIFIED = {"no-cache": "no_cache", "private": "private"}
_SECONDS = {
    "max-age": "max_age",
    "s-maxage": "s_maxage",
    "stale-while-revalidate": "stale_while_revalidate",
    "stale-if-error": "stale_if_error",
    "max-stale": "max_stale",
    "min-fresh": "min_fresh",
}
_NONE = CacheControl()


def parse_cache_control(values: Iterable[str]) -> CacheControl:
    """The directives of all Cache-Control lines. Never raises; unknown ones are not heeded (§5.2.3)."""
    text = ", ".join(values)
    return _parse(text) if text else _NONE


@lru_cache(maxsize=1024)
def _parse(text: str) -> CacheControl:
    found: dict[str, object] = {}
    position = 0
    while position < len(text):
        match = _DIRECTIVE.match(text, position)
        if match is None:
            comma = text.find(",", position)
            position = len(text) if comma < 0 else comma + 1
            continue
        position = max(match.end(), position + 1)
        _add(found, match[1].lower(), match[2] if match[2] is not None else match[3])
    return CacheControl(**found)  # type: ignore[arg-type]


def _add(found: dict[str, object], name: str, value: str | None) -> None:
    if name in _FLAGS:
        found[_FLAGS[name]] = True
    elif name in _QUALIFIED:
        attribute = _QUALIFIED[name]
        fields = frozenset(field.strip().lower() for field in (value or "").split(",")) - {""}
        if fields:
            earlier = found.get(f"{attribute}_fields", frozenset())
            assert isinstance(earlier, frozenset)
            found[f"{attribute}_fields"] = earlier | fields
        else:
            found[attribute] = True
    elif name in _SECONDS:
        attribute = _SECONDS[name]
        seconds = MAX_DELTA if value is None and name == "max-stale" else _seconds(value)
        earlier = found.get(attribute)
        # Of several, the most restrictive (§4.2.1 leaves it to us; stale is the safe side). For max-stale,
        # stale-* and max-age that is the smallest, for min-fresh the largest.
        if isinstance(earlier, int):
            seconds = max(earlier, seconds) if name == "min-fresh" else min(earlier, seconds)
        found[attribute] = seconds


def _seconds(value: str | None) -> int:
    """delta-seconds (§1.2.2). What is none counts as 0: stale is the safe side (§4.2.1)."""
    text = (value or "").strip()
    if not (text.isascii() and text.isdigit()):
        return 0
    return MAX_DELTA if len(text) > 10 else min(int(text), MAX_DELTA)


def request_cache_control(headers: Headers) -> CacheControl:
    """The directives of a request; Pragma speaks where Cache-Control is silent (§5.4)."""
    values = headers.get_all("cache-control")
    if values:
        return parse_cache_control(values)
    if "pragma" in headers and "no-cache" in (headers.get("pragma") or "").lower():
        return _PRAGMA_NO_CACHE
    return _NONE


_PRAGMA_NO_CACHE = CacheControl(no_cache=True)
