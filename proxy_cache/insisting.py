"""Requests that insist on a new answer: ``no-cache``, ``max-age``, ``min-fresh`` (RFC 9111 §5.2.1), ``Pragma``.

What the origin was asked for before such a request came is from before it, too: somebody may have pushed in between.
But 200 agents that insist at the same time are not 200 requests. Whoever comes while the origin is being asked waits
for that answer's head, and then all of them share the next request: a burst costs two.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Final

from .answers import Exchange
from .limiter import Overloaded
from .origin_response import OriginError
from .semantics.directives import CacheControl
from .semantics.stored import StoredResponse

if TYPE_CHECKING:
    from .fills import Fill

PATIENCE: Final = 10.0
"""Seconds that are waited for the head of an earlier answer, at most: a request of one's own may be faster than what
hangs."""
REST: Final = 1.0
"""Seconds that are waited for the rest of its body, if not more than ``quick_abort_max`` is left of that: what is
stored can be validated, and a 304 is little."""


def not_before(wanted: CacheControl, came: float) -> float | None:
    """When the origin may have been asked at the earliest for what this request takes; ``None``: at any time.

    ``came``: when the request was here. An answer is as old as its request (RFC 9111 §4.2.3, response_delay), so
    ``max-age`` lets it be that much older, and ``min-fresh`` has to be told the lifetime before: it takes the next.
    """
    if wanted.no_cache or wanted.min_fresh is not None:
        return came
    return came - wanted.max_age if wanted.max_age is not None else None


def was_asked_since(wanted: CacheControl, response: StoredResponse, came: float) -> bool:
    """Whether the origin was asked for a stored response after this request came, so that it is as new as it wants."""
    return wanted.min_fresh is None and response.request_time >= time.time() - (time.monotonic() - came)


async def until_next(exchange: Exchange, earlier: Fill) -> None:
    """Wait until it is time for the request after ``earlier``. Raises :class:`~.waiter.SentOn` if what that brings may
    not be shared, so that all go alone and at once, and :class:`~.waiter.ClientGone`."""
    try:
        waiter = exchange.waiter = earlier.join(exchange.client, exchange.headers, exchange.policy.patience)
        waiter.asker = exchange
    except Overloaded:
        return
    head = None
    try:
        async with asyncio.timeout(PATIENCE):
            head = await waiter.head()
    except (TimeoutError, OriginError):
        pass
    finally:
        exchange.waiter = None
        waiter.leave()
    if head is not None and head.why_not_stored is None and earlier.is_running and earlier.bytes_left >= 0:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REST):
                await earlier.ending()
