"""The table of running fills: where requests for one key find each other."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from ...semantics.headers import Headers
from ...semantics.spans import Span, Spans, span_to_ask_for
from ...semantics.stored import StoredResponse
from ...semantics.vary import matches
from ...store.index import Entry
from ...store.store import Store
from ...upstream.source import Sources
from ..limiter import OriginLimiter
from .contention import Contention
from .context import FillContext, FillEvents
from .fetch import Fetch
from .fill import Fill, Waiter
from .known_heads import condition_holds
from .request import FillRequest, FillState
from .watch import Watch


class FillTable:
    """The running fills by key, and by the entry whose gaps they fill."""

    def __init__(self, store: Store, limiter: OriginLimiter, sources: Sources, events: FillEvents) -> None:
        self.context = FillContext(store, limiter, sources, events)
        self.store, self.keys = store, self.context.keys
        self._joinable: dict[str, list[Fill]] = {}
        self._gaps: dict[int, list[Fill]] = {}
        """Fills that bring pieces of entries, by the entry's id."""
        self._running: set[Fill] = set()
        self._watch = Watch(self.context, self.fills)
        self._contention = Contention(self.context, self.fills)

    def find(
        self,
        key: str,
        headers: Headers,
        fresh: Callable[[StoredResponse], bool],
        since: float | None = None,
        came: float | None = None,
        *,
        from_peer: bool = False,
    ) -> Fill | None:
        """A running fill that this request may share. ``since``: not one that the origin was asked for before (by the
        monotonic clock), unless its head is here and fresh. ``came``: when the request was here. ``from_peer``: not one
        that waits for a peer, which may be that one."""
        for fill in self._joinable.get(key, ()):
            if (
                not (from_peer and fill.asks_peer)
                and _is_open_to(fill, headers, fresh, since, came)
                and not self._is_for_other_conditions(fill, headers)
            ):
                return fill
        return None

    def _is_for_other_conditions(self, fill: Fill, headers: Headers) -> bool:
        """Whether a fill has asked the origin only whether something has changed, and this request is known to need the
        body."""
        request = fill.request
        if fill.head is not None or request.key not in self.keys.heads or not request.passes_condition_on:
            return False
        response = self.keys.heads.find(request.key, headers)
        return response is not None and not condition_holds(headers, response)

    def at_the_origin(self, key: str, *, answered: bool) -> list[Fill]:
        """The fills of ``key`` for which the origin has been asked, or whose bodies are on their way into the store.
        ``answered``: just those whose heads are here."""
        fills = self._joinable.get(key, ())
        return [
            fill
            for fill in fills
            if (fill.head is not None or not answered) and (fill.is_running or fill.state is FillState.COMPLETE)
        ]

    def has_history(self, key: str) -> bool:
        """Whether there is anything to be considered before a fill of ``key`` is started: another one, or what is
        remembered of it."""
        return key in self._joinable or self.keys.has_mark(key)

    def has_arrived(self, key: str) -> bool:
        """Whether there are fills of ``key`` whose bytes are all here and on their way into the store."""
        return any(fill.state is FillState.COMPLETE for fill in self._joinable.get(key, ()))

    async def settled(self, key: str) -> bool:
        """Wait for fills of ``key`` whose bytes are all here and on their way into the store. Whether there were any:
        what they stored can be validated, where going to the origin now would fetch it a second time."""
        fills = [fill for fill in self._joinable.get(key, ()) if fill.state is FillState.COMPLETE]
        for fill in fills:
            await fill.ending()
        return bool(fills)

    def start(self, request: FillRequest, *, reads: bool = True) -> Waiter:
        """Start a fill. Raises :class:`Overloaded` if there is neither a slot nor a place in the queue. ``reads``:
        whether its body is for a client, and not only to be stored."""
        fill = Fill(self.context, self, request)
        at_origin = self.context.sources.begins_at_origin(request)
        waiter = fill.start(reads=reads, queues=at_origin)
        Fetch(fill).start(has_slot=at_origin and waiter.place is None)
        self._running.add(fill)
        if not self._watch.is_on:
            self._watch.begin()
        if request.range_fetch is not None and request.range_fetch.of is not None and not request.candidates:
            self._gaps.setdefault(request.range_fetch.of.id, []).append(fill)
        elif not request.private:
            self._joinable.setdefault(request.key, []).append(fill)
        return waiter

    # -- pieces of entries --------------------------------------------------------------------------------------

    def bringing(self, entry: Entry, offset: int, *, from_peer: bool = False) -> Fill | None:
        """A running fill that brings this byte of an entry's body; of several, the one that gets there first.
        ``from_peer``: as in :meth:`find`."""
        fills = [
            fill for fill in self._gaps.get(entry.id, ()) if fill.covers(offset) and not (from_peer and fill.asks_peer)
        ]
        return max(fills, key=lambda fill: fill.span.start, default=None)

    def present_or_pending(self, entry: Entry) -> Spans:
        """What there is of an entry's body, and what running fills bring of it."""
        fills = self._gaps.get(entry.id, ())
        coming = [fill.span for fill in fills if fill.covers(fill.span.start)]
        return Spans((*(entry.spans or ()), *coming)) if coming else entry.spans or Spans()

    def beside(self, entry: Entry, fill: Fill) -> Spans:
        """What there is of an entry's body, and what running fills other than this one bring of it."""
        others = [other for other in self._gaps.get(entry.id, ()) if other is not fill]
        coming = [other.span for other in others if other.covers(other.span.start)]
        return Spans((*(entry.spans or ()), *coming))

    def covers_too(self, fill: Fill, entry: Entry) -> None:
        """What this fill brings is all of ``entry``, which nobody finds by its key."""
        self._gaps.setdefault(entry.id, []).append(fill)

    def arrived(self, entry: Entry) -> Spans:
        """What there is of an entry's body, be it on its way to the file."""
        bodies = [fill.body for fill in self._gaps.get(entry.id, ()) if fill.body is not None]
        got = [Span(body.start, body.length) for body in bodies if body.has(body.start)]
        return Spans((*(entry.spans or ()), *got)) if got else entry.spans or Spans()

    def span_for(self, entry: Entry, offset: int, stop: int, *, whole: bool) -> Span:
        """What to ask for, to get the byte at ``offset`` and those up to ``stop``, of what nobody has asked for yet."""
        taken, settings = self.present_or_pending(entry), self.context.spans
        if entry.key in self.keys.exact:
            return span_to_ask_for(offset, stop, taken, entry.length, block=0, max_size=0)
        whole = whole or settings.fetches_whole(entry.length)
        return span_to_ask_for(
            offset, stop, taken, entry.length, block=settings.block, max_size=settings.most, whole_gap=whole
        )

    def first_span(self, offset: int, stop: int) -> Span:
        """What to ask for of what isn't stored yet."""
        settings = self.context.spans
        return span_to_ask_for(offset, stop, Spans(), None, block=settings.block, max_size=settings.most)

    def fills_a_gap(self, fill: Fill, entry: Entry) -> None:
        """What this fill brings is a piece of ``entry``: others find it by that."""
        self._forget_key(fill)
        fills = self._gaps.setdefault(entry.id, [])
        if fill not in fills:
            fills.append(fill)

    def fills_it_all(self, fill: Fill, entry: Entry) -> None:
        """Asked for a piece of ``entry``, this fill was answered with a whole: others find it by its key."""
        self._forget_gap(fill, entry.id)
        if fill.request.private or fill.doomed:
            return
        fills = self._joinable.setdefault(fill.request.key, [])
        if fill not in fills:
            fills.append(fill)

    # -- responses ----------------------------------------------------------------------------------------------

    def invalidate(self, key: str) -> None:
        """An unsafe method succeeded on this URL: what is being fetched now may be from before (RFC 9111 §4.4)."""
        self.doom(key)
        self.context.sources.invalidated(key)

    def doom(self, key: str) -> None:
        """What is being fetched for this key is for those alone who have asked for it already."""
        self._joinable.pop(key, None)
        self.keys.heads.discard(key)
        for fill in self._running:
            if fill.request.key == key:
                fill.doomed = True

    def purge(self, concerns: Callable[[FillRequest, StoredResponse | None], bool]) -> list[Fill]:
        """What these fetch is from before a purge: whoever waits for it gets it, but nobody else, and it is not stored.
        ``concerns(request, response)``: the response as far as its head is here. A fill that has asked nobody yet goes
        on as it is."""
        found = []
        for fill in self._running:
            response = fill.head.response if fill.head is not None else None
            has_asked = fill.state is not FillState.QUEUED or fill.slot.asked is not None or self.context.sources.before
            if has_asked and not fill.doomed and concerns(fill.request, response):
                fill.doomed = True
                self._forget_key(fill)
                found.append(fill)
        return found

    def forget(self, fill: Fill) -> None:
        if fill.state in (FillState.COMPLETE, FillState.FAILED):
            self._running.discard(fill)
        self._forget_key(fill)
        if fill.head is not None and fill.head.fills_gap_of is not None:
            self._forget_gap(fill, fill.head.fills_gap_of.id)
        if fill.request.range_fetch is not None and fill.request.range_fetch.of is not None:
            self._forget_gap(fill, fill.request.range_fetch.of.id)

    def has_ended(self, fill: Fill) -> None:
        self.forget(fill)
        if fill.ahead is not None and fill.ahead.is_hidden:
            # What was fetched beside it is needed no more: its body is found by its key.
            self._forget_gap(fill, fill.ahead.entry.id)
            if self.store.holds(fill.ahead.entry):
                self.store.remove(fill.ahead.entry)

    def _forget_key(self, fill: Fill) -> None:
        _discard(self._joinable, fill.request.key, fill)

    def _forget_gap(self, fill: Fill, entry_id: int) -> None:
        _discard(self._gaps, entry_id, fill)

    def fills(self) -> list[Fill]:
        """Those that run, or wait to."""
        return list(self._running)

    def snapshot(self) -> list[dict[str, Any]]:
        return [_shown(fill) for fill in self._running]

    @property
    def running(self) -> int:
        return len(self._running)

    async def close(self) -> None:
        """End all fills. What has arrived in full is stored; what has not is dropped."""
        self._contention.end()
        self._watch.end()
        running = list(self._running)
        for fill in running:
            if fill.state is not FillState.COMPLETE:
                fill.cancel()
        for fill in running:
            if fill in self._running:
                await fill.ending()


def _is_open_to(
    fill: Fill,
    headers: Headers,
    fresh: Callable[[StoredResponse], bool],
    since: float | None,
    came: float | None,
) -> bool:
    """Whether a request may share this response that looks for one now, and ``came`` then.

    Until the head is there everybody may wait who doesn't insist on what the origin says from ``since`` on. Once it
    is, it must suit the request like a stored response: the variant it selects (RFC 9111 §4.1), and fresh, unless
    the request was here before the origin was asked.
    """
    if fill.is_lost or fill.request.private:
        return False
    asked = fill.slot.asked
    if fill.head is None:
        return since is None or asked is None or asked >= since
    if fill.head.fills_gap_of is not None:
        return False  # the entry is there to be found, and this fill as one of its gaps'
    if fill.body is None or not fill.body.joinable:
        return False
    response = fill.head.response
    if came is not None and asked is not None and asked >= came:
        return matches(response.vary, headers)
    if since is not None and asked is not None and asked >= since and time.time() < response.fresh_until:
        return matches(response.vary, headers)
    return matches(response.vary, headers) and fresh(response)


def _shown(fill: Fill) -> dict[str, Any]:
    """For the status page."""
    body = fill.body
    return {
        "state": fill.state.value,
        "host": fill.request.target.authority,
        "age_seconds": round(time.monotonic() - fill.started, 3),
        "bytes": body.length - body.start if body else 0,
        "total_bytes": body.total if body else None,
        "waiters": len(fill.waiters),
    }


K = TypeVar("K")


def _discard(fills_by: dict[K, list[Fill]], at: K, fill: Fill) -> None:
    fills = fills_by.get(at)
    if fills is not None and fill in fills:
        fills.remove(fill)
        if not fills:
            del fills_by[at]
