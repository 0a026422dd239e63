"""May a stored response answer this request? (RFC 9111 §4, §4.2.4; RFC 5861)"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from .directives import request_cache_control
from .headers import Headers
from .stored import StoredResponse


class Reuse(enum.Enum):
    FRESH = "fresh"
    STALE_WHILE_REVALIDATE = "stale-while-revalidate"
    VALIDATE = "validate"


@dataclass(frozen=True, slots=True)
class Decision:
    """``reason`` is the ``fwd`` token of Cache-Status (RFC 9211 §2.2): ``stale`` or ``request``."""

    reuse: Reuse
    reason: str


_FRESH = Decision(Reuse.FRESH, "")
_STALE = Decision(Reuse.VALIDATE, "stale")
_REQUEST = Decision(Reuse.VALIDATE, "request")
_WHILE_REVALIDATE = Decision(Reuse.STALE_WHILE_REVALIDATE, "stale")


def decide(request: Headers, stored: StoredResponse, now: float) -> Decision:
    """Whether the stored response may be used as it is, or must be validated first."""
    control = stored.cache_control
    if control.no_cache or control.no_cache_fields:
        return _STALE  # §5.2.2.4, whatever its age
    ttl = stored.ttl(now)
    if "cache-control" in request or "pragma" in request:
        asked = request_cache_control(request)
        if asked.no_cache:
            return _REQUEST  # §5.2.1.4
        if asked.max_age is not None and stored.age(now) > asked.max_age:
            return _REQUEST  # §5.2.1.1
        if asked.max_age == 0:
            return _REQUEST  # what is stored within this very second was not asked for either
        if asked.min_fresh is not None and ttl < asked.min_fresh:
            return _REQUEST  # §5.2.1.3
        if ttl <= 0 and asked.max_stale is not None and -ttl <= asked.max_stale and not _forbids_stale(stored):
            return _FRESH  # §5.2.1.2
    if ttl > 0:
        return _FRESH
    window = control.stale_while_revalidate
    if window is not None and -ttl <= window and not _forbids_stale(stored):
        return _WHILE_REVALIDATE  # RFC 5861 §3
    return _STALE


def may_serve_stale(request: Headers, stored: StoredResponse, now: float, *, disconnected: bool) -> bool:
    """Whether a stale response may stand in for an answer that cannot be had.

    ``stale-if-error`` allows it (RFC 5861 §4). ``disconnected``: the origin could not be asked, so it is allowed
    unless something forbids it (RFC 9111 §4.2.4).
    """
    if _forbids_stale(stored):
        return False
    asked = request_cache_control(request)
    if asked.no_cache or asked.no_store or asked.min_fresh is not None or asked.max_age is not None:
        return False
    if disconnected:
        return True
    staleness = -stored.ttl(now)
    allowed = asked.stale_if_error if asked.stale_if_error is not None else stored.cache_control.stale_if_error
    return allowed is not None and staleness <= allowed


def _forbids_stale(stored: StoredResponse) -> bool:
    """§4.2.4: must-revalidate, proxy-revalidate, s-maxage (§5.2.2.10 gives it the same effect), no-cache."""
    control = stored.cache_control
    return (
        control.must_revalidate
        or control.proxy_revalidate
        or control.s_maxage is not None
        or control.no_cache
        or bool(control.no_cache_fields)
    )
