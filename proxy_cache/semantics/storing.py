"""May a shared cache store this response? (RFC 9111 §3)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .credentials import has_credentials
from .directives import CacheControl, request_cache_control
from .freshness import HEURISTICALLY_CACHEABLE
from .headers import Headers
from .policy import BY_THE_BOOK, Policy
from .targeted import response_directives
from .validation import entity_tag, opaque_tag
from .vary import vary_names

# RFC 9111 §3: a cache has "understood" a status "if it recognizes it and implements all specified caching-related
# behavior". With these there is none beyond storing them whole.
UNDERSTOOD: Final = HEURISTICALLY_CACHEABLE - {206} | {302, 303, 307, 400, 402, 403, 406, 409, 411, 415, 422, 451}

# 428, 429, 431 and 511 "MUST NOT be stored by a cache" (RFC 6585 §3 to §6). The others are our own policy, stricter
# than the standard: they speak of the moment (the origin is in trouble, the client too slow, the connection the wrong
# one), of the client (it has to log in) or of its conditions, and nothing about the resource, so the next client is to
# ask again.
NEVER_STORED: Final = frozenset({401, 407, 408, 412, 416, 417, 421, 425, 428, 429, 431, 500, 502, 503, 504, 511})


def is_never_stored(status: int) -> bool:
    """Whether no rule changes that (RFC 9111 §3: "the response status code is final"; 304 updates what is stored, and
    206 is put together with what is)."""
    return not 200 <= status <= 599 or status in (206, 304) or status in NEVER_STORED


# A rule is about a resource that is there. An answer that it isn't, or that something went wrong, is kept only by a
# rule that names the status.
RULED: Final = frozenset({200, 203, 204, 300, 301, 308})


def speaks_of_resource(status: int) -> bool:
    """Whether an answer with this status says something about the resource, which others may then take for granted:
    that it is there, elsewhere, or gone. Every other error speaks of the request that it answers, and of whoever has
    made it, or of the moment."""
    return (200 <= status < 400 and status != 304) or status in (404, 410, 451)


ERROR_LIFETIME_MAX: Final = 60
"""Seconds for which an error (5xx) that has a lifetime of its own is fresh here, however long that is."""

# What the rest of a response cannot be understood without. A qualified private or no-cache that names one of them is
# read as unqualified; the other fields can be left out.
_ESSENTIAL: Final = frozenset(
    {
        "cache-control", "content-encoding", "content-length", "content-location", "content-range", "content-type",
        "date", "etag", "expires", "last-modified", "location", "vary",
    }
)  # fmt: skip


@dataclass(slots=True, eq=False)
class Verdict:
    """Whether a response is stored, and as what."""

    why_not: str | None
    """A token for Cache-Status ``detail``; ``None`` if it is stored."""
    assigned: int | None = None
    """Seconds of freshness given by a rule, or guessed, in place of what the response says."""
    targeted: str | None = None
    """The targeted field whose directives count (RFC 9213)."""
    omitted: frozenset[str] = frozenset()
    """Fields that only the request which brought the response may have; they are not stored."""
    credentials: frozenset[str] = frozenset()
    """Those of the policy: among what Vary names they are not stored as they are."""


def judge(
    request: Headers, status: int, response: Headers, policy: Policy = BY_THE_BOOK, guess: int | None = None
) -> Verdict:
    """Whether the response to this GET is stored.

    ``guess``: seconds of freshness for a response that says nothing at all about its own (RFC 9111 §4.2.2).
    """
    directives, targeted = response_directives(response, policy.targeted)
    omitted = omitted_fields(directives)
    rule = policy.rule_for(status, response)
    why_not = _why_not(request, status, response, directives, targeted, policy)
    if rule is not None and (why_not is None or why_not in _RULED_OUT or (rule.force and why_not in _FORCED)):
        # RFC 9111 §3.5 and the request's own no-store have still to be asked.
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
"""Why a response is not stored whose URL is signed anew for each download: it would be stored anew each time, too."""


def _is_for_shared_caches(directives: CacheControl) -> bool:
    """Whether the origin wants even this kept. RFC 9111 §3.5 is the model, where ``public`` and ``s-maxage`` let a
    shared cache store what came with Authorization; who says ``immutable`` (RFC 8246) speaks of the URL as a name."""
    return directives.public or directives.immutable or directives.s_maxage is not None


_RULED_OUT: Final = frozenset({"no-freshness", "authorization", "credentials", "request-no-store"})
"""What any rule settles, or has no say in."""
_FORCED: Final = frozenset({"no-store", "private", "set-cookie"})
"""What a rule with ``force`` overrides."""


ABOUT_CACHING: Final = frozenset({"cache-control", "expires", "pragma"})


def says_nothing(response: Headers) -> bool:
    """Whether there is nothing in a response about caching it."""
    return not response.has_any(ABOUT_CACHING)


def why_not_shared(request: Headers, response: Headers, policy: Policy = BY_THE_BOOK) -> str | None:
    """Whether what came in answer to this request may be given to others, as far as that is up to the request: fields
    of a 304 or of the answer to a HEAD, too (RFC 9111 §3.5, §5.2.1.5)."""
    return _by_request(request, response, *response_directives(response, policy.targeted), policy)


def why_not_storable(request: Headers, status: int, response: Headers, policy: Policy = BY_THE_BOOK) -> str | None:
    """``None`` if the response to this GET may be stored by the standard, else a token that says why not."""
    return judge(request, status, response, policy).why_not


def omitted_fields(directives: CacheControl) -> frozenset[str]:
    """Fields of a response that must not be used for another request (RFC 9111 §5.2.2.4, §5.2.2.7, qualified)."""
    fields = directives.private_fields | directives.no_cache_fields
    return fields - _ESSENTIAL if fields else fields


def is_unqualified(fields: frozenset[str]) -> bool:
    """Whether naming these fields is as good as naming none, because the rest is nothing without them."""
    return not fields.isdisjoint(_ESSENTIAL)


def _why_not(
    request: Headers, status: int, response: Headers, directives: CacheControl, targeted: str | None, policy: Policy
) -> str | None:
    """What the response says comes before what the request said, so that the answer tells of the resource if it can."""
    if status == 206:
        return "partial"  # RFC 9111 §3.3: needs to be recorded as incomplete; only whole responses are kept so far
    # RFC 9111 §3: "the response status code is final"; 304 updates what is stored, and is not stored itself.
    if is_never_stored(status):
        return "status"
    if directives.must_understand and status not in UNDERSTOOD:
        return "status"  # RFC 9111 §5.2.2.3
    if "vary" in response and vary_names(response) is None:
        return "vary-star"  # RFC 9111 §4.1: would never match
    # RFC 9111 §5.2.2.3: "the cache SHOULD ignore the no-store directive if it understands and implements the status
    # code's caching requirements", must-understand being there.
    if directives.no_store and not directives.must_understand:
        return "no-store"
    # RFC 9111 §5.2.2.7: "a shared cache MUST NOT store the response", or the fields that it names.
    if directives.private or (directives.private_fields and is_unqualified(directives.private_fields)):
        return "private"
    # RFC 9111 §7.3: "the Set-Cookie response header field does not inhibit caching". Here it does, unless the origin
    # has shared caches in mind: one user's session must not reach another because a header was forgotten.
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
    """Whether the origin gives a lifetime of its own."""
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
        # Of other credentials the standard says nothing, so that an origin which gives a lifetime, or wants to be asked
        # each time, gets its way. But none is made up: what says nothing may be for this client only.
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
