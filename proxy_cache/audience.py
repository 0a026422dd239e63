"""Who of those who wait for a response may have it, where it is neither stored nor for one alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from .semantics.credentials import has_credentials
from .semantics.freshness import HEURISTICALLY_CACHEABLE
from .semantics.headers import Headers
from .semantics.policy import Policy
from .semantics.storing import says_nothing

if TYPE_CHECKING:
    from .fills import FillRequest

_ABSENT: Final = HEURISTICALLY_CACHEABLE & {300, 301, 308, 404, 410}
"""That something is elsewhere, or gone. Other errors speak of the request."""


def is_plain_absence(request: FillRequest, status: int, response: Headers) -> bool:
    """Whether an answer says nothing but that there is nothing here (any more): it is for all who were waiting for it.

    RFC 9111 §4.2.2 would let us keep it for a time of our own choosing, as its status is heuristically cacheable. We
    keep it for none, but 20 agents that look for the same thing at the same time are one request.
    """
    return (
        status in _ABSENT
        and says_nothing(response)
        and "set-cookie" not in response
        and not has_credentials(request.headers, request.policy.credentials)
    )


def has_no_credentials(policy: Policy) -> Callable[[Headers], bool]:
    """Who has not logged in: many services say 404 to them where there is something for others."""
    return lambda headers: not has_credentials(headers, policy.credentials)
