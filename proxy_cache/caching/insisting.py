"""Requests that insist on a new response: ``no-cache``, ``max-age``, ``min-fresh`` (RFC 9111 §5.2.1), ``Pragma``; and
requests that find a fill whose response must be validated (``no-cache``, §5.2.2.4) or is stale on arrival.

A response to an earlier request to the origin is too old for them: somebody may have pushed a new version in between.
But 200 agents that insist at the same time must not be 200 requests, nor 200 bodies. They wait until the running fill
is stored, and then share the next request, which validates it: a burst costs two. No request waits for ever: after
:data:`PATIENCE` the next one begins beside a long body, and all that wait by then share it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Final

from ..semantics.directives import CacheControl
from ..semantics.headers import Headers
from ..semantics.stored import StoredResponse
from ..semantics.vary import matches
from ..store.index import Entry
from ..wire.responses import OriginError
from .answers import Exchange
from .fills.fill import Fill
from .fills.known_heads import condition_holds
from .limiter import Overloaded

PATIENCE: Final = 10.0
"""Seconds to wait for an earlier response with its body, at most: a new request may be faster than one that hangs. So
there is at most one more request in so many seconds, however many clients insist."""


def not_before(directives: CacheControl, came: float) -> float | None:
    """The earliest request to the origin whose response this one may share; ``None``: any.

    ``came``: the arrival of this one. A response is as old as its request (RFC 9111 §4.2.3, response_delay), so
    ``max-age`` lets it be that much older. For ``min-fresh`` its lifetime would have to be known beforehand, so only a
    response to a later request will do.
    """
    if directives.no_cache or directives.min_fresh is not None:
        return came
    return came - directives.max_age if directives.max_age is not None else None


def was_asked_since(directives: CacheControl, response: StoredResponse, came: float) -> bool:
    """Whether a stored response is from after this request's arrival, and so as new as it wants."""
    return directives.min_fresh is None and response.request_time >= time.time() - (time.monotonic() - came)


def waits_for(
    fills: Iterable[Fill], exchange: Exchange, stale: Entry | None, since: float | None, came: float
) -> Fill | None:
    """The fill, of those that it may not share, that a request waits for, so as to share the next one. ``since``: from
    :func:`not_before`. ``stale``: the entry that it would validate."""
    latest = None
    for fill in fills:
        if fill.slot.asked is None or fill.slot.asked >= came:
            continue
        if fill.head is None:
            if since is not None and fill.slot.asked < since:
                latest = fill
        elif will_be_validated(fill, exchange.headers) and (
            stale is None or fill.head.response.request_time > stale.response.request_time
        ):
            return fill  # the first of them is the first to end, mostly
    return latest


def will_be_validated(fill: Fill, headers: Headers) -> bool:
    """Whether the end of this fill is worth waiting for: its response will be stored, and can be validated then.

    Not for a range, which is small, unless nearly all is here. Nor for a condition that the head at hand fulfils: it is
    passed on, and the answer has no body.
    """
    head, body = fill.head, fill.body
    return (
        head is not None
        and head.why_not_stored is None
        and head.fills_gap_of is None
        and body is not None
        and body.kept
        and not fill.doomed
        and (fill.is_running or fill.is_being_stored)
        and matches(head.response.vary, headers)
        and ("range" not in headers or fill.bytes_left >= 0)
        and not condition_holds(headers, head.response)
    )


async def until_next(exchange: Exchange, earlier: Fill) -> None:
    """Wait until it is time for the request after ``earlier``.

    Raises :class:`~.fills.waiting.NotShareable` if its response may not be shared, so that all go alone and at once,
    and :class:`~.fills.waiting.ClientGone`.
    """
    try:
        waiter = earlier.join(exchange.client, exchange.headers, exchange.policy.patience, reads=False)
    except Overloaded:
        return
    exchange.waiter = exchange.visit(waiter)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(PATIENCE) as patience:
            await waiter.head()
            if will_be_validated(earlier, exchange.headers):
                waiter.on_gone = lambda: None if patience.expired() else patience.reschedule(loop.time())
                await earlier.ending()
    except (TimeoutError, OriginError):
        pass
    finally:
        exchange.waiter = waiter.on_gone = None
        waiter.leave()
