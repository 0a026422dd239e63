"""One connection to an origin: GETs out, responses in, one after the other (RFC 9112).

:mod:`.dial` opens it; from then on it is read here, straight from the transport.
What the bytes mean is told by :mod:`wire.response_reader`; here are the socket, the clock, and those who wait.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import select
import ssl
import termios
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeAlias

from ..runtime.loop import read_at_once
from ..semantics.headers import Headers
from ..semantics.limits import DEFAULT_HEAD_LIMITS, HeadLimits
from ..store.pipes import SPLICE_MIN
from ..wire.response_reader import ResponseReader
from ..wire.responses import OriginError
from .response import OriginResponse

INTERIM_TIMES: Final = 4
"""How many times the origin's time responses 1xx may put off its answer, from the request on."""

logger = logging.getLogger(__name__)

LATE: Final = 1.0
"""Seconds after its time at which a timer tells that the process has been stopped, and not that the origin is silent;
and"""
ANOTHER_LOOK: Final = 1.0
"""seconds that are given then for what the kernel has kept."""

HEAD_READ: Final = 16 * 1024
"""Bytes that are read at once of what may be a head, so that the rest of a long body can be spliced; and"""
CHUNKED_READ: Final = 64 * 1024
"""of a body in chunks, which may be of one byte each: all in one read are taken in one turn of the loop; and"""
BODY_READ: Final = 256 * 1024
"""of any other. (The transport's ``max_size``, no more than a habit of asyncio's: others read as they like.)"""


class ConnectionExpired(Exception):
    """A connection that had been used before ended before it answered: another is to be tried (RFC 9112 §9.3.1)."""


Outcome: TypeAlias = OriginResponse | OriginError | ConnectionExpired
"""What comes of asking: a response whose head is here, or why there is none."""
OnAnswer: TypeAlias = Callable[[Outcome], None]


class OriginConnection(asyncio.Protocol):
    """``at``: scheme and authority of what ``transport`` leads to. Raises ``ConnectionError`` if it has been closed
    already."""

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
        limits: HeadLimits = DEFAULT_HEAD_LIMITS,
    ) -> None:
        self.origin = origin
        self.prefix = prefix
        """Field lines for whoever is at the other end: Host, and what a parent proxy is to know."""
        self.prefix_count = prefix.count(b"\n")
        self.absolute = absolute
        """Whether that is a parent proxy, which wants the whole URL (RFC 9112 §3.2.2)."""
        self.generation = generation
        self.idle_since = 0.0
        """When it was last ready to be used again, by the monotonic clock."""
        self._is_lost = False
        self._transport: Any = transport
        if transport.is_closing():
            raise ConnectionResetError("the connection was closed before it was used")
        self._timeout = timeout
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._reader = ResponseReader(limits)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._min_pace = min_pace
        self._received = 0
        """Bytes of the body that have come since :attr:`_pace_since`, by the loop's clock."""
        self._pace_since = 0.0
        self._heard = 0.0
        """When there last was something to wait for, by the loop's clock."""
        self._used = 0
        self._on_answer: OnAnswer | None = None
        self._on_interim: Callable[[int, Headers], None] | None = None
        self._asked = 0.0
        self._head_since = 0.0
        """When the first of a head came that isn't here to its end, by the loop's clock; 0: nothing of one has."""
        self._looked_again = False
        """Whether the time is up, and it is given a moment more."""
        self._response: OriginResponse | None = None
        self._paused = False
        self._tls: Any = self._transport.get_extra_info("ssl_object")
        self._ended_well = False
        """Whether the other end has closed the connection, and this is known to be its doing."""
        plain = self._tls is None
        self._descriptor = self._transport.get_extra_info("socket").fileno() if plain else -1
        """The socket's, if what is written to it goes as it is. Only good while the transport is open."""
        self._splices = plain and hasattr(os, "splice")
        self._watched = -1
        """A descriptor of our own for the socket, which the loop does not let anybody else look at."""
        self._watching = False
        self._transport.set_protocol(self)
        self._read_no_more = read_at_once(self._loop, self._transport)

    @property
    def is_open(self) -> bool:
        return not self._is_lost and not self._transport.is_closing()

    # -- one exchange -------------------------------------------------------------------------------------------

    def ask(self, head: bytes, on_interim: Callable[[int, Headers], None] | None, on_answer: OnAnswer) -> None:
        """Send a request, whose bytes ``head`` is. ``on_answer`` is called once, and not before this returns: with the
        response when its head is here, and so much of the body as has come with it, or with why there is none,
        :class:`OriginError`, or :class:`ConnectionExpired` if it is worth trying again at once."""
        if not self.is_open:
            self._loop.call_soon(on_answer, ConnectionExpired())
            return
        self._used += 1
        self._on_interim = on_interim
        self._on_answer = on_answer
        self._head_since = 0.0
        self._heard = self._asked = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_at(self._heard + self._timeout, self._look_at_clock)
        self._transport.max_size = HEAD_READ
        self._write(head)

    def _write(self, data: bytes) -> None:
        """Past the transport, as long as it has nothing to send."""
        if self._descriptor >= 0 and not self._transport.get_write_buffer_size():
            try:
                sent = os.write(self._descriptor, data)
            except OSError:  # it is full, or closed: the transport finds out
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
        self._transport.write(data)

    async def exchange(self, head: bytes, on_interim: Callable[[int, Headers], None] | None) -> OriginResponse:
        """Send a request and wait for the head of its response. Raises what :meth:`ask` tells."""
        waiting: asyncio.Future[OriginResponse] = self._loop.create_future()
        on_answer = partial(_tell, waiting)
        self.ask(head, on_interim, on_answer)
        try:
            return await waiting
        except asyncio.CancelledError:
            if self._on_answer is on_answer:
                self.abort()
            elif waiting.done() and not waiting.cancelled() and waiting.exception() is None:
                waiting.result().close()  # the connection may serve somebody else by now
            raise

    def go_on(self) -> None:
        """There is room for more of the body."""
        if self._paused:
            self._paused = False
            self._heard = self._pace_since = self._loop.time()
            self._received = 0
            self._transport.resume_reading()

    @property
    def spliceable(self) -> int:
        """Bytes of the body to come that :meth:`splice` can move, since nobody reads them meanwhile."""
        return self._reader.left or 0 if self._paused and self._splices else 0

    def splice(self, pipe: int, most: int, when_readable: Callable[[], None]) -> int | None:
        """Move what has come of the body to a pipe, without a copy: how much, ``None`` if nothing has;
        ``when_readable`` is then called as soon as it is worth another try; 0 if it has to be read after all.

        Raises :class:`OriginError` where it broke off.
        """
        left = self._reader.left
        assert left is not None
        try:
            if self._watched < 0:
                self._watched = os.dup(self._transport.get_extra_info("socket").fileno())
            count = os.splice(self._watched, pipe, min(most, left))
        except BlockingIOError:
            self._watching = True
            self._loop.add_reader(self._watched, self._is_readable, when_readable)
            return None
        except (ConnectionError, TimeoutError) as error:
            raise self._broke_off(str(error)) from error
        except OSError as error:
            # Not the origin's doing: no descriptor left, or a sandbox that doesn't know the call.
            logger.debug("not spliced: %s", error)
            self._splices = False
            return 0
        if not count:
            raise self._broke_off("the origin closed the connection")
        self._heard = self._loop.time()
        self._received += count
        self._reader.left = left - count
        if left == count:
            # What is there already is nobody's: it must not be taken for the answer to the next request.
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

    def abort(self) -> None:
        """End it here and now. Idempotent."""
        self._transport.abort()
        self._lost(OriginError("http_response_incomplete", "given up"))

    def close(self) -> None:
        """End it while it is idle."""
        self._transport.close()
        self._lost(OriginError("connection_terminated", "not used any more"))

    # -- what the transport tells -------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        try:
            if self._response is not None:
                self._received += len(data)
                self._body_received(data)
            elif self._on_answer is not None:
                self._head_received(data)
            else:
                self.abort()  # nobody has asked for it
        except OriginError as error:
            self._transport.abort()
            self._lost(error)

    def eof_received(self) -> None:
        """The other end sends no more. In TLS that is so only if it says so itself: a FIN may come from anybody on the
        way, and asyncio takes it for an end like the other."""
        self._ended_well = self._tls is None or was_closed(self._tls)

    def connection_lost(self, error: Exception | None) -> None:
        response = self._response
        # RFC 9112 §9.8: "A response that has neither chunked transfer coding nor Content-Length is complete only if a
        # valid closure alert has been received." What comes after that, a reset for example, is none of the response's.
        if response is not None and self._reader.ends_with_connection and self._ended_well:
            self._response = None
            response.end()
        if self._on_answer is not None:
            told = OriginError("connection_terminated", str(error or "the origin closed the connection"))
        else:
            told = OriginError("http_response_incomplete", str(error or "the origin closed the connection"))
        self._lost(told)

    def _lost(self, error: OriginError) -> None:
        """It is gone, or going: whoever waits for something hears of it once."""
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
            # What can't be read may be left over from the response before, which should have had no body.
            reader = self._reader
            garbled = reader.is_garbled and not reader.interims
            unanswered = garbled or (error.error == "connection_terminated" and not reader.held)
            on_answer(ConnectionExpired() if unanswered and self._used > 1 else error)

    def _look_at_clock(self) -> None:
        """One timer for many responses: it is set anew when it is up, and not with every byte."""
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
            # The process was stopped, or the loop is behind: what has come meanwhile is perhaps in the socket, and is
            # read in its turn.
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
        """When the time for the head of an answer is up, and why, if it isn't before: a byte now and then is no sign of
        life, and interim responses are one for a while."""
        if self._head_since and self._head_since + self._timeout < up:
            up, why = self._head_since + self._timeout, f"a head took more than {self._timeout:g} s"
        most = INTERIM_TIMES * self._timeout
        if self._asked + most < up:
            up, why = self._asked + most, f"no more than interim responses came for {most:g} s"
        return up, why

    def _is_too_slow(self, now: float) -> bool:
        """Whether the body has come below the minimum pace, since there was last a look at it."""
        seconds = now - self._pace_since
        if not self._min_pace or self._response is None or seconds < self._timeout * 0.9:
            return False
        received, self._received, self._pace_since = self._received, 0, now
        return received < self._min_pace * seconds

    def _has_come(self) -> bool:
        """Whether the socket has something that nobody has read yet."""
        descriptor = self._transport.get_extra_info("socket").fileno()
        if descriptor < 0:
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
            # 100 answers an Expect, which fills never send.
            if head.status != 100 and self._on_interim is not None:
                self._on_interim(head.status, head.headers)
            data = b""
        data, reader.held = reader.held, b""
        on_answer, self._on_answer = self._on_answer, None
        if on_answer is None:
            return  # it was given up by who was told of a 1xx
        self._received, self._pace_since = 0, self._heard
        self._response = response = OriginResponse(head, reader.length, self, self._asked)
        try:
            if reader.is_over:
                self._over(reader.has_more)
            elif data:
                self._body_received(data)
            if self._response is response:
                self._transport.max_size = CHUNKED_READ if reader.chunks is not None else BODY_READ
                if self._splices and (reader.left or 0) >= SPLICE_MIN:
                    self._pause()  # who wants it may have it spliced
        finally:
            on_answer(response)

    def _body_received(self, data: bytes) -> None:
        """More of the body."""
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
        """The response is here to its last byte; ``more``: and something after it."""
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


def was_closed(tls: ssl.SSLObject) -> bool:
    """Whether a closing alert has come (RFC 8446 §6.1), where all that had come before has been read."""
    try:
        return not tls.read(1)
    except ssl.SSLZeroReturnError:  # and another has been sent
        return True
    except ssl.SSLError:  # it would have to wait for more
        return False


def _tell(waiting: asyncio.Future[OriginResponse], answer: Outcome) -> None:
    if waiting.done():  # who has asked was ended, and has not heard of it yet
        if isinstance(answer, OriginResponse):
            answer.close()
    elif isinstance(answer, OriginResponse):
        waiting.set_result(answer)
    else:
        waiting.set_exception(answer)
