"""The pipeline for one GET: look it up, join or start a fill, answer with a head and a body to read.

Fresh → from the store. Stale → validate, which is a fill. Miss → join the fill of the key, or start one. What to do is
decided in :mod:`.plan`, how an answer is made of it is in :mod:`.serving`. The result is an :class:`Answer`; nothing
here writes to a client.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ..semantics.headers import Headers
from ..semantics.keys import Target, related_targets
from ..semantics.reuse import Reuse, decide
from ..semantics.status_fields import cache_status
from ..semantics.storing import why_not_shared
from ..store.store import Store
from ..wire.responses import OriginError
from .answers import Answer, Exchange
from .fills.fill import Waiter
from .fills.head import ClientGone, NotShareable
from .fills.request import FillRequest
from .fills.table import FillTable
from .headers import NAME, Heads, conditionally, put
from .insisting import until_next
from .limiter import Overloaded
from .plan import Fetch, Join, Plan, Planner, Progress, Refuse, Serve, Settle, Unchanged, WaitFor
from .prepared import PreparedHits
from .ranges.selection import first_gap, selected
from .recent_reasons import DROPPED, NOT_REUSED
from .serving import CacheSettings, Serving

NO_FIELDS = Headers()
ROUNDS = 8
"""How often a request may have joined a fill that was not for it, before it asks alone."""


class Cache:
    """Answers GETs, from the store or from fills. One per proxy."""

    def __init__(self, store: Store, fills: FillTable, settings: CacheSettings, heads: Heads) -> None:
        self.store = store
        self.fills = fills
        self.heads = heads
        self.planner = Planner(store, fills)
        self.serving = Serving(store, fills, settings, heads, self.planner)
        hits = PreparedHits(store, heads)
        self.ready, self.ready_range, self.ready_with_digest = hits.find, hits.find_range, hits.find_with_digest
        """What most hits are answered with, see :mod:`.prepared`."""
        self.on_invalidated: Callable[[str], None] = lambda key: None
        """Told of keys that an unsafe method has changed."""

    # -- the story of one GET -----------------------------------------------------------------------------------

    async def get(self, exchange: Exchange, *, alone: bool = False) -> Answer:
        """The answer to a GET. Never raises for what the origin, the disk or the queue do: those have answers too.

        ``alone``: it has joined a fill that was not for it, and is to wait for no other. Raises :class:`ClientGone`
        when the client left while its answer was awaited.
        """
        progress = Progress(time.monotonic(), alone)
        for turn in range(ROUNDS):
            if not self.store.is_loaded(exchange.key):
                await self.store.load(exchange.key)
            if exchange.gone:
                raise ClientGone(queued=False)
            plan = self.planner.plan(exchange, progress, time.time(), is_last=turn == ROUNDS - 1)
            progress.alone = plan.alone
            if plan.drops is not None:
                self.store.remove(plan.drops)
            try:
                answer = await self._act(exchange, plan, progress)
            except NotShareable as not_shareable:
                progress.not_shareable(alone=not_shareable.refetch_alone, refused=not_shareable.refused)
            except (Overloaded, OriginError) as error:
                return await self.serving.without_origin(exchange, plan.stale, plan.fwd, error)
            else:
                if answer is not None:
                    return answer
        return self.heads.error(502, "proxy_internal_error", "miss", detail="no answer after several attempts")

    async def _act(self, exchange: Exchange, plan: Plan, progress: Progress) -> Answer | None:
        """Do what was planned. ``None``: plan again, with what there is now."""
        action = plan.action
        match action:
            case Serve():
                # The body may turn out to be unreadable: then the entry is gone.
                return await self.serving.from_store(exchange, action.entry, time.time(), action.decision)
            case Fetch():
                if plan.fwd != "uri-miss":
                    self.fills.context.reasons.note(exchange.key, NOT_REUSED, plan.fwd)
                waiter = listening(exchange, self.fills.start(action.request))
                return await self._from_fill(exchange, waiter, plan)
            case Join():
                body = action.fill.body
                is_complete = body is not None and body.complete
                waiter = action.fill.join(exchange.client, exchange.headers, exchange.policy.patience)
                listening(exchange, waiter)
                return await self._from_fill(exchange, waiter, plan, collapsed=True, is_complete=is_complete)
            case Settle():
                await self.fills.settled(exchange.key)
                return None
            case WaitFor():
                progress.has_waited = True
                await until_next(exchange, action.fill)
                return None
            case Unchanged():
                status = cache_status(NAME, hit=True, ttl=action.response.ttl(time.time()))
                return self.serving.unchanged_by(exchange, action.response, time.time(), status, "hit")
            case Refuse():
                return self.heads.error(504, "http_request_denied", plan.fwd, detail="only-if-cached")

    async def head(self, exchange: Exchange) -> Answer | str:
        """The answer to a HEAD, if a fresh entry can give it (RFC 9110 §9.3.2), else why it goes forward."""
        key = exchange.key
        # RFC 9110 §14.2: "A server MUST ignore a Range header field received with a request method that is
        # unrecognized or for which range handling is not defined", which it is for GET alone.
        exchange.headers = exchange.headers.without("range")
        if not self.store.is_loaded(key):
            await self.store.load(key)
        entry = self.planner.select(key, exchange.headers)
        if entry is None and await self.fills.settled(key):
            entry = self.planner.select(key, exchange.headers)
        if entry is None:
            return self.planner.forward_reason(key, None)
        now = time.time()
        decision = decide(exchange.directives, entry.response, now)
        if decision.reuse is Reuse.FRESH and entry.spans is not None:
            status = cache_status(NAME, hit=True, ttl=entry.response.ttl(now))
            headers = put(entry.response.headers, "Age", str(entry.response.age(now)))
            headers = self.heads.own(headers, entry.response, status)
            return conditionally(exchange, Answer(200, "", headers, b"", entry.length, "hit"))
        if decision.reuse is Reuse.FRESH:
            answer = await self.serving.from_store(exchange, entry, now, decision)
            if answer is not None:
                return answer
        return decision.reason or "bypass"

    def head_answered(self, exchange: Exchange, headers: Headers, request_time: float, response_time: float) -> None:
        """The origin answered a HEAD with 200: it tells what a GET would have brought (RFC 9111 §4.3.5)."""
        if not self.store.is_loaded(exchange.key):
            # It has left memory since it was looked up. What can't be compared without waiting is fetched again.
            self.store.remove_key(exchange.key)
        entry = self.planner.select(exchange.key, exchange.headers)
        self.fills.keys.heads.discard(exchange.key)
        length = headers.get("content-length")
        if entry is None and length is not None and length.isascii() and length.isdigit():
            self.fills.keys.length_is(exchange.key, int(length[:18]))
            if headers.get("accept-ranges") == "bytes":
                self.fills.keys.can_be_put_together(exchange.key, headers)
        if entry is None or entry.response.status != 200:
            return
        response = entry.response
        updated = response.updated_by(headers, request_time, response_time, exchange.headers, exchange.policy)
        if why_not_shared(exchange.headers, updated.headers, exchange.policy) is not None:
            return  # it was for whoever has asked
        # "If […] any of those fields are different, the cache SHOULD consider the stored response to be stale".
        if updated is response or updated.must_not_be_kept or not _same_validators(response.headers, headers):
            self.fills.context.reasons.note(exchange.key, DROPPED, "head", 200)
            self.store.remove(entry)
        elif length is not None and length != str(entry.length):
            # A length alone is a hint, as many a HEAD has a wrong one. Whether it was right a validator tells.
            if not any(name in response.headers for name in _VALIDATORS):
                self.store.remove(entry)
            elif time.time() < response.fresh_until:
                self.store.update(entry, response.made_stale())
        elif any(name in headers for name in _VALIDATORS):
            self.store.update(entry, updated)
        # Without a validator it may be about anything of that length: no reason to call the stored body by its fields.

    def invalidate(self, target: Target, headers: Headers = NO_FIELDS, key: str | None = None) -> None:
        """An unsafe method succeeded on this URL: what is stored, or on its way, is out of date (RFC 9111 §4.4).

        So is what the answer's ``headers`` name as changed or made, on the same origin. ``key``: of what is stored for
        ``target``, if it isn't the URL.
        """
        for changed in (key or target.key, *(one.key for one in related_targets(target, headers))):
            if self.store.may_have(changed):
                self.fills.context.reasons.note(changed, DROPPED, "unsafe-method")
            self.fills.invalidate(changed)
            self.store.remove_key(changed)
            self.on_invalidated(changed)

    # -- without waiting --------------------------------------------------------------------------------------------

    def get_now(self, exchange: Exchange) -> Answer | None:
        """The answer to a GET if it takes no waiting at all: a fresh entry whose body file is open."""
        now = time.time()
        entry = self.planner.select(exchange.key, exchange.headers)
        if entry is None or decide(exchange.directives, entry.response, now).reuse is not Reuse.FRESH:
            return None
        spans = selected(exchange, entry.response, entry.length)
        if entry.spans is not None and first_gap(entry, spans) is not None:
            return None
        body = self.store.open_now(entry)
        if body is None:
            return None
        status = cache_status(NAME, hit=True, ttl=entry.response.ttl(now))
        return self.serving.serve_open(exchange, entry, body, entry.response, now, status, "hit", spans)

    def start_miss(self, exchange: Exchange) -> Waiter | Answer | None:
        """Start the fill for a GET without range, condition or directive that has nothing to meet here: nothing is
        stored, nobody else asks, nothing is known of the key. Most misses are like that, and take no task but the
        fill's, if that. The caller sets the waiter's ``on_head``, and calls :meth:`finish_miss` then.

        ``None``: there is more to it, for :meth:`get` to see to. An answer if there is no place in the queue.
        """
        key = exchange.key
        if self.store.may_have(key) or self.fills.has_history(key):
            return None
        request = FillRequest(
            key, exchange.target, exchange.headers, exchange.client, policy=exchange.policy,
            from_peer=exchange.peer is not None, trace=exchange.trace,
        )  # fmt: skip
        try:
            waiter = exchange.waiter = listening(exchange, self.fills.start(request))
        except Overloaded as error:
            return self.serving.error(exchange, error, "uri-miss")
        return waiter

    def finish_miss(self, exchange: Exchange, waiter: Waiter) -> Answer:
        """The answer to what :meth:`start_miss` has started, when its head is here.

        Raises :class:`NotShareable`, or :class:`ClientGone`.
        """
        with waiter:
            exchange.queued_for += waiter.queued_for
            try:
                head = waiter.result()
            except (Overloaded, OriginError) as error:
                return self.serving.error(exchange, error, "uri-miss")
            return self.serving.serve_head(exchange, waiter, head, "uri-miss")

    async def _from_fill(
        self, exchange: Exchange, waiter: Waiter, plan: Plan, *, collapsed: bool = False, is_complete: bool = False
    ) -> Answer | None:
        """``is_complete``: all of its body was here when it was joined."""
        with waiter:
            head = await self.serving.head_of(exchange, waiter)
            exchange.collapsed = collapsed
            return await self.serving.from_head(
                exchange, waiter, head, plan.stale, plan.fwd, complete=is_complete, alone=plan.alone
            )


def listening(exchange: Exchange, waiter: Waiter) -> Waiter:
    waiter.on_interim = exchange.on_interim
    return exchange.visit(waiter)


_VALIDATORS = ("etag", "last-modified")


def _same_validators(stored: Headers, new: Headers) -> bool:
    """RFC 9111 §4.3.5: whether the validators of a HEAD's answer are those that are stored, as far as it has any."""
    return all(
        name not in new or (new.get(name) or "").removeprefix("W/") == (stored.get(name) or "").removeprefix("W/")
        for name in _VALIDATORS
    )
