"""The table of running fills: where requests for one key find each other, and what is known of keys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from ...runtime.batches import CallBatch
from ...semantics.credentials import has_credentials
from ...semantics.headers import Headers
from ...semantics.ranges import strong_validator
from ...semantics.spans import Span, Spans, span_to_ask_for
from ...semantics.stored import StoredResponse
from ...semantics.storing import ABOUT_CACHING, SIGNED_URL
from ...semantics.vary import in_short, matches, selecting_values, vary_names
from ...store.columns import key_hash
from ...store.index import Entry
from ...store.store import Store
from ...upstream.origin import OriginClient
from ..limiter import OriginLimiter
from .audience import Trouble
from .contention import LOOK_EVERY, make_way
from .fill import Fill, FillRequest, FillState, identifying_fields
from .known_heads import KnownHeads, condition_holds
from .waiting import Waiter
from .watch import Watch

REMEMBERED_FOR = 120.0
"""Seconds for which something is remembered of a key: that its responses can't be stored, so that requests for it do
not wait for each other."""
REMEMBERED_MAX = 10_000
"""Keys of which something is remembered; the oldest make room."""
KEY_MAX = 256
"""Characters of the longest of them that is kept as it is."""
MARK_MAX = 4096
"""Bytes, about, of the fields that are remembered with one of them. What would take more is not remembered."""
FIELD_OVERHEAD = 160
"""Bytes of that for each field, besides its name and its value."""


class FillEvents(Protocol):
    """What the metrics want to know."""

    def fill_ended(self, outcome: str) -> None: ...

    def not_stored(self, reason: str) -> None:
        """A fill brought a response that was not stored. The ``reason``: as in Cache-Status, ``invalidated`` if its URL
        was changed meanwhile, ``store`` if there was no room or the disk failed."""


def _short(key: str) -> str | int:
    """What something is remembered by: tens of thousands of long keys would be much memory."""
    return key if len(key) <= KEY_MAX else key_hash(key)


def _size(vary: tuple[tuple[str, str | None], ...], identifying: frozenset[str]) -> int:
    """Bytes, about, that these take in memory."""
    fields = len(vary) + len(identifying)
    texts = sum(len(name) + len(value or "") for name, value in vary) + sum(map(len, identifying))
    return texts + fields * FIELD_OVERHEAD


class RecentKeys:
    """Keys of which something was true a short while ago."""

    def __init__(self) -> None:
        self._until: dict[str | int, float] = {}

    def __contains__(self, key: str) -> bool:
        if not self._until:
            return False
        at = _short(key)
        until = self._until.get(at)
        if until is None:
            return False
        if until < time.monotonic():
            del self._until[at]
            return False
        return True

    def add(self, key: str) -> None:
        self.discard(key)
        if len(self._until) >= REMEMBERED_MAX:
            del self._until[next(iter(self._until))]
        self._until[_short(key)] = time.monotonic() + REMEMBERED_FOR

    def discard(self, key: str) -> None:
        self._until.pop(_short(key), None)


@dataclass(frozen=True, slots=True)
class Uncacheable:
    """What is remembered of a response that could not be stored: whom else it is about.

    Of somebody who has logged in, say, or asks for another variant, it may well be that others get one that can be."""

    until: float
    """By the monotonic clock."""
    vary: tuple[tuple[str, str | None], ...]
    """The selecting values of the request that brought it (RFC 9111 §4.1), and"""
    identifying: frozenset[str]
    """the fields with which it said who had made it."""
    redirects: bool = False
    """It has sent the client elsewhere: one that had not logged in perhaps to where one does."""

    def is_about(self, headers: Headers) -> bool:
        return (
            self.until >= time.monotonic()
            and all(name in headers for name in self.identifying)
            and matches(self.vary, headers)
            and not (self.redirects and not self.identifying and has_credentials(headers))
        )


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
    """The running fills by key, and the keys that are known to be uncacheable."""

    def __init__(self, store: Store, limiter: OriginLimiter, origin: OriginClient, events: FillEvents) -> None:
        self.store = store
        self.limiter = limiter
        self.origin = origin
        self.events = events
        self.quick_abort_max = 1024 * 1024
        """Bytes left at which a fill that nobody waits for is finished all the same, if that takes no more than"""
        self.quick_abort_timeout = 10.0
        """so many seconds."""
        self.default_ttl = 0
        """Seconds for which a response that says nothing about its freshness, and has no validator, is kept."""
        self.spans = SpanSettings()
        self.heads = CallBatch()
        """In which those hear of a head who don't wait for it in a task."""
        self._joinable: dict[str, list[Fill]] = {}
        self._gaps: dict[int, list[Fill]] = {}
        """Fills that bring pieces of entries, by the entry's id."""
        self._lengths: dict[str | int, int] = {}
        self._running: set[Fill] = set()
        self._uncacheable: dict[str | int, Uncacheable] = {}
        self.exact = RecentKeys()
        """Keys of whose origin no more is to be asked than a client wants: it has made something odd of more."""
        self.weak = RecentKeys()
        """Those whose parts can't be put together, for want of a strong validator: only what is wanted is asked for."""
        self.unusable = RecentKeys()
        """Those of which even the range that a client wants was answered in a way that nothing can be made of."""
        self.watch = Watch(self)
        self.trouble = Trouble()
        self.known = KnownHeads()
        """Heads that are known of keys of which nothing is stored."""
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
        if fill.head is not None or request.key not in self.known or not request.passes_condition_on:
            return False
        response = self.known.find(request.key, headers)
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
        return key in self._joinable or (key if len(key) <= KEY_MAX else key_hash(key)) in self._uncacheable

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
        if request.part is not None and request.part.of is not None and not request.candidates:
            self._gaps.setdefault(request.part.of.id, []).append(fill)
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
        if entry.key in self.exact:
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

    def length_is(self, key: str, length: int) -> None:
        """A HEAD has told how long something is that isn't stored. That is a hint: many a server says 0 there, or
        another wrong number (RFC 9110 §9.3.2 lets it leave out the field, not make it up)."""
        if not length:
            self.length_is_not_told(key)
            return
        if len(self._lengths) >= REMEMBERED_MAX:
            del self._lengths[next(iter(self._lengths))]
        self._lengths[_short(key)] = length

    def length_is_not_told(self, key: str) -> None:
        """What a HEAD has told was wrong."""
        self._lengths.pop(_short(key), None)

    def length_of(self, key: str) -> int | None:
        return self._lengths.get(_short(key))

    # -- what is known of keys ----------------------------------------------------------------------------------

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

    def is_uncacheable(self, key: str, headers: Headers) -> bool:
        """Whether the last response for ``key`` was not storable, a short while ago, and one to this request would not
        be either."""
        mark = self._uncacheable.get(_short(key))
        return mark is not None and mark.is_about(headers)

    def remember(self, request: FillRequest, response: Headers, why_not: str | None, status: int = 200) -> None:
        """Take note of whether a response could be stored. What was the request's own doing is not held against the
        resource, nor is an error: it says nothing of what is there once it is over. A redirect counts if it speaks of
        caching."""
        key = request.key
        self.known.discard(key)
        if why_not is not None and (status >= 400 or (status >= 300 and why_not == "no-freshness")):
            return
        at = key if len(key) <= KEY_MAX else key_hash(key)  # as _short, without the call: every miss comes here
        before = self._uncacheable.pop(at, None)
        if why_not in (None, "partial", "bypass", "request-no-store"):
            return
        if why_not == SIGNED_URL and request.part is None:
            return  # those who have the same URL may wait for each other
        names = vary_names(response) or ()
        identifying = identifying_fields(request).difference(names)
        vary = in_short(selecting_values(names, request.headers), request.headers) if names else ()
        until = time.monotonic() + REMEMBERED_FOR
        if before is not None and before.until >= time.monotonic() and not (before.vary or before.identifying):
            vary, identifying = (), frozenset()  # it was about everybody, and still is
        if (vary or identifying) and _size(vary, identifying) > MARK_MAX:
            return
        if len(self._uncacheable) >= REMEMBERED_MAX:
            del self._uncacheable[next(iter(self._uncacheable))]
        self._uncacheable[at] = Uncacheable(until, vary, identifying, status >= 300)

    def invalidate(self, key: str) -> None:
        """An unsafe method succeeded on this URL: what is being fetched now may be from before (RFC 9111 §4.4)."""
        self._joinable.pop(key, None)
        self.known.discard(key)
        for fill in self._running:
            if fill.request.key == key:
                fill.doomed = True

    def can_be_put_together(self, key: str, response: Headers) -> None:
        """Take note of whether parts of this can be, which its origin sends (RFC 9111 §3.4)."""
        if strong_validator(response) is None:
            self.weak.add(key)
        else:
            self.weak.discard(key)

    def is_another_version(self, entry: Entry, *, unawares: bool) -> None:
        """The origin has another version than that of this entry: its parts go. ``unawares``: it wasn't asked for that,
        but for the rest. Each of its machines may name the same by another tag: until an answer shows otherwise, what
        is wanted is asked for in one piece, so that whoever was cut off by this gets it at the next try."""
        self.store.remove(entry)
        if unawares:
            self.weak.add(entry.key)

    def _forget(self, fill: Fill) -> None:
        if fill.state in (FillState.COMPLETE, FillState.FAILED):
            self._running.discard(fill)
        self._forget_key(fill)
        if fill.head is not None and fill.head.piece_of is not None:
            self._forget_gap(fill, fill.head.piece_of.id)
        if fill.request.part is not None and fill.request.part.of is not None:
            self._forget_gap(fill, fill.request.part.of.id)

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
