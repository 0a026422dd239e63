"""One connection to an origin: GETs out, responses in, one after the other (RFC 9112).

:mod:`.dial` opens it. This module has the socket, the timeouts and the waiting callers; ``wire/response_reader.py``
parses the bytes.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import select
import termios
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeAlias

from ..runtime.loop import read_at_once
from ..semantics.headers import Headers
from ..semantics.limits import DEFAULT_HEAD_LIMITS, HeadLimits
from ..store.pipes import SPLICE_MIN
from ..wire.response_reader import MAX_INTERIM, ResponseReader
from ..wire.responses import OriginError
from .response import OriginResponse
from .trust import ENDS, error_of_end, was_closed

INTERIM_TIMES: Final = 4
"""Timeouts for which 1xx responses of an origin may delay the final one, counted from the request."""

logger = logging.getLogger(__name__)

LATE: Final = 1.0
"""Seconds of delay of a timer that mean that the process was stopped, not that the origin is silent."""
ANOTHER_LOOK: Final = 1.0
"""Seconds that are then given to read what the kernel has received meanwhile."""

# Bytes read at once: the transport's ``max_size``, an undocumented attribute of asyncio's. Other loops ignore it.
HEAD_READ: Final = 16 * 1024
"""While waiting for a head, so that the rest of a long body can be spliced."""
CHUNKED_READ: Final = 64 * 1024
"""Of a chunked body. Its chunks may be of one byte each, and one read is decoded in one turn of the loop."""
BODY_READ: Final = 256 * 1024
"""Of any other body."""


class ConnectionExpired(Exception):
    """A reused connection ended before it answered: the request is sent again on another one (RFC 9112 §9.3.1)."""


Outcome: TypeAlias = OriginResponse | OriginError | ConnectionExpired
"""A response whose head has arrived, or the reason why there is none."""
OnAnswer: TypeAlias = Callable[[Outcome], None]


class OriginConnection(asyncio.Protocol):
    """``origin``: scheme and authority at the other end of ``transport``. Raises ``ConnectionError`` if the transport
    is closed already."""

    def __init__(
        self,
        transport: Any,
        origin: tuple[str, str],
        prefix: bytes,
        *,
        absolute: bool,
        generation: int,
        timeout: float,
        on_idle: Callable[[OriginConnection], None],
        on_lost: Callable[[OriginConnection], None],
        min_pace: int = 0,
        body_timeout: float | None = None,
        interim_for: float | None = None,
        interims_max: int = MAX_INTERIM,
        limits: HeadLimits = DEFAULT_HEAD_LIMITS,
    ) -> None:
        """``timeout``: seconds without a byte; for bodies ``body_timeout``, if that is given. ``interim_for``: seconds
        for which 1xx responses may delay the final one, and ``interims_max`` of them."""
        self.origin = origin
        self.prefix = prefix
        """Field lines for the other end: Host, and those for a parent proxy."""
        self.prefix_count = prefix.count(b"\n")
        self.absolute = absolute
        """Whether requests have the absolute form, for a parent proxy (RFC 9112 §3.2.2)."""
        self.generation = generation
        self.is_told_traces = True
        """Whether requests keep their trace context (:mod:`.trace_context`)."""
        self.idle_since = 0.0
        """When it became idle (monotonic clock)."""
        self._is_lost = False
        self._transport: Any = transport
        if transport.is_closing():
            raise ConnectionResetError("the connection was closed before it was used")
        self._timeout = self._head_timeout = timeout
        self._body_timeout = timeout if body_timeout is None else body_timeout
        self._interim_for = INTERIM_TIMES * timeout if interim_for is None else interim_for
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._reader = ResponseReader(limits, interims_max)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._min_pace = min_pace
        self._received = 0
        """Bytes of the body received since ``_pace_since``."""
        self._pace_since = 0.0
        """The start of the measurement of pace (loop's clock)."""
        self._heard = 0.0
        """When bytes last arrived, or waiting for them began (loop's clock)."""
        self._used = 0
        self._on_answer: OnAnswer | None = None
        self._on_interim: Callable[[int, Headers], None] | None = None
        self._asked = 0.0
        self._head_since = 0.0
        """When the first byte of an incomplete head arrived (loop's clock); 0: none did."""
        self._looked_again = False  # whether a timeout was extended by a moment
        self._response: OriginResponse | None = None
        self._paused = False
        self._tls: Any = self._transport.get_extra_info("ssl_object")
        self._ended_well = False
        """Whether the other end closed the connection, and provably so."""
        plain = self._tls is None
        self._descriptor = self._transport.get_extra_info("socket").fileno() if plain else -1
        """The socket's, if it is written to without TLS. Valid only while the transport is open."""
        self._splices = plain and hasattr(os, "splice")
        self._watched = -1
        """A duplicate of the socket's descriptor: the loop watches the original for its transport only."""
        self._watching = False
        self._transport.set_protocol(self)
        self._read_no_more = read_at_once(self._loop, self._transport)

    @property
    def is_open(self) -> bool:
        return not self._is_lost and not self._transport.is_closing()

    # -- one exchange -------------------------------------------------------------------------------------------

    def ask(self, head: bytes, on_interim: Callable[[int, Headers], None] | None, on_answer: OnAnswer) -> None:
        """Send the request ``head``. ``on_answer`` is called once, after this returns: with the response when its head
        has arrived, or with :class:`OriginError`, or with :class:`ConnectionExpired` if it should be retried at
        once."""
        if not self.is_open:
            self._loop.call_soon(on_answer, ConnectionExpired())
            return
        self._used += 1
        self._on_interim = on_interim
        self._on_answer = on_answer
        self._head_since = 0.0
        self._timeout = self._head_timeout
        self._heard = self._asked = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_at(self._heard + self._timeout, self._look_at_clock)
        self._transport.max_size = HEAD_READ
        self._write(head)

    def _write(self, data: bytes) -> None:
        """Write directly to the socket, if the transport has nothing to send."""
        if self._descriptor >= 0 and not self._transport.get_write_buffer_size():
            try:
                sent = os.write(self._descriptor, data)
            except OSError:  # full or closed: the transport will notice
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
        self._transport.write(data)

    async def exchange(self, head: bytes, on_interim: Callable[[int, Headers], None] | None) -> OriginResponse:
        """Send a request and wait for the head of its response. Raises the errors of :meth:`ask`."""
        waiting: asyncio.Future[OriginResponse] = self._loop.create_future()
        on_answer = partial(_tell, waiting)
        self.ask(head, on_interim, on_answer)
        try:
            return await waiting
        except asyncio.CancelledError:
            if self._on_answer is on_answer:
                self.abort()
            elif waiting.done() and not waiting.cancelled() and waiting.exception() is None:
                waiting.result().close()  # not abort(): the connection may serve another request by now
            raise

    def go_on(self) -> None:
        """Continue to read the body."""
        if self._paused:
            self._paused = False
            self._heard = self._pace_since = self._loop.time()
            self._received = 0
            self._transport.resume_reading()

    @property
    def spliceable(self) -> int:
        """Bytes of the body that :meth:`splice` can move: those still to come, while reading is paused."""
        return self._reader.left or 0 if self._paused and self._splices else 0

    def splice(self, pipe: int, limit: int, when_readable: Callable[[], None]) -> int | None:
        """Move received bytes of the body to a pipe, without a copy. Returns the count; ``None`` if nothing was
        received (``when_readable`` is called when something is); 0 if splicing does not work here.

        Raises :class:`OriginError` if the body broke off.
        """
        left = self._reader.left
        assert left is not None
        try:
            if self._watched < 0:
                self._watched = os.dup(self._transport.get_extra_info("socket").fileno())
            count = os.splice(self._watched, pipe, min(limit, left))
        except BlockingIOError:
            self._watching = True
            self._loop.add_reader(self._watched, self._is_readable, when_readable)
            return None
        except (ConnectionError, TimeoutError) as error:
            raise self._broke_off(str(error)) from error
        except OSError as error:
            # Not the origin's fault: no descriptor left, or a sandbox without the call.
            logger.debug("not spliced: %s", error)
            self._splices = False
            return 0
        if not count:
            raise self._broke_off("the origin closed the connection")
        self._heard = self._loop.time()
        self._received += count
        self._reader.left = left - count
        if left == count:
            # Bytes after the body must not be taken for the answer to the next request.
            self._over(fcntl.ioctl(self._watched, termios.FIONREAD, bytes(4)) != bytes(4))
        return count

    def _broke_off(self, why: str) -> OriginError:
        error = OriginError("http_response_incomplete", why)
        self._transport.abort()
        self._lost(error)
        return error

    def _is_readable(self, tell: Callable[[], None]) -> None:
        self._stop_watching()
        tell()

    def _stop_watching(self) -> None:
        if self._watching:
            self._watching = False
            self._loop.remove_reader(self._watched)

    @property
    def silent_for(self) -> float:
        """Seconds in which nothing has come, although it was waited for."""
        return 0.0 if self._paused and not self._watching else self._loop.time() - self._heard

    def abort(self) -> None:
        """Close the connection at once. Idempotent."""
        self.give_up(OriginError("http_response_incomplete", "given up"))

    def give_up(self, error: OriginError) -> None:
        self._transport.abort()
        self._lost(error)

    def close(self) -> None:
        """Close an idle connection."""
        self._transport.close()
        self._lost(OriginError("connection_terminated", "not used any more"))

    # -- the transport's callbacks ------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        try:
            if self._response is not None:
                self._received += len(data)
                self._body_received(data)
            elif self._on_answer is not None:
                self._head_received(data)
            else:
                self.abort()  # unsolicited
        except OriginError as error:
            self._transport.abort()
            self._lost(error)

    def eof_received(self) -> None:
        """The other end sends no more. In TLS only its closing alert proves that: anybody on the path can send a FIN,
        and asyncio does not distinguish them."""
        self._ended_well = self._tls is None or was_closed(self._tls)

    def connection_lost(self, error: Exception | None) -> None:
        response = self._response
        # RFC 9112 §9.8: "A response that has neither chunked transfer coding nor Content-Length is complete only if a
        # valid closure alert has been received." Later events, a reset for example, don't concern the response.
        if response is not None and self._reader.ends_with_connection and self._ended_well:
            self._response = None
            response.end()
        kind = "http_response_incomplete" if self._on_answer is None else error_of_end(error)
        self._lost(OriginError(kind, str(error or "the origin closed the connection")))

    def _lost(self, error: OriginError) -> None:
        """The connection is lost or closing: report it once to whoever waits."""
        if self._is_lost:
            return
        self._is_lost = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._read_no_more()
        self._stop_watching()
        if self._watched >= 0:
            os.close(self._watched)
            self._watched = -1
        response, self._response = self._response, None
        if response is not None:
            response.end(error)
        self._on_lost(self)
        on_answer, self._on_answer = self._on_answer, None
        if on_answer is not None:
            # Garbage may be left over from the previous response, which should have had no body.
            reader = self._reader
            unanswered = (error.error in ENDS and not reader.held) or (reader.is_garbled and not reader.interims)
            on_answer(ConnectionExpired() if unanswered and self._used > 1 else error)

    def _look_at_clock(self) -> None:
        """One timer for many responses: it is restarted when it fires, not with every byte."""
        self._timer = None
        if self._on_answer is None and self._response is None:
            return
        now = self._loop.time()
        if self._paused and not self._watching:
            self._heard = self._pace_since = now
            self._received = 0
        up, why = self._heard + self._timeout, f"nothing came for {self._timeout:g} s"
        if self._on_answer is not None:
            up, why = self._end_of_head(up, why)
        if now >= up and not self._looked_again and (now > up + LATE or self._has_come()):
            # The process was stopped, or the loop is late: the answer may be waiting in the socket.
            self._looked_again = True
            self._timer = self._loop.call_later(ANOTHER_LOOK, self._look_at_clock)
            return
        self._looked_again = False
        if now < up and not self._is_too_slow(now):
            self._timer = self._loop.call_at(up, self._look_at_clock)
            return
        kind = "http_response_timeout" if self._on_answer is not None else "connection_read_timeout"
        if now < up:
            why = f"less than {self._min_pace} bytes a second came"
        self._transport.abort()
        self._lost(OriginError(kind, why))

    def _end_of_head(self, up: float, why: str) -> tuple[float, str]:
        """When a head times out, if that is before ``up``, and the message. A byte now and then does not extend the
        time; interim responses do, for a while."""
        if self._head_since and self._head_since + self._timeout < up:
            up, why = self._head_since + self._timeout, f"a head took more than {self._timeout:g} s"
        if (interim := self._asked + self._interim_for) < up:
            up, why = interim, f"no more than interim responses came for {self._interim_for:g} s"
        return up, why

    def _is_too_slow(self, now: float) -> bool:
        """Whether the body was slower than the minimum pace since the last measurement."""
        seconds = now - self._pace_since
        if not self._min_pace or self._response is None or seconds < self._timeout * 0.9:
            return False
        received, self._received, self._pace_since = self._received, 0, now
        return received < self._min_pace * seconds

    def _has_come(self) -> bool:
        """Whether the socket has unread bytes."""
        if (descriptor := self._transport.get_extra_info("socket").fileno()) < 0:
            return False
        looking = select.poll()
        looking.register(descriptor, select.POLLIN)
        return bool(looking.poll(0))

    # -- responses ----------------------------------------------------------------------------------------------

    def _head_received(self, data: bytes) -> None:
        reader = self._reader
        while True:
            head = reader.head(data)
            if head is None:
                self._head_since = self._head_since or self._heard
                return
            if head.status >= 200:
                break
            self._head_since = 0.0
            # (100 answers an Expect, which fills never send.)
            if head.status != 100 and self._on_interim is not None:
                self._on_interim(head.status, head.headers)
            data = b""
        data, reader.held = reader.held, b""
        on_answer, self._on_answer = self._on_answer, None
        if on_answer is None:
            return  # on_interim has closed the connection
        self._received, self._pace_since = 0, self._heard
        self._timeout = self._body_timeout
        self._response = response = OriginResponse(head, reader.length, self, self._asked)
        try:
            if reader.is_over:
                self._over(reader.has_more)
            elif len(data) == reader.left:  # the usual small one: it has come with its head
                reader.left, reader.is_over = 0, True
                response.put(data)
                self._over(False)
            elif data:
                self._body_received(data)
            if self._response is response:
                self._transport.max_size = CHUNKED_READ if reader.chunks is not None else BODY_READ
                if self._splices and (reader.left or 0) >= SPLICE_MIN:
                    self._pause()  # so that it can be spliced
        finally:
            on_answer(response)

    def _body_received(self, data: bytes) -> None:
        reader = self._reader
        content = reader.body(data)
        if content and self._response is not None and not self._response.put(content):
            self._pause()
        if reader.is_over:
            self._over(reader.has_more)

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def _over(self, more: bool) -> None:
        """The response is complete. ``more``: unsolicited bytes followed it."""
        response, self._response = self._response, None
        if self._paused:
            self.go_on()
        if self._reader.keep_alive and not more and self.is_open:
            self.idle_since = time.monotonic()
            self._on_idle(self)
        else:
            self.close()
        if response is not None:
            response.end()


def _tell(waiting: asyncio.Future[OriginResponse], answer: Outcome) -> None:
    if waiting.done():  # the caller was cancelled, and has not run yet
        if isinstance(answer, OriginResponse):
            answer.close()
    elif isinstance(answer, OriginResponse):
        waiting.set_result(answer)
    else:
        waiting.set_exception(answer)
