"""Which waiters may share a response that is neither stored nor for one client alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from ...semantics.credentials import credentials_of, has_credentials
from ...semantics.freshness import HEURISTICALLY_CACHEABLE
from ...semantics.headers import Headers
from ...semantics.policy import Policy
from ...semantics.ranges import requested
from ...semantics.validation import CONDITIONAL
from ...store.columns import key_hash
from .request import FillRequest

PROVOKED: Final = frozenset(
    {
        "connection_terminated", "http_protocol_error", "http_request_error", "http_response_header_section_size",
        "http_response_header_size", "http_response_incomplete", "http_response_transfer_coding",
    }
)  # fmt: skip
"""Proxy error types (RFC 9209 §2.3) that a request's content may have provoked. (With the others nothing was sent, or
nothing received.)"""
_BESIDE: Final = CONDITIONAL | {"range", "cache-control", "pragma"}
"""Fields that two requests may differ in and still fail for the same reason."""
TROUBLE_FOR: Final = 10.0
"""Seconds for which a failure is remembered."""
TROUBLE_MAX: Final = 1000
"""Keys with a remembered failure; the oldest makes room."""

_ABSENT: Final = HEURISTICALLY_CACHEABLE & {300, 301, 308, 404, 410}
"""Statuses that say that something has moved, or is gone. Other errors are about the request."""


class Trouble:
    """Whom a failure (a 5xx, a broken connection) concerns.

    An origin in trouble fails every request, and 20 agents must not try it one after the other. A firewall that takes a
    request for an attack fails that one, and must not fail the others. So waiters with the same request share the
    failure; the others ask again, together. If that fails too, for another client, it is the origin.
    """

    def __init__(self) -> None:
        self._last: dict[int, tuple[float, str]] = {}
        """By the key's hash: the time (monotonic clock) and the client of the last failure."""

    def concerns(self, request: FillRequest) -> Callable[[Headers], bool] | None:
        """A request has failed. Returns which waiters share that, by their headers; ``None``: all."""
        at, now = key_hash(request.key), time.monotonic()
        before = self._last.pop(at, None)
        if len(self._last) >= TROUBLE_MAX:
            del self._last[next(iter(self._last))]
        self._last[at] = now, request.client
        if before is not None and now - before[0] <= TROUBLE_FOR and before[1] != request.client:
            return None
        asked = _told(request.headers)
        return lambda headers: _told(headers) == asked


def _told(headers: Headers) -> list[tuple[str, str]]:
    return sorted((name, headers.get(name) or "") for name in headers.names - _BESIDE)


def is_plain_absence(request: FillRequest, status: int, response: Headers) -> bool:
    """Whether a response without a lifetime says no more than that there is nothing here: all waiters may share it.

    RFC 9111 §4.2.2 would let us keep it for a time of our own choosing, as its status is heuristically cacheable. We
    keep it for none, and with ``no-cache`` we may not, but 20 agents that ask at the same time are one request.
    """
    return (
        status in _ABSENT
        and "set-cookie" not in response
        and not has_credentials(request.headers, request.policy.credentials)
    )


def wants_same_range(request: FillRequest) -> Callable[[Headers], bool]:
    """Requests for the very same range: an error may be about that."""
    ask = (request.range_fetch.ask,) if request.range_fetch is not None and request.range_fetch.is_exact else None
    return lambda headers: ask is not None and requested(headers) == ask


def has_no_credentials(policy: Policy) -> Callable[[Headers], bool]:
    """Requests without credentials: many services answer those with 404 where others get something."""
    return lambda headers: not has_credentials(headers, policy.credentials)


def is_about_others_like(leader: Headers, waiter: Headers, status: int, policy: Policy) -> bool:
    """Whether a response for ``leader`` alone suggests that the one for ``waiter`` will be for ``waiter`` alone.

    Not if the waiter has fewer credentials: without Authorization the response may well be for all (RFC 9111 §3.5). And
    a redirect or an error for a request without credentials says nothing about requests with some.
    """
    identifying = frozenset() if policy.ignore_authorization else credentials_of(leader, policy.credentials)
    if identifying:
        return identifying <= waiter.names
    return status < 300 or policy.ignore_authorization or not has_credentials(waiter, policy.credentials)
