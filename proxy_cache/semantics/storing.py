"""May a shared cache store this response? (RFC 9111 §3)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .credentials import has_credentials
from .directives import CacheControl, request_cache_control
from .entity_tags import entity_tag, opaque_tag
from .freshness import HEURISTICALLY_CACHEABLE
from .headers import Headers
from .policy import BY_THE_BOOK, Policy
from .targeted import response_directives
from .vary import vary_names

# RFC 9111 §3: a cache has "understood" a status "if it recognizes it and implements all specified caching-related
# behavior". With these there is none beyond storing them whole.
UNDERSTOOD: Final = HEURISTICALLY_CACHEABLE - {206} | {302, 303, 307, 400, 402, 403, 406, 409, 411, 415, 422, 451}

# 428, 429, 431 and 511 "MUST NOT be stored by a cache" (RFC 6585 §3 to §6). The others are our own policy, stricter
# than the standard: they are about the moment (the origin is in trouble, the client too slow, the connection the wrong
# one), the client (it has to log in) or its conditions, and not about the resource. The next client has to ask again.
NEVER_STORED: Final = frozenset({401, 407, 408, 412, 416, 417, 421, 425, 428, 429, 431, 500, 502, 503, 504, 511})


def is_never_stored(status: int) -> bool:
    """Whether a status is never stored, whatever the rules say. (RFC 9111 §3: "the response status code is final"; a
    304 updates a stored response, a 206 is combined with one.)"""
    return not 200 <= status <= 599 or status in (206, 304) or status in NEVER_STORED


# Rules are for existing resources. An error is only stored by a rule that names its status.
RULED: Final = frozenset({200, 203, 204, 300, 301, 308})


def speaks_of_resource(status: int) -> bool:
    """Whether a status says something about the resource, valid for all clients: it exists, has moved, or is gone.
    Other errors are about the request, its client, or the moment."""
    return (200 <= status < 400 and status != 304) or status in (404, 410, 451)


ERROR_LIFETIME_MAX: Final = 60
"""Seconds for which an error (5xx) with an explicit lifetime is fresh at most."""

# Fields without which a response makes no sense. A qualified private or no-cache that names one of them counts as
# unqualified; other fields can be left out.
_ESSENTIAL: Final = frozenset(
    {
        "cache-control", "content-encoding", "content-length", "content-location", "content-range", "content-type",
        "date", "etag", "expires", "last-modified", "location", "vary",
    }
)  # fmt: skip


@dataclass(slots=True, eq=False)
class Verdict:
    """Whether and how a response is stored."""

    why_not: str | None
    """A token for Cache-Status ``detail``; ``None`` if it is stored."""
    assigned: int | None = None
    """Seconds of freshness from a rule, or guessed, that replace the response's own."""
    targeted: str | None = None
    """The targeted field that applies (RFC 9213)."""
    omitted: frozenset[str] = frozenset()
    """Fields that are only for the request that fetched the response, and not stored."""
    credentials: frozenset[str] = frozenset()
    """The policy's credentials: if Vary names them, their values are stored as digests."""


def judge(
    request: Headers, status: int, response: Headers, policy: Policy = BY_THE_BOOK, guess: int | None = None
) -> Verdict:
    """Whether the response to this GET is stored.

    ``guess``: seconds of freshness for a response without any caching fields (RFC 9111 §4.2.2).
    """
    directives, targeted = response_directives(response, policy.targeted)
    omitted = omitted_fields(directives)
    rule = policy.rule_for(status, response)
    why_not = _why_not(request, status, response, directives, targeted, policy)
    if rule is not None and (why_not is None or why_not in _RULED_OUT or (rule.force and why_not in _FORCED)):
        # RFC 9111 §3.5 and the request's own no-store still apply.
        why_not = _by_request(request, response, directives, targeted, policy)
        if rule.force:
            omitted |= {"set-cookie"} | directives.private_fields - _ESSENTIAL
        return Verdict(why_not, rule.seconds, targeted, omitted, policy.credentials)
    if why_not == "no-freshness" and guess and status == 200 and targeted is None and says_nothing(response):
        why_not = _by_request(request, response, directives, targeted, policy)
        return Verdict(why_not, guess, targeted, omitted, policy.credentials)
    if why_not is None and policy.signed_url and not _is_for_shared_caches(directives):
        why_not = SIGNED_URL
    return Verdict(why_not, None, targeted, omitted, policy.credentials)


SIGNED_URL: Final = "signed-url"
"""A URL that is signed anew for each download would be stored anew each time, too."""


def _is_for_shared_caches(directives: CacheControl) -> bool:
    """Whether the origin explicitly allows shared caches. As in RFC 9111 §3.5, where ``public`` and ``s-maxage`` let
    them store responses to Authorization; and ``immutable`` (RFC 8246) says that the URL names this very content."""
    return directives.public or directives.immutable or directives.s_maxage is not None


_RULED_OUT: Final = frozenset({"no-freshness", "authorization", "credentials", "request-no-store"})
"""Reasons that any rule overrides, or that :func:`_by_request` checks again."""
_FORCED: Final = frozenset({"no-store", "private", "set-cookie"})
"""Reasons that only a rule with ``force`` overrides."""


ABOUT_CACHING: Final = frozenset({"cache-control", "expires", "pragma"})


def says_nothing(response: Headers) -> bool:
    """Whether a response has no caching fields."""
    return not response.has_any(ABOUT_CACHING)


def why_not_shared(request: Headers, response: Headers, policy: Policy = BY_THE_BOOK) -> str | None:
    """``None`` if, as far as the request matters, its response may be served to others, else the reason. Also for
    fields of a 304 or of the response to a HEAD (RFC 9111 §3.5, §5.2.1.5)."""
    return _by_request(request, response, *response_directives(response, policy.targeted), policy)


def omitted_fields(directives: CacheControl) -> frozenset[str]:
    """Fields of a response that must not be used for another request (RFC 9111 §5.2.2.4, §5.2.2.7, qualified)."""
    fields = directives.private_fields | directives.no_cache_fields
    return fields - _ESSENTIAL if fields else fields


def is_unqualified(fields: frozenset[str]) -> bool:
    """Whether a directive that names these fields counts as unqualified, since the rest is useless without them."""
    return not fields.isdisjoint(_ESSENTIAL)


def _why_not(
    request: Headers, status: int, response: Headers, directives: CacheControl, targeted: str | None, policy: Policy
) -> str | None:
    """The response's reasons come before the request's: they say more about the resource."""
    if status == 206:
        return "partial"  # RFC 9111 §3.3: a 206 by itself; ranges are judged as the 200 they are part of
    # RFC 9111 §3: "the response status code is final"; a 304 updates a stored response, and is not stored itself.
    if is_never_stored(status):
        return "status"
    if directives.must_understand and status not in UNDERSTOOD:
        return "status"  # RFC 9111 §5.2.2.3
    if "vary" in response and vary_names(response) is None:
        return "vary-star"  # RFC 9111 §4.1: never matches
    # RFC 9111 §5.2.2.3: "the cache SHOULD ignore the no-store directive if it understands and implements the status
    # code's caching requirements", if must-understand is present.
    if directives.no_store and not directives.must_understand:
        return "no-store"
    # RFC 9111 §5.2.2.7: "a shared cache MUST NOT store the response", or the named fields.
    if directives.private or (directives.private_fields and is_unqualified(directives.private_fields)):
        return "private"
    # RFC 9111 §7.3: "the Set-Cookie response header field does not inhibit caching". Here it does, unless the origin
    # explicitly allows shared caches: a forgotten header must not leak one user's session to another.
    if "set-cookie" in response and not (
        directives.public or directives.s_maxage is not None or "set-cookie" in omitted_fields(directives)
    ):
        return "set-cookie"
    # RFC 9111 §3: the response contains public, Expires, max-age, s-maxage, or has a heuristically cacheable status.
    if directives.max_age is None and not _has_lifetime(response, directives, targeted):
        if status not in HEURISTICALLY_CACHEABLE and not directives.public:
            return "no-freshness"
        # "[…] a response that has neither a cache validator nor an explicit expiration time […] not usually useful".
        if entity_tag(response) is None and opaque_tag(response) is None and "last-modified" not in response:
            return "no-freshness"
    return _by_request(request, response, directives, targeted, policy)


def _has_lifetime(response: Headers, directives: CacheControl, targeted: str | None) -> bool:
    """Whether the origin gives an explicit lifetime."""
    return (
        directives.max_age is not None
        or directives.s_maxage is not None
        or ("expires" in response and targeted is None)
    )


def _by_request(
    request: Headers, response: Headers, directives: CacheControl, targeted: str | None, policy: Policy
) -> str | None:
    if not policy.ignore_authorization and not (
        directives.must_revalidate or directives.public or directives.s_maxage is not None
    ):
        # RFC 9111 §3.5: with Authorization in the request, only what "allows it to be stored by a shared cache".
        if "authorization" in request:
            return "authorization"
        # The standard does not mention other credentials: explicit lifetimes and no-cache are honoured. But no lifetime
        # is guessed, since the response may be for this client only.
        if (
            not directives.no_cache
            and directives.max_age is None
            and not _has_lifetime(response, directives, targeted)
            and has_credentials(request, policy.credentials)
        ):
            return "credentials"
    if not policy.ignore_directives and request_cache_control(request).no_store:
        return "request-no-store"  # RFC 9111 §5.2.1.5
    return None
