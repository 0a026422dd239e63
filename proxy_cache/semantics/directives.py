"""Cache-Control (RFC 9111 §5.2) as a value.

Restricting directives count however sloppily they are written, permitting ones only as specified. So a typo in a header
makes the cache store less, never more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from .headers import Headers

MAX_DELTA: Final = 2**31
"""The largest number of seconds; larger ones count as this (RFC 9111 §1.2.2)."""


@dataclass(frozen=True, slots=True)
class CacheControl:
    """The directives of a request or of a response. Numbers are seconds, ``None`` if the directive is absent."""

    no_store: bool = False
    no_cache: bool = False
    """Unqualified: no reuse without validation."""
    no_cache_fields: frozenset[str] = frozenset()
    """Qualified: no reuse of these fields without validation."""
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
    """:data:`MAX_DELTA` if the directive has no argument: any staleness is accepted."""
    min_fresh: int | None = None


NOTHING: Final = CacheControl()
ONLY_IF_CACHED: Final = CacheControl(only_if_cached=True)
_NO_CACHE: Final = CacheControl(no_cache=True)
LENGTH_MAX: Final = 8192
"""Characters of a Cache-Control that is parsed. (Usual ones have fewer than 200.)"""
TOO_LONG: Final = CacheControl(no_store=True, no_cache=True)
"""A longer one counts as this: it may contain any directive."""

_FLAGS: Final = {
    "no-store": "no_store",
    "must-revalidate": "must_revalidate",
    "proxy-revalidate": "proxy_revalidate",
    "no-transform": "no_transform",
    "only-if-cached": "only_if_cached",
    # RFC 8246 §2: "If any arguments are present, they have no meaning and MUST be ignored."
    "immutable": "immutable",
}
_BARE_FLAGS: Final = {
    # RFC 9111 §5.2: "no argument is defined (nor allowed) unless stated otherwise". These two are permitting.
    "public": "public",
    "must-understand": "must_understand",
}
_FIELD_LISTS: Final = {"no-cache": "no_cache", "private": "private"}
_SECONDS: Final = {
    "max-age": "max_age",
    "s-maxage": "s_maxage",
    "stale-while-revalidate": "stale_while_revalidate",
    "stale-if-error": "stale_if_error",
    "max-stale": "max_stale",
    "min-fresh": "min_fresh",
}

TOKEN: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
"""RFC 9110 §5.6.2, as a regular expression."""
_TOKENS: Final = re.compile(TOKEN)
_DIRECTIVE: Final = re.compile(rf"\s*+({TOKEN})(\s*+)(?:=(.*+))?+", re.DOTALL)
_QUOTED: Final = re.compile(r'"((?:[^"\\]++|\\.)*+)"', re.DOTALL)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_DELIMITER: Final = re.compile(r'\\[\\"]|[",]')
_DELTA: Final = re.compile(r"[0-9]+")
_REMEMBER_LENGTH: Final = 512  # characters of values whose parse is cached


def parse_delta_seconds(text: str) -> int | None:
    """RFC 9111 §1.2.2: a non-negative number of seconds, "2147483648 (2^31)" if it is larger."""
    text = text.strip(" \t")
    if _DELTA.fullmatch(text) is None:
        return None
    # int() refuses more than 4300 digits, and is slow for a little fewer.
    text = text.lstrip("0")
    return MAX_DELTA if len(text) > 10 else min(int(text or "0"), MAX_DELTA)


def parse_cache_control(values: Iterable[str]) -> CacheControl:
    """The directives in all lines of a Cache-Control header. Never raises; ignores unknown directives."""
    lines = tuple(values)
    if not lines:
        return NOTHING
    length = sum(map(len, lines))
    if length > _REMEMBER_LENGTH:
        return _parse(lines) if length <= LENGTH_MAX else TOO_LONG
    # Cached: most responses of a site, and all requests of an agent, have the same few values.
    return _remembered(lines)


def _parse(lines: tuple[str, ...]) -> CacheControl:
    directives = []
    for line in lines:  # one by one: an unclosed quote in one line must not swallow the next
        for element in _elements(line):
            match = _DIRECTIVE.match(element)
            if match is not None:
                argument = match[3]
                if argument is not None and (match[2] or argument[:1].isspace()):
                    argument = ""  # RFC 9111 §5.2 has no space around "=": the intention is unknown
                directives.append((match[1], argument))
    return cache_control_of(directives)


def cache_control_of(directives: Iterable[tuple[str, str | None]]) -> CacheControl:
    """From names and arguments, as received (``None``: no argument)."""
    found: dict[str, Any] = {}
    fields: dict[str, set[str]] = {}
    for name, argument in directives:
        name = name.lower()  # RFC 9111 §5.2: "identified by a token, to be compared case-insensitively"
        if name in _FLAGS:
            found[_FLAGS[name]] = True
        elif name in _BARE_FLAGS and argument is None:
            found[_BARE_FLAGS[name]] = True
        elif name in _FIELD_LISTS:
            _add_fields(found, fields, _FIELD_LISTS[name], argument)
        elif name in _SECONDS:
            _add_seconds(found, _SECONDS[name], argument)
    for name, names in fields.items():
        found[f"{name}_fields"] = frozenset(names)
    return CacheControl(**found) if found else NOTHING


_remembered = lru_cache(maxsize=1024)(_parse)


def _elements(line: str) -> list[str]:
    """The members of the list, split at commas outside quoted strings (RFC 9110 §5.6.1)."""
    if '"' not in line:
        return line.split(",")
    elements = []
    start = 0
    quoted = False
    for match in _DELIMITER.finditer(line):
        char = match[0]
        if quoted:
            quoted = char != '"'
        elif char in ('"', '\\"'):  # outside quotes a backslash has no meaning
            quoted = True
        elif char == ",":
            elements.append(line[start : match.start()])
            start = match.end()
    # An unclosed quote quotes nothing: `private="a, no-store` still contains no-store.
    elements.extend(line[start:].split(",") if quoted else [line[start:]])
    return elements


def _unquoted(argument: str) -> str:
    """RFC 9111 §5.2: "recipients ought to accept both forms", token and quoted-string."""
    argument = argument.strip()
    match = _QUOTED.fullmatch(argument)
    return argument if match is None else _ESCAPED.sub(r"\1", match[1])


def _add_fields(found: dict[str, Any], fields: dict[str, set[str]], name: str, argument: str | None) -> None:
    text = "" if argument is None else _unquoted(argument)
    listed = _TOKENS.findall(text) if '"' not in text else ()
    if listed:
        fields.setdefault(name, set()).update(map(str.lower, listed))
    else:
        found[name] = True  # no argument, or an unintelligible one: unqualified


def _add_seconds(found: dict[str, Any], name: str, argument: str | None) -> None:
    seconds = None if argument is None else parse_delta_seconds(_unquoted(argument))
    if seconds is None:
        if name == "max_stale" and argument is None:
            # RFC 9111 §5.2.1.2: "If no value is assigned to max-stale, then the client will accept a stale response of
            # any age."
            seconds = MAX_DELTA
        elif name in ("max_age", "s_maxage"):
            # RFC 9111 §4.2.1: "Caches are encouraged to consider responses that have invalid freshness information
            # (e.g., a max-age directive with non-integer content) to be stale."
            seconds = 0
        else:
            return
    # RFC 9111 §4.2.1: of several values "either the first occurrence should be used or the response should be
    # considered stale"; "the most restrictive directive should be honored".
    before = found.get(name)
    if before is not None:
        seconds = max(before, seconds) if name == "min_fresh" else min(before, seconds)
    found[name] = seconds


def request_cache_control(headers: Headers) -> CacheControl:
    """The directives of a request, Pragma included."""
    if "cache-control" in headers:
        return parse_cache_control(headers.get_all("cache-control"))
    # RFC 9111 §5.4: Pragma is there "so that clients could specify a no-cache request (as Cache-Control was not defined
    # until HTTP/1.1)". Next to Cache-Control it is ignored (RFC 7234 §5.4).
    values = headers.get_all("pragma")
    if sum(map(len, values)) > LENGTH_MAX:
        return _NO_CACHE
    for value in values:
        for element in _elements(value):
            match = _DIRECTIVE.match(element)
            if match is not None and match[1].lower() == "no-cache":
                return _NO_CACHE
    return NOTHING
