"""May a shared cache store this response? (RFC 9111 §3)"""

from __future__ import annotations

from .directives import parse_cache_control, request_cache_control
from .headers import Headers
from .stored import HEURISTIC_STATUSES
from .vary import vary_names

UNDERSTOOD = frozenset(
    {200, 203, 204, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 501}
)  # fmt: skip
"""Statuses whose caching requirements this cache implements; no others are stored."""


def why_not_storable(request: Headers, status: int, response: Headers) -> str | None:
    """``None`` if a response to a GET may be stored, else the reason, a token for ``Cache-Status``'s ``detail``.

    Set-Cookie: RFC 9111 §7.3 leaves it to the origin to say no. Origins of packages that set a session cookie on
    everything rarely do, so a response with Set-Cookie is stored only if it is explicitly for everybody.
    """
    if request_cache_control(request).no_store:
        return "request-no-store"  # §5.2.1.5
    control = parse_cache_control(response.get_all("cache-control"))
    if control.no_store:
        return "no-store"  # §5.2.2.5
    if control.private or control.private_fields:
        return "private"  # §5.2.2.7; with field names we could store the rest, and do not
    if status == 206:
        return "partial"  # §3.3
    if status not in UNDERSTOOD:
        return "status"  # §3: "the response status code is final" and understood
    if "authorization" in request and not (control.public or control.must_revalidate or control.s_maxage is not None):
        return "authorization"  # §3.5
    if "set-cookie" in response and not (control.public or control.s_maxage is not None):
        return "set-cookie"
    if vary_names(response) is None:
        return "vary-star"  # §4.1: it would never match
    explicit = control.max_age is not None or control.s_maxage is not None or "expires" in response
    if explicit:
        return None
    if status not in HEURISTIC_STATUSES and not control.public:
        return "no-freshness"
    if "last-modified" in response or "etag" in response:
        return None
    return "no-freshness"  # nothing says how long it is good for, and there is nothing to ask with
