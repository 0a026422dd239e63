"""One fill's exchange with its source, to the last byte: the response, the rest of one that broke off, and what is
stored of them.

There are two ways to run it, and :meth:`Fetch.start` alone decides between them. A small response that comes in one
piece, over a connection that is open, needs nothing to be waited for but its one arrival: callbacks do, and cost a
sixteenth less CPU time than a task that does the same. Everything else is a task, which may also begin where the
callbacks have come to something that has to be waited for.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from ...semantics.credentials import has_credentials
from ...semantics.headers import Headers
from ...semantics.ranges import is_same_representation, parse_content_range, strong_validator
from ...semantics.spans import Span
from ...semantics.validation import CONDITIONAL, conditional_headers
from ...store.body import Body
from ...store.index import Entry
from ...upstream.connection import OriginConnection, Outcome
from ...upstream.origin import RETRY_STATUSES
from ...upstream.response import OriginResponse
from ...upstream.source import SourceRequest
from ...upstream.stopwatch import BODY, FIRST_BYTE, Lap, word_for
from ...wire.responses import OriginError
from .fill import Fill
from .handing_out import break_off, deliver, refuse_all
from .head import FillHead
from .partial_response import may_be_kept, take_partial
from .repeat import begins_alike, is_for_the_same
from .request import FillState
from .revalidation import take_not_modified
from .transfer import copy
from .whole_response import decide

PROGRESS: Final = 1024 * 1024
"""Bytes after which a body that breaks off again has all its tries again."""


class Fetch:
    """Tells its :class:`~.fill.Fill` of the head, and of the end: once, by :meth:`~.fill.Fill.ended`, whatever way it
    ends."""

    __slots__ = ("_asked", "_breaks", "_fill", "_first_try", "_from_origin", "_has_begun", "_lap", "_task")

    def __init__(self, fill: Fill) -> None:
        self._fill = fill
        fill.stop_fetch = self.cancel
        self._asked: OriginConnection | None = None
        """Where the response is awaited by callback."""
        self._lap: Lap | None = None
        """The phase that this wait is."""
        self._task: asyncio.Task[None] | None = None
        self._has_begun = False
        """Whether the task has taken its first step."""
        self._first_try: Outcome | None = None
        """What the callbacks hand to the task."""
        self._breaks = 0
        self._from_origin = True

    def start(self, *, has_slot: bool) -> None:
        """Go, in this turn if that takes no waiting: with a slot, and an open connection."""
        fill = self._fill
        request = fill.request
        if has_slot and not request.candidates and request.range_fetch is None and fill.watch.trace is None:
            # Validations, spans and traces have more steps than the callbacks know.
            self._asked = fill.context.sources.ask_now(request.target, request.headers, self._interim, self._answered)
            if self._asked is not None:
                fill.slot.asked = fill.started
                self._lap = fill.watch.begin(FIRST_BYTE, at=fill.started)
                fill.state = FillState.RUNNING
                return
        self._begin_task(None)

    def cancel(self) -> None:
        """End it. A task that is cancelled before its first step never runs its ``finally``, and callbacks have none:
        then the fill is told of the end here."""
        asked, self._asked = self._asked, None
        if asked is not None:
            asked.abort()
        elif self._task is not None:
            self._task.cancel()
        if not self._has_begun:
            if isinstance(self._first_try, OriginResponse):
                self._first_try.close()
            self._fill.ended(break_off(self._fill, asyncio.CancelledError()))

    async def granted(self) -> None:
        """Wait for the slot, at the origin's turn (see :class:`~...upstream.source.Slot`)."""
        await self._fill.slot.granted(self._fill.waiters)
        self._fill.state = FillState.RUNNING

    def answered(self) -> None:
        self._fill.slot.answered()

    def asks_peer(self, is_asking: bool) -> None:
        self._fill.asks_peer = is_asking

    def released(self) -> None:
        self._fill.slot.give_back("not_modified")

    def _interim(self, status: int, headers: Headers) -> None:
        """A 1xx is for all who wait now (RFC 9110 §15.2), but for one to a user who has logged in, and without
        anybody's session."""
        request = self._fill.request
        is_personal = has_credentials(request.headers, request.policy.credentials)
        shown = headers.without("set-cookie")
        for waiter in list(self._fill.waiters):
            if waiter.on_interim is not None and (waiter.leads or not is_personal):
                waiter.on_interim(status, headers if waiter.leads else shown)

    # -- by callbacks -------------------------------------------------------------------------------------------

    def _answered(self, answer: Outcome) -> None:
        asked, self._asked = self._asked, None
        lap = self._lap
        assert lap is not None
        lap.end(str(answer.status) if isinstance(answer, OriginResponse) else word_for(answer))
        if asked is None:  # it was ended
            if isinstance(answer, OriginResponse):
                answer.close()
        elif not isinstance(answer, OriginResponse) or not answer.is_whole or answer.status in RETRY_STATUSES:
            self._begin_task(answer)
        else:
            fill = self._fill
            try:
                fill.slot.answered()
                content = answer.read_held()
                fill.watch.add(BODY, "origin", lap.ended, len(content))
                fill.context.events.fetched("origin", len(content))
                head, recipients = decide(fill, answer, content)
                fill.state = FillState.COMPLETE
                outcome = "not_modified" if answer.status == 304 else "not_stored"
                if head.why_not_stored is None and not fill.doomed:
                    entry = fill.context.store.put(fill.request.key, head.response, content)
                    outcome = "stored" if entry is not None else "not_stored"
                    if entry is not None and fill.context.behind is not None:
                        fill.context.behind.stored(fill.request, entry)
                fill.ended(outcome)
                deliver(fill, head, recipients)
            except (Exception, asyncio.CancelledError) as error:
                fill.ended(break_off(fill, error))

    # -- by a task ----------------------------------------------------------------------------------------------

    def _begin_task(self, first_try: Outcome | None) -> None:
        """It takes its first step in a turn of its own, also where tasks start eagerly (mitmproxy's do): the fill is in
        the table before it does anything."""
        self._first_try = first_try
        self._task = asyncio.Task(self._run(), loop=asyncio.get_running_loop())

    async def _run(self) -> None:
        self._has_begun = True
        fill, outcome = self._fill, "failed"
        try:
            outcome = await self._fetch()
            fill.state = FillState.COMPLETE
        except (Exception, asyncio.CancelledError) as error:
            outcome = break_off(fill, error)
        finally:
            fill.ended(outcome)

    async def _fetch(self) -> str:
        """Ask; hand the head to the waiters, and write the body while they read along. The outcome."""
        fill = self._fill
        request, store = fill.request, fill.context.store
        try:
            outcome = await self._exchange(request.candidates)
            if outcome is None:
                # Validated was something that is not here any more, or that can't be told from others: ask for it.
                span = request.range_fetch
                if span is not None and span.of is not None and not store.holds(span.of):
                    request.range_fetch = replace(span, of=None)  # there is nothing to put it to
                outcome = await self._exchange(())
        except (OriginError, asyncio.CancelledError) as error:
            if fill.body is not None and fill.head is not None and self._may_be_continued(fill.head, fill.body):
                fill.slot.end(error.error if isinstance(error, OriginError) else "abandoned")
                entry = await store.commit(fill.body, request.key, fill.head.response)
                if entry is not None and fill.doomed:
                    store.remove(entry)
            raise
        return outcome or "not_stored"

    def _request_headers(self, candidates: tuple[Entry, ...]) -> Headers:
        request = self._fill.request
        headers, span = request.headers, request.range_fetch
        for name, value in conditional_headers([entry.response for entry in candidates]):
            headers = headers.set(name, value)
        if span is not None:
            headers = headers.without("range").add("Range", span.header)
            if span.of is not None and not candidates:
                validator = strong_validator(span.of.response.headers)
                headers = headers.add("If-Range", validator) if validator is not None else headers
        return headers

    async def _exchange(self, candidates: tuple[Entry, ...]) -> str | None:
        """One response and its continuations: the outcome, or ``None`` after a 304 that nothing can be made of."""
        fill = self._fill
        request, store = fill.request, fill.context.store
        headers = self._request_headers(candidates)
        first_try, self._first_try = self._first_try, None
        response = await fill.context.sources.get(
            SourceRequest(request, request.target, headers, self, request.retries, self._interim, first_try, fill.watch)
        )
        fill.state = FillState.RUNNING  # also without a slot, if another source has it
        try:
            if response.status == 304 and candidates:
                return "not_modified" if await take_not_modified(fill, candidates, response) else None
            head = self._take(response)
            body = head.body
            assert body is not None
            broken = await self._copy(response, body)
        finally:
            response.close()
        self._from_origin = response.source == "origin"
        while broken is not None:
            broken = await self._continue(headers, head, body, broken)
        body.finish()
        outcome = "not_modified" if response.status == 304 else "not_stored"
        # The slot comes back before the body is committed. The fill stays in the table until then, so that a request in
        # between finds the bytes here and does not go to the origin.
        fill.slot.end("complete")
        fill.state = FillState.COMPLETE
        if head.why_not_stored is not None:
            body.close_if_unused()
            return outcome
        if response.is_kept_until_its_end and not fill.doomed:
            head.why_not_stored, head.is_shared_unstored = "bypass", True
        if fill.doomed or response.is_kept_until_its_end:
            body.stop_keeping()
            body.close_if_unused()
            return "not_stored"
        entry = await store.commit(body, request.key, head.response)
        if entry is not None and fill.doomed:
            store.remove(entry)
        elif entry is not None and fill.context.behind is not None and response.source == "origin":
            fill.context.behind.stored(request, entry)
        return "stored" if entry is not None else "not_stored"

    async def _copy(self, response: OriginResponse, body: Body) -> OriginError | None:
        context, since = self._fill.context, body.length
        with self._fill.watch.begin(BODY, response.source) as lap:
            try:
                broken = await copy(response, body, context.store.pipes)
                lap.outcome = broken.error if broken is not None else ""
            finally:
                lap.size = body.length - since
                context.events.fetched(response.source, lap.size)
        return broken

    def _take(self, response: OriginResponse) -> FillHead:
        """The head is here: who gets it, and is it stored?"""
        fill = self._fill
        request = fill.request
        if request.range_fetch is not None:
            partial = take_partial(fill, response, request.range_fetch)
            if partial is not None:
                return partial
        elif request.is_short and response.status == 200:
            self._check_is_short(response.content_length)
        head, recipients = decide(fill, response)
        deliver(fill, head, recipients)
        fill.look_who_waits()
        return head

    def _check_is_short(self, length: int | None) -> None:
        """Raises :class:`OriginError` if the object is not short enough to be fetched whole on behalf of ranges, or may
        not be (``None``), and no waiter wants all of it. They ask anew then."""
        fill, context = self._fill, self._fill.context
        if context.spans.fetches_whole(length):
            return
        if all(waiter.leads or "range" in waiter.headers for waiter in fill.waiters):
            context.keys.length_is_not_told(fill.request.key)
            refuse_all(fill, refetch_alone=False)
            raise OriginError("http_response_incomplete", "it may be longer than a HEAD has said")

    # -- a body that broke off ----------------------------------------------------------------------------------

    def _may_be_continued(self, head: FillHead, body: Body) -> bool:
        """Whether the bytes at hand can be put together with the rest later (RFC 9111 §3.3, §3.4)."""
        return (
            body.kept
            and not body.complete
            and not self._fill.doomed
            and head.why_not_stored is None
            and (head.fills_gap_of is not None or (head.response.status == 200 and body.length > 0))
            and body.total is not None
            and strong_validator(head.response.headers) is not None
        )

    async def _continue(self, headers: Headers, head: FillHead, body: Body, broken: OriginError) -> OriginError | None:
        """Ask the origin for the rest, as long as there are tries. Raises ``broken`` if there are none, or the response
        isn't the rest."""
        fill = self._fill
        source, validator = fill.context.sources.origin, strong_validator(head.response.headers)
        span = fill.request.range_fetch
        # If it has come from elsewhere, the origin has not been asked yet. It may also send all of it once more.
        is_new, self._from_origin = not self._from_origin, True
        may_repeat = is_new and body.kept and head.length is None and not body.is_range
        if (
            not (is_new or source.client.may_retry(broken, self._breaks))
            or head.response.status != 200
            or not (may_repeat or (validator is not None and (head.length is not None or body.total is not None)))
            or ("range" in headers and (span is None or span.field is not None))
        ):
            raise broken
        if not is_new:
            await source.client.pause(self._breaks, 0.0, broken.error, fill.watch)
        self._breaks += 1
        since = body.length
        if since == body.total:
            return None  # nothing but its end was lacking
        headers = headers.without(*CONDITIONAL, "range")
        if validator is not None:
            last = "" if body.total is None else body.total - 1
            headers = headers.add("Range", f"bytes={since}-{last}").add("If-Range", validator)
        response = await source.get(SourceRequest(fill.request, fill.request.target, headers, self, watch=fill.watch))
        try:
            if _is_the_rest(response, since, head, body):
                updated = head.response.updated_by(
                    response.headers, response.request_time, response.response_time, None, fill.request.policy
                )
                if body.kept and not may_be_kept(fill.request, updated):
                    fill.doomed = True
            elif not may_repeat or not is_for_the_same(fill, head, response) or not await begins_alike(response, body):
                raise broken
            again = await self._copy(response, body)
        finally:
            response.close()
        if again is not None and body.length - since >= PROGRESS:
            self._breaks = 0
        return again


def _is_the_rest(response: OriginResponse, since: int, head: FillHead, body: Body) -> bool:
    """Whether a response continues ``body`` from ``since`` on (RFC 9110 §15.3.7, RFC 9111 §3.4)."""
    found = parse_content_range(response.headers) if response.status == 206 else None
    return (
        found is not None
        and found[0].start == since
        and (found[0].stop == body.total or _is_less(found[0], body, response))
        and found[1] in (None, head.length or body.total)
        and response.content_length in (None, found[0].length)
        and is_same_representation(head.response.headers, response.headers, if_range=True)
    )


def _is_less(span: Span, body: Body, response: OriginResponse) -> bool:
    """Whether a subset of what was asked for has come, which may be (RFC 9110 §15.3.7): the next request begins at its
    end, which has to be certain."""
    return body.total is not None and span.stop < body.total and response.content_length is not None
