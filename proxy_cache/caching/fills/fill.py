"""Fills: one request to a source for a key, however many wait (they find each other in :mod:`.table`).

A fill belongs to the cache. It asks its sources in order (:mod:`...upstream.source`), takes a slot when the origin's
turn has come (:mod:`.slot`), writes at the origin's speed, and gives the slot back at the origin's last byte
(:mod:`.fetch`).

Its :class:`~.waiting.Waiter` s wait first for the head of the response, and are then readers of its body. They come and
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
(:mod:`.whole_response`); the others are told that it is :class:`~.waiting.NotShareable`, all at once, and each asks
for itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...semantics.credentials import has_credentials
from ...semantics.headers import Headers
from ...semantics.spans import Span
from ...semantics.stored import StoredResponse
from ...semantics.storing import SIGNED_URL, speaks_of_resource
from ...semantics.vary import matches
from ...store.body import Body, Reader
from ...wire.responses import OriginError
from ..limiter import Overloaded
from .audience import PROVOKED, is_about_others_like
from .contention import HoldUp, Leftover
from .fetch import Fetch
from .request import FillRequest, FillState
from .slot import OriginSlot
from .waiting import FillHead, NotShareable, Recipients, Waiter

if TYPE_CHECKING:
    from ..ranges.ahead import Ahead
    from .table import FillTable

logger = logging.getLogger(__name__)


class Fill:
    """One request to a source and its response. Made by :class:`~.table.FillTable`."""

    def __init__(self, table: FillTable, request: FillRequest) -> None:
        self.table = table
        self.request = request
        self.state = FillState.QUEUED
        self.started = time.monotonic()
        self.slot = OriginSlot(table.limiter, request.target.authority)
        self._fetch: Fetch | None = None
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
        self.hold_up: HoldUp | None = None
        self.stalled = False
        """Whether it was ended because it got nowhere (see :mod:`.watch`)."""
        self.ahead: Ahead | None = None
        """If somebody waits for what is ahead of it."""

    # -- waiters ------------------------------------------------------------------------------------------------

    def start(self, *, reads: bool = True) -> Waiter:
        """Begin, on behalf of its first waiter. Raises :class:`Overloaded` if there is no place in the queue."""
        request = self.request
        waiter = Waiter(self, request.headers, request.client, request.policy.patience, leads=True, reads=reads)
        if self.table.sources.begins_at_origin:
            self.slot.enter(waiter)
        self.waiters[waiter] = None
        if not reads:
            self._leftover = Leftover(self)
        self._fetch = fetch = Fetch(self)
        fetch.start(has_slot=self.table.sources.begins_at_origin and waiter.place is None)
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
            if self.head.why_not_stored == SIGNED_URL:
                self._let_readers_differ()
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
        if self.is_in_the_way and (self.head is None or self.table.limiter.is_full):
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
        if self._fetch is not None:
            self._fetch.cancel()

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
        body, limit = self.body, self.table.quick_abort_max
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

    # -- what the fetch tells ------------------------------------------------------------------------------------

    def broke(self, error: BaseException) -> str:
        """It ended with this, which is told to all who wait. The outcome."""
        match error:
            case OriginError():
                self._fail(error)
                return error.error
            case asyncio.CancelledError() | Overloaded():
                # Nobody waits any more, the place in the queue timed out, or the proxy is shutting down.
                outcome = "stalled" if self.stalled else "abandoned" if self.state is FillState.RUNNING else ""
                self._fail(OriginError("proxy_internal_error", "the fill was abandoned"))
                return outcome
            case _:
                logger.error("fill of %s failed", self.request.target.shown, exc_info=error)
                self._fail(OriginError("proxy_internal_error", type(error).__name__))
                return "proxy_internal_error"

    def ended(self, outcome: str) -> None:
        """It is over. ``outcome``: as the metrics name it; empty if no source was asked."""
        self._over = True
        self._fetch = None  # which knows this: a circle would be left to the collector, with the body's tail
        self.slot.end(outcome)
        if self._leftover is not None:
            self._leftover.cancel()
            self._leftover = None
        self.table.forget(self)
        if self.ahead is not None:
            self.ahead.end()
        if outcome:
            self.table.events.fill_ended(outcome)
        if outcome == "not_stored":
            why = self.head.why_not_stored if self.head is not None else None
            self.table.events.not_stored(why or ("invalidated" if self.doomed else "store"))
        if self._ending is not None and not self._ending.done():
            self._ending.set_result(None)

    def interim(self, status: int, headers: Headers) -> None:
        """A 1xx is for all who wait now (RFC 9110 §15.2), but for one to a user who has logged in, and without
        anybody's session."""
        is_personal = has_credentials(self.request.headers, self.request.policy.credentials)
        shown = headers.without("set-cookie")
        for waiter in list(self.waiters):
            if waiter.on_interim is not None and (waiter.leads or not is_personal):
                waiter.on_interim(status, headers if waiter.leads else shown)

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
            self.table.keys.heads.tell(self.request.key, head.response)

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
        if self._abandoned or self.state is FillState.FAILED:
            return False
        span = self.span
        return span.start <= offset < span.stop and (self.body is None or self.body.has(offset))

    def refuse_all(self, *, refetch_alone: bool, ranges_only: bool = False, personal: bool = False) -> None:
        """All waiters have to ask anew. ``refetch_alone``: each for itself, or (``ranges_only``) just those that want
        ranges, or (``personal``) just those about whom the response says something although it isn't for them."""
        request, waiters, self.waiters = self.request, self.waiters, {}
        for waiter in waiters:
            wants_range = waiter.leads or "range" in waiter.headers
            is_about = not personal or is_about_others_like(request.headers, waiter.headers, 206, request.policy)
            waiter.fail(NotShareable(refetch_alone=refetch_alone and is_about and (wants_range or not ranges_only)))

    def check_is_short(self, length: int | None) -> None:
        """Raises :class:`OriginError` if the object is not short enough to be fetched whole on behalf of ranges, or may
        not be (``None``), and no waiter wants all of it. They ask anew then."""
        table = self.table
        if table.spans.fetches_whole(length):
            return
        if all(waiter.leads or "range" in waiter.headers for waiter in self.waiters):
            table.keys.length_is_not_told(self.request.key)
            self.refuse_all(refetch_alone=False)
            raise OriginError("http_response_incomplete", "it may be longer than a HEAD has said")

    def deliver(self, head: FillHead, recipients: Recipients) -> None:
        """Hand out the head: to the waiter for which it was asked, if that is still here, and to all others whom it
        suits. The rest have to ask anew."""
        shared, alone, suits = recipients
        # What was "partial" was about a range, and speaks of no other.
        refused = head.why_not_stored == "partial" or not speaks_of_resource(head.response.status)
        for waiter in list(self.waiters):
            if waiter.leads or (
                shared and matches(head.response.vary, waiter.headers) and (suits is None or suits(waiter.headers))
            ):
                waiter.deliver(head)
            else:
                # Nothing is known yet of what those are given who say less about themselves: one of them asks for all.
                also_alone = alone and not shared and is_about_others_like(
                    self.request.headers, waiter.headers, head.response.status, self.request.policy
                )  # fmt: skip
                waiter.fail(NotShareable(refetch_alone=also_alone, refused=refused))
                del self.waiters[waiter]
        if head.why_not_stored == SIGNED_URL:
            self._let_readers_differ()

    def _let_readers_differ(self) -> None:
        """Several clients share what is not stored: none has to wait until the slowest of them has read."""
        if self.body is not None and len(self.waiters) > 1:
            self.body.spill()

    def _fail(self, error: OriginError) -> None:
        self.state = FillState.FAILED
        if self.body is not None:
            self.body.fail(error)
        suits, asked = None, self.request.range_fetch
        if error.error in PROVOKED and self.head is None and (asked is None or asked.of is None):
            suits = self.table.trouble.concerns(self.request)
        for waiter in list(self.waiters):
            if suits is None or waiter.leads or suits(waiter.headers):
                waiter.fail(error)
            else:
                waiter.fail(NotShareable(refetch_alone=False, refused=True))
                self.waiters.pop(waiter, None)

    # -- joining, seen from the table ---------------------------------------------------------------------------

    def open_to(
        self,
        headers: Headers,
        fresh: Callable[[StoredResponse], bool],
        since: float | None = None,
        came: float | None = None,
    ) -> bool:
        """Whether a request may share this response that looks for one now, and ``came`` then.

        Until the head is there everybody may wait who doesn't insist on what the origin says from ``since`` on. Once it
        is, it must suit the request like a stored response: the variant it selects (RFC 9111 §4.1), and fresh, unless
        the request was here before the origin was asked.
        """
        if self._abandoned or self.state is FillState.FAILED or self.request.private:
            return False
        asked = self.slot.asked
        if self.head is None:
            return since is None or asked is None or asked >= since
        if self.head.fills_gap_of is not None:
            return False  # the entry is there to be found, and this fill as one of its gaps'
        if self.body is None or not self.body.joinable:
            return False
        response = self.head.response
        if came is not None and asked is not None and asked >= came:
            return matches(response.vary, headers)
        if since is not None and asked is not None and asked >= since and time.time() < response.fresh_until:
            return matches(response.vary, headers)
        return matches(response.vary, headers) and fresh(response)

    @property
    def is_queued(self) -> bool:
        """Whether it still waits for a slot."""
        return self.state is FillState.QUEUED

    def snapshot(self) -> dict[str, Any]:
        body = self.body
        return {
            "state": self.state.value,
            "host": self.request.target.authority,
            "age_seconds": round(time.monotonic() - self.started, 3),
            "bytes": body.length - body.start if body else 0,
            "total_bytes": body.total if body else None,
            "waiters": len(self.waiters),
        }

    def __repr__(self) -> str:
        size = f", {self.body.length} bytes" if self.body else ""
        return f"<Fill {self.request.target.shown} {self.state.value}, {len(self.waiters)} waiters{size}>"
