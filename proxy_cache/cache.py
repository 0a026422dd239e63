"""The pipeline for one GET: look it up, join or start a fill, answer with a head and a body to read.

Fresh → from the store. Stale → validate, which is a fill. Miss → join the fill of the key, or start one. (A lookup at
peers has its place between the store and the limiter, in ``_from_fill``.) The result is an :class:`Answer`; nothing
here writes to a client.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from .answers import Answer, Exchange, StoredReader
from .fill_table import FillTable
from .fills import ClientGone, FillHead, FillRequest, SentOn, Waiter
from .limiter import Overloaded
from .origin import OriginError
from .semantics import ranges
from .semantics.dates import format_http_date
from .semantics.directives import CacheControl
from .semantics.headers import Headers
from .semantics.keys import Target, related_targets
from .semantics.reuse import Decision, Reuse, decide, may_serve_stale
from .semantics.status_fields import cache_status, proxy_status
from .semantics.stored import StoredResponse
from .semantics.validation import CONDITIONAL, is_conditional, may_stand_for, not_modified, not_modified_headers
from .semantics.vary import matches
from .store.files import OpenBody
from .store.index import Entry
from .store.store import Store

logger = logging.getLogger(__name__)

NAME = "proxy-cache"
"""How this cache calls itself in ``Cache-Status`` and ``Proxy-Status``."""
NO_FIELDS = Headers()
CANDIDATES_MOST = 15
"""Other variants that are validated along with the one that a request selects."""
ROUNDS = 8
"""How often one request may be sent on from a fill that was not for it, before it asks alone."""


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """What an operator may choose about answers."""

    serve_stale_on_overload: bool = False


class Cache:
    """Answers GETs, from the store or from fills. One per proxy."""

    def __init__(self, store: Store, fills: FillTable, settings: CacheSettings, via: str) -> None:
        self.store = store
        self.fills = fills
        self.settings = settings
        self.via = via

    # -- the story of one GET -----------------------------------------------------------------------------------

    async def get(self, exchange: Exchange) -> Answer:
        """The answer to a GET. Never raises for what the origin, the disk or the queue do: those have answers too.

        Raises :class:`ClientGone` when the client left while its answer was awaited.
        """
        key = exchange.target.key
        alone = False
        for turn in range(ROUNDS):
            if exchange.gone:
                raise ClientGone(queued=False)
            now = time.time()
            entry = self._select(key, exchange.headers)
            decision = decide(exchange.wanted, entry.response, now) if entry is not None else None
            if entry is not None and decision is not None and decision.reuse is not Reuse.VALIDATE:
                answer = await self._from_store(exchange, entry, now, decision)
                if answer is not None:
                    return answer
                continue  # the body could not be read: the entry is gone, fetch it again
            if exchange.wanted.only_if_cached:
                if entry is None and await self.fills.settled(key):
                    continue
                fwd = self._forward_reason(key, decision)
                return self._error(504, "http_request_denied", fwd, detail="only-if-cached")
            if entry is None and self._nothing_to_join(exchange) and await self.fills.settled(key):
                continue
            try:
                answer = await self._from_fill(exchange, entry, decision, alone=alone or turn == ROUNDS - 1)
            except SentOn as sent_on:
                alone = sent_on.alone
                continue
            except (Overloaded, OriginError) as error:
                return await self._without_origin(exchange, entry, decision, error)
            if answer is not None:
                return answer
        return self._error(502, "proxy_internal_error", "miss", detail="no answer after several attempts")

    async def head(self, exchange: Exchange) -> Answer | str:
        """The answer to a HEAD, if a fresh entry can give it (RFC 9110 §9.3.2), else why it goes forward."""
        key = exchange.target.key
        entry = self._select(key, exchange.headers)
        if entry is None and await self.fills.settled(key):
            entry = self._select(key, exchange.headers)
        if entry is None:
            return self._forward_reason(key, None)
        now = time.time()
        decision = decide(exchange.wanted, entry.response, now)
        if decision.reuse is Reuse.FRESH and "range" not in exchange.headers:
            answer = await self._from_store(exchange, entry, now, decision)
            if answer is not None:
                return answer
        return decision.reason or "bypass"

    def head_answered(self, exchange: Exchange, headers: Headers, request_time: float, response_time: float) -> None:
        """The origin answered a HEAD with 200: it tells what a GET would have brought (RFC 9111 §4.3.5)."""
        entry = self._select(exchange.target.key, exchange.headers)
        if entry is None or entry.response.status != 200:
            return
        response = entry.response
        length = headers.get("content-length")
        updated = response.updated_by(headers, request_time, response_time, exchange.headers, exchange.policy)
        if updated is response or updated.must_not_be_kept or (length is not None and length != str(entry.length)):
            # "If […] any of those fields are different, the cache SHOULD consider the stored response to be stale".
            self.store.remove(entry)
        else:
            self.store.update(entry, updated)

    def invalidate(self, target: Target, headers: Headers = NO_FIELDS) -> None:
        """An unsafe method succeeded on this URL: what is stored, or on its way, is out of date (RFC 9111 §4.4).

        So is what the answer's ``headers`` name as changed or made, on the same origin.
        """
        for one in (target, *related_targets(target, headers)):
            self.fills.invalidate(one.key)
            self.store.remove_key(one.key)

    # -- from the store -----------------------------------------------------------------------------------------

    def _select(self, key: str, headers: Headers) -> Entry | None:
        """The stored variant that this request selects; the most recent one if several do (RFC 9111 §4.1)."""
        found = None
        for entry in self.store.lookup(key):
            if matches(entry.response.vary, headers) and (found is None or entry.response.date >= found.response.date):
                found = entry
        return found

    def get_now(self, exchange: Exchange) -> Answer | None:
        """The answer to a GET if it takes no waiting at all: a fresh entry whose body file is open."""
        now = time.time()
        entry = self._select(exchange.target.key, exchange.headers)
        if entry is None or decide(exchange.wanted, entry.response, now).reuse is not Reuse.FRESH:
            return None
        file = self.store.files.open_cached(entry.id)
        if file is None:
            return None
        status = cache_status(NAME, hit=True, ttl=entry.response.ttl(now))
        return self._serve_open(exchange, entry, file, entry.response, now, status, "hit")

    async def _from_store(self, exchange: Exchange, entry: Entry, now: float, decision: Decision) -> Answer | None:
        ttl = entry.response.ttl(now)
        if decision.reuse is Reuse.STALE_WHILE_REVALIDATE:
            self._revalidate_in_background(exchange, entry)
            status = cache_status(NAME, hit=True, ttl=ttl, detail="stale-while-revalidate")
            return await self._serve_entry(exchange, entry, entry.response, now, status, "stale")
        status = cache_status(NAME, hit=True, ttl=ttl)
        return await self._serve_entry(exchange, entry, entry.response, now, status, "hit")

    async def _serve_entry(
        self, exchange: Exchange, entry: Entry, response: StoredResponse, now: float, status: str, source: str
    ) -> Answer | None:
        """Answer with a stored body under ``response``'s head; ``None`` if the body turned out to be unreadable."""
        file = await self.store.open_body(entry)
        if file is None:
            return None
        return self._serve_open(exchange, entry, file, response, now, status, source)

    def _serve_open(
        self,
        exchange: Exchange,
        entry: Entry,
        file: OpenBody,
        response: StoredResponse,
        now: float,
        status: str,
        source: str,
    ) -> Answer:
        self.store.touch(entry)
        headers = response.headers
        if source != "revalidated" or response.initial_age:
            # RFC 9111 §5.1: Age "implies that the response was not generated or validated by the origin server for
            # this request".
            headers = _put(headers, "Age", str(response.age(now)))
        if "accept-ranges" not in headers and response.status == 200:
            headers = headers.add("Accept-Ranges", "bytes")
        start, stop = 0, entry.length
        code = response.status
        if code == 200:
            selected = ranges.single_range(exchange.headers, response.headers, entry.length)
            if selected == "unsatisfiable":
                self.store.files.release(file)
                headers = _put(headers, "Content-Range", f"bytes */{entry.length}")
                return self._plain(416, "Range Not Satisfiable", headers, status, source)
            if selected is not None:
                code, start, stop = 206, selected.start, selected.stop
                headers = _put(headers, "Content-Range", ranges.content_range(selected, entry.length))
        reader = exchange.source = StoredReader(self.store, entry, file, start, stop)
        answer = Answer(code, "", self._head(headers, response, status), reader, stop - start, source)
        return self._conditionally(exchange, answer)

    def _revalidate_in_background(self, exchange: Exchange, entry: Entry) -> None:
        """RFC 5861 §3. The fill has a waiter that never leaves, so it is seen through; it takes a slot like any."""
        key = exchange.target.key
        if self.fills.find(key, exchange.headers, lambda response: True) is not None:
            return
        headers = _without_conditions(exchange.headers)
        try:
            self.fills.start(FillRequest(key, exchange.target, headers, "", (entry,), exchange.policy))
        except Overloaded:
            logger.debug("no room in the queue to validate %s in the background", key)

    # -- from a fill --------------------------------------------------------------------------------------------

    async def _from_fill(
        self, exchange: Exchange, stale: Entry | None, decision: Decision | None, *, alone: bool
    ) -> Answer | None:
        key = exchange.target.key
        waiter, collapsed, complete = self._wait_for_fill(exchange, stale, alone=alone)
        exchange.waiter = waiter
        try:
            head = await waiter.head
        except BaseException:
            waiter.leave()
            raise
        finally:
            exchange.queued_for += waiter.queued_for
        exchange.collapsed = collapsed
        now = time.time()
        response = head.response
        fwd = self._forward_reason(key, decision)
        if (
            stale is not None
            and response.status >= 500
            and may_serve_stale(exchange.wanted, stale.response, now, disconnected=False)
        ):
            waiter.leave()
            status = cache_status(
                NAME, fwd=fwd, fwd_status=response.status, collapsed=collapsed, ttl=stale.response.ttl(now),
                detail="stale-if-error",
            )  # fmt: skip
            return await self._serve_entry(exchange, stale, stale.response, now, status, "stale")
        if head.entry is not None:
            waiter.leave()
            status = cache_status(NAME, fwd=fwd, fwd_status=304, collapsed=collapsed, ttl=response.ttl(now))
            return await self._serve_entry(exchange, head.entry, response, now, status, "revalidated")
        if complete:
            status = cache_status(NAME, hit=True, ttl=response.ttl(now))
        else:
            stored = head.why_not_stored is None
            status = cache_status(
                NAME, fwd=fwd, fwd_status=response.status, stored=stored, collapsed=collapsed,
                ttl=response.ttl(now) if stored else None, detail=head.why_not_stored,
            )  # fmt: skip
        return self._serve_fill(exchange, waiter, head, status, "hit" if complete else None)

    def _forward_reason(self, key: str, decision: Decision | None) -> str:
        """Why a request goes forward, as RFC 9211 §2.2 has it."""
        if decision is not None:
            return decision.reason
        return "vary-miss" if self.store.lookup(key) else "uri-miss"

    def _nothing_to_join(self, exchange: Exchange) -> bool:
        wanted = exchange.wanted
        return self.fills.find(exchange.target.key, exchange.headers, lambda response: _fresh(wanted, response)) is None

    def _wait_for_fill(self, exchange: Exchange, stale: Entry | None, *, alone: bool) -> tuple[Waiter, bool, bool]:
        """Join the fill of the key or start one: the waiter, whether it joined, and whether the fill was complete."""
        key, headers, wanted = exchange.target.key, exchange.headers, exchange.wanted
        for_origin = _is_for_the_origin(headers)
        if not (alone or wanted.no_store or for_origin):
            fill = self.fills.find(key, headers, lambda response: _fresh(wanted, response))
            if fill is not None and not ("range" in headers and fill.body is None):
                complete = fill.body is not None and fill.body.complete
                return self._listening(exchange, fill.join(exchange.client, headers)), True, complete
        private = alone or wanted.no_store or for_origin or "range" in headers or self.fills.is_uncacheable(key)
        candidates = self._candidates(exchange, stale)
        retries = None
        if private and (stale is None or for_origin):
            # Nobody shares this, so the client's own conditions and ranges may go through as they are.
            candidates = ()
            keep = not (wanted.no_store or "range" in headers)
        else:
            keep = not wanted.no_store
            if candidates or not is_conditional(headers) or self.fills.was_passed_on(key):
                headers = _without_conditions(headers)
            # Else the condition is passed on, once: RFC 9111 §4.3.2 has it meant for somebody further on where nothing
            # is stored, and a 304 costs the origin less than the whole. Who asks next fetches it for all.
            if stale is not None:
                retries = self._retries_of_validation(wanted, stale)
        request = FillRequest(
            key, exchange.target, headers, exchange.client, candidates, exchange.policy, retries, private, keep
        )
        return self._listening(exchange, self.fills.start(request)), False, False

    def _listening(self, exchange: Exchange, waiter: Waiter) -> Waiter:
        waiter.on_interim = exchange.on_interim
        return waiter

    def _candidates(self, exchange: Exchange, selected: Entry | None) -> tuple[Entry, ...]:
        """What the origin may say is still good: the entry that the request selects, and every other variant that can
        be told by its tag, all in one request (RFC 9111 §4.3.1)."""
        if selected is not None and selected.response.etag is None:
            return (selected,)
        others = [
            entry
            for entry in self.store.lookup(exchange.target.key)
            if entry is not selected and may_stand_for(exchange.headers, entry.response)
        ]
        others = others[-CANDIDATES_MOST:]
        return (selected, *others) if selected is not None else tuple(others)

    def _retries_of_validation(self, wanted: CacheControl, stale: Entry) -> int | None:
        """Where something stale may stand in for an answer, nobody is kept waiting for the third failure."""
        now = time.time()
        if may_serve_stale(wanted, stale.response, now, disconnected=False):
            return 0
        return None

    def _serve_fill(
        self, exchange: Exchange, waiter: Waiter, head: FillHead, status: str, source: str | None
    ) -> Answer:
        response, body = head.response, head.body
        assert body is not None
        source = source or ("coalesced" if exchange.collapsed else "miss")
        own = head.own if waiter is waiter.fill.leader else None
        headers, code, start, stop = own or response.headers, response.status, 0, None
        total = body.total
        if code == 200 and total is not None and not waiter.fill.request.private:
            selected = ranges.single_range(exchange.headers, headers, total)
            if selected == "unsatisfiable":
                waiter.leave()
                headers = _put(headers, "Content-Range", f"bytes */{total}")
                return self._plain(416, "Range Not Satisfiable", headers, status, source)
            if selected is not None:
                code, start, stop, total = 206, selected.start, selected.stop, selected.stop - selected.start
                headers = _put(headers, "Content-Range", ranges.content_range(selected, body.total or 0))
        if response.initial_age or source == "hit":
            headers = _put(headers, "Age", str(response.age(time.time())))
        if code == 304:
            waiter.leave()
            return Answer(304, head.reason, self._head(headers, response, status), b"", None, source)
        reader = exchange.source = waiter.reader
        assert reader is not None
        reader.offset, reader.stop = start, stop
        answer = Answer(
            code, head.reason if code != 206 else "", self._head(headers, response, status), reader, total, source
        )
        return self._conditionally(exchange, answer)

    # -- when there is no answer from the origin ------------------------------------------------------------------

    async def _without_origin(
        self, exchange: Exchange, stale: Entry | None, decision: Decision | None, error: Exception
    ) -> Answer:
        """No slot in time, or no usable answer: a stale entry if that is allowed, else the error."""
        now = time.time()
        overload = isinstance(error, Overloaded)
        fwd = self._forward_reason(exchange.target.key, decision)
        if stale is not None:
            disconnected = self.settings.serve_stale_on_overload if overload else True
            if may_serve_stale(exchange.wanted, stale.response, now, disconnected=False) or (
                disconnected and may_serve_stale(exchange.wanted, stale.response, now, disconnected=True)
            ):
                ttl = stale.response.ttl(now)
                if overload:
                    status = cache_status(NAME, hit=True, ttl=ttl, detail="overload")
                else:
                    status = cache_status(NAME, fwd=fwd, ttl=ttl, detail="origin-error")
                answer = await self._serve_entry(exchange, stale, stale.response, now, status, "stale")
                if answer is not None:
                    return answer
        if isinstance(error, Overloaded):
            return self.overloaded(error.outcome, error.retry_after, fwd)
        assert isinstance(error, OriginError)
        return self._error(error.status, error.error, fwd, detail=error.detail)

    def overloaded(self, outcome: str, retry_after: int, fwd: str = "miss") -> Answer:
        """503: the request was ``canceled``, ``timeout`` or ``rejected`` while it was to queue for a slot."""
        return self._error(503, "connection_limit_reached", fwd, detail=outcome, retry_after=retry_after)

    def _error(
        self, code: int, error: str, fwd: str, *, detail: str | None = None, retry_after: int | None = None
    ) -> Answer:
        """An answer of our own making, with ``Proxy-Status`` (RFC 9209) to say so."""
        fields = Headers().add("Content-Type", "text/plain; charset=utf-8")
        if retry_after is not None:
            fields = fields.add("Retry-After", str(retry_after))
        fields = fields.add("Cache-Control", "no-store")
        fields = fields.add("Proxy-Status", proxy_status(NAME, error, detail=detail))
        reason = detail if error in ("connection_limit_reached", "http_request_denied") else error
        fields = fields.add("Cache-Status", cache_status(NAME, fwd=fwd, detail=reason))
        fields = fields.add("Via", f"1.1 {self.via}")
        text = f"{code} {REASONS.get(code, 'Error')}: {error.replace('_', ' ')}{f' ({detail})' if detail else ''}\n"
        body = text.encode("utf-8", "replace")
        return Answer(code, REASONS.get(code, ""), fields, body, len(body), "error")

    def internal_error(self, detail: str) -> Answer:
        """Something of ours failed. The request does not go anywhere (design decision 8)."""
        return self._error(502, "proxy_internal_error", "bypass", detail=detail)

    def loop_detected(self) -> Answer:
        """The request has been through this proxy already (RFC 9110 §7.6.3)."""
        return self._error(502, "proxy_loop_detected", "bypass")

    # -- heads --------------------------------------------------------------------------------------------------

    def _head(self, headers: Headers, response: StoredResponse, status: str) -> Headers:
        if "date" not in headers:
            headers = headers.add("Date", format_http_date(response.response_time))  # RFC 9110 §6.6.1
        return headers.add("Via", f"1.1 {self.via}").add("Cache-Status", status)

    def _plain(self, code: int, reason: str, headers: Headers, status: str, source: str) -> Answer:
        headers = headers.without("content-length", "content-type", "content-encoding", "etag", "last-modified")
        return Answer(code, reason, headers.add("Via", f"1.1 {self.via}").add("Cache-Status", status), b"", 0, source)

    def _conditionally(self, exchange: Exchange, answer: Answer) -> Answer:
        """The client's own conditions are answered here, whoever has fetched the response (RFC 9110 §13.2)."""
        # §13.2.2 has If-None-Match evaluated before Range: a 206 stands for a 200 here.
        if not is_conditional(exchange.headers):
            return answer
        status = 200 if answer.status == 206 else answer.status
        if not not_modified(exchange.headers, status, answer.headers):
            return answer
        exchange.close()
        exchange.source = None
        kept = not_modified_headers(answer.headers)
        for name in ("Age", "Via", "Cache-Status"):
            value = answer.headers.get(name.lower())
            if value is not None and name.lower() not in kept:
                kept = kept.add(name, value)
        return Answer(304, "Not Modified", kept, b"", None, answer.source)


REASONS = {
    416: "Range Not Satisfiable",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


def _put(headers: Headers, name: str, value: str) -> Headers:
    """One line of this field, spelt as people expect it."""
    return headers.without(name.lower()).add(name, value)


def _fresh(wanted: CacheControl, response: StoredResponse) -> bool:
    return decide(wanted, response, time.time()).reuse is Reuse.FRESH


def _is_for_the_origin(headers: Headers) -> bool:
    """RFC 9111 §4.3.2: these conditions "are not applicable to a cache"; only the origin may evaluate them."""
    return "if-match" in headers or "if-unmodified-since" in headers


def _without_conditions(headers: Headers) -> Headers:
    """A shared fill asks for all of it: the client's own conditions and ranges are answered from what comes back."""
    return headers.without(*CONDITIONAL, "range")
