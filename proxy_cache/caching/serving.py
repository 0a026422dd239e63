"""How an :class:`~.answers.Answer` is made out of a stored entry, of a fill, of both, or of neither."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from functools import partial

from ..semantics.ranges import if_range_holds, strong_validator
from ..semantics.reuse import Decision, Reuse, may_serve_stale
from ..semantics.spans import Span
from ..semantics.status_fields import cache_status
from ..semantics.stored import StoredResponse
from ..semantics.storing import why_not_shared
from ..store.files import OpenBody
from ..store.index import Entry
from ..store.store import Store
from ..wire.responses import OriginError
from .answers import Answer, Exchange, MemoryReader, Seekable, StoredReader
from .fills.fill import Waiter
from .fills.head import FillHead, NotShareable
from .fills.known_heads import condition_holds
from .fills.request import FillRequest
from .fills.table import FillTable
from .headers import NAME, Heads, conditionally, put
from .limiter import Overloaded
from .plan import Planner, without_conditions
from .ranges.ahead import ahead_of, is_ahead, may_be_combined, sends_ranges
from .ranges.gap_reader import GapReader
from .ranges.lost_body import from_origin
from .ranges.selection import Selected, answer_with, first_gap, has_it_all, is_within, selected
from .recent_reasons import ERROR, OVERLOADED

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """What an operator may choose about answers."""

    serve_stale_on_overload: bool = False


class Serving:
    """Makes answers for :class:`~.cache.Cache`. Methods that return ``None`` have found the entry or the fill unusable:
    plan again. They raise :class:`NotShareable` where the request has to ask anew."""

    def __init__(self, store: Store, fills: FillTable, settings: CacheSettings, heads: Heads, planner: Planner) -> None:
        self.store = store
        self.fills = fills
        self.settings = settings
        self.heads = heads
        self.planner = planner

    def unchanged_by(
        self, exchange: Exchange, response: StoredResponse, now: float, status: str, source: str
    ) -> Answer | None:
        if not condition_holds(exchange.headers, response):
            return None
        headers = put(response.headers, "Age", str(response.age(now)))
        return conditionally(exchange, Answer(200, "", self.heads.own(headers, response, status), b"", 0, source))

    # -- from the store -----------------------------------------------------------------------------------------

    async def from_store(self, exchange: Exchange, entry: Entry, now: float, decision: Decision) -> Answer | None:
        ttl = entry.response.ttl(now)
        if decision.reuse is Reuse.STALE_WHILE_REVALIDATE:
            self.revalidate_in_background(exchange, entry)
            status = cache_status(NAME, hit=True, ttl=ttl, detail="stale-while-revalidate")
            return await self.serve_entry(exchange, entry, entry.response, now, status, "stale")
        status = cache_status(NAME, hit=True, ttl=ttl)
        return await self.serve_entry(exchange, entry, entry.response, now, status, "hit")

    async def serve_entry(
        self, exchange: Exchange, entry: Entry, response: StoredResponse, now: float, status: str, source: str
    ) -> Answer | None:
        """Answer with a stored body under ``response``'s head; ``None`` if the body turned out to be unreadable."""
        if entry.spans is not None:
            unchanged = self.unchanged_by(exchange, response, now, status, source)
            if unchanged is not None:
                return unchanged  # no gap is filled for a client that has it all
        spans = selected(exchange, response, entry.length)
        if entry.spans is not None and not entry.spans and (gap := first_gap(entry, spans)) is not None:
            return await self.fill_gap(exchange, entry, response, spans, gap, "partial")
        body = await self.store.open_body(entry)
        if body is None:
            return None
        if entry.spans is not None and (gap := first_gap(entry, spans)) is not None:
            # The file is open from here on: what is in there stays to be had if the entry is evicted meanwhile.
            assert not isinstance(body, bytes)
            return await self.fill_gap(exchange, entry, response, spans, gap, "partial", file=body)
        return self.serve_open(exchange, entry, body, response, now, status, source, spans)

    def serve_open(
        self,
        exchange: Exchange,
        entry: Entry,
        body: OpenBody | bytes,
        response: StoredResponse,
        now: float,
        status: str,
        source: str,
        spans: Selected,
    ) -> Answer:
        self.store.touch(entry)
        headers = response.headers
        if source != "revalidated" or response.initial_age:
            # RFC 9111 §5.1: Age "implies that the response was not generated or validated by the origin server for
            # this request".
            headers = put(headers, "Age", str(response.age(now)))
        reader: Seekable
        if isinstance(body, bytes):
            reader = exchange.source = MemoryReader(body)
        else:
            elsewhere = partial(from_origin, self.fills, exchange, entry, response)
            reader = exchange.source = StoredReader(self.store, entry, body, 0, entry.length, elsewhere)
        return answer_with(self.heads, exchange, headers, response, reader, entry.length, spans, status, source)

    def revalidate_in_background(self, exchange: Exchange, entry: Entry) -> None:
        """RFC 5861 §3. The fill has a waiter that stays while there is something to store, and a slot like any."""
        key = exchange.key
        if self.fills.find(key, exchange.headers, lambda response: True) is not None:
            return
        headers = without_conditions(exchange.headers)
        try:
            part = self.planner.part_of(exchange, entry) if "range" in exchange.headers else None
            request = FillRequest(
                key, exchange.target, headers, "", (entry,), exchange.policy, range_fetch=part,
                from_peer=exchange.peer is not None, trace=exchange.trace,
            )  # fmt: skip
            self.fills.start(request, reads=False)
        except Overloaded as error:
            self._note(exchange, error)
            logger.debug("no room in the queue to validate %s in the background", exchange.target.shown)

    # -- from a fill --------------------------------------------------------------------------------------------

    async def from_head(
        self,
        exchange: Exchange,
        waiter: Waiter,
        head: FillHead,
        stale: Entry | None,
        fwd: str,
        *,
        complete: bool,
        alone: bool,
    ) -> Answer | None:
        now, collapsed = time.time(), exchange.collapsed
        response = head.response
        if (
            stale is not None
            and response.status >= 500
            and has_it_all(exchange, stale)
            and may_serve_stale(exchange.directives, stale.response, now, disconnected=False)
        ):
            waiter.leave()
            status = cache_status(
                NAME, fwd=fwd, fwd_status=response.status, collapsed=collapsed, ttl=stale.response.ttl(now),
                detail="stale-if-error",
            )  # fmt: skip
            return await self.serve_entry(exchange, stale, stale.response, now, status, "stale")
        if head.entry is not None:
            waiter.leave()
            if head.own is not None and waiter.leads:
                response = replace(response, headers=head.own)
            status = cache_status(
                NAME, fwd=fwd, fwd_status=304, collapsed=collapsed, ttl=response.ttl(now), detail=head.why_not_stored
            )
            return await self.serve_entry(exchange, head.entry, response, now, status, "revalidated")
        if head.fills_gap_of is not None:
            return await self._from_piece(exchange, waiter, head.fills_gap_of, response, fwd)
        if "range" in exchange.headers and head.content is None and not alone:
            beside = await self._beside(exchange, waiter, head)
            if beside is not None:
                return await self._from_piece(exchange, waiter, beside, response, fwd)
        if complete:
            status = cache_status(NAME, hit=True, ttl=response.ttl(now))
            return self._serve_fill(exchange, waiter, head, status, "hit")
        return self.serve_head(exchange, waiter, head, fwd)

    async def _beside(self, exchange: Exchange, waiter: Waiter, head: FillHead) -> Entry | None:
        """The entry to read a range from that lies ahead of a running fill of the whole (see :mod:`.ranges.ahead`).

        Raises :class:`NotShareable` if it is far ahead, and what is asked for beside the fill can't be put to it.
        """
        fill, body = waiter.fill, head.body
        if body is None or head.length is not None:
            return None
        if body.total is None:
            # Of what is of unknown length no part can be given: all of it would go out. But the origin sends parts.
            if (
                fill.request.range_fetch is None
                and sends_ranges(head.response)
                and _selects_part(exchange, head.response)
            ):
                waiter.leave()
                raise NotShareable(refetch_alone=True)
            return None
        spans = selected(exchange, head.response, body.total)
        if not isinstance(spans, list) or not any(is_ahead(fill, span.start) for span in spans):
            return None
        ahead = ahead_of(self.fills, fill)
        if ahead is None:
            return None
        # RFC 9111 §3.5: what a client with Authorization is given may be for it alone, and can't be put to the rest.
        shared = why_not_shared(exchange.headers, head.response.headers, exchange.policy) is None
        as_it_is = exchange.requirements.exact_range is not None or exchange.requirements.is_bound
        if body.kept and may_be_combined(fill) and shared and not as_it_is:
            return ahead.entry
        wanted = sum(span.length for span in spans)
        reader = waiter.reader
        if reader is None or wanted > self.fills.context.spans.most - ahead.twice or not sends_ranges(head.response):
            return None
        last = max(spans)
        reader.seek(*last)
        if not await ahead.is_far(reader, last.stop):
            return None
        ahead.twice += wanted
        waiter.leave()
        raise NotShareable(refetch_alone=True)

    def serve_head(self, exchange: Exchange, waiter: Waiter, head: FillHead, fwd: str) -> Answer:
        """From what the origin has just answered."""
        response = head.response
        stored = head.why_not_stored is None and (head.body is None or head.body.kept)
        status = cache_status(
            NAME, fwd=fwd, fwd_status=response.status, stored=stored, collapsed=exchange.collapsed,
            ttl=response.ttl(time.time()) if stored else None, detail=head.why_not_stored,
        )  # fmt: skip
        return self._serve_fill(exchange, waiter, head, status, None)

    async def _from_piece(
        self, exchange: Exchange, waiter: Waiter, entry: Entry, response: StoredResponse, fwd: str
    ) -> Answer | None:
        """The origin has answered with a piece: it goes on as with any entry that has gaps."""
        now = time.time()
        spans = selected(exchange, response, entry.length)
        gap = first_gap(entry, spans)
        if gap is not None:
            if strong_validator(response.headers) is None:
                if not self.planner.is_on_its_way(exchange, entry):
                    # More than this is wanted, and nothing can be put to it. All of that is asked for in one piece then
                    # (the key is known for it now), by the exchange alone if what is wanted hangs on its conditions.
                    raise NotShareable(refetch_alone=spans is None and "range" in exchange.headers)
            elif not waiter.fill.covers(gap) and not self.planner.can_add_to(exchange, entry, alone=False):
                raise NotShareable(refetch_alone=True)
            return await self.fill_gap(exchange, entry, response, spans, gap, fwd, waiter)
        waiter.leave()
        collapsed = exchange.collapsed
        status = cache_status(NAME, fwd=fwd, fwd_status=206, stored=True, collapsed=collapsed, ttl=response.ttl(now))
        return await self.serve_entry(exchange, entry, response, now, status, "coalesced" if collapsed else "miss")

    def _serve_fill(
        self, exchange: Exchange, waiter: Waiter, head: FillHead, status: str, source: str | None
    ) -> Answer:
        response, body, content = head.response, head.body, head.content
        source = source or ("coalesced" if exchange.collapsed else "miss")
        own = head.own if waiter.leads else None
        headers, spans = own or response.headers, None
        if content is not None:
            length: int | None = len(content)
        else:
            assert body is not None
            length = body.total if head.length is None else head.length
        as_it_came = waiter.fill.request.private and waiter.fill.request.range_fetch is None
        if length is not None and not as_it_came and "content-range" not in response.headers:
            spans = selected(exchange, response, length)
            if body is not None and head.length is not None and not is_within(spans, body.start, body.total or 0):
                # A piece that may not be kept, and isn't all that is wanted: the rest can't be put to it.
                raise NotShareable(refetch_alone=True)
            if body is not None and not body.kept and isinstance(spans, list) and len(spans) > 1:
                if waiter.reader is not None and waiter.reader.offset != body.start:
                    raise NotShareable(
                        refetch_alone=True
                    )  # it has looked ahead, see _beside, and the beginning may be gone by now
                spans = None  # what is not kept passes once, in its order
        if response.initial_age or source == "hit":
            headers = put(headers, "Age", str(response.age(time.time())))
        if response.status == 304:
            return Answer(304, head.reason, self.heads.own(headers, response, status), b"", None, source)
        reader: Seekable
        if content is None:
            assert waiter.reader is not None
            reader = waiter.reader
            if body is not None and body.kept:
                waiter.reader.elsewhere = partial(from_origin, self.fills, exchange, None, response)
        else:
            reader = MemoryReader(content)
        waiter.hand_on()  # to the exchange, which leaves it when the answer has been sent
        exchange.source = reader
        reason = "" if source == "hit" else head.reason  # which is not stored
        return answer_with(self.heads, exchange, headers, response, reader, length, spans, status, source, reason)

    # -- a body with gaps ---------------------------------------------------------------------------------------

    async def fill_gap(
        self,
        exchange: Exchange,
        entry: Entry,
        response: StoredResponse,
        spans: Selected,
        gap: int,
        fwd: str,
        waiter: Waiter | None = None,
        file: OpenBody | None = None,
    ) -> Answer | None:
        """Answer with a body that has gaps, from the first of which the head is awaited: what goes wrong until then
        has an answer of its own. ``waiter``: has the head of a piece already. ``file``: the entry's."""
        assert spans != "unsatisfiable"
        if exchange.directives.only_if_cached:
            if file is not None:
                self.store.files.release(file)
            return self.heads.error(504, "http_request_denied", fwd, detail="only-if-cached")
        reader = GapReader(self.fills, exchange, entry, Span(0, entry.length), whole=spans is None, file=file)
        exchange.source = reader
        collapsed = exchange.collapsed
        try:
            if waiter is None or not waiter.fill.covers(gap):
                if waiter is not None:
                    waiter.leave()  # before another slot is waited for
                stop = next((span.stop for span in spans or () if span.start <= gap < span.stop), entry.length)
                waiter, collapsed = reader.wait_for(gap, stop)
            with waiter:
                head = await self.head_of(exchange, waiter)
                exchange.collapsed = collapsed
                if not reader.suits(head):
                    return await self._in_place_of_piece(exchange, entry, waiter, head, fwd)
                if not reader.is_within(waiter, head, gap):
                    raise NotShareable(refetch_alone=False)
                reader.hold(waiter, gap)
        except BaseException:
            reader.close()
            exchange.source = None
            raise
        now = time.time()
        self.store.touch(entry)
        source = "coalesced" if collapsed else "miss"
        if fwd == "partial" and collapsed and first_gap(entry, spans, self.fills.arrived(entry)) is None:
            source = "hit"
            status = cache_status(NAME, hit=True, ttl=response.ttl(now))
        else:
            status = cache_status(
                NAME, fwd=fwd, fwd_status=head.response.status if head.length is None else 206,
                stored=head.body is not None and head.body.kept,
                collapsed=collapsed, ttl=response.ttl(now),
            )  # fmt: skip
        headers = response.headers
        if fwd == "partial" or response.initial_age:
            headers = put(headers, "Age", str(response.age(now)))
        return answer_with(self.heads, exchange, headers, response, reader, entry.length, spans, status, source)

    async def _in_place_of_piece(
        self, exchange: Exchange, entry: Entry, waiter: Waiter, head: FillHead, fwd: str
    ) -> Answer | None:
        """The answer to what was asked for on behalf of a gap is none that goes into it."""
        if exchange.source is not None:
            exchange.source.close()
            exchange.source = None
        if head.response.status not in (200, 206, 416):
            status = cache_status(
                NAME, fwd=fwd, fwd_status=head.response.status, collapsed=exchange.collapsed,
                detail=head.why_not_stored,
            )  # fmt: skip
            return self._serve_fill(exchange, waiter, head, status, None)
        if head.response.status == 200 and head.length is None and "content-range" not in head.response.headers:
            return await self.from_head(exchange, waiter, head, None, fwd, complete=False, alone=False)
        if head.response.status == 416:
            self.store.remove(entry)  # it is not as long as it was
        raise NotShareable(refetch_alone=False)

    async def head_of(self, exchange: Exchange, waiter: Waiter) -> FillHead:
        exchange.waiter, waiter.asker = waiter, exchange
        if exchange.gone:
            waiter.client_gone()  # nobody would tell it any more
        try:
            return await waiter.head()
        finally:
            exchange.queued_for += waiter.queued_for

    # -- without an answer from the origin ----------------------------------------------------------------------

    async def without_origin(self, exchange: Exchange, stale: Entry | None, fwd: str, error: Exception) -> Answer:
        """No slot in time, or no usable answer: a stale entry if that is allowed, else the error. Where it is us who
        don't go there any more, the error in any case: nothing is wrong with the origin (RFC 9111 §4.2.4)."""
        now = time.time()
        overload = isinstance(error, Overloaded)
        is_refused = isinstance(error, OriginError) and error.status == 403
        if (
            stale is not None
            and not is_refused
            and has_it_all(exchange, stale)
            and self.may_use_stale(exchange, stale, now, overload=overload)
        ):
            ttl = stale.response.ttl(now)
            if overload:
                status = cache_status(NAME, hit=True, ttl=ttl, detail="overload")
            else:
                status = cache_status(NAME, fwd=fwd, ttl=ttl, detail="origin-error")
            self._note(exchange, error)
            answer = await self.serve_entry(exchange, stale, stale.response, now, status, "stale")
            if answer is not None:
                return answer
        return self.error(exchange, error, fwd)

    def may_use_stale(self, exchange: Exchange, stale: Entry, now: float, *, overload: bool) -> bool:
        """Whether a stale entry may answer where there is no slot (``overload``), or no answer from the origin."""
        directives, response = exchange.directives, stale.response
        disconnected = self.settings.serve_stale_on_overload if overload else True
        return may_serve_stale(directives, response, now, disconnected=False) or (
            disconnected and may_serve_stale(directives, response, now, disconnected=True)
        )

    def error(self, exchange: Exchange, error: Exception, fwd: str) -> Answer:
        """The answer of our own where there is no other. ``error``: :class:`Overloaded`, or :class:`OriginError`."""
        self._note(exchange, error)
        if isinstance(error, Overloaded):
            return self.heads.overloaded(error.outcome, error.retry_after, fwd)
        assert isinstance(error, OriginError)
        return self.heads.error(error.status, error.error, fwd, detail=error.detail)

    def _note(self, exchange: Exchange, error: Exception) -> None:
        """For those who ask later."""
        reasons = self.fills.context.reasons
        if isinstance(error, Overloaded):
            reasons.note(exchange.key, OVERLOADED, error.outcome)
        elif isinstance(error, OriginError):
            reasons.note(exchange.key, ERROR, error.error, error.status, error.detail)


def _selects_part(exchange: Exchange, response: StoredResponse) -> bool:
    """Whether ranges are wanted of a response whose length isn't known, and conditions don't have it otherwise."""
    return (
        response.status == 200
        and exchange.requirements.ranges is not None
        and if_range_holds(exchange.headers, response.headers)
    )
