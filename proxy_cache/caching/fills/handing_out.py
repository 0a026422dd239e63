"""What a fill brings, to those who wait for it: the head, an error, or that they have to ask anew."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from ...semantics.directives import NOTHING, request_cache_control
from ...semantics.headers import Headers
from ...semantics.policy import Policy
from ...semantics.reuse import Reuse, decide
from ...semantics.stored import StoredResponse
from ...semantics.storing import speaks_of_resource
from ...semantics.vary import matches
from ...wire.responses import OriginError
from ..limiter import Overloaded
from ..recent_reasons import ERROR
from .audience import PROVOKED, is_about_others_like
from .fill import Fill
from .head import FillHead, NotShareable, Recipients
from .request import FillState

logger = logging.getLogger(__name__)


def deliver(fill: Fill, head: FillHead, recipients: Recipients) -> None:
    """Hand out the head: to the waiter for which it was asked, if that is still here, and to all others whom it suits.
    The rest have to ask anew."""
    shared, alone, suits = recipients
    if fill.slot.asked is None:
        suits = _is_content_with(head.response, fill.request.policy, suits)
    # What was "partial" was about a range, and speaks of no other.
    refused = head.why_not_stored == "partial" or not speaks_of_resource(head.response.status)
    for waiter in list(fill.waiters):
        if waiter.leads or (
            shared and matches(head.response.vary, waiter.headers) and (suits is None or suits(waiter.headers))
        ):
            waiter.deliver(head)
        else:
            # Nothing is known yet of what those are given who say less about themselves: one of them asks for all.
            also_alone = alone and not shared and is_about_others_like(
                fill.request.headers, waiter.headers, head.response.status, fill.request.policy
            )  # fmt: skip
            waiter.fail(NotShareable(refetch_alone=also_alone, refused=refused))
            del fill.waiters[waiter]
    if head.is_shared_unstored:
        fill.let_readers_differ()


def _is_content_with(
    response: StoredResponse, policy: Policy, suits: Callable[[Headers], bool] | None
) -> Callable[[Headers], bool]:
    """The origin was not asked: whoever waits for something newer than this (``no-cache``, RFC 9111 §5.2.1) has to ask
    again."""

    def is_content(headers: Headers) -> bool:
        directives = NOTHING if policy.ignore_directives else request_cache_control(headers)
        return (directives is NOTHING or decide(directives, response, time.time()).reuse is Reuse.FRESH) and (
            suits is None or suits(headers)
        )

    return is_content


def refuse_all(fill: Fill, *, refetch_alone: bool, ranges_only: bool = False, personal: bool = False) -> None:
    """All waiters have to ask anew. ``refetch_alone``: each for itself, or (``ranges_only``) just those that want
    ranges, or (``personal``) just those about whom the response says something although it isn't for them."""
    request, waiters, fill.waiters = fill.request, fill.waiters, {}
    for waiter in waiters:
        wants_range = waiter.leads or "range" in waiter.headers
        is_about = not personal or is_about_others_like(request.headers, waiter.headers, 206, request.policy)
        waiter.fail(NotShareable(refetch_alone=refetch_alone and is_about and (wants_range or not ranges_only)))


def break_off(fill: Fill, error: BaseException) -> str:
    """The fill has ended with this, which is told to all who wait. The outcome, as the metrics name it."""
    match error:
        case OriginError():
            if not fill.has_client:  # others are told, and it is noted then
                fill.context.reasons.note(fill.request.key, ERROR, error.error, error.status, error.detail)
            _fail(fill, error)
            return error.error
        case asyncio.CancelledError() | Overloaded():
            # Nobody waits any more, the place in the queue timed out, or the proxy is shutting down.
            outcome = "stalled" if fill.stalled else "abandoned" if fill.state is FillState.RUNNING else ""
            _fail(fill, OriginError("proxy_internal_error", "the fill was abandoned"))
            return outcome
        case _:
            logger.error("fill of %s failed", fill.request.target.shown, exc_info=error)
            _fail(fill, OriginError("proxy_internal_error", type(error).__name__))
            return "proxy_internal_error"


def _fail(fill: Fill, error: OriginError) -> None:
    fill.state = FillState.FAILED
    if fill.body is not None:
        fill.body.fail(error)
    suits, asked = None, fill.request.range_fetch
    if error.error in PROVOKED and fill.head is None and (asked is None or asked.of is None):
        suits = fill.context.trouble.concerns(fill.request)
    for waiter in list(fill.waiters):
        if suits is None or waiter.leads or suits(waiter.headers):
            waiter.fail(error)
        else:
            waiter.fail(NotShareable(refetch_alone=False, refused=True))
            fill.waiters.pop(waiter, None)
