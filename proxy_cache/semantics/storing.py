"""May a shared cache store this response? (RFC 9111 §3)"""

from __future__ import annotations

from typing import Final

from .directives import parse_cache_control, request_cache_control
from .freshness import HEURISTICALLY_CACHEABLE
from .headers import Headers
from .validation import entity_tag
from .vary import vary_names

# RFC 9111 §3: a cache has "understood" a status "if it recognizes it and implements all specified caching-related
# behavior". With these there is none beyond storing them whole.
UNDERSTOOD: Final = HEURISTICALLY_CACHEABLE - {206} | {302, 303, 307, 400, 402, 403, 406, 409, 411, 412, 415, 422, 451}

# Our own policy, stricter than the standard: these speak of the moment (the origin is in trouble, the client is too
# fast) or of the client (it has to log in), and nothing about the resource, so the next client is to ask again.
_OF_THE_MOMENT: Final = frozenset({401, 407, 408, 421, 425, 429})


def why_not_storable(request: Headers, status: int, response: Headers) -> str | None:
    """``None`` if the response to this GET may be stored, else why not: a token for Cache-Status ``detail``.

    What the response says comes before what the request said, so that the answer tells of the resource if it can.
    """
    directives = parse_cache_control(response.get_all("cache-control"))
    if status == 206:
        return "partial"  # RFC 9111 §3.3: needs to be recorded as incomplete; only whole responses are kept so far
    # RFC 9111 §3: "the response status code is final"; 304 updates what is stored, and is not stored itself.
    if not 200 <= status < 500 or status == 304 or status in _OF_THE_MOMENT:
        return "status"
    if directives.must_understand and status not in UNDERSTOOD:
        return "status"  # RFC 9111 §5.2.2.3
    # RFC 9111 §5.2.2.3: "the cache SHOULD ignore the no-store directive if it understands and implements the status
    # code's caching requirements", must-understand being there.
    if directives.no_store and not directives.must_understand:
        return "no-store"
    # RFC 9111 §5.2.2.7: "a shared cache MUST NOT store the response". The qualified form names fields only, and "is
    # often handled by caches as if an unqualified private directive was received".
    if directives.private or directives.private_fields:
        return "private"
    if vary_names(response) is None:
        return "vary-star"  # RFC 9111 §4.1: would never match
    # RFC 9111 §7.3: "the Set-Cookie response header field does not inhibit caching". Here it does, unless the origin
    # has shared caches in mind: one user's session must not reach another because a header was forgotten.
    if "set-cookie" in response and not (directives.public or directives.s_maxage is not None):
        return "set-cookie"
    # RFC 9111 §3: the response contains public, Expires, max-age, s-maxage, or has a heuristically cacheable status.
    explicit = directives.max_age is not None or directives.s_maxage is not None or "expires" in response
    if not explicit:
        if status not in HEURISTICALLY_CACHEABLE and not directives.public:
            return "no-freshness"
        # "[…] a response that has neither a cache validator nor an explicit expiration time […] not usually useful".
        if entity_tag(response) is None and "last-modified" not in response:
            return "no-freshness"
    # RFC 9111 §3.5: with Authorization in the request, only what "allows it to be stored by a shared cache".
    if "authorization" in request and not (
        directives.must_revalidate or directives.public or directives.s_maxage is not None
    ):
        return "authorization"
    if request_cache_control(request).no_store:
        return "request-no-store"  # RFC 9111 §5.2.1.5
    return None
