"""The response to a span that a fill has asked for: a piece of what is stored, the first piece of what will be, or
something that no client must get (RFC 9111 §3.3, §3.4)."""

from __future__ import annotations

from ...semantics.headers import Headers, end_to_end
from ...semantics.ranges import as_whole, is_same_representation
from ...semantics.spans import Span
from ...semantics.stored import StoredResponse
from ...semantics.storing import judge, why_not_shared
from ...store.index import Entry
from ...upstream.response import OriginResponse
from ...wire.responses import OriginError
from .fill import Fill
from .handing_out import deliver, refuse_all
from .head import FillHead, Recipients
from .range_fetch import RangeFetch, is_passed_off_as_whole
from .request import FillRequest
from .whole_response import VOLATILE


def take_partial(fill: Fill, response: OriginResponse, asked: RangeFetch) -> FillHead | None:
    """Deliver the head of a piece; ``None`` if the response is no piece and to be taken like any other.

    Raises :class:`OriginError` if it is for nobody: the waiters have been told to ask again then, and how.
    """
    found = asked.span_of(response) if response.status == 206 else None
    if found is not None:
        span, length = found
        headers = as_whole(response.headers, length)
        fill.context.keys.can_be_put_together(fill.request.key, headers)
        if asked.of is not None and _belongs_to(fill, asked.of, length, response):
            return _more_of(fill, response, headers, asked.of, span, length)
        return _first_of(fill, response, headers, span, length)
    if fill.request.beside:
        raise OriginError("http_response_incomplete", "the origin does not send this as a span")
    if response.status == 206 or is_passed_off_as_whole(response, to_a_range=True) or asked.is_refused_by(response):
        _ask_for_less(fill, asked)
    elif asked.of is not None and response.status == 200:
        # All of it: either the origin knows no ranges, or it has another version. It is what others can join now.
        stored = asked.of
        if stored.spans is not None and not is_same_representation(stored.response.headers, response.headers):
            fill.context.is_another_version(stored, unawares=not fill.request.candidates)
        fill.registry.fills_it_all(fill, stored)
    return None


def may_be_kept(request: FillRequest, updated: StoredResponse) -> bool:
    """Whether the body of a response to ``request`` may be put to a stored one, which is ``updated`` by it (RFC 9111
    §3.5, §5.2.2.5, §5.2.2.7)."""
    return not updated.must_not_be_kept and why_not_shared(request.headers, updated.headers, request.policy) is None


def _more_of(fill: Fill, response: OriginResponse, headers: Headers, entry: Entry, span: Span, length: int) -> FillHead:
    """The stored response, "combined under the header fields of the newer one" (RFC 9111 §3.4)."""
    request, context = fill.request, fill.context
    updated = entry.response.updated_by(headers, response.request_time, response.response_time, None, request.policy)
    is_kept, is_held = may_be_kept(request, updated), context.store.holds(entry)
    if is_held and not is_kept:
        refuse_all(fill, refetch_alone=True, personal=True)
        if updated.must_not_be_kept:
            context.store.remove(entry)
        raise OriginError("http_response_incomplete", "the origin gives the rest of this to nobody else")
    if is_held:
        context.store.update(entry, updated)
    fill.body = context.store.piece(entry, *span)
    if is_kept:
        fill.registry.fills_a_gap(fill, entry)
    else:
        fill.registry.forget(fill)  # it goes on with a response that has started, and is for that one alone
    head = FillHead(entry.response, "", fill.body, None, None, None, entry, length=length)
    return _delivered(fill, head, Recipients(shared=is_kept))


def _first_of(fill: Fill, response: OriginResponse, headers: Headers, span: Span, length: int) -> FillHead:
    request, context = fill.request, fill.context
    verdict = judge(request.headers, 200, headers, request.policy, context.guess_for(request, headers))
    why_not = verdict.why_not or (None if request.keep and response.may_be_kept else "bypass")
    stored = StoredResponse.of(200, headers, request.headers, response.request_time, response.response_time, verdict)
    context.keys.remember(request, headers, why_not)
    entry: Entry | None = None
    if why_not is None and not fill.doomed and context.store.accepts(request.key, stored):
        entry = context.store.add_object(request.key, stored, length)
        fill.body = context.store.piece(entry, *span)
        fill.registry.fills_a_gap(fill, entry)
    else:
        fill.body = context.store.body(span.stop, keep=False, start=span.start, volatile=why_not in VOLATILE)
        fill.registry.forget(fill)
    own = None if verdict.omitted.isdisjoint(headers.names) else end_to_end(headers).without("age")
    head = FillHead(stored, "", fill.body, None, why_not, own, entry, length=length)
    return _delivered(fill, head, Recipients(shared=entry is not None, refetch_alone=why_not is not None))


def _delivered(fill: Fill, head: FillHead, recipients: Recipients) -> FillHead:
    fill.head = head
    deliver(fill, head, recipients)
    fill.look_who_waits()
    return head


def _belongs_to(fill: Fill, entry: Entry, length: int, response: OriginResponse) -> bool:
    """Whether it is a piece of what is stored. If the origin has another representation now, the old one is dropped at
    once (RFC 9111 §3.4), and those who have had nothing of it yet begin anew."""
    if_range = not fill.request.candidates  # else the origin was asked with If-None-Match
    if entry.length == length and is_same_representation(entry.response.headers, response.headers, if_range=if_range):
        return True
    fill.context.is_another_version(entry, unawares=if_range)
    if fill.request.candidates:
        return False  # it was asked whether there is a new one: this is its first piece
    refuse_all(fill, refetch_alone=False)
    raise OriginError("http_response_incomplete", "the origin has another version of this now")


def _ask_for_less(fill: Fill, asked: RangeFetch) -> None:
    """The answer is to a range of ours, and nothing that a client could be given, or nothing that can be stored: each
    client asks for its own range then. If it was that, the leader gets the answer."""
    context, key = fill.context, fill.request.key
    if asked.is_exact:
        context.keys.unusable.add(key)
        if asked.is_own and asked.of is None:
            return
    else:
        context.keys.exact.add(key)
    refuse_all(fill, refetch_alone=asked.is_exact, ranges_only=True)
    raise OriginError("http_response_incomplete", "the origin has answered another range than was asked for")
