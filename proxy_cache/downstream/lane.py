"""The fast lane: plain GETs, answered where their bytes arrive.

A mitmproxy flow costs a millisecond. A lane is the asyncio protocol of a client's connection: it reads complete plain
GETs by itself and has the cache answer them. All other bytes go unread to mitmproxy's protocol, and the lane waits
until mitmproxy has answered them. The lane is a shortcut and not another proxy: its answers come from
:mod:`caching.cache`, as those of flows do.

This knows no mitmproxy; it asks its :class:`~.host.Host`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from ..caching.answers import Answer, Exchange
from ..caching.cache import Cache
from ..caching.fills.fill import Waiter
from ..caching.fills.head import ClientGone, NotShareable
from ..runtime.loop import when_hung_up
from ..semantics.keys import Target
from ..semantics.policy import Policy
from ..semantics.signatures import without_parameters
from ..wire.credential_line import take_credential
from ..wire.request_ids import with_lines_of
from ..wire.requests import Request
from .admission import Route
from .body_sender import CONGESTED
from .host import Host
from .outcome import LEFT, NO_STATUS
from .records import RequestRecord
from .respond import READ_AHEAD, immediate, send
from .socket_writer import sender_of

REMEMBER = 4096
"""Requests that are remembered, and"""
REMEMBER_LENGTH = 2048
"""bytes of the longest one."""


class Lane(asyncio.Protocol):
    """The protocol of one client's connection."""

    def __init__(
        self, host: Host, writer: asyncio.StreamWriter, inner: asyncio.Protocol, *, attached: bool = True
    ) -> None:
        """``attached``: whether ``inner`` knows of the connection. If not, it hears of it when it is needed."""
        self.host = host
        self.is_attached = attached
        self._since = time.monotonic()
        self._writer = writer
        self._transport: Any = writer.transport
        self._send = sender_of(self._transport)
        self._inner: Any = inner
        self._known = host.known
        self._buffer = b""
        self._handed = 0
        self._detached = False
        self.lost = False
        self._exchange: Exchange | None = None
        self._busy = False
        """Whether a request is being answered by a task. (mitmproxy's tasks are eager: they may have ended when they
        are made.)"""
        self._going_on = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._reading_paused = False
        self._end_watch: Callable[[], None] = lambda: None
        self._has_finished = False
        """Whether the client has sent all that it is going to, and waits for its answers."""

    # -- what the transport tells -------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._detached:
            if not self.host.lane_child_is_idle(self._handed):
                self._hand_over(data)
                return
            self._detached = False
            self.host.lane_is_back()
        if self._buffer:
            data = self._buffer + data
        elif not self._busy and (known := self._known.get(data)) is not None and self._again(*known):
            return
        self._buffer = data
        if not self._busy:
            self._go_on()
        elif len(data) > READ_AHEAD and not self._reading_paused:
            self._pause_reading()

    def eof_received(self) -> bool | None:
        if self.host.half_closed_clients:
            return self._half_closed()
        # As mitmproxy sees it: a client that has sent a FIN is not interested in an answer any more.
        if self._exchange is not None:
            self._exchange.client_gone()
        if not self.is_attached:
            return False  # asyncio closes it
        self._flush_to_inner()
        return bool(self._inner.eof_received())

    def _half_closed(self) -> bool:
        """RFC 9112 §9.6: a FIN does not "imply that the client is no longer interested in a response". Whether the
        connection stays open: until it has had those to all that it has sent."""
        self._has_finished = True
        if self._detached:
            return bool(self._inner.eof_received())
        if not self._busy:
            return False  # nothing is left but, perhaps, a piece of a request
        self._watch()
        return True

    def _watch(self) -> None:
        """Have the client's leaving noticed while nothing is read."""
        connection, loop = self._transport.get_extra_info("socket"), asyncio.get_running_loop()
        self._end_watch = when_hung_up(loop, connection, self._hung_up, reset=self.host.half_closed_clients)

    def _pause_reading(self) -> None:
        """The client has sent enough, until it has had its answer. That it leaves has to be noticed all the same."""
        self._reading_paused = True
        self._transport.pause_reading()
        self._watch()

    def _hung_up(self) -> None:
        """The client has closed while unread bytes wait. As in :meth:`eof_received`, they need no answer."""
        if not (self._reading_paused or self._has_finished) or self.lost:
            return
        self._buffer = b""
        if self._exchange is not None:
            self._exchange.client_gone()
        self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self._end_watch()
        self.host.lane_lost()
        if self._exchange is not None:
            self._exchange.client_gone()
        self._inner.connection_lost(error)

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    # -- how it ends --------------------------------------------------------------------------------------------

    @property
    def idle_since(self) -> float | None:
        """By the monotonic clock; ``None`` while a request is being answered here, or mitmproxy has the connection."""
        return None if self._exchange is not None or self._detached else self._since

    def give_up(self) -> None:
        """The client sends nothing, or takes nothing."""
        if self._transport.get_write_buffer_size():
            self._transport.abort()
        else:
            self._transport.close()

    def close(self) -> None:
        self._transport.close()

    # -- requests -----------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Answer the requests in the buffer, one after the other, as far as that takes no waiting."""
        if self._going_on:
            return
        self._going_on = True
        try:
            while self._buffer and not self._busy and not self._detached and not self._transport.is_closing():
                whole = data = self._buffer
                host = self.host
                users = host.users
                if users.is_on:
                    data, credential = take_credential(data, host.head_limits)
                request = host.parse(data, host.head_limits)
                if request is None:
                    return
                if isinstance(request, str):
                    if self._has_finished or host.lane_connect(self, data) is False:
                        self._detach()
                    return
                if (cache := host.lane_cache()) is None:
                    self._detach()
                    return
                target = host.lane_target(request.target)
                fields = request.fields
                if target is None or host.admission.route("GET", target, fields.via) is not Route.CACHE:
                    self._detach()  # mitmproxy's flows answer or forward it
                    return
                if users.is_on and not (known := users.identify(host, request, target, credential)):
                    # A check may end at once, where others have just had the answer that it would wait for.
                    self._detach() if known is False else self._run(users.check(credential, host.address, self._next))
                    continue
                policy = host.lane_policy(request, target)
                key = without_parameters(target.key, policy.key_ignores) if policy.key_ignores else target.url
                self._buffer = data[request.size :]
                plain = fields.plain or (fields.unconditional and policy.ignore_directives)
                if not (plain and self._hit(request, target, key, cache)):
                    self._answer(request, target, policy, cache)
                elif len(data) == request.size <= REMEMBER_LENGTH and not host.asks_clients and request.comes_again:
                    if len(self._known) >= REMEMBER:
                        self._known.clear()
                    self._known[whole] = request, target, key
        except Exception as error:
            self.host.failed(error)
            self._transport.abort()
        finally:
            self._going_on = False

    def _again(self, request: Request, target: Target, key: str) -> bool:
        """Answer a known request, if it still can be answered at once."""
        try:
            cache = self.host.lane_cache()
            return cache is not None and self._hit(request, target, key, cache)
        except Exception as error:
            self.host.failed(error)
            self._transport.abort()
            return True

    def _hit(self, request: Request, target: Target, key: str, cache: Cache) -> bool:
        """Answer from memory if the response is prepared there; most requests are answered here."""
        started = time.monotonic()
        try:
            headers, spec = request.fields.headers, request.range
            if request.peer is not None:
                ready = self.host.peers.ready(request, target, key, self.host.client, cache)
            elif spec is None:
                ready = cache.ready(key, headers, time.time())
            else:
                ready = cache.ready_range(key, headers, spec, time.time())
        except Exception:
            return False  # the longer way meets it again, and has an answer for it
        if ready is None:
            return False
        self._since = started
        head, body, file, status = ready
        if request.persistence:
            head = with_lines_of(request, head)
        transport = self._transport
        left = self._send(head, body, file)
        self.host.lane_hit(request, target, status, len(body), started)
        if request.close:
            transport.close()
        elif left and transport.get_write_buffer_size() > CONGESTED:
            self._run(self._make_room())
        return True

    def _answer(self, request: Request, target: Target, policy: Policy, cache: Cache) -> None:
        try:
            fields = request.fields
            exchange = Exchange(target, request.headers(self.host.via), self.host.client, policy, fields.directives)
            if request.peer is not None:
                self.host.peers.recognise(exchange, request.peer, self.host.client)
            record = self.host.accounts.begin(exchange, http11=request.http11)
        except Exception as error:
            self.host.failed(error)
            self._transport.abort()
            return
        self._exchange = exchange
        answer: Answer | None = None
        try:
            if fields.plain and request.range is None:
                exchange.on_interim = self.host.lane_interim(request.http11)
                started = cache.start_miss(exchange)
                if isinstance(started, Waiter):
                    self._busy = True
                    started.on_head = partial(self._head_arrived, request, exchange, record, cache, started)
                    return
                answer = started
            if answer is None:
                answer = cache.get_now(exchange)
        except Exception as error:
            self.host.failed(error)
            answer = cache.heads.internal_error(type(error).__name__)
        if answer is None or not self._at_once(request, exchange, record, answer):
            self._run(self._finish(request, exchange, record, cache, answer))
        elif self._transport.get_write_buffer_size() > CONGESTED:
            self._run(self._make_room())

    def _head_arrived(
        self, request: Request, exchange: Exchange, record: RequestRecord, cache: Cache, waiter: Waiter
    ) -> None:
        """The fill has a head for this request, or will have none."""
        answer: Answer | None = None
        alone, note = False, ""
        try:
            answer = cache.finish_miss(exchange, waiter)
        except NotShareable as not_shareable:
            alone = not_shareable.refetch_alone
        except ClientGone:
            note = LEFT
        except Exception as error:
            self.host.failed(error)
            answer = cache.heads.internal_error(type(error).__name__)
        if answer is None:
            if note:
                self._end(record, None, True, note)
            else:
                self._run(self._finish(request, exchange, record, cache, None, alone=alone))
            return
        try:
            self.host.accounts.answered(answer, exchange)
            complete = immediate(request, answer, record)
            if complete is None:
                self._run(self._finish(request, exchange, record, cache, answer))
            else:
                head, body, close = complete
                # A pair: it is sent in the first batch, accounted for and followed by the next request in the second.
                self.host.sends.add(self._send, head, body, None)
                self.host.ends.add(self._end, record, answer, close)
        except Exception as error:
            self.host.failed(error)
            record.cut = "proxy"
            self._end(record, answer, True, type(error).__name__)

    def _end(self, record: RequestRecord, answer: Answer | None, close: bool, note: str = "") -> None:
        """It was answered, or its client has left: the next one."""
        self._done(record, answer, close, note)
        if self._transport.get_write_buffer_size() > CONGESTED:
            self._run(self._make_room())
        else:
            self._next()

    def _at_once(self, request: Request, exchange: Exchange, record: RequestRecord, answer: Answer) -> bool:
        """Send an answer that is all there. Whether it was, and this was all that is to do."""
        try:
            self.host.accounts.answered(answer, exchange)
            complete = immediate(request, answer, record)
            if complete is None:
                return False
            head, body, close = complete
            self._send(head, body, None)
            self._done(record, answer, close)
        except Exception as error:
            self.host.failed(error)
            record.cut = "proxy"
            self._done(record, answer, True, type(error).__name__)
        return True

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        """Let a task do the rest of this request; the next one waits for :meth:`_next`."""
        self._busy = True
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _make_room(self) -> None:
        try:
            await self._writer.drain()
        except OSError:
            pass
        self._next()

    async def _finish(
        self, request: Request, exchange: Exchange, record: RequestRecord, cache: Cache, answer: Answer | None, *,
        alone: bool = False,
    ) -> None:  # fmt: skip
        """Send an answer that takes waiting, for its head, its body or its client."""
        note, close, sent = "", True, False
        try:
            if answer is None:
                exchange.on_interim = self.host.lane_interim(request.http11)
                answer = await self._ask(exchange, cache, alone=alone)
                if answer is None:
                    note = LEFT
                    return
                sent = self._at_once(request, exchange, record, answer)
            if not sent:
                close = await send(self._writer, request, record, answer)
                note = LEFT if record.status == NO_STATUS else ""
            elif self._transport.get_write_buffer_size() > CONGESTED:
                await self._writer.drain()
        except asyncio.CancelledError:
            note = "cancelled"
            record.cut = "proxy"
            raise
        except OSError:  # the client's connection
            note = LEFT
            record.cut = "client"
        except Exception as error:
            self.host.failed(error)
            note = type(error).__name__
            record.cut = "proxy"
        finally:
            if not sent:
                self._done(record, answer, close or self.lost, note)
            self._next()

    async def _ask(self, exchange: Exchange, cache: Cache, *, alone: bool) -> Answer | None:
        try:
            return await cache.get(exchange, alone=alone)
        except ClientGone:
            return None
        except Exception as error:
            self.host.failed(error)
            return cache.heads.internal_error(type(error).__name__)

    def _done(self, record: RequestRecord, answer: Answer | None, close: bool, note: str = "") -> None:
        self._exchange = None
        self._since = time.monotonic()
        self.host.accounts.lane_ended(record, answer, self.host.client, note)
        if close:
            self._transport.close()

    def _next(self) -> None:
        """The client may have its next turn."""
        self._busy = False
        if self._reading_paused and not self.lost:
            self._reading_paused = False
            self._end_watch()
            self._transport.resume_reading()
        self._go_on()
        if self._has_finished and not self._busy and not self._detached:
            self._transport.close()

    # -- handing over to mitmproxy --------------------------------------------------------------------------------

    def _detach(self) -> None:
        self._detached = True
        self.host.lane_is_detached()
        if not self.is_attached:
            self.is_attached = True
            self._inner.connection_made(self._transport)
        self._flush_to_inner()
        if self._has_finished:
            self._end_watch()
            self._inner.eof_received()

    def step_aside(self) -> None:
        """The host has taken the connection over: no requests are read here any more."""
        self._buffer, self._detached = b"", True

    def hand_on(self, data: bytes) -> None:
        """The host gives the connection to mitmproxy after all, ``data`` first."""
        self._buffer = data
        self._detach()

    def _flush_to_inner(self) -> None:
        data, self._buffer = self._buffer, b""
        if data:
            self._hand_over(data)

    def _hand_over(self, data: bytes) -> None:
        self._handed += len(data)
        self._inner.data_received(data)
