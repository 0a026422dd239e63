"""Fills: one origin request for a key, however many wait (they find each other in :mod:`.table`).

A fill belongs to the cache. It takes a slot, writes at the origin's speed, and gives the slot back at the origin's last
byte. It runs in a task of its own, unless nothing has to be waited for but one answer that comes in one piece, as most
answers with small bodies do: then it goes by callbacks.

Those who wait for it are :class:`Waiter` s: first for the head of the response, then as readers of its body. They come
and go as they like; the fill minds only when the last one leaves:

- still queued: it is cancelled, and the origin never hears of it;
- running: it is finished if at most ``quick_abort_max`` bytes are left (as far as is known) and they come within
  ``quick_abort_timeout``, or within a second if others wait for its slot (see :mod:`.contention`); else dropped.

A fill may also be for a *span*: bytes that a stored response lacks, or the first that were asked for of one that is not
stored yet. The answer, a 206, is then a piece of an entry that is in the index from the response's head on.

What breaks off is continued from where it stopped (``Range`` with ``If-Range``) as long as there are tries, and kept
as an entry with gaps otherwise, if it has a strong validator to put the rest to it by.

A response that may not be shared goes to the one waiter for whom it was asked, if it is still there; the others are
*sent on*, all at once, each to ask for itself.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ...semantics.credentials import credentials_of, has_credentials
from ...semantics.directives import parse_cache_control, request_cache_control
from ...semantics.headers import Headers, end_to_end
from ...semantics.keys import Target
from ...semantics.policy import BY_THE_BOOK, Policy
from ...semantics.ranges import as_whole, is_same_representation, parse_content_range, strong_validator
from ...semantics.spans import Span
from ...semantics.stored import StoredResponse
from ...semantics.storing import SIGNED_URL, judge, speaks_of_resource, why_not_shared
from ...semantics.validation import CONDITIONAL, conditional_headers, selected_by_304
from ...semantics.vary import matches
from ...store.body import Body, Reader
from ...store.index import Entry
from ...upstream.connection import OriginConnection, Outcome
from ...upstream.origin import RETRY_STATUSES
from ...upstream.response import OriginResponse
from ...wire.responses import OriginError
from ..limiter import Ticket, TicketState
from .audience import PROVOKED, has_no_credentials, is_about_others_like, is_plain_absence, wants_same_range
from .contention import HoldUp, Leftover
from .known_heads import REVALIDATING, condition_holds, head_of_304
from .range_fetch import Part, is_passed_off_as_whole
from .transfer import copy
from .waiting import FillHead, SentOn, Waiter

if TYPE_CHECKING:
    from ..ranges.ahead import Ahead
    from .table import FillTable

logger = logging.getLogger(__name__)

VOLATILE = frozenset({"no-store", "request-no-store", "bypass"})
"""Reasons for not storing a response of which no byte may be brought to a disk either (RFC 9111 §5.2.1.5, §5.2.2.5)."""
PROGRESS = 1024 * 1024
"""Bytes after which a body that breaks off again has all its tries again."""


SUPERSEDES = frozenset({"no-store", "private", "set-cookie", "vary-star", "no-freshness"})
"""Reasons for not storing a response that speak of the resource, where its status does."""


class FillState(enum.Enum):
    QUEUED = "queued"
    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"


@dataclass(slots=True, eq=False)
class FillRequest:
    """What to ask for, and on whose behalf. ``headers`` are end-to-end, as the client sent them."""

    key: str = field(repr=False)
    target: Target
    headers: Headers = field(repr=False)
    client: str
    candidates: tuple[Entry, ...] = ()
    """Entries to validate, rather than to fetch what is there already: the one that the request selects first."""
    policy: Policy = BY_THE_BOOK
    retries: int | None = None
    """How often to try again, if less often than usual."""
    private: bool = False
    """Not to be shared with others: they could not have it (the key is uncacheable), or it was asked on conditions that
    are this client's."""
    keep: bool = True
    """Whether the response may be stored at all."""
    part: Part | None = None
    is_short: bool = False
    """Whether all of it is asked for on behalf of a range, since a HEAD has said that it isn't long."""
    whole: bool = False
    """The part is a gap of any length, for a client that wants all of the body."""
    beside: bool = False
    """Asked for beside a fill that brings it, too: only as a span, or not at all."""

    @property
    def passes_condition_on(self) -> bool:
        """Whether the origin is asked what the client has asked: has it changed?"""
        return not self.candidates and self.headers.has_any(REVALIDATING)


class Fill:
    """One origin request and what comes of it. Made by :class:`~.table.FillTable`."""

    def __init__(self, table: FillTable, request: FillRequest) -> None:
        self.table = table
        self.request = request
        self.state = FillState.QUEUED
        self.started = time.monotonic()
        self.asked: float | None = None
        """When the origin was asked first, by the monotonic clock; ``None``: not yet."""
        self.head: FillHead | None = None
        self.body: Body | None = None
        self.doomed = False
        """What it fetches may not be stored: the URL was changed by an unsafe method meanwhile (RFC 9111 §4.4)."""
        self.waiters: dict[Waiter, None] = {}
        self._suits: Callable[[Headers], bool] | None = None
        """Whom of those who wait, by their headers, the response is for, where it is not for all."""
        self._abandoned = False
        self._began = False
        """Whether its task has taken the first step; and"""
        self._given_to_task: Outcome | None = None
        """what that is to begin with."""
        self._breaks = 0
        self._ticket: Ticket | None = None
        self._task: asyncio.Task[None] | None = None
        self._asked: OriginConnection | None = None
        """Where the answer is awaited that no task waits for."""
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
        waiter = Waiter(self, request.headers, leads=True, reads=reads)
        self._ticket, waiter._place = self.table.limiter.enter(
            request.target.authority, request.client, waiter.overloaded, request.policy.patience
        )
        self.waiters[waiter] = None
        if not reads:
            self._leftover = Leftover(self)
        if not self._ask_now():
            self._go_on(None)
        return waiter

    def _go_on(self, answer: Outcome | None) -> None:
        """In a task, which takes its first step in a turn of its own, also where tasks start eagerly (mitmproxy's do):
        the fill is in the table before it does anything. ``answer``: what the origin has said already."""
        assert self._ticket is not None
        self._given_to_task = answer
        self._task = asyncio.Task(self._run(self._ticket), loop=asyncio.get_running_loop())

    def join(self, client: str, headers: Headers, patience: float | None = None, *, reads: bool = True) -> Waiter:
        """One more flow wants this response, and may queue for it for ``patience`` seconds (``None``: as long as the
        limits say). ``reads``: its body, too. Raises :class:`Overloaded` if its client waits for too many already."""
        waiter = Waiter(self, headers, reads=reads)
        if self.head is None and self._ticket is not None:
            waiter._place = self._ticket.join(client, waiter.overloaded, patience)
        if self._leftover is not None:
            self._leftover.cancel()
            self._leftover = None
        self.waiters[waiter] = None
        if self.head is not None:
            waiter.give(self.head)
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
        """End it. A task that is ended before its first step never takes one, and where there is none nobody else can
        say that it was the end: it is said here."""
        if self._over:
            return
        asked, self._asked = self._asked, None
        if asked is not None:
            asked.abort()
        elif self._task is not None:
            self._task.cancel()
        if not self._began:
            if isinstance(self._given_to_task, OriginResponse):
                self._given_to_task.close()
            self._ended(self._broken(asyncio.CancelledError()))

    async def ending(self) -> None:
        """Wait until it has ended, and what is kept of it is stored."""
        if self._over:
            return
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._ending)  # others may wait for it, too

    def _worth_finishing(self) -> bool:
        """The rule for a running fill that nobody waits for. Before the head arrives it is not known yet, so the
        question is put again then (in :meth:`_take`)."""
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
        return self._ticket is not None and self.table.limiter.is_waited_for(self._ticket)

    def _broken(self, error: BaseException) -> str:
        """It ended with this, which is told to whoever waits. The outcome."""
        match error:
            case OriginError():
                self._fail(error)
                return error.error
            case asyncio.CancelledError():
                # Nobody waits any more, the place in the queue timed out, or the proxy is shutting down.
                outcome = "stalled" if self.stalled else "abandoned" if self.state is FillState.RUNNING else ""
                self._fail(OriginError("proxy_internal_error", "the fill was abandoned"))
                return outcome
            case _:
                logger.error("fill of %s failed", self.request.target.shown, exc_info=error)
                self._fail(OriginError("proxy_internal_error", type(error).__name__))
                return "proxy_internal_error"

    def _ended(self, outcome: str) -> None:
        assert self._ticket is not None
        self._over = True
        self._ticket.end()
        if self._leftover is not None:
            self._leftover.cancel()
            self._leftover = None
        self.table._forget(self)
        if self.ahead is not None:
            self.ahead.end()
        if outcome:
            self.table.events.fill_ended(outcome)
        if outcome == "not_stored":
            why = self.head.why_not_stored if self.head is not None else None
            self.table.events.not_stored(why or ("invalidated" if self.doomed else "store"))
        if self._ending is not None and not self._ending.done():
            self._ending.set_result(None)

    # -- without a task -----------------------------------------------------------------------------------------

    def _ask_now(self) -> bool:
        """Ask in the same turn, if there is a slot, and a connection that is open. A fill that validates, or asks for a
        part, has more to think about."""
        request, ticket = self.request, self._ticket
        assert ticket is not None
        if ticket.state is not TicketState.ACTIVE or request.candidates or request.part is not None:
            return False
        self._asked = self.table.origin.ask_now(request.target, request.headers, self._interim, self._answered)
        if self._asked is None:
            return False
        self.state, self.asked = FillState.RUNNING, self.started
        return True

    def _answered(self, answer: Outcome) -> None:
        """What came of that. If there is more to wait for, the body or another try, a task goes on from here."""
        asked, self._asked = self._asked, None
        if asked is None:  # it was ended
            if isinstance(answer, OriginResponse):
                answer.close()
        elif not isinstance(answer, OriginResponse) or not answer.is_whole or answer.status in RETRY_STATUSES:
            self._go_on(answer)
        else:
            try:
                self._take_whole(answer)
            except (Exception, asyncio.CancelledError) as error:
                self._ended(self._broken(error))

    def _take_whole(self, response: OriginResponse) -> None:
        content = response.read_held()
        head, shared, alone = self._decide(response, content)
        self.state = FillState.COMPLETE
        outcome = "not_modified" if response.status == 304 else "not_stored"
        if head.why_not_stored is None and not self.doomed:
            entry = self.table.store.put(self.request.key, head.response, content)
            outcome = "stored" if entry is not None else "not_stored"
        self._ended(outcome)
        self._give(head, shared=shared, alone=alone)

    # -- the task -----------------------------------------------------------------------------------------------

    async def _run(self, ticket: Ticket) -> None:
        """The story of one fill. Whatever way it ends, the slot comes back and every waiter hears of it."""
        self._began = True
        answer, self._given_to_task = self._given_to_task, None
        outcome = "failed"
        try:
            if ticket.state is not TicketState.ACTIVE:
                await ticket.admission()
                for waiter in self.waiters:
                    waiter.admitted()
            self.state, self.asked = FillState.RUNNING, self.asked or time.monotonic()
            outcome = await self._fetch(ticket, answer)
            self.state = FillState.COMPLETE
        except (Exception, asyncio.CancelledError) as error:
            outcome = self._broken(error)
        finally:
            self._ended(outcome)

    async def _fetch(self, ticket: Ticket, answer: Outcome | None) -> str:
        """Ask the origin; hand the head to the waiters, and write the body while they read along."""
        candidates = self.request.candidates
        try:
            outcome = await self._ask(ticket, candidates, answer)
            if outcome is None:
                # Validated was something that is not here any more, or that can't be told from others: ask for it.
                part = self.request.part
                if part is not None and part.of is not None and not self.table.store.holds(part.of):
                    self.request.part = replace(part, of=None)  # there is nothing to put it to
                outcome = await self._ask(ticket, ())
        except (OriginError, asyncio.CancelledError):
            if self.body is not None and self.head is not None and self._can_be_continued(self.head):
                ticket.end()  # the origin has no part in what follows
                await self.table.store.commit(self.body, self.request.key, self.head.response)
            raise
        return outcome or "not_stored"

    async def _ask(
        self,
        ticket: Ticket,
        candidates: tuple[Entry, ...],
        answer: Outcome | None = None,
    ) -> str | None:
        """One answer of the origin; ``None`` if it was a 304 that nothing can be made of."""
        request = self.request
        headers = request.headers
        for name, value in conditional_headers([entry.response for entry in candidates]):
            headers = headers.set(name, value)
        if request.part is not None:
            headers = headers.without("range").add("Range", request.part.header)
            if request.part.of is not None and not candidates:
                validator = strong_validator(request.part.of.response.headers)
                headers = headers.add("If-Range", validator) if validator is not None else headers
        response = await self.table.origin.get(
            request.target, headers, retries=request.retries, on_interim=self._interim, answer=answer
        )
        try:
            if response.status == 304 and candidates:
                if not await self._validated(ticket, candidates, response):
                    return None
                return "not_modified"
            head = self._take(response)
            body = head.body
            assert body is not None
            broken = await copy(response, body, self.table.store.pipes)
        finally:
            response.close()
        while broken is not None:
            broken = await self._continue(headers, head, body, broken)
        body.finish()
        # The slot is the origin's, not the disk's: it comes back before the body is committed. The fill stays in
        # the table until then, so that a request in between finds the bytes here and does not go to the origin.
        ticket.end()
        self.state = FillState.COMPLETE
        if head.why_not_stored is not None:
            body.close_if_unused()
            return "not_modified" if response.status == 304 else "not_stored"
        if self.doomed:
            body.stop_keeping()
            body.close_if_unused()
            return "not_stored"
        entry = await self.table.store.commit(body, request.key, head.response)
        if entry is not None and self.doomed:
            self.table.store.remove(entry)
        return "stored" if entry is not None else "not_stored"

    def _can_be_continued(self, head: FillHead) -> bool:
        """Whether what has come can be put together with the rest later (RFC 9111 §3.3, §3.4)."""
        body = self.body
        return (
            body is not None
            and body.kept
            and not body.complete
            and not self.doomed
            and head.why_not_stored is None
            and (head.piece_of is not None or (head.response.status == 200 and body.length > 0))
            and body.total is not None
            and strong_validator(head.response.headers) is not None
        )

    async def _continue(self, headers: Headers, head: FillHead, body: Body, broken: OriginError) -> OriginError | None:
        """The body broke off: ask for the rest of it, as long as there are tries. ``broken`` is raised if not."""
        origin, validator = self.table.origin, strong_validator(head.response.headers)
        part = self.request.part
        if (
            not origin.may_retry(broken, self._breaks)
            or validator is None
            or head.response.status != 200
            or (head.length is None and body.total is None)
            or ("range" in headers and (part is None or part.field is not None))
        ):
            raise broken
        await origin.pause(self._breaks, 0.0, broken.error)
        self._breaks += 1
        since = body.length
        if since == body.total:
            return None  # nothing but its end was lacking
        last = "" if body.total is None else body.total - 1
        headers = (
            headers.without(*CONDITIONAL, "range").add("Range", f"bytes={since}-{last}").add("If-Range", validator)
        )
        response = await origin.get(self.request.target, headers)
        try:
            found = parse_content_range(response.headers) if response.status == 206 else None
            if (
                found is None
                or found[0].start != since
                or (found[0].stop != body.total and not self._is_less(found[0], body, response))
                or found[1] not in (None, head.length or body.total)
                or response.content_length not in (None, found[0].length)
                or not is_same_representation(head.response.headers, response.headers, if_range=True)
            ):
                raise broken
            updated = head.response.updated_by(
                response.headers, response.request_time, response.response_time, None, self.request.policy
            )
            if body.kept and not self._may_be_kept(updated):
                self.doomed = True
            again = await copy(response, body, self.table.store.pipes)
        finally:
            response.close()
        if again is not None and body.length - since >= PROGRESS:
            self._breaks = 0
        return again

    @staticmethod
    def _is_less(span: Span, body: Body, response: OriginResponse) -> bool:
        """Whether a part of what was asked for has come, which may be (RFC 9110 §15.3.7): it is gone on from its end,
        which has to be certain."""
        return body.total is not None and span.stop < body.total and response.content_length is not None

    def _interim(self, status: int, headers: Headers) -> None:
        """A 1xx is for all who wait now (RFC 9110 §15.2), but for one to a user who has logged in, and without
        anybody's session."""
        is_personal = has_credentials(self.request.headers, self.request.policy.credentials)
        shown = headers.without("set-cookie")
        for waiter in list(self.waiters):
            if waiter.on_interim is not None and (waiter.leads or not is_personal):
                waiter.on_interim(status, headers if waiter.leads else shown)

    def _take(self, response: OriginResponse) -> FillHead:
        """The head has arrived: who gets it, and is it stored?"""
        part = self.request.part
        if part is not None:
            found = part.span_of(response) if response.status == 206 else None
            if found is not None:
                return self._take_part(response, part, *found)
            if self.request.beside:
                raise OriginError("http_response_incomplete", "the origin does not send this as a span")
            if (
                response.status == 206
                or is_passed_off_as_whole(response, to_a_range=True)
                or part.is_refused_by(response)
            ):
                self._ask_for_less(part)
            else:
                self._not_a_part(response, part)
        elif self.request.is_short and response.status == 200:
            self._check_length(response.content_length)
        head, shared, alone = self._decide(response)
        self._give(head, shared=shared, alone=alone)
        self._see_who_waits()
        return head

    def _see_who_waits(self) -> None:
        """The head has been handed out, and all may have been sent on, or have left before."""
        if not self.waiters and not self.may_go_on_for_nobody:
            self._keep_head()
            raise asyncio.CancelledError

    def _keep_head(self) -> None:
        """The body is dropped. Who asks next whether it has changed need not begin to fetch it again."""
        head = self.head
        if head is None or head.why_not_stored is not None or head.response.status != 200 or self.doomed:
            return
        if self.state is FillState.RUNNING and not self.request.private:
            self.table.known.tell(self.request.key, head.response)

    def _decide(self, response: OriginResponse, content: bytes | None = None) -> tuple[FillHead, bool, bool]:
        """Whether a response is stored, and who gets it: see :meth:`_give`. ``content``: its body, if that is here."""
        request, status = self.request, response.status
        whole = 200 if status == 206 else status
        verdict = judge(
            request.headers, whole, response.headers, request.policy, self.table.guess_for(request, response.headers)
        )
        why_not = verdict.why_not or ("partial" if status == 206 else None)
        if why_not is None and not request.keep:
            why_not = "bypass"
        asked_for_range = request.part is not None or "range" in request.headers
        if why_not is None and (
            (status >= 400 and asked_for_range) or is_passed_off_as_whole(response, to_a_range=asked_for_range)
        ):
            why_not = "partial"  # it may be about the range only
        about_resource = status == 200 or speaks_of_resource(status)
        if why_not is None and not about_resource and self._has_better(status):
            why_not = "status"
        passed_on = status == 304 and request.passes_condition_on and not request.private
        alone = about_resource and not (why_not == "partial" and asked_for_range)
        for_all = why_not in (None, SIGNED_URL)
        if not for_all and _is_failure(status) and not _is_personal(request, response.headers):
            for_all, self._suits = True, self.table.trouble.concerns(request)
        if passed_on:
            for_all, alone = self._decide_304(response)
        elif why_not == "partial" and verdict.why_not is None and status in (404, 410):
            for_all, self._suits = True, wants_same_range(request)
        elif why_not == "no-freshness" and is_plain_absence(request, status, response.headers):
            for_all, self._suits = True, has_no_credentials(request.policy)
        shown = response.headers
        if for_all and why_not is not None:
            shown = shown.without("set-cookie")  # one user's session is nobody else's, be the origin in trouble or not
        stored = StoredResponse.of(
            status, shown, request.headers, response.request_time, response.response_time, verdict
        )
        if about_resource and not (status >= 400 and asked_for_range):
            self.table.remember(request, response.headers, why_not, status)
            if why_not in SUPERSEDES:
                self._drop_what_it_supersedes()
        if content is None:
            keep = why_not is None and not self.doomed and self.table.store.accepts(request.key, stored)
            total = 0 if status in (204, 304) else response.content_length
            self.body = self.table.store.body(total, keep=keep, volatile=why_not in VOLATILE)
        own = None
        if shown is not response.headers or (verdict.omitted and response.headers.has_any(verdict.omitted)):
            own = end_to_end(response.headers).without("age")
        head = self.head = FillHead(stored, response.reason, self.body, None, why_not, own, content=content)
        if why_not not in (None, SIGNED_URL) or request.private:
            self.table._forget(self)  # nobody joins what may not be shared
        # What was only the answer to the leader, or to its condition, says nothing about the others: they ask again,
        # together. So do those who wait for a whole where this is about a range.
        return head, for_all, alone

    def _decide_304(self, response: OriginResponse) -> tuple[bool, bool]:
        """A client's condition went to the origin, and holds: it does for all who have the same, if a 200 would be for
        all (RFC 9111 §4.3.2). Whether that is so, and whether everybody else has to ask alone."""
        request = self.request
        headers = head_of_304(request.headers, response.headers)
        verdict = judge(request.headers, 200, headers, request.policy)
        if verdict.why_not not in (None, SIGNED_URL, "no-freshness"):
            return False, True
        times = response.request_time, response.response_time
        told = StoredResponse.of(200, headers, request.headers, *times, verdict)
        if verdict.why_not is None and request.keep and not self.doomed:
            self.table.known.tell(request.key, told)
        self._suits = partial(condition_holds, response=told)
        return True, False

    def _has_better(self, status: int) -> bool:
        """Whether something is stored that an error must not take the place of: the origin is in trouble, or it has
        refused this client (a field too long, no login, a filter for requests), and what is here is still good."""
        store, key = self.table.store, self.request.key
        if status >= 500:
            return bool(self.request.candidates)
        return not store.is_loaded(key) or any(speaks_of_resource(entry.response.status) for entry in store.lookup(key))

    def _drop_what_it_supersedes(self) -> None:
        """The origin has another answer now, which can't be kept: neither can what was validated (RFC 9111 §4.3.3).
        Unless it was an answer to somebody who has logged in, and the stored one is for everybody."""
        for entry in self.request.candidates[:1]:
            selecting = {name for name, _ in entry.response.vary}
            if identifying_fields(self.request) <= selecting and matches(entry.response.vary, self.request.headers):
                self.table.store.remove(entry)

    def _take_part(self, response: OriginResponse, part: Part, span: Span, length: int) -> FillHead:
        """A 206: a piece of what is stored, or the first piece of what will be (RFC 9111 §3.3)."""
        request, table = self.request, self.table
        headers = as_whole(response.headers, length)
        table.can_be_put_together(request.key, headers)
        if part.of is not None and self._is_piece_of(part.of, length, response):
            stored_as = part.of
            times = response.request_time, response.response_time
            # RFC 9111 §3.4: combined under the header fields of the newer one.
            updated = stored_as.response.updated_by(headers, *times, None, request.policy)
            may_be_kept, held = self._may_be_kept(updated), table.store.holds(stored_as)
            if held and not may_be_kept:
                self._send_on(alone=True, personal=True)
                if updated.must_not_be_kept:
                    table.store.remove(stored_as)
                raise OriginError("http_response_incomplete", "the origin gives the rest of this to nobody else")
            if held:
                table.store.update(stored_as, updated)
            self.body = table.store.piece(stored_as, *span)
            if may_be_kept:
                table.fills_a_gap(self, stored_as)
            else:
                table._forget(self)  # it goes on with a response that has begun, and is for that one alone
            head = FillHead(stored_as.response, "", self.body, None, None, None, stored_as, length=length)
            return self._given(head, shared=may_be_kept, alone=True)
        verdict = judge(request.headers, 200, headers, request.policy, table.guess_for(request, headers))
        why_not = verdict.why_not if request.keep or verdict.why_not is not None else "bypass"
        stored = StoredResponse.of(
            200, headers, request.headers, response.request_time, response.response_time, verdict
        )
        table.remember(request, headers, why_not)
        entry: Entry | None = None
        if why_not is None and not self.doomed and table.store.accepts(request.key, stored):
            entry = table.store.add_object(request.key, stored, length)
            self.body = table.store.piece(entry, *span)
            table.fills_a_gap(self, entry)
        else:
            self.body = table.store.body(span.stop, keep=False, start=span.start, volatile=why_not in VOLATILE)
            table._forget(self)
        own = None if verdict.omitted.isdisjoint(headers.names) else end_to_end(headers).without("age")
        return self._given(
            FillHead(stored, "", self.body, None, why_not, own, entry, length=length),
            shared=entry is not None,
            alone=why_not is not None,
        )

    def _given(self, head: FillHead, *, shared: bool, alone: bool) -> FillHead:
        """Hand out the head of a piece."""
        self.head = head
        self._give(head, shared=shared, alone=alone)
        self._see_who_waits()
        return head

    @property
    def span(self) -> Span:
        """What it brings, or is to bring, of the body of the entry whose gap it fills."""
        if self.body is not None:
            return Span(self.body.start, self.body.total or self.body.length)
        part = self.request.part
        assert part is not None
        assert part.of is not None
        return part.ask.within(part.of.length) or Span(0, 0)

    def covers(self, offset: int) -> bool:
        """Whether who needs the byte at ``offset`` can get it, and what follows, from here."""
        if self._abandoned or self.state is FillState.FAILED:
            return False
        span = self.span
        return span.start <= offset < span.stop and (self.body is None or self.body.has(offset))

    def _is_piece_of(self, entry: Entry, length: int, response: OriginResponse) -> bool:
        """Whether it belongs to what is stored. If the origin has another representation now, the old one is dropped at
        once (RFC 9111 §3.4), and those who have had nothing of it yet begin anew."""
        if_range = not self.request.candidates  # else the origin was asked with If-None-Match
        if entry.length == length and is_same_representation(
            entry.response.headers, response.headers, if_range=if_range
        ):
            return True
        self.table.is_another_version(entry, unawares=if_range)
        if self.request.candidates:
            return False  # it was asked whether there is a new one: this is its first piece
        self._send_on(alone=False)
        raise OriginError("http_response_incomplete", "the origin has another version of this now")

    def _may_be_kept(self, updated: StoredResponse) -> bool:
        """Whether what has come in answer to this request may be put to what is stored, which is ``updated`` by it
        (RFC 9111 §3.5, §5.2.2.5, §5.2.2.7)."""
        request = self.request
        return not updated.must_not_be_kept and why_not_shared(request.headers, updated.headers, request.policy) is None

    def _send_on(self, *, alone: bool, ranges_only: bool = False, personal: bool = False) -> None:
        """Whoever waits has to ask anew. ``alone``: each for itself, or just those that want ranges. ``personal``: the
        answer is not for others than who has asked, and those alone whom it is about all the same."""
        request, waiters, self.waiters = self.request, self.waiters, {}
        for waiter in waiters:
            wants_range = waiter.leads or "range" in waiter.headers
            is_about = not personal or is_about_others_like(request.headers, waiter.headers, 206, request.policy)
            waiter._fail(SentOn(alone=alone and is_about and (wants_range or not ranges_only)))

    def _ask_for_less(self, part: Part) -> None:
        """The answer is to a range of ours, and nothing that a client could be given, or nothing that can be stored:
        each client asks for its own range then. If it was that, the leader gets what has come."""
        table, key = self.table, self.request.key
        if part.is_exact:
            table.unusable.add(key)
            if part.is_own and part.of is None:
                return
        else:
            table.exact.add(key)
        self._send_on(alone=part.is_exact, ranges_only=True)
        raise OriginError("http_response_incomplete", "the origin has answered another range than was asked for")

    def _check_length(self, length: int | None) -> None:
        """What was to be short enough to be fetched whole for a range isn't, or nobody knows whether it is (``None``),
        and nobody wants all of it."""
        table = self.table
        if table.spans.fetches_whole(length):
            return
        if all(waiter.leads or "range" in waiter.headers for waiter in self.waiters):
            table.length_is_not_told(self.request.key)
            self._send_on(alone=False)
            raise OriginError("http_response_incomplete", "it may be longer than a HEAD has said")

    def _not_a_part(self, response: OriginResponse, part: Part) -> None:
        """Asked for a span, and got something else."""
        if part.of is None or response.status != 200:
            return
        # All of it: either the origin knows no ranges, or it has another version. It is what others can join now.
        if part.of.spans is not None and not is_same_representation(part.of.response.headers, response.headers):
            self.table.is_another_version(part.of, unawares=not self.request.candidates)
        self.table.fills_it_all(self, part.of)

    async def _validated(self, ticket: Ticket, candidates: tuple[Entry, ...], response: OriginResponse) -> bool:
        """304: a stored body is good, under updated header fields (RFC 9111 §4.3.4). Whether it could be used."""
        request, store = self.request, self.table.store
        times = response.request_time, response.response_time
        selected = selected_by_304([entry.response for entry in candidates], response.headers)
        if selected is None or not store.holds(candidates[selected]):
            return False
        entry = candidates[selected]
        stored = entry.response.updated_by(response.headers, *times, request.headers, request.policy)
        if stored.must_not_be_kept:
            store.remove(entry)
            return False
        insisted = request_cache_control(request.headers)
        if not await store.verifier.is_good(entry, insisted=insisted.no_cache or insisted.max_age == 0):
            return False
        ticket.end()
        own = stored.for_the_asker(response.headers)
        why_not = why_not_shared(request.headers, stored.headers, request.policy)
        if why_not is not None or not request.keep:
            # What is stored is good, for whoever has asked. It says nothing to others, and nothing of it is kept.
            self.table._forget(self)
            self.head = FillHead(stored, "", None, entry, why_not or "bypass", own)
            self._give(self.head, shared=False)
            return True
        if not self.doomed:
            # "For each stored response identified, the cache MUST update its header fields": a strong tag names all.
            for other in candidates:
                if other.response.etag == stored.etag and stored.etag and not stored.etag.startswith("W/"):
                    store.update(other, other.response.updated_by(response.headers, *times, None, request.policy))
            if matches(entry.response.vary, request.headers):
                store.update(entry, stored)
            else:
                variant = await store.add_variant(entry, stored)
                if variant is not None and self.doomed:  # meanwhile
                    store.remove(variant)
                entry = variant or entry
        head = self.head = FillHead(stored, "", None, entry, None, own)
        self._give(head, shared=True)
        return True

    def _give(self, head: FillHead, *, shared: bool, alone: bool = True) -> None:
        """Hand out the head: to everybody whom it suits, else to who has asked, if that one is still here; the others
        are sent on, all at once."""
        # What was "partial" was about a range, and speaks of no other.
        refused = head.why_not_stored == "partial" or not speaks_of_resource(head.response.status)
        for waiter in list(self.waiters):
            if waiter.leads or (
                shared
                and matches(head.response.vary, waiter.headers)
                and (self._suits is None or self._suits(waiter.headers))
            ):
                waiter.give(head)
            else:
                # Nothing is known yet of what those are given who say less about themselves: one of them asks for all.
                also_alone = alone and not shared and is_about_others_like(
                    self.request.headers, waiter.headers, head.response.status, self.request.policy
                )  # fmt: skip
                waiter._fail(SentOn(alone=also_alone, refused=refused))
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
        suits, part = None, self.request.part
        if error.error in PROVOKED and self.head is None and (part is None or part.of is None):
            suits = self.table.trouble.concerns(self.request)
        for waiter in list(self.waiters):
            if suits is None or waiter.leads or suits(waiter.headers):
                waiter._fail(error)
            else:
                waiter._fail(SentOn(alone=False, refused=True))
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
        if self.head is None:
            return since is None or self.asked is None or self.asked >= since
        if self.head.piece_of is not None:
            return False  # the entry is there to be found, and this fill as one of its gaps'
        if self.body is None or not self.body.joinable:
            return False
        response = self.head.response
        if came is not None and self.asked is not None and self.asked >= came:
            return matches(response.vary, headers)
        if since is not None and self.asked is not None and self.asked >= since and time.time() < response.fresh_until:
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


def identifying_fields(request: FillRequest) -> frozenset[str]:
    """The fields of a request that say who has made it, as far as they may decide about the answer."""
    policy = request.policy
    return frozenset() if policy.ignore_authorization else credentials_of(request.headers, policy.credentials)


def _is_failure(status: int) -> bool:
    """An answer that says the origin is in trouble, and nothing about the resource."""
    return status >= 500 or status in (408, 429)


def _is_personal(request: FillRequest, response: Headers) -> bool:
    """Whether an error page may be meant for one user only."""
    if has_credentials(request.headers, request.policy.credentials):
        return True
    return parse_cache_control(response.get_all("cache-control")).private
