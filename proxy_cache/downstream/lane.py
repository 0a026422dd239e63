"""The fast lane: plain GETs, answered where their bytes arrive.

A mitmproxy flow costs a millisecond. A lane takes the place of the protocol of a client's connection (asyncio's, not
mitmproxy's), reads complete plain GETs by itself, and has them answered by the cache, as flows would be. Everything
else it hands to the protocol that was there, unread and to the byte, and keeps out of the way until mitmproxy has done
with it. The lane is a shortcut and not another proxy: what it answers with comes from :mod:`caching.cache`, in the
words that the slow path has.

This knows no mitmproxy; :class:`Host` is what it wants to know of it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol

from ..caching.answers import Answer, BodySource, Exchange
from ..caching.cache import Cache
from ..caching.fills.waiting import ClientGone, SentOn, Waiter
from ..runtime.batches import CallBatch
from ..runtime.loop import when_hung_up
from ..semantics.headers import Headers
from ..semantics.keys import Target
from ..semantics.limits import HeadLimits
from ..semantics.policy import Policy
from ..semantics.signatures import without_parameters
from ..store.body import BodyError
from ..wire.requests import CLOSE, Request, parse_request, response_head, with_line
from .body_sender import CONGESTED, Delivery, InFlight, as_chunk
from .outcome import LEFT, NO_STATUS

MSG_MORE = getattr(socket, "MSG_MORE", 0)
REMEMBER = 4096
"""Requests that are remembered, and"""
REMEMBER_LENGTH = 2048
"""bytes of the longest one."""
READ_AHEAD = 64 * 1024
"""Bytes of further requests that are taken while one is answered; then the client has to wait."""


class Host(Protocol):
    """What a lane needs of the proxy around it."""

    via: str
    client: str
    """Who the client is, for fairness and the log."""
    head_limits: HeadLimits
    sends: CallBatch
    ends: CallBatch
    known: dict[bytes, tuple[Request, Target, str]]
    """Plain requests that were answered from the store, whole and by their bytes, with their targets and keys: most
    come again. For all lanes whose targets mean the same, and as long as nobody changes what they mean, or the rules
    that make the keys."""

    @property
    def asks_clients(self) -> bool:
        """Whether a rule of the operator's may tell clients apart that send the same bytes."""

    @property
    def half_closed_clients(self) -> bool:
        """Whether a client that sends no more is to have its answers."""

    def lane_lost(self) -> None:
        """The client's connection is gone."""

    def lane_hit(self, target: Target, status: int, size: int, started: float) -> None:
        """A hit has been handed to the client's connection. ``started``: by the monotonic clock."""

    def lane_cache(self) -> Cache | None:
        """The cache, while nobody else has to see requests."""

    def lane_target(self, text: str) -> Target | None:
        """What a request asks for, if it is for the cache to answer."""

    def lane_policy(self, request: Request, target: Target) -> Policy:
        """What the operator has ruled for it."""

    def lane_is_aside(self) -> None:
        """mitmproxy has the connection,"""

    def lane_is_back(self) -> None:
        """and the lane has it again."""

    def lane_child_is_idle(self, handed: int) -> bool:
        """Whether mitmproxy has read the ``handed`` bytes that it was given, and done with them."""

    def lane_interim(self, http11: bool) -> Callable[[int, Headers], None] | None: ...

    def lane_begin(self, exchange: Exchange) -> InFlight: ...

    def lane_end(self, state: InFlight, answer: Answer | None, note: str) -> None:
        """The exchange is over, and is closed."""

    def lane_answered(self, exchange: Exchange, answer: Answer) -> None: ...

    def failed(self, error: Exception) -> None: ...


def _nothing() -> None:
    """There is no watch to end."""


class Lane(asyncio.Protocol):
    """The protocol of one client's connection."""

    def __init__(
        self, host: Host, writer: asyncio.StreamWriter, inner: asyncio.Protocol, *, introduced: bool = True
    ) -> None:
        """``introduced``: whether ``inner`` knows of the connection. If not, it hears of it when it is needed."""
        self.host = host
        self.is_introduced = introduced
        self._since = time.monotonic()
        self._writer = writer
        self._transport: Any = writer.transport
        shared = self._transport.get_extra_info("socket")
        self._descriptor = shared.fileno()
        # What asyncio shows of its socket cannot send. Without it a body is sent from memory.
        self._socket: Any = getattr(shared, "_sock", None) if MSG_MORE else None
        self._inner: Any = inner
        self._known = host.known
        self._buffer = b""
        self._handed = 0
        self._aside = False
        self.lost = False
        self._exchange: Exchange | None = None
        self._busy = False
        """Whether a request is being answered by a task. (mitmproxy's tasks are eager: they may have ended when they
        are made.)"""
        self._going_on = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._reading_paused = False
        self._end_watch: Callable[[], None] = _nothing
        self._has_finished = False
        """Whether the client has sent all that it is going to, and waits for its answers."""

    # -- what the transport tells -------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._aside:
            if not self.host.lane_child_is_idle(self._handed):
                self._hand_over(data)
                return
            self._aside = False
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
        # As mitmproxy sees it: who has sent a FIN is not interested in an answer any more.
        if self._exchange is not None:
            self._exchange.client_gone()
        if not self.is_introduced:
            return False  # asyncio closes it
        self._flush_to_inner()
        return bool(self._inner.eof_received())

    def _half_closed(self) -> bool:
        """RFC 9112 §9.6: a FIN does not "imply that the client is no longer interested in a response". Whether the
        connection stays open: until it has had those to all that it has sent."""
        self._has_finished = True
        if self._aside:
            return bool(self._inner.eof_received())
        if not self._busy:
            return False  # nothing is left but, perhaps, a piece of a request
        self._watch()
        return True

    def _watch(self) -> None:
        """Have the client's leaving noticed while nothing is read."""
        connection = self._transport.get_extra_info("socket")
        loop, reset = asyncio.get_running_loop(), self.host.half_closed_clients
        self._end_watch = when_hung_up(loop, connection, self._hung_up, reset=reset)

    def _pause_reading(self) -> None:
        """The client has sent enough, until it has had its answer. That it leaves has to be noticed all the same."""
        self._reading_paused = True
        self._transport.pause_reading()
        self._watch()

    def _hung_up(self) -> None:
        """The client has left behind more than was read. As in :meth:`eof_received`, nobody wants an answer to it."""
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
        return None if self._exchange is not None or self._aside else self._since

    def give_up(self) -> None:
        """Its client has nothing to say, or takes nothing."""
        if self._transport.get_write_buffer_size():
            self._transport.abort()
        else:
            self._transport.close()

    def close(self) -> None:
        self._transport.close()

    # -- requests -----------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Answer what has come, one after the other, as far as that takes no waiting."""
        if self._going_on:
            return
        self._going_on = True
        try:
            while self._buffer and not self._busy and not self._aside and not self._transport.is_closing():
                data = self._buffer
                host = self.host
                request = parse_request(data, host.head_limits)
                if request is None:
                    return
                if isinstance(request, str) or (cache := host.lane_cache()) is None:
                    self._step_aside()
                    return
                target = host.lane_target(request.target)
                fields = request.fields
                if target is None or (fields.via and any(host.via in value for value in fields.via)):
                    # The latter goes round in a circle, which is mitmproxy's way to be told (RFC 9110 §7.6.3).
                    self._step_aside()
                    return
                policy = host.lane_policy(request, target)
                key = without_parameters(target.key, policy.key_ignores) if policy.key_ignores else target.url
                self._buffer = data[request.size :]
                plain = fields.plain or (fields.unconditional and policy.ignore_directives)
                if not (plain and self._hit(request, target, key, cache)):
                    self._answer(request, target, policy, cache)
                elif len(data) == request.size <= REMEMBER_LENGTH and not host.asks_clients:
                    if len(self._known) >= REMEMBER:
                        self._known.clear()
                    self._known[data] = request, target, key
        except Exception as error:
            self.host.failed(error)
            self._transport.abort()
        finally:
            self._going_on = False

    def _again(self, request: Request, target: Target, key: str) -> bool:
        """Answer what was answered before, if it still can be answered at once."""
        try:
            cache = self.host.lane_cache()
            return cache is not None and self._hit(request, target, key, cache)
        except Exception as error:
            self.host.failed(error)
            self._transport.abort()
            return True

    def _hit(self, request: Request, target: Target, key: str, cache: Cache) -> bool:
        """Answer with what is ready in memory, if it is; most requests are answered here."""
        started = time.monotonic()
        try:
            headers, spec = request.fields.headers, request.range
            if spec is None:
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
            head = with_line(head, request.persistence)
        transport = self._transport
        left = self._send(head, body, file)
        self.host.lane_hit(target, status, len(body), started)
        if request.close:
            transport.close()
        elif left and transport.get_write_buffer_size() > CONGESTED:
            self._run(self._make_room())
        return True

    def _send(self, head: bytes, body: bytes | memoryview, file: int | None) -> bool:
        """Hand head and body to the client's connection; whether some of it is still to be sent. ``file``: the
        descriptor of a file with the same body, if sending that is faster."""
        transport = self._transport
        if transport.is_closing() or transport.get_write_buffer_size():  # the descriptor may be somebody else's by now
            transport.write(head)
            transport.write(body)
            return True
        sent = 0
        try:
            if file is None or self._socket is None:
                sent = os.writev(self._descriptor, (head, body))
            else:
                sent = self._socket.send(head, MSG_MORE)
                if sent == len(head):
                    sent += os.sendfile(self._descriptor, file, 0, len(body))
        except OSError:  # it is full, or closed: the transport finds out
            pass
        if sent == len(head) + len(body):
            return False
        if sent < len(head):
            transport.write(head[sent:])
            sent = len(head)
        transport.write(memoryview(body)[sent - len(head) :])
        return True

    def _answer(self, request: Request, target: Target, policy: Policy, cache: Cache) -> None:
        try:
            fields = request.fields
            exchange = Exchange(target, request.headers(self.host.via), self.host.client, policy, fields.directives)
            state = self.host.lane_begin(exchange)
        except Exception as error:
            self.host.failed(error)
            self._transport.abort()
            return
        self._exchange = exchange
        answer: Answer | None = None
        try:
            if fields.plain and request.range is None:
                exchange.on_interim = self.host.lane_interim(request.http11)
                begun = cache.begin(exchange)
                if isinstance(begun, Waiter):
                    self._busy = True
                    begun.on_head = partial(self._begun, request, exchange, state, cache, begun)
                    return
                answer = begun
            if answer is None:
                answer = cache.get_now(exchange)
        except Exception as error:
            self.host.failed(error)
            answer = cache.heads.internal_error(type(error).__name__)
        if answer is None or not self._at_once(request, exchange, state, answer):
            self._run(self._finish(request, exchange, state, cache, answer))
        elif self._transport.get_write_buffer_size() > CONGESTED:
            self._run(self._make_room())

    def _begun(self, request: Request, exchange: Exchange, state: InFlight, cache: Cache, waiter: Waiter) -> None:
        """The head of what the cache has begun to fetch is here, or there will be none."""
        answer: Answer | None = None
        alone = False
        note = ""
        try:
            answer = cache.begun(exchange, waiter)
        except SentOn as sent_on:
            alone = sent_on.alone
        except ClientGone:
            note = LEFT
        except Exception as error:
            self.host.failed(error)
            answer = cache.heads.internal_error(type(error).__name__)
        if answer is None:
            if note:
                self._end(state, None, True, note)
            else:
                self._run(self._finish(request, exchange, state, cache, None, alone=alone))
            return
        try:
            self.host.lane_answered(exchange, answer)
            whole = _whole(request, answer, state)
            if whole is None:
                self._run(self._finish(request, exchange, state, cache, answer))
            else:
                head, body, close = whole
                # A pair: what is sent in the one stage is accounted for, and followed by the next, in the other.
                self.host.sends.add(self._send, head, body, None)
                self.host.ends.add(self._end, state, answer, close)
        except Exception as error:
            self.host.failed(error)
            state.cut = "proxy"
            self._end(state, answer, True, type(error).__name__)

    def _end(self, state: InFlight, answer: Answer | None, close: bool, note: str = "") -> None:
        """It was answered, or its client has left: the next one."""
        self._done(state, answer, close, note)
        if self._transport.get_write_buffer_size() > CONGESTED:
            self._run(self._make_room())
        else:
            self._next()

    def _at_once(self, request: Request, exchange: Exchange, state: InFlight, answer: Answer) -> bool:
        """Send an answer that is all there. Whether it was, and this was all that is to do."""
        try:
            self.host.lane_answered(exchange, answer)
            whole = _whole(request, answer, state)
            if whole is None:
                return False
            head, body, close = whole
            self._send(head, body, None)
            self._done(state, answer, close)
        except Exception as error:
            self.host.failed(error)
            state.cut = "proxy"
            self._done(state, answer, True, type(error).__name__)
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
        self,
        request: Request,
        exchange: Exchange,
        state: InFlight,
        cache: Cache,
        answer: Answer | None,
        *,
        alone: bool = False,
    ) -> None:
        """Send an answer that takes waiting, for its head, its body or its client."""
        note = ""
        close = True
        sent = False
        try:
            if answer is None:
                exchange.on_interim = self.host.lane_interim(request.http11)
                answer = await self._ask(exchange, cache, alone=alone)
                if answer is None:
                    note = LEFT
                    return
                sent = self._at_once(request, exchange, state, answer)
            if not sent:
                note, close = await self._deliver(request, state, answer)
            elif self._transport.get_write_buffer_size() > CONGESTED:
                await self._writer.drain()
        except asyncio.CancelledError:
            note = "cancelled"
            state.cut = "proxy"
            raise
        except OSError:  # the client's connection
            note = LEFT
            state.cut = "client"
        except Exception as error:
            self.host.failed(error)
            note = type(error).__name__
            state.cut = "proxy"
        finally:
            if not sent:
                self._done(state, answer, close or self.lost, note)
            self._next()

    async def _ask(self, exchange: Exchange, cache: Cache, *, alone: bool) -> Answer | None:
        try:
            return await cache.get(exchange, alone=alone)
        except ClientGone:
            return None
        except Exception as error:
            self.host.failed(error)
            return cache.heads.internal_error(type(error).__name__)

    async def _deliver(self, request: Request, state: InFlight, answer: Answer) -> tuple[str, bool]:
        """Head and body. What went wrong, if its delivery doesn't tell, and whether the connection ends with it."""
        if self._transport.is_closing():
            state.status = NO_STATUS
            return LEFT, True
        head, chunked, close = framed(request, answer)
        content = answer.content()
        if content is not None:
            bodiless = answer.status in (204, 304)
            self._writer.write(head if bodiless else head + content)
            state.size = len(content)
            await self._writer.drain()
            return "", close
        assert not isinstance(answer.body, bytes)
        state.delivery = delivery = Delivery(answer.body, answer.length, chunked=chunked)
        delivery.attach(self._writer, direct=True)
        first = state.first if state.first is not None else _read_now(answer.body)
        if first:
            delivery.checked(first)
        if first and not chunked:
            self._writer.write(head + first if len(first) <= READ_AHEAD else head)
            if len(first) > READ_AHEAD:
                self._writer.write(first)
            delivery.sent = len(first)
        else:
            self._writer.write(head)
            if first:
                self._writer.write(as_chunk(first))
                delivery.sent = len(first)
        if delivery.sent != answer.length or answer.length is None:
            await delivery.wait()
        if delivery.error is not None:
            if answer.length is None and not chunked:
                delivery.reset_connection()
            return "", True
        if chunked:
            self._writer.write(b"0\r\n\r\n")
        return "", close

    def _done(self, state: InFlight, answer: Answer | None, close: bool, note: str = "") -> None:
        self._exchange = None
        self._since = time.monotonic()
        self.host.lane_end(state, answer, note)
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
        if self._has_finished and not self._busy and not self._aside:
            self._transport.close()

    # -- what is mitmproxy's ------------------------------------------------------------------------------------

    def _step_aside(self) -> None:
        self._aside = True
        self.host.lane_is_aside()
        if not self.is_introduced:
            self.is_introduced = True
            self._inner.connection_made(self._transport)
        self._flush_to_inner()
        if self._has_finished:
            self._end_watch()
            self._inner.eof_received()

    def _flush_to_inner(self) -> None:
        data, self._buffer = self._buffer, b""
        if data:
            self._hand_over(data)

    def _hand_over(self, data: bytes) -> None:
        self._handed += len(data)
        self._inner.data_received(data)


def _all_of(answer: Answer, state: InFlight) -> bytes | None:
    """The body of a small answer, if it can be had without waiting."""
    body = answer.body
    if isinstance(body, bytes):
        return answer.content()
    if answer.length is None or answer.length > READ_AHEAD:
        return None
    read = _read_now(body)
    if read is not None and len(read) == answer.length:
        return read
    if read:
        # What was read is to be sent first: the rest of it takes waiting.
        state.first = read
    return None


def _whole(request: Request, answer: Answer, state: InFlight) -> tuple[bytes, bytes, bool] | None:
    """Head and body of an answer that can be had without waiting, and whether the connection ends with it."""
    content = _all_of(answer, state)
    if content is None:
        return None
    state.size = len(content)
    head, _, close = framed(request, answer)
    return head, content if answer.status not in (204, 304) else b"", close


def _read_now(body: BodySource) -> bytes | None:
    """What can be had without waiting. What goes wrong is met again, and told, where the rest is waited for."""
    try:
        return body.read_now()
    except (BodyError, OSError):
        return None


def framed(request: Request, answer: Answer) -> tuple[bytes, bool, bool]:
    """The head of an answer, whether its body is chunked, and whether the connection ends with it."""
    headers, chunked = answer.framed(http11=request.http11, head=False)
    to_the_end = answer.length is None and not chunked and answer.status not in (204, 304)
    head = response_head(answer.status, answer.reason_phrase, headers)
    persistence = CLOSE if to_the_end else request.persistence
    return with_line(head, persistence) if persistence else head, chunked, request.close or to_the_end
