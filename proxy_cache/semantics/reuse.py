"""May a stored response answer this request now? (RFC 9111 §4)"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Final

from .directives import NOTHING, CacheControl
from .stored import StoredResponse


class Reuse(enum.Enum):
    FRESH = "fresh"
    """Use it as it is. (It may be stale, if the client accepts that.)"""
    STALE_WHILE_REVALIDATE = "stale-while-revalidate"
    """Use it as it is, and validate it in the background."""
    VALIDATE = "validate"
    """Validate it first."""


@dataclass(frozen=True, slots=True)
class Decision:
    reuse: Reuse
    reason: str
    """Why the request is forwarded, a ``fwd`` token of Cache-Status (RFC 9211 §2.2); empty if it isn't."""
    because: str = field(default="", compare=False)
    """What has decided it, one of :data:`BECAUSE`."""


_FRESH: Final = Decision(Reuse.FRESH, "", "fresh")
_IMMUTABLE: Final = Decision(Reuse.FRESH, "", "immutable")
_MAX_STALE: Final = Decision(Reuse.FRESH, "", "request-max-stale")
_REVALIDATE_MEANWHILE: Final = Decision(Reuse.STALE_WHILE_REVALIDATE, "stale", "stale-while-revalidate")
_NEVER_STALE: Final = Decision(Reuse.VALIDATE, "stale", "never-stale")
_STALE: Final = Decision(Reuse.VALIDATE, "stale", "stale")
_STALE_NO_CACHE: Final = Decision(Reuse.VALIDATE, "stale", "request-no-cache")
_STALE_MIN_FRESH: Final = Decision(Reuse.VALIDATE, "stale", "request-min-fresh")
_STALE_MAX_AGE: Final = Decision(Reuse.VALIDATE, "stale", "request-max-age")
_TOO_STALE: Final = Decision(Reuse.VALIDATE, "stale", "request-max-stale-exceeded")
_NO_CACHE: Final = Decision(Reuse.VALIDATE, "request", "request-no-cache")
_MAX_AGE: Final = Decision(Reuse.VALIDATE, "request", "request-max-age")
_MIN_FRESH: Final = Decision(Reuse.VALIDATE, "request", "request-min-fresh")
BECAUSE: Final = frozenset(
    one.because
    for one in (
        _FRESH, _IMMUTABLE, _MAX_STALE, _REVALIDATE_MEANWHILE, _NEVER_STALE, _STALE, _NO_CACHE, _MAX_AGE, _MIN_FRESH,
        _TOO_STALE,
    )
)  # fmt: skip
"""All that may decide. (For ``never-stale``, :attr:`.StoredResponse.never_stale` says which directive.)"""


def decide(directives: CacheControl, stored: StoredResponse, now: float) -> Decision:
    """What to do with a stored response that a request selects by key and variant.

    ``directives``: the directives of the request (:func:`~.directives.request_cache_control`).
    """
    if not now < stored.fresh_until:
        return _decide_stale(directives, stored, now)
    if directives is NOTHING:
        return _FRESH
    # RFC 9111 §5.2.1: request directives "are advisory; caches MAY implement them". We do, so that clients can reload.
    # (no-store, §5.2.1.5, "does not apply to the already stored response".)
    if directives.no_cache:
        return _NO_CACHE
    age, fresh = stored.age(now), _FRESH
    # RFC 8246 §2.1: "proxies SHOULD skip conditionally revalidating fresh responses containing the immutable extension
    # unless there is a signal from the client that a validation is necessary (e.g., a no-cache […])". max-age=0, which
    # a plain reload sends, is not that signal. A response may be 0 s old for nearly a second; max-age=0 asks for a
    # validation even then.
    if directives.max_age is not None and (age > directives.max_age or directives.max_age == 0):
        if not stored.cache_control.immutable:
            return _MAX_AGE
        fresh = _IMMUTABLE
    if directives.min_fresh is not None and stored.lifetime < age + directives.min_fresh:
        return _MIN_FRESH
    return fresh


def _decide_stale(directives: CacheControl, stored: StoredResponse, now: float) -> Decision:
    # RFC 9111 §4.2.4: not where it "is prohibited by an explicit in-protocol directive". s-maxage is one, also next to
    # stale-while-revalidate: "A shared cache MUST NOT reuse a stale response with s-maxage" (§5.2.2.10).
    if stored.never_stale:
        return _NEVER_STALE
    age = stored.age(now)
    staleness = age - stored.lifetime
    if directives.no_cache:
        return _STALE_NO_CACHE
    if directives.min_fresh is not None:
        return _STALE_MIN_FRESH
    if directives.max_stale is not None:
        # RFC 9111 §5.2.1.2: "exceeded its freshness lifetime by no more than the specified number of seconds".
        if staleness <= directives.max_stale and (directives.max_age is None or age <= directives.max_age):
            return _MAX_STALE
        return _TOO_STALE
    if directives.max_age is not None:
        # RFC 9111 §5.2.1.1: "Unless the max-stale request directive is also present, the client does not wish to
        # receive a stale response."
        return _STALE_MAX_AGE
    allowed = stored.cache_control.stale_while_revalidate
    # RFC 5861 §3: "caches MAY serve the response it appears in after it becomes stale, up to the indicated number of
    # seconds".
    if allowed is not None and staleness <= allowed:
        return _REVALIDATE_MEANWHILE
    return _STALE


def may_serve_stale(directives: CacheControl, stored: StoredResponse, now: float, *, disconnected: bool) -> bool:
    """Whether a stored response may be served after its validation failed.

    ``disconnected``: the origin gave no response at all, or could not be asked. Otherwise it responded with an error.
    """
    if stored.never_stale:
        # RFC 9111 §4.2.4, §5.2.2.2: "if a cache is disconnected, the cache MUST generate an error response".
        return False
    if directives.no_cache:
        return False
    age = stored.age(now)
    staleness = age - stored.lifetime
    # RFC 5861 §4: "a cached stale response MAY be used […] regardless of other freshness information"; in a request,
    # "its scope of application is the request it appears in".
    if directives.stale_if_error is not None and staleness <= directives.stale_if_error:
        return True
    if directives.min_fresh is not None and staleness + directives.min_fresh > 0:
        return False
    if directives.max_age is not None and (
        age > directives.max_age or (staleness >= 0 and directives.max_stale is None)
    ):
        return False  # RFC 9111 §5.2.1.1
    if staleness < 0:
        return True
    if directives.max_stale is not None:
        return staleness <= directives.max_stale  # RFC 9111 §5.2.1.2: the client's own limit
    limit = stored.cache_control.stale_if_error
    if limit is not None:
        # RFC 5861 §4: "an error is any situation which would result in a 500, 502, 503 or 504", so the limit applies to
        # both cases: "when the cached response is more stale than the indicated amount, [it] SHOULD NOT be used".
        return staleness <= limit
    # RFC 9111 §4.2.4: "MUST NOT generate a stale response unless it is disconnected or […] explicitly permitted".
    return disconnected
