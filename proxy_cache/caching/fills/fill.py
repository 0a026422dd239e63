"""Fills: one request to a source for a key, however many wait (they find each other in :mod:`.table`).

A fill belongs to the cache. It asks its sources in order (:mod:`...upstream.source`), takes a slot when the origin's
turn has come (:mod:`.slot`), writes at the origin's speed, and gives the slot back at the origin's last byte
(:mod:`.fetch`).

Its :class:`~.fill.Waiter` s wait first for the head of the response, and are then readers of its body. They come and
go as they like; the fill minds only when the last one leaves:

- still queued: it is cancelled, and the origin never hears of it;
- running: it is finished if at most ``quick_abort_max`` bytes are left (as far as is known) and they come within
  ``quick_abort_timeout``, or within a second if others wait for its slot (see :mod:`.contention`); else dropped.

A fill may also be for a *span*: bytes that a stored response lacks, or the first that were asked for of one that is not
stored yet. The response, a 206, is then a piece of an entry that is in the index from the response's head on
(:mod:`.partial_response`).

What breaks off is continued from where it stopped (``Range`` with ``If-Range``) as long as there are tries, and kept
as an entry with gaps otherwise, if it has a strong validator to put the rest to it by.

A response that may not be shared goes to the one waiter for whom it was asked, if it is still there
(:mod:`.whole_response`); the others are told that it is :class:`~.head.NotShareable`, all at once, and each asks
for itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from ...semantics.headers import Headers
from ...semantics.spans import Span
from ...store.body import Body, Reader
from ...store.index import Entry
from ...upstream.stopwatch import Stopwatch
from ..limiter import Overloaded, Place
from ..recent_reasons import NOT_STORED
from .context import FillContext
from .head import ClientGone, FillHead
from .leftover import Leftover
from .pace import Ahead
from .request import FillRequest, FillState
from .slot import OriginSlot
from .visit import Visit


class Registry(Protocol):
    """Where requests find a fill: the :class:`~.table.FillTable` that has made it."""

    def forget(self, fill: Fill) -> None:
        """Nobody else may join it."""

    def has_ended(self, fill: Fill) -> None: ...

    def fills_a_gap(self, fill: Fill, entry: Entry) -> None:
        """It brings a piece of ``entry``."""

    def fills_it_all(self, fill: Fill, entry: Entry) -> None:
        """Asked for a piece of ``entry``, it brings a whole."""


class Asker(Protocol):
    """The client's request that a waiter belongs to."""

    @property
    def is_over(self) -> bool:
        """Whether it has been answered, or its client has left."""


class Fill:
    """One request to a source and its response. Made by :class:`~.table.FillTable`."""

    def __init__(self, context: FillContext, registry: Registry, request: FillRequest) -> None:
        self.context = context
        self.registry = registry
        self.request = request
        self.state = FillState.QUEUED
        self.started = time.monotonic()
        self.watch = Stopwatch(None if request.trace is None else request.trace.fill(request.target))
        self.slot = OriginSlot(context.limiter, request.target.authority, self.watch)
        self.stop_fetch: Callable[[], None] | None = None
        """While it is fetched. (Who fetches knows this fill: a circle that is left would keep the body's tail until the
        collector looks.)"""
        self.head: FillHead | None = None
        self.body: Body | None = None
        self.doomed = False
        """What it fetches may not be stored: the URL was changed by an unsafe method meanwhile (RFC 9111 §4.4)."""
        self.waiters: dict[Waiter, None] = {}
        self._abandoned = False
        self._over = False
        self._ending: asyncio.Future[None] | None = None
        self._leftover: Leftover | None = None
        """While no client waits: how long it may still take."""
        self.stalled = False
        """Whether it was ended because it got nowhere (see :mod:`.watch`)."""
        self.asks_peer = False
        """Whether it waits for a peer."""
        self.ahead: Ahead | None = None
        """If somebody waits for what is ahead of it."""

    # -- waiters ------------------------------------------------------------------------------------------------

    def start(self, *, reads: bool, queues: bool) -> Waiter:
        """Take the first waiter in. ``queues``: it needs a slot at once.

        Raises :class:`Overloaded` if there is no place in the queue.
        """
        request = self.request
        waiter = Waiter(self, request.headers, request.client, request.policy.patience, leads=True, reads=reads)
        if queues:
            self.slot.enter(waiter)
        self.waiters[waiter] = None
        if not reads:
            self._leftover = Leftover(self)
        return waiter

    def join(self, client: str, headers: Headers, patience: float | None = None, *, reads: bool = True) -> Waiter:
        """One more flow wants this response, and may queue for it for ``patience`` seconds (``None``: as long as the
        limits say). ``reads``: its body, too. Raises :class:`Overloaded` if its client waits for too many already."""
        waiter = Waiter(self, headers, client, patience, reads=reads)
        if self.head is None and self.slot.is_wanted:
            self.slot.enter(waiter)
        if self._leftover is not None:
            self._leftover.cancel()
            self._leftover = None
        self.waiters[waiter] = None
        if self.head is not None:
            waiter.deliver(self.head)
            if self.head.is_shared_unstored:
                self.let_readers_differ()
        return waiter

    def leave(self, waiter: Waiter) -> None:
        if self.waiters.pop(waiter, 0) is not None:
            return
        if not self.waiters:
            self._nobody_waits()
        elif len(self.waiters) == 1 and not (self.has_client or self._leftover or self._abandoned or self._over):
            self._leftover = Leftover(self)  # a refresh that a client had joined, and has left

    def _nobody_waits(self) -> None:
        if self.state in (FillState.COMPLETE, FillState.FAILED):
            return
        if self.state is not FillState.RUNNING or not self.may_go_on_for_nobody:
            self.abandon()

    @property
    def may_go_on_for_nobody(self) -> bool:
        """Whether it may still be finished although no client waits. If so, it is watched from now on."""
        if not self._worth_finishing():
            return False
        if self.is_in_the_way and (self.head is None or self.context.limiter.is_full):
            return False
        if self._leftover is None:
            self._leftover = Leftover(self)
        return not self._leftover.is_late

    def abandon(self) -> None:
        """End it, since no client wants what it brings. What has come is kept, if the rest can be put to it."""
        if self._over or self.state in (FillState.COMPLETE, FillState.FAILED):
            return
        # Until the task has ended nobody may join: what it would tell a waiter is that it was abandoned.
        self._abandoned = True
        self._keep_head()
        self.cancel()

    def drop_reader(self, reader: Reader) -> None:
        """The client that reads with it takes next to nothing, and others wait: its response breaks off."""
        for waiter in list(self.waiters):
            if waiter.reader is reader:
                waiter.leave()
        reader.close()  # if it was nobody's

    def cancel(self) -> None:
        """End it here and now."""
        if self.stop_fetch is not None:
            self.stop_fetch()

    async def ending(self) -> None:
        """Wait until it has ended, and what is kept of it is stored."""
        if self._over:
            return
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._ending)  # others may wait for it, too

    def _worth_finishing(self) -> bool:
        """The rule for a running fill that nobody waits for. Before the head arrives it is not known yet, so the
        question is put again then (:meth:`look_who_waits`)."""
        if self.head is None:
            return not self.request.private
        return self.body is None or (self.body.kept and self.bytes_left >= 0)

    @property
    def arrived(self) -> int:
        """Bytes of its body that have come."""
        return self.body.length - self.body.start if self.body is not None else 0

    @property
    def bytes_left(self) -> int:
        """Bytes that are to come, at most, if it is to be finished for nobody; negative if they are too many. Of a body
        of unknown length as much may come in all as may be left of another."""
        body, limit = self.body, self.context.quick_abort_max
        if body is None:
            return 0
        if body.total is None:
            return limit - self.arrived
        left = body.total - body.length
        return left if left <= limit else -1

    @property
    def is_running(self) -> bool:
        return self.state is FillState.RUNNING and not self._abandoned

    @property
    def is_lost(self) -> bool:
        """Whether nothing is to be expected of it any more."""
        return self._abandoned or self.state is FillState.FAILED

    @property
    def is_being_stored(self) -> bool:
        """Whether all of its body is here, and on its way into the store."""
        return self.state is FillState.COMPLETE and not self._over

    @property
    def has_client(self) -> bool:
        """Whether anybody waits for it who is not only there to have it stored."""
        return any(waiter.reads for waiter in self.waiters)

    @property
    def is_in_the_way(self) -> bool:
        """Whether somebody queues for the slot that it holds."""
        return self.slot.is_waited_for

    # -- what is told by who fetches ------------------------------------------------------------------------------

    def ended(self, outcome: str) -> None:
        """It is over. ``outcome``: as the metrics name it; empty if no source was asked."""
        self._over = True
        self.stop_fetch = None
        self.slot.end(outcome)
        self.context.events.fill_took(self.watch.stop())
        if self._leftover is not None:
            self._leftover.cancel()
            self._leftover = None
        self.registry.has_ended(self)
        if outcome and self.slot.asked is not None:
            self.context.events.fill_ended(outcome)
        if outcome == "not_stored":
            why = self.head.why_not_stored if self.head is not None else None
            self._is_not_stored(why or ("invalidated" if self.doomed else "store"))
        elif outcome in ("abandoned", "stalled") and not self.context.store.may_have(self.request.key):
            self._is_noted(outcome)  # (nothing was kept of it)
        if self._ending is not None and not self._ending.done():
            self._ending.set_result(None)
        if self.watch.trace is not None:
            self.watch.trace.ended(outcome, self.watch.laps)

    def _is_not_stored(self, why: str) -> None:
        self.context.events.not_stored(why)
        self._is_noted(why)

    def _is_noted(self, why: str) -> None:
        """For those who ask later why it isn't stored."""
        status = self.head.response.status if self.head is not None else None
        self.context.reasons.note(self.request.key, NOT_STORED, why, status)

    def look_who_waits(self) -> None:
        """The head has been handed out. Ends the fetch if no waiter is left, and it may not go on for nobody."""
        if not self.waiters and not self.may_go_on_for_nobody:
            self._keep_head()
            raise asyncio.CancelledError

    def _keep_head(self) -> None:
        """The body is dropped. Who asks next whether it has changed need not begin to fetch it again."""
        head = self.head
        if head is None or head.why_not_stored is not None or head.response.status != 200 or self.doomed:
            return
        if self.state is FillState.RUNNING and not self.request.private:
            self.context.keys.heads.tell(self.request.key, head.response)

    @property
    def span(self) -> Span:
        """The bytes that it has or will have of the body of the entry whose gap it fills."""
        if self.body is not None:
            return Span(self.body.start, self.body.total or self.body.length)
        asked = self.request.range_fetch
        assert asked is not None
        assert asked.of is not None
        return asked.ask.within(asked.of.length) or Span(0, 0)

    def covers(self, offset: int) -> bool:
        """Whether a reader can get the byte at ``offset``, and the following ones, from here."""
        if self.is_lost:
            return False
        span = self.span
        return span.start <= offset < span.stop and (self.body is None or self.body.has(offset))

    def let_readers_differ(self) -> None:
        """Several clients share what is not stored: none has to wait until the slowest of them has read."""
        if self.body is not None and len(self.waiters) > 1:
            self.body.spill()

    @property
    def is_queued(self) -> bool:
        """Whether it still waits for a slot."""
        return self.state is FillState.QUEUED

    def __repr__(self) -> str:
        size = f", {self.body.length} bytes" if self.body else ""
        return f"<Fill {self.request.target.shown} {self.state.value}, {len(self.waiters)} waiters{size}>"


class Waiter:
    """One flow's interest in a fill, from the wait for its head to the last byte read.

    A context: whatever way its block is left, the waiter leaves the fill, unless it was handed on (:meth:`hand_on`)
    to the reader of the body. A forgotten waiter would hold up a body that isn't stored, and with it the fill and its
    slot.
    """

    __slots__ = (
        "_awaited", "_is_handed_on", "_outcome", "asker", "client", "fill", "headers", "leads", "on_gone", "on_head",
        "on_interim", "patience", "place", "queued_for", "reader", "reads", "visit",
    )  # fmt: skip

    def __init__(
        self, fill: Fill, headers: Headers, client: str, patience: float | None, *, leads: bool = False,
        reads: bool = True,
    ) -> None:  # fmt: skip
        """``patience``: seconds it may queue for a slot (``None``: as the limits say). ``reads``: whether it is for a
        client, and not only to have the response stored."""
        self.fill = fill
        self.reads = reads
        self.leads = leads
        """Whether the fill was started for it. (Known here: a fill that refers to a waiter that has left would be a
        circle for the collector, with the body's tail.)"""
        self.headers = headers
        self.client = client
        self.patience = patience
        self.asker: Asker | None = None
        """Until it leaves."""
        self.on_interim: Callable[[int, Headers], None] | None = None
        self.on_head: Callable[[], None] | None = None
        """Called when there is a :meth:`result`, unless :meth:`head` is awaited."""
        self.on_gone: Callable[[], None] | None = None
        """Called when the client leaves after the head."""
        self._outcome: FillHead | Exception | None = None
        self._awaited: asyncio.Future[None] | None = None
        self.place: Place | None = None
        """In the limiter's queue, as long as it waits there."""
        self._is_handed_on = False
        self.reader: Reader | None = None
        """Opened when the head arrives: an unstored body keeps only the bytes that an open reader still needs."""
        self.queued_for = 0.0
        """Seconds this waiter spent in the limiter's queue."""
        self.visit: Visit | None = None
        """If it is for a client's request."""

    def __enter__(self) -> Self:
        self._is_handed_on = False  # it was handed on to this block
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._is_handed_on:
            self.leave()

    def hand_on(self) -> None:
        """From here on another owner leaves: the exchange, or the reader of gaps."""
        self._is_handed_on = True

    async def head(self) -> FillHead:
        """Wait for the head. Raises what :meth:`result` does."""
        if self._outcome is None:
            self._awaited = asyncio.get_running_loop().create_future()
            await self._awaited
        return self.result()

    def result(self) -> FillHead:
        """The head, once it has arrived. Raises :class:`OriginError`, :class:`Overloaded`, :class:`NotShareable` or
        :class:`ClientGone` if there will be none."""
        outcome = self._outcome
        if isinstance(outcome, FillHead):
            return outcome
        assert outcome is not None
        raise outcome

    def overloaded(self, overloaded: Overloaded) -> None:
        self.queued_for = overloaded.waited
        self.fail(overloaded)
        self.fill.leave(self)

    def client_gone(self) -> None:
        """The client disconnected: :meth:`head` raises :class:`ClientGone`."""
        if self.place is not None:
            self.queued_for = time.monotonic() - self.place.since
        self.fail(ClientGone(self.fill.is_queued))
        if self.on_gone is not None:
            self.on_gone()
        self.leave()

    def leave(self) -> None:
        """Not interested any more. Idempotent; the fill goes on if it has other waiters, or little left to do."""
        if self.place is not None:
            place, self.place = self.place, None
            place.leave()
        if self.reader is not None:
            self.reader.close()
        if self.visit is not None:
            self.visit.leave()
        self.asker = None
        self.fill.leave(self)

    def fail(self, error: Exception) -> None:
        if self._outcome is None:
            self._outcome = error
            self._tell()

    def _tell(self) -> None:
        """There is an outcome: wake the task that waits, or call back, in a turn of its own."""
        if self._awaited is not None:
            if not self._awaited.done():
                self._awaited.set_result(None)
        elif self.on_head is not None:
            on_head, self.on_head = self.on_head, None
            self.fill.context.heads.add(on_head)

    def admitted(self) -> None:
        if self.place is not None:
            self.queued_for = time.monotonic() - self.place.since
            self.place = None

    def deliver(self, head: FillHead) -> None:
        if self._outcome is None:
            if head.body is not None and self.reads:
                self.reader = head.body.reader()
            self._outcome = head
            self._tell()
            if head.body is not None and not self.reads and not head.body.kept:
                self.fill.leave(self)  # nothing will be stored
