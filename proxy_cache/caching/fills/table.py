"""The table of running fills: where requests for one key find each other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from ...runtime.batches import CallBatch
from ...semantics.credentials import has_credentials
from ...semantics.headers import Headers
from ...semantics.spans import Span, Spans, span_to_ask_for
from ...semantics.stored import StoredResponse
from ...semantics.storing import ABOUT_CACHING
from ...store.index import Entry
from ...store.store import Store
from ...upstream.source import Sources
from ..limiter import OriginLimiter
from .audience import Trouble
from .contention import LOOK_EVERY, make_way
from .fill import Fill
from .known_heads import condition_holds
from .known_keys import KnownKeys
from .request import FillRequest, FillState
from .waiting import Waiter
from .watch import Watch


class FillEvents(Protocol):
    """Events for the metrics."""

    def fill_ended(self, outcome: str) -> None: ...

    def not_stored(self, reason: str) -> None:
        """The response of a fill was not stored. ``reason``: as in Cache-Status, ``invalidated`` if its URL
        was changed meanwhile, ``store`` if there was no room or the disk failed."""


@dataclass(frozen=True, slots=True)
class SpanSettings:
    """How ranges are asked for. All are bytes."""

    block: int = 1024 * 1024
    """Spans begin and end at multiples of it; 0: just where they are wanted."""
    most: int = 16 * 1024 * 1024
    """The longest span that is asked for at once on behalf of a range."""
    whole: int | None = None
    """The length up to which an object is fetched whole when a range of it is wanted; ``None``: four blocks."""

    def fetches_whole(self, length: int | None) -> bool:
        return length is not None and length <= (4 * self.block if self.whole is None else self.whole)


class FillTable:
    """The running fills by key, and by the entry whose gaps they fill."""

    def __init__(self, store: Store, limiter: OriginLimiter, sources: Sources, events: FillEvents) -> None:
        self.store = store
        self.limiter = limiter
        self.sources = sources
        self.events = events
        self.quick_abort_max = 1024 * 1024
        """Bytes left at which a fill that nobody waits for is finished all the same, if that takes no more than"""
        self.quick_abort_timeout = 10.0
        """so many seconds."""
        self.default_ttl = 0
        """Seconds for which a response that says nothing about its freshness, and has no validator, is kept."""
        self.spans = SpanSettings()
        self.heads = CallBatch()
        """The callbacks (:attr:`~.waiting.Waiter.on_head`) of waiters without a task."""
        self._joinable: dict[str, list[Fill]] = {}
        self._gaps: dict[int, list[Fill]] = {}
        """Fills that bring pieces of entries, by the entry's id."""
        self._running: set[Fill] = set()
        self.keys = KnownKeys()
        self.watch = Watch(self)
        self.trouble = Trouble()
        self._next_look: asyncio.TimerHandle | None = None
        limiter.on_queued = self._somebody_queues

    def find(
        self,
        key: str,
        headers: Headers,
        fresh: Callable[[StoredResponse], bool],
        since: float | None = None,
        came: float | None = None,
    ) -> Fill | None:
        """A running fill that this request may share. ``since``: not one that the origin was asked for before (by the
        monotonic clock), unless its head is here and fresh. ``came``: when the request was here."""
        for fill in self._joinable.get(key, ()):
            if fill.open_to(headers, fresh, since, came) and not self._is_for_other_conditions(fill, headers):
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
        fill = Fill(self, request)
        waiter = fill.start(reads=reads)
        self._running.add(fill)
        if not self.watch.is_on:
            self.watch.begin()
        if request.range_fetch is not None and request.range_fetch.of is not None and not request.candidates:
            self._gaps.setdefault(request.range_fetch.of.id, []).append(fill)
        elif not request.private:
            self._joinable.setdefault(request.key, []).append(fill)
        return waiter

    # -- pieces of entries --------------------------------------------------------------------------------------

    def bringing(self, entry: Entry, offset: int) -> Fill | None:
        """A running fill that brings this byte of an entry's body; of several, the one that gets there first."""
        fills = [fill for fill in self._gaps.get(entry.id, ()) if fill.covers(offset)]
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

    def forget_beside(self, fill: Fill, entry: Entry) -> None:
        """The fill has ended: ``entry`` is needed no more."""
        self._forget_gap(fill, entry.id)
        if self.store.holds(entry):
            self.store.remove(entry)

    def arrived(self, entry: Entry) -> Spans:
        """What there is of an entry's body, be it on its way to the file."""
        bodies = [fill.body for fill in self._gaps.get(entry.id, ()) if fill.body is not None]
        got = [Span(body.start, body.length) for body in bodies if body.has(body.start)]
        return Spans((*(entry.spans or ()), *got)) if got else entry.spans or Spans()

    def span_for(self, entry: Entry, offset: int, stop: int, *, whole: bool) -> Span:
        """What to ask for, to get the byte at ``offset`` and those up to ``stop``, of what nobody has asked for yet."""
        taken = self.present_or_pending(entry)
        if entry.key in self.keys.exact:
            return span_to_ask_for(offset, stop, taken, entry.length, block=0, max_size=0)
        whole = whole or self.spans.fetches_whole(entry.length)
        return span_to_ask_for(
            offset, stop, taken, entry.length, block=self.spans.block, max_size=self.spans.most, whole_gap=whole
        )

    def first_span(self, offset: int, stop: int) -> Span:
        """What to ask for of what isn't stored yet."""
        return span_to_ask_for(offset, stop, Spans(), None, block=self.spans.block, max_size=self.spans.most)

    def fills_a_gap(self, fill: Fill, entry: Entry) -> None:
        """What this fill brings is a piece of ``entry``: others find it by that."""
        self._forget_key(fill)
        fills = self._gaps.setdefault(entry.id, [])
        if fill not in fills:
            fills.append(fill)

    def fills_it_all(self, fill: Fill, entry: Entry) -> None:
        """Asked for a piece of ``entry``, this fill was answered with a whole: others find it by its key."""
        self._forget_gap(fill, entry.id)
        fills = self._joinable.setdefault(fill.request.key, [])
        if not fill.request.private and fill not in fills:
            fills.append(fill)

    # -- responses ----------------------------------------------------------------------------------------------

    def guess_for(self, request: FillRequest, response: Headers) -> int | None:
        """Seconds of freshness for a response that says nothing at all, which it is then for us to guess (RFC 9111
        §4.2.2): for a URL that looks like a file's, asked for by nobody in particular. Query strings are left out for
        the reason of that section's note: they have long meant that something is worked out."""
        if (
            response.has_any(ABOUT_CACHING)
            or not self.default_ttl
            or "?" in request.target.path
            or has_credentials(request.headers, request.policy.credentials)
        ):
            return None
        return self.default_ttl

    def invalidate(self, key: str) -> None:
        """An unsafe method succeeded on this URL: what is being fetched now may be from before (RFC 9111 §4.4)."""
        self._joinable.pop(key, None)
        self.keys.heads.discard(key)
        for fill in self._running:
            if fill.request.key == key:
                fill.doomed = True

    def is_another_version(self, entry: Entry, *, unawares: bool) -> None:
        """The origin has another version than that of this entry: its parts go. ``unawares``: it wasn't asked for that,
        but for the rest. Each of its machines may name the same by another tag: until an answer shows otherwise, what
        is wanted is asked for in one piece, so that whoever was cut off by this gets it at the next try."""
        self.store.remove(entry)
        if unawares:
            self.keys.weak.add(entry.key)

    def forget(self, fill: Fill) -> None:
        if fill.state in (FillState.COMPLETE, FillState.FAILED):
            self._running.discard(fill)
        self._forget_key(fill)
        if fill.head is not None and fill.head.fills_gap_of is not None:
            self._forget_gap(fill, fill.head.fills_gap_of.id)
        if fill.request.range_fetch is not None and fill.request.range_fetch.of is not None:
            self._forget_gap(fill, fill.request.range_fetch.of.id)

    def _forget_key(self, fill: Fill) -> None:
        _discard(self._joinable, fill.request.key, fill)

    def _forget_gap(self, fill: Fill, entry_id: int) -> None:
        _discard(self._gaps, entry_id, fill)

    # -- slots that others wait for -----------------------------------------------------------------------------

    def _somebody_queues(self) -> None:
        if self._next_look is None:
            self._next_look = asyncio.get_running_loop().call_later(0, self._look_for_slots)

    def _look_for_slots(self) -> None:
        """See which fills can give way to those that queue, again and again as long as somebody does."""
        self._next_look = None
        loop, limiter = asyncio.get_running_loop(), self.limiter
        now = loop.time()
        for fill in list(self._running):
            make_way(fill, now, queue_is_full=limiter.is_full)
        if limiter.queued:
            self._next_look = loop.call_later(LOOK_EVERY, self._look_for_slots)

    @property
    def fills(self) -> list[Fill]:
        """Those that run, or wait to."""
        return list(self._running)

    def snapshot(self) -> list[dict[str, Any]]:
        return [fill.snapshot() for fill in self._running]

    @property
    def running(self) -> int:
        return len(self._running)

    async def close(self) -> None:
        """End all fills. What has arrived in full is stored; what has not is dropped."""
        if self._next_look is not None:
            self._next_look.cancel()
        self.watch.end()
        running = list(self._running)
        for fill in running:
            if fill.state is not FillState.COMPLETE:
                fill.cancel()
        for fill in running:
            if fill in self._running:
                await fill.ending()


K = TypeVar("K")


def _discard(fills_by: dict[K, list[Fill]], at: K, fill: Fill) -> None:
    fills = fills_by.get(at)
    if fills is not None and fill in fills:
        fills.remove(fill)
        if not fills:
            del fills_by[at]
