"""Who of those who wait for a response may have it, where it is neither stored nor for one alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ...semantics.credentials import credentials_of, has_credentials
from ...semantics.freshness import HEURISTICALLY_CACHEABLE
from ...semantics.headers import Headers
from ...semantics.policy import Policy
from ...semantics.ranges import requested
from ...semantics.validation import CONDITIONAL
from ...store.columns import key_hash

if TYPE_CHECKING:
    from .fill import FillRequest

PROVOKED: Final = frozenset(
    {
        "connection_terminated", "http_protocol_error", "http_request_error", "http_response_header_section_size",
        "http_response_header_size", "http_response_incomplete", "http_response_transfer_coding",
    }
)  # fmt: skip
"""Proxy error types (RFC 9209 §2.3) that a request may have brought about by what is in it. (With others nothing was
sent, or nothing came.)"""
_BESIDE: Final = CONDITIONAL | {"range", "cache-control", "pragma"}
"""Fields that make no other request of one, where it fails."""
TROUBLE_FOR: Final = 10.0
"""Seconds for which it is remembered of a key that a request for it has failed, and"""
TROUBLE_MAX: Final = 1000
"""of how many keys."""

_ABSENT: Final = HEURISTICALLY_CACHEABLE & {300, 301, 308, 404, 410}
"""That something is elsewhere, or gone. Other errors speak of the request."""


class Trouble:
    """Whom a failure concerns: a 5xx, or a connection that breaks. An origin in trouble fails everybody, and 20 agents
    must not ask it one after the other; but a firewall that cuts off what it takes for an attack fails one request, and
    that must not fail the others who wait for it. What was the same request shares its fate. The others ask again,
    together, and if that fails too, of another client, it is the origin.
    """

    def __init__(self) -> None:
        self._last: dict[int, tuple[float, str]] = {}
        """By the key's hash: when (by the monotonic clock), and which client's request it was."""

    def concerns(self, request: FillRequest) -> Callable[[Headers], bool] | None:
        """A request has failed. Whom of those who waited, by their headers, the failure is for; ``None``: all."""
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
    """Whether an answer that gives itself no lifetime says nothing but that there is nothing here (any more): it is for
    all who were waiting for it.

    RFC 9111 §4.2.2 would let us keep it for a time of our own choosing, as its status is heuristically cacheable. We
    keep it for none, and with ``no-cache`` we may not, but 20 agents that look for the same thing at the same time are
    one request.
    """
    return (
        status in _ABSENT
        and "set-cookie" not in response
        and not has_credentials(request.headers, request.policy.credentials)
    )


def wants_same_range(request: FillRequest) -> Callable[[Headers], bool]:
    """Who has asked for the very range that was asked for: an error may be about that."""
    ask = (request.part.ask,) if request.part is not None and request.part.is_exact else None
    return lambda headers: ask is not None and requested(headers) == ask


def has_no_credentials(policy: Policy) -> Callable[[Headers], bool]:
    """Who has not logged in: many services say 404 to them where there is something for others."""
    return lambda headers: not has_credentials(headers, policy.credentials)


def is_about_others_like(leader: Headers, waiter: Headers, status: int, policy: Policy) -> bool:
    """Whether an answer that is for nobody but who has asked (``leader``) tells that one to ``waiter`` would be, too.

    It says nothing about those who don't say who they are in all the ways that the leader has: without Authorization
    the answer may well be for all (RFC 9111 §3.5). And a redirect or an error for somebody who has not logged in says
    nothing about those who have.
    """
    identifying = frozenset() if policy.ignore_authorization else credentials_of(leader, policy.credentials)
    if identifying:
        return identifying <= waiter.names
    return status < 300 or policy.ignore_authorization or not has_credentials(waiter, policy.credentials)
