"""Age and freshness lifetime of a response (RFC 9111 §4.2), for a shared cache."""

from __future__ import annotations

from typing import Final

from .dates import parse_http_date
from .directives import MAX_DELTA, CacheControl, parse_delta_seconds
from .headers import Headers

HEURISTICALLY_CACHEABLE: Final = frozenset({200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501})
"""RFC 9110 §15.1."""

HEURISTIC_FRACTION: Final = 0.1
"""RFC 9111 §4.2.2: "A typical setting of this fraction might be 10%"."""
HEURISTIC_MAX: Final = 24 * 3600
"""Seconds. A heuristic is a guess, so it never exceeds a day."""


def date_value(headers: Headers, response_time: float) -> float:
    """When the origin generated the response: Date, or else the time of receipt (RFC 9110 §6.6.1)."""
    value = headers.get("date")
    date = parse_http_date(value) if value is not None else None
    return response_time if date is None else date


def corrected_initial_age(headers: Headers, request_time: float, response_time: float) -> int:
    """Age of a response on arrival in seconds, from its Date and its Age (RFC 9111 §4.2.3)."""
    apparent_age = response_time - date_value(headers, response_time)
    response_delay = response_time - request_time
    corrected_age_value = age_value(headers) + (response_delay if response_delay > 0 else 0.0)
    return min(int(max(apparent_age, corrected_age_value)), MAX_DELTA)


def age_value(headers: Headers) -> int:
    if "age" not in headers:
        return 0
    values = headers.get_all("age")
    # RFC 9111 §5.1: "use the first member of the field value, discarding subsequent ones"; if that is invalid,
    # "a cache SHOULD ignore the field".
    return parse_delta_seconds(values[0].partition(",")[0]) or 0


S_MAXAGE: Final = "s-maxage"
MAX_AGE: Final = "max-age"
EXPIRES: Final = "expires"
HEURISTIC: Final = "heuristic"
NO_LIFETIME: Final = "none"
ASSIGNED: Final = "assigned"
LIFETIME_RULES: Final = (ASSIGNED, S_MAXAGE, MAX_AGE, EXPIRES, HEURISTIC, NO_LIFETIME)
"""What gives a response its lifetime: an operator's rule or default, or what the origin has said."""


def explicit_lifetime(headers: Headers, directives: CacheControl, date: float) -> tuple[int, str] | None:
    """The origin's lifetime in seconds from ``date``, by "the first match" of RFC 9111 §4.2.1, and what gives it;
    ``None`` if there is none."""
    if directives.s_maxage is not None:
        return directives.s_maxage, S_MAXAGE
    if directives.max_age is not None:
        return directives.max_age, MAX_AGE
    expires = headers.get_all("expires")
    if not expires:
        return None
    # RFC 9111 §5.3: "MUST interpret invalid date formats, especially the value "0", as representing a time in the
    # past". Of several lines, the one that expires first.
    times = [parse_http_date(value) for value in expires]
    earliest = min((-1.0 if moment is None else moment for moment in times), default=-1.0)
    return min(max(0, int(earliest - date)), MAX_DELTA), EXPIRES


def heuristic_lifetime(status: int, headers: Headers, directives: CacheControl, date: float) -> int:
    """Lifetime in seconds of a response without an explicit one (RFC 9111 §4.2.2); 0 without Last-Modified."""
    if status not in HEURISTICALLY_CACHEABLE and not directives.public:
        return 0
    value = headers.get("last-modified")
    modified = parse_http_date(value) if value is not None else None
    if modified is None:
        return 0
    return min(max(0, int((date - modified) * HEURISTIC_FRACTION)), HEURISTIC_MAX)
