"""The shared store as a source of fills, between the peers and the origin.

A fresh response is used as it is, with its Age. A stale one is validated at the origin, with a slot like any request to
it, and after a 304 the body comes from here (RFC 9111 §4.3). A response that is nothing for this request, and a store
that is slow or fails, leave it to the origin: that costs :data:`DEADLINE` (and :data:`PATIENCE` in a crowd) at most.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final, Protocol, TypeAlias

from ...semantics.directives import NOTHING, request_cache_control
from ...semantics.headers import Headers, end_to_end
from ...semantics.ranges import (
    as_whole,
    content_range,
    if_range_holds,
    is_same_representation,
    requested,
    without_digests,
)
from ...semantics.reuse import Reuse, decide, may_serve_stale
from ...semantics.spans import Span
from ...semantics.stored import StoredResponse
from ...semantics.storing import SIGNED_URL, judge, speaks_of_resource
from ...semantics.validation import conditional_headers, not_modified, not_modified_headers
from ...semantics.vary import matches, selecting_values
from ...wire.responses import OriginError, ResponseHead
from ..response import OriginResponse
from ..source import OriginSource, SourceRequest, Wanted
from ..stopwatch import SHARED
from .body import Blocks, BodyFeed, WrongBlock
from .breaker import Breaker
from .bucket import Bucket, Changed, StoreFails
from .events import SharedEvents
from .layout import Damaged, name_of, scope_of, variant_of
from .objects import Objects, StoredObject

logger = logging.getLogger(__name__)

DEADLINE: Final = 1.0
"""Seconds that the store has for a head and the beginning of a body (a short one: for all of it), then the origin is
asked."""
PLACES: Final = 32
"""Fills that ask at the same time. (Bodies that arrive already do not count.)"""
PATIENCE: Final = 3.0
"""Seconds that further ones wait, while the store answers; if it fails, all of them go on to the origin."""
DISTRUST: Final = 24 * 3600.0
"""Seconds for which a key isn't looked up after it was invalidated, or a damaged object was found, unless that is
deleted before: a proxy that may not write can't do that, nor one whose store fails just then."""
DISTRUSTED_MAX: Final = 10_000
_CONDITIONS: Final = frozenset({"if-none-match", "if-modified-since"})


class _NoTurn(Exception):
    """The store has not been asked."""


_Found: TypeAlias = tuple[str, OriginResponse | None, tuple[StoredObject, StoredResponse] | None]
"""The outcome, and the response or what has to be validated first."""


class Trash(Protocol):
    """Deletes objects, when there is time for it."""

    def delete(self, name: str) -> None: ...


class SharedSource:
    """See :class:`~..source.Source`."""

    def __init__(
        self, bucket: Bucket, origin: OriginSource, events: SharedEvents, breaker: Breaker, trash: Trash
    ) -> None:
        self._objects = Objects(bucket)
        self._origin = origin
        self._events = events
        self._trash = trash
        self.breaker = breaker
        self._distrusted: OrderedDict[str, float] = OrderedDict()
        """Names, and until when, by the monotonic clock."""
        self._feeds: set[BodyFeed] = set()
        self._places = asyncio.Semaphore(PLACES)
        self.scopes = {""}
        """Of all rules there are, or were: under each of them a key may have an object."""

    def may_have(self, wanted: Wanted) -> bool:
        return self.breaker.lets_pass and not wanted.is_personal

    async def get(self, request: SourceRequest) -> OriginResponse | None:
        name = name_of(request.wanted.key, scope_of(request.wanted.policy))
        if request.headers.has_any(_NOT_FOR_US) or self._is_distrusted(name) or not self.breaker.lets_pass:
            return None
        with request.watch.begin(SHARED, "shared") as lap:
            outcome, response, doubtful = await self._ask(request, name, lap.started)
            lap.outcome = outcome
        asked = lap.started
        if doubtful is not None:
            outcome, response = await self._validated(request, *doubtful, asked)
        self._events.shared_fetched(outcome)
        return response

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Time to ask the store something, when not too many others do. Raises :class:`_NoTurn`, ``TimeoutError``."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._places.acquire()
        except TimeoutError as error:
            raise _NoTurn from error
        since = time.monotonic()
        try:
            if not self.breaker.enter():  # it has failed for those in front
                raise _NoTurn
            try:
                async with asyncio.timeout(DEADLINE):
                    yield
            except TimeoutError:
                self.breaker.failed(f"no answer within {DEADLINE:g} s", since)
                raise
            except StoreFails as error:
                self.breaker.failed(str(error), since)
                raise
            except (Damaged, WrongBlock, Changed):
                self.breaker.succeeded()
                raise
            except BaseException:
                self.breaker.left()
                raise
            self.breaker.succeeded()
        finally:
            self._places.release()

    def invalidated(self, key: str) -> None:
        """See :class:`~..source.Source`."""
        for scope in self.scopes:
            self.drop(name_of(key, scope))

    def drop(self, name: str) -> None:
        """The object is of no use, whatever it is: it is deleted behind, and not looked at meanwhile."""
        self._objects.forget(name)
        self._distrusted[name] = time.monotonic() + DISTRUST
        self._distrusted.move_to_end(name)
        if len(self._distrusted) > DISTRUSTED_MAX:
            self._distrusted.popitem(last=False)
        self._trash.delete(name)

    def trust(self, name: str) -> None:
        """It has gone, or another one is there."""
        self._objects.forget(name)
        self._distrusted.pop(name, None)

    def _is_distrusted(self, name: str) -> bool:
        until = self._distrusted.get(name)
        if until is not None and time.monotonic() >= until:
            del self._distrusted[name]
            return False
        return until is not None

    # -- one request ----------------------------------------------------------------------------------------------

    async def _ask(self, request: SourceRequest, name: str, asked: float) -> _Found:
        try:
            async with self._turn():
                return await self._look(request, name, asked)
        except (TimeoutError, _NoTurn):
            return "timeout", None, None
        except StoreFails:
            return "error", None, None
        except (Damaged, WrongBlock):
            self.drop(name)
            return "corrupt", None, None
        except Changed:
            self._objects.forget(name)
            return "miss", None, None
        except Exception:  # there is the origin yet, whatever is wrong here
            logger.exception("proxy-cache: from the shared store: %s", request.target.shown)
            return "error", None, None

    async def _look(self, request: SourceRequest, name: str, asked: float) -> _Found:
        headers, policy = request.headers, request.wanted.policy
        specs = requested(headers)
        if specs is not None and len(specs) > 1:
            return "unsuitable", None, None
        found = await self._find(request, name, whole=specs is None and not headers.has_any(_CONDITIONS))
        if found is None:
            return "miss", None, None
        now = time.time()
        stored = _as_received(found, request, now)
        if stored is None:
            return "unsuitable", None, None
        directives = NOTHING if policy.ignore_directives else request_cache_control(headers)
        if decide(directives, stored, now).reuse is not Reuse.FRESH:
            return "stale", None, (found, stored)
        if headers.has_any(_CONDITIONS) and not_modified(headers, stored.status, stored.headers):
            shown = not_modified_headers(stored.headers)
            return "hit", _whole(304, _with_age(shown, stored.age(now)), b"", asked), None
        response = await self._response(request, found, stored, asked)
        return ("hit" if response is not None else "unsuitable"), response, None

    async def _find(self, request: SourceRequest, name: str, *, whole: bool) -> StoredObject | None:
        found = await self._objects.find(name, whole=whole)
        if found is None or matches(found.head.vary, request.headers):
            return found
        # RFC 9111 §4.1: another variant is wanted. Its name follows from the fields that the first one names.
        selecting = selecting_values([field for field, _ in found.head.vary], request.headers)
        other = await self._objects.find(variant_of(name, found.head.generation, selecting), whole=whole)
        return other if other is not None and matches(other.head.vary, request.headers) else None

    async def _validated(
        self, request: SourceRequest, found: StoredObject, stored: StoredResponse, asked: float
    ) -> tuple[str, OriginResponse | None]:
        """Ask the origin whether a response that may not be used as it is, is still good."""
        conditions = conditional_headers([stored])
        if not conditions or request.headers.has_any(_CONDITIONS | {"if-range"}):
            return "stale", None  # what is stored here is validated already, or a client's own copy
        if len(found.held) < found.head.length:
            found.rest, found.held = None, b""  # it must not wait for the origin
        headers = request.headers
        for name, value in conditions:
            headers = headers.set(name.lower(), value)
        try:
            response = await self._origin.get(replace(request, headers=headers))
        except OriginError:
            # RFC 9111 §4.2.4: stale, where nothing forbids it, since we are "disconnected".
            stale = await self._in_trouble(request, found, stored, asked, disconnected=True)
            if stale is None:
                raise
            return "stale_used", stale
        if response.status >= 500:
            stale = await self._in_trouble(request, found, stored, asked, disconnected=False)
            if stale is not None:
                response.close()
                return "stale_used", stale
        if response.status != 304:
            is_about = speaks_of_resource(response.status) or response.status == 206
            if is_about and not is_same_representation(stored.headers, response.headers):
                self._trash.delete(found.name.partition(".")[0])  # the origin has another one now
            return "stale", response
        response.close()
        if stored.is_selected_by(end_to_end(response.headers)):
            updated = stored.updated_by(
                response.headers, response.request_time, response.response_time, None, request.wanted.policy
            )
            good = await self._response_if_any(request, found, updated, asked)
            if good is not None:
                return "validated", good
        return "stale", await self._origin.get(request)

    async def _in_trouble(
        self, request: SourceRequest, found: StoredObject, stored: StoredResponse, asked: float, *, disconnected: bool
    ) -> OriginResponse | None:
        policy = request.wanted.policy
        directives = NOTHING if policy.ignore_directives else request_cache_control(request.headers)
        if not may_serve_stale(directives, stored, time.time(), disconnected=disconnected):
            return None
        return await self._response_if_any(request, found, stored, asked)

    async def _response_if_any(
        self, request: SourceRequest, found: StoredObject, stored: StoredResponse, asked: float
    ) -> OriginResponse | None:
        """The response, after the origin's part in it; ``None`` if the store fails now. The slot is given back."""
        try:
            async with self._turn():
                response = await self._response(request, found, stored, asked)
        except (Damaged, WrongBlock):
            self.drop(found.name.partition(".")[0])
            return None
        except (TimeoutError, StoreFails, Changed, _NoTurn):
            return None
        if response is not None:
            request.slot.released()
        return response

    # -- responses ------------------------------------------------------------------------------------------------

    async def _response(
        self, request: SourceRequest, found: StoredObject, stored: StoredResponse, asked: float
    ) -> OriginResponse | None:
        """A 200 (or whatever it is), or the 206 that an origin would send; ``None`` if it has to decide that."""
        head, headers, status = found.head, stored.headers, stored.status
        span, specs = Span(0, head.length), requested(request.headers)
        if specs is not None and status == 200 and if_range_holds(request.headers, headers):
            wanted = specs[0].within(head.length)
            if wanted is None:
                return None
            span, status = wanted, 206
            headers = without_digests(headers).without("content-length")
            headers = headers.add("Content-Range", content_range(span, head.length))
            headers = headers.add("Content-Length", str(span.length))
        elif "if-range" in request.headers:
            return None  # which of the two versions is the present one?
        else:
            headers = as_whole(headers, head.length) if "content-length" not in headers else headers
        headers = _with_age(headers, stored.age(time.time()))
        blocks = await self._objects.blocks(found, span)
        if blocks is None:
            raise Changed("the object has gone")
        if span.length <= head.block:  # it is verified before the head goes out
            body = b""
            while data := await blocks.next():
                body += data
            self._events.shared_moved("read", len(body))
            return _whole(status, headers, body, asked)
        return self._streamed(found, status, headers, span, blocks, asked)

    def _streamed(
        self, found: StoredObject, status: int, headers: Headers, span: Span, blocks: Blocks, asked: float
    ) -> OriginResponse:
        def ended(feed: BodyFeed, error: Exception | None) -> None:
            self._feeds.discard(feed)
            self._events.shared_moved("read", feed.count)
            if isinstance(error, WrongBlock):
                self._events.shared_fetched("corrupt")
                self.drop(found.name.partition(".")[0])
            elif error is not None:
                self._events.shared_fetched("error")
                self.breaker.failed(str(error))

        feed = BodyFeed(blocks, ended)
        response = OriginResponse(_head(status, headers), span.length, feed, asked)
        response.source = "shared"
        self._feeds.add(feed)
        feed.start(response)
        return response

    def close(self) -> None:
        for feed in list(self._feeds):
            feed.abort()


_NOT_FOR_US: Final = frozenset({"if-match", "if-unmodified-since"})
"""RFC 9111 §4.3.2: these "are not applicable to a cache": they are about the origin's present state."""


def _as_received(found: StoredObject, request: SourceRequest, now: float) -> StoredResponse | None:
    """The stored response, as if it came from a cache behind us just now; ``None`` if it is nothing for this request,
    by the rules of this proxy."""
    head, headers, policy = found.head, request.headers, request.wanted.policy
    age = head.initial_age + max(0, int(now - head.response_time))
    received = _with_age(head.headers, age)
    verdict = judge(headers, head.status, received, policy)
    if verdict.why_not not in (None, "request-no-store", SIGNED_URL):
        return None
    return StoredResponse.of(head.status, received, headers, now, now, verdict)


def _with_age(headers: Headers, age: int) -> Headers:
    return headers.without("age").add("Age", str(age))


def _head(status: int, headers: Headers) -> ResponseHead:
    return ResponseHead(status, "", headers, {}, True, 0)


class _Nothing:
    """The connection of a body that is all here."""

    spliceable = 0
    silent_for = 0.0

    def go_on(self) -> None: ...

    def splice(self, pipe: int, limit: int, when_readable: object) -> int | None:
        return 0

    def abort(self) -> None: ...

    def give_up(self, error: OriginError) -> None: ...


def _whole(status: int, headers: Headers, body: bytes, asked: float) -> OriginResponse:
    response = OriginResponse(_head(status, headers), 0 if status == 304 else len(body), _Nothing(), asked)
    response.source = "shared"
    if body:
        response.put(body)
    response.end()
    return response
