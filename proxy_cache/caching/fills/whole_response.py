"""A response that is not a span of ours: whether it is stored, and for whom it is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from ...semantics.credentials import has_credentials
from ...semantics.directives import parse_cache_control
from ...semantics.headers import Headers, end_to_end
from ...semantics.stored import StoredResponse
from ...semantics.storing import SIGNED_URL, judge, speaks_of_resource
from ...semantics.vary import matches
from ...upstream.response import OriginResponse
from .audience import has_no_credentials, is_plain_absence, wants_same_range
from .fill import Fill
from .head import FillHead, Recipients
from .known_heads import condition_holds, head_of_304
from .range_fetch import is_passed_off_as_whole
from .request import FillRequest, identifying_fields

VOLATILE: Final = frozenset({"no-store", "request-no-store", "bypass"})
"""Reasons for not storing a response of which no byte may be brought to a disk either (RFC 9111 §5.2.1.5, §5.2.2.5)."""
SUPERSEDES: Final = frozenset({"no-store", "private", "set-cookie", "vary-star", "no-freshness"})
"""Reasons for not storing a response that speak of the resource, where its status does."""


def decide(fill: Fill, response: OriginResponse, content: bytes | None = None) -> tuple[FillHead, Recipients]:
    """Make the head of ``fill``, and its body unless that is here (``content``).

    An answer to the leader alone, or to its condition, says nothing about the others: they ask again, together. So do
    those who wait for a whole where it is about a range.
    """
    request, context, status = fill.request, fill.context, response.status
    verdict = judge(
        request.headers, 200 if status == 206 else status, response.headers, request.policy,
        context.guess_for(request, response.headers),
    )  # fmt: skip
    asked_for_range = request.range_fetch is not None or "range" in request.headers
    about_resource = status == 200 or speaks_of_resource(status)
    why_not = verdict.why_not or _why_not_kept(
        fill, response, asked_for_range=asked_for_range, about_resource=about_resource
    )
    is_kept_elsewhere = not response.may_be_kept and request.keep and verdict.why_not is None and why_not == "bypass"
    is_shared_unstored = why_not == SIGNED_URL or is_kept_elsewhere
    for_all = why_not is None or is_shared_unstored
    alone = about_resource and not (why_not == "partial" and asked_for_range)
    suits: Callable[[Headers], bool] | None = None
    if not for_all and _is_failure(status) and not _is_personal(request, response.headers):
        for_all, suits = True, context.trouble.concerns(request)
    if status == 304 and request.passes_condition_on and not request.private:
        for_all, alone, suits = _decide_304(fill, response)
    elif why_not == "partial" and verdict.why_not is None and status in (404, 410):
        for_all, suits = True, wants_same_range(request)
    elif why_not == "no-freshness" and is_plain_absence(request, status, response.headers):
        for_all, suits = True, has_no_credentials(request.policy)
    shown = response.headers
    if for_all and why_not is not None:
        shown = shown.without("set-cookie")  # one user's session is nobody else's, be the origin in trouble or not
    stored = StoredResponse.of(status, shown, request.headers, response.request_time, response.response_time, verdict)
    if about_resource and not (status >= 400 and asked_for_range):
        context.keys.remember(request, response.headers, why_not, status)
        if why_not in SUPERSEDES:
            _drop_superseded(fill)
    if content is None:
        keep = why_not is None and not fill.doomed and context.store.accepts(request.key, stored)
        total = 0 if status in (204, 304) else response.content_length
        fill.body = context.store.body(total, keep=keep, volatile=why_not in VOLATILE and not is_kept_elsewhere)
    own = None
    if shown is not response.headers or (verdict.omitted and response.headers.has_any(verdict.omitted)):
        own = end_to_end(response.headers).without("age")
    head = fill.head = FillHead(stored, response.reason, fill.body, None, why_not, own, content=content)
    head.is_shared_unstored = is_shared_unstored
    if (why_not is not None and not is_shared_unstored) or request.private:
        fill.registry.forget(fill)  # nobody joins what may not be shared
    return head, Recipients(for_all, alone, suits)


def _why_not_kept(fill: Fill, response: OriginResponse, *, asked_for_range: bool, about_resource: bool) -> str | None:
    """Why a response isn't stored that may be by its own fields and the request's."""
    status = response.status
    if status == 206:
        return "partial"
    if not fill.request.keep or not response.may_be_kept:
        return "bypass"
    if (status >= 400 and asked_for_range) or is_passed_off_as_whole(response, to_a_range=asked_for_range):
        return "partial"  # it may be about the range only
    if not about_resource and _has_better(fill, status):
        return "status"
    return None


def _decide_304(fill: Fill, response: OriginResponse) -> tuple[bool, bool, Callable[[Headers], bool] | None]:
    """A client's condition went to the origin, and holds: it does for all who have the same, if a 200 would be for all
    (RFC 9111 §4.3.2). Whether that is so, whether everybody else has to ask alone, and who has the same."""
    request = fill.request
    headers = head_of_304(request.headers, response.headers)
    verdict = judge(request.headers, 200, headers, request.policy)
    if verdict.why_not not in (None, SIGNED_URL, "no-freshness"):
        return False, True, None
    times = response.request_time, response.response_time
    told = StoredResponse.of(200, headers, request.headers, *times, verdict)
    if verdict.why_not is None and request.keep and not fill.doomed:
        fill.context.keys.heads.tell(request.key, told)
    return True, False, partial(condition_holds, response=told)


def _has_better(fill: Fill, status: int) -> bool:
    """Whether something is stored that an error must not take the place of: the origin is in trouble, or it has refused
    this client (a field too long, no login, a filter for requests), and what is here is still good."""
    store, key = fill.context.store, fill.request.key
    if status >= 500:
        return bool(fill.request.candidates)
    return not store.is_loaded(key) or any(speaks_of_resource(entry.response.status) for entry in store.lookup(key))


def _drop_superseded(fill: Fill) -> None:
    """The origin has another answer now, which can't be kept: neither can the validated one (RFC 9111 §4.3.3). Unless
    it was an answer to somebody who has logged in, and the stored one is for everybody."""
    for entry in fill.request.candidates[:1]:
        selecting = {name for name, _ in entry.response.vary}
        if identifying_fields(fill.request) <= selecting and matches(entry.response.vary, fill.request.headers):
            fill.context.store.remove(entry)


def _is_failure(status: int) -> bool:
    """An answer that says the origin is in trouble, and nothing about the resource."""
    return status >= 500 or status in (408, 429)


def _is_personal(request: FillRequest, response: Headers) -> bool:
    """Whether an error page may be meant for one user only."""
    if has_credentials(request.headers, request.policy.credentials):
        return True
    return parse_cache_control(response.get_all("cache-control")).private
