"""One connection to an origin: GETs out, responses in, one after the other (RFC 9112).

aiohttp opens it (names, addresses, TLS, parent proxies); from then on it is read here, straight from the transport. A
response's head is taken apart by two expressions that accept nothing but what the grammar has, or is easily brought
there in the ways that RFC 9112 gives; everything that leaves a question open is an error, and ends the connection.
"""

from __future__ import annotations

import asyncio
import enum
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from .semantics.headers import Headers
from .semantics.status_fields import PROXY_ERRORS

READ_AHEAD = 256 * 1024
"""Bytes of a body that are read ahead of the fill before the connection has to wait."""
HEAD_MOST: Final = 256 * 1024
"""Bytes of a response's head, and"""
FIELD_MOST: Final = 64 * 1024
"""of one line of it."""
CHUNK_LINE_MOST: Final = 16 * 1024
"""Bytes of the line before a chunk, or of one after the last."""

_STATUS: Final = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?\r?\n")
_FIELD: Final = re.compile(rb"^([!#$%&'*+\-.^_`|~0-9A-Za-z]+)[ \t]*:[ \t]*([^\r\n\0]*)\r?\n", re.MULTILINE)
# RFC 9112 §5.2: a proxy that receives an obs-fold in a response "MUST […] replace each received obs-fold with one or
# more SP octets".
_FOLD: Final = re.compile(rb"[ \t]*\r?\n[ \t]+")
_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n")


class OriginError(Exception):
    """No usable answer. ``error`` is a proxy error type of RFC 9209 §2.3, which also gives ``status``."""

    def __init__(self, error: str, detail: str) -> None:
        super().__init__(f"{error}: {detail}")
        self.error = error
        self.detail = detail
        # 502 or 504, as gateways have always said it (RFC 9110 §15.6.3, §15.6.5), also where RFC 9209 has 503 or 500.
        self.status = 504 if PROXY_ERRORS.get(error) == 504 else 502


class Stale(Exception):
    """A connection that had been used before ended before it answered: another is to be tried (RFC 9112 §9.3.1)."""


class Part(enum.Enum):
    """What the next line of a chunked body is (RFC 9112 §7.1)."""

    SIZE = enum.auto()
    AFTER_DATA = enum.auto()
    TRAILERS = enum.auto()


@dataclass(slots=True)
class ResponseHead:
    """What the head of a response says. ``size``: bytes that it takes."""

    status: int
    reason: str
    headers: Headers
    http11: bool
    size: int


def parse_head(data: bytes) -> ResponseHead | None:
    """The head that ``data`` begins with; ``None`` if its end hasn't come yet. Raises :class:`OriginError`."""
    crlf = data.find(b"\n\r\n")
    # RFC 9112 §2.2: "a recipient MAY recognize a single LF as a line terminator and ignore any preceding CR".
    bare = data.find(b"\n\n", 0, crlf + 1 if crlf >= 0 else len(data))
    end = bare + 2 if bare >= 0 else crlf + 3 if crlf >= 0 else 0
    if (end or len(data)) > HEAD_MOST:
        raise OriginError("http_response_header_section_size", f"more than {HEAD_MOST} bytes")
    line = _STATUS.match(data)
    if line is None:
        if data[:5] != b"HTTP/"[: len(data)] or b"\n" in data:
            raise OriginError("http_protocol_error", f"not the status line of HTTP/1: {data[:40]!r}")
        return None
    if not end:
        return None
    start = line.end()
    fields = _fields_of(data[start:end]) if data[start : start + 1] not in b"\r\n" else []
    return ResponseHead(int(line[2]), (line[3] or b"").decode("latin-1"), Headers(fields), line[1] != b"0", end)


def _fields_of(lines: bytes) -> list[tuple[bytes, bytes]]:
    """The fields of lines that end with an empty one."""
    fields: list[tuple[bytes, bytes]] = _FIELD.findall(lines)
    if len(fields) != lines.count(b"\n") - 1:
        lines = _FOLD.sub(b" ", lines).replace(b"\0", b" ")
        fields = _FIELD.findall(lines)
        if len(fields) != lines.count(b"\n") - 1:
            raise OriginError("http_protocol_error", "a line in the header that is not a field")
    if b" \r" in lines or b" \n" in lines or b"\t\r" in lines or b"\t\n" in lines:
        fields = [(name, value.rstrip(b" \t")) for name, value in fields]
    if len(lines) > FIELD_MOST and any(len(name) + len(value) > FIELD_MOST for name, value in fields):
        raise OriginError("http_response_header_size", f"a field of more than {FIELD_MOST} bytes")
    return fields


def content_length(headers: Headers) -> int | None:
    """RFC 9112 §6.3: of several values all have to be the same."""
    value = headers.get("content-length")
    if value is None:
        return None
    if not value.isdigit():
        values = {part.strip(" \t") for part in value.split(",")}
        value = values.pop() if len(values) == 1 else ""
    if not (value.isdigit() and value.isascii()) or len(value) > 18:
        raise OriginError("http_protocol_error", f"Content-Length: {headers.get('content-length')!r}")
    return int(value)


@lru_cache(maxsize=256)
def _says(connection: str) -> str | None:
    """``close`` or ``keep-alive``, if a Connection header says so (RFC 9112 §9.3)."""
    options = {option.strip(" \t").lower() for option in connection.split(",")}
    return "close" if "close" in options else "keep-alive" if "keep-alive" in options else None


class OriginResponse:
    """The head of an answer, and its body to read. :meth:`close` it when done."""

    __slots__ = (
        "_chunks", "_complete", "_connection", "_error", "_held", "_waiting", "content_length", "headers", "reason",
        "request_time", "response_time", "status",
    )  # fmt: skip

    def __init__(self, head: ResponseHead, length: int | None, connection: OriginConnection, asked: float) -> None:
        self.status = head.status
        self.reason = head.reason
        self.headers = head.headers
        self.content_length = length
        self.request_time = asked
        self.response_time = time.time()
        self._connection: OriginConnection | None = connection
        """Until the last byte has come."""
        self._chunks: deque[bytes] = deque()
        self._held = 0
        """Bytes that wait to be read."""
        self._complete = False
        self._error: OriginError | None = None
        self._waiting: asyncio.Future[None] | None = None

    def read_now(self) -> bytes | None:
        """The next bytes; ``b""`` at the end, ``None`` if they have not come yet.

        Raises :class:`OriginError` where the body broke off.
        """
        if self._chunks:
            chunk = self._chunks.popleft()
            self._held -= len(chunk)
            if self._connection is not None and self._held <= READ_AHEAD:
                self._connection.go_on()
            return chunk
        if self._error is not None:
            raise self._error
        return b"" if self._complete else None

    async def read(self) -> bytes:
        """Like :meth:`read_now`, but waits."""
        while (chunk := self.read_now()) is None:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        return chunk

    def close(self) -> None:
        """End the connection, unless it has gone back to the pool with the last byte. Idempotent."""
        if self._connection is not None:
            self._connection.abort()

    # -- for the connection -------------------------------------------------------------------------------------

    def put(self, chunk: bytes) -> bool:
        """More of the body. Whether there may be still more."""
        self._chunks.append(chunk)
        self._held += len(chunk)
        if self._waiting is not None:
            self._wake()
        return self._held <= READ_AHEAD

    def end(self, error: OriginError | None = None) -> None:
        self._connection = None
        self._error = error
        self._complete = error is None
        if self._waiting is not None:
            self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)


class OriginConnection(asyncio.Protocol):
    """``opened`` is what aiohttp opened, and ``at`` what it leads to (scheme and authority). Raises ``ConnectionError``
    if it has been closed already."""

    def __init__(
        self,
        opened: Any,
        at: tuple[str, str],
        prefix: bytes,
        *,
        absolute: bool,
        generation: int,
        timeout: float,
        on_idle: Callable[[OriginConnection], None],
        on_lost: Callable[[OriginConnection], None],
    ) -> None:
        self.at = at
        self.prefix = prefix
        """Field lines for whoever is at the other end: Host, and what a parent proxy is to know."""
        self.absolute = absolute
        """Whether that is a parent proxy, which wants the whole URL (RFC 9112 §3.2.2)."""
        self.generation = generation
        self.idle_since = 0.0
        """When it was last ready to be used again, by the monotonic clock."""
        self._opened = opened
        self._handler: Any = opened.protocol
        self._transport: Any = opened.transport
        if self._handler is None or self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the connection was closed before it was used")
        self._timeout = timeout
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._heard = 0.0
        """When there last was something to wait for, by the loop's clock."""
        self._used = 0
        self._head: asyncio.Future[OriginResponse] | None = None
        self._on_interim: Callable[[int, Headers], None] | None = None
        self._asked = 0.0
        self._response: OriginResponse | None = None
        self._buffer = b""
        self._left: int | None = None
        """Bytes of the body, or of the chunk, that are to come; ``None``: all until the end of the connection."""
        self._chunked = False
        self._part = Part.SIZE
        self._keep = False
        self._paused = False
        self._transport.set_protocol(self)

    @property
    def is_open(self) -> bool:
        return self._handler is not None and not self._transport.is_closing()

    # -- one exchange -------------------------------------------------------------------------------------------

    async def exchange(self, head: bytes, on_interim: Callable[[int, Headers], None] | None) -> OriginResponse:
        """Send a request, whose bytes ``head`` is, and wait for the head of its response.

        Raises :class:`OriginError`, or :class:`Stale` if it is worth trying again at once.
        """
        self._used += 1
        self._on_interim = on_interim
        self._asked = time.time()
        self._heard = self._loop.time()
        waiting: asyncio.Future[OriginResponse] = self._loop.create_future()
        self._head = waiting
        if self._timer is None:
            self._timer = self._loop.call_at(self._heard + self._timeout, self._look_at_clock)
        self._transport.write(head)
        try:
            return await waiting
        except asyncio.CancelledError:
            if self._head is waiting:
                self.abort()
            elif waiting.done() and not waiting.cancelled() and waiting.exception() is None:
                waiting.result().close()  # the connection may serve somebody else by now
            raise

    def go_on(self) -> None:
        """There is room for more of the body."""
        if self._paused:
            self._paused = False
            self._heard = self._loop.time()
            self._transport.resume_reading()

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
                self._take(data)
            elif self._head is not None:
                self._take_head(data)
            else:
                self.abort()  # nobody has asked for it
        except OriginError as error:
            self._transport.abort()
            self._lost(error)

    def connection_lost(self, error: Exception | None) -> None:
        response = self._response
        if response is not None and self._left is None and not self._chunked and error is None:
            self._response = None
            response.end()
        if self._head is not None:
            told = OriginError("connection_terminated", str(error or "the origin closed the connection"))
        else:
            told = OriginError("http_response_incomplete", str(error or "the origin closed the connection"))
        self._lost(told)

    def _lost(self, error: OriginError) -> None:
        """It is gone, or going: whoever waits for something hears of it once."""
        handler, self._handler = self._handler, None
        if handler is None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._head = self._head, None
        if waiting is not None and not waiting.done():
            unanswered = self._used > 1 and not self._buffer and error.error == "connection_terminated"
            waiting.set_exception(Stale() if unanswered else error)
        response, self._response = self._response, None
        if response is not None:
            response.end(error)
        handler.connection_lost(None)  # aiohttp waits for it when it is closed
        self._opened.close()
        self._on_lost(self)

    def _look_at_clock(self) -> None:
        """One timer for many responses: it is set anew when it is up, and not with every byte."""
        self._timer = None
        if self._head is None and self._response is None:
            return
        now = self._loop.time()
        if self._paused:
            self._heard = now
        up = self._heard + self._timeout
        if now < up:
            self._timer = self._loop.call_at(up, self._look_at_clock)
            return
        kind = "http_response_timeout" if self._head is not None else "connection_read_timeout"
        self._transport.abort()
        self._lost(OriginError(kind, f"nothing came for {self._timeout:g} s"))

    # -- heads --------------------------------------------------------------------------------------------------

    def _take_head(self, data: bytes) -> None:
        data = self._buffer + data if self._buffer else data
        while True:
            if data.startswith((b"\r", b"\n")):
                data = data.lstrip(b"\r\n")  # left over from the response before: some servers send it
            head = parse_head(data) if data else None
            self._buffer = data
            if head is None:
                return
            data = data[head.size :]
            if head.status >= 200 or head.status == 101:
                break
            # 100 answers an Expect, which fills never send.
            if head.status != 100 and self._on_interim is not None:
                self._on_interim(head.status, head.headers)
        self._buffer = b""
        length = self._frame(head)
        response = OriginResponse(head, length, self, self._asked)
        self._response = response
        waiting, self._head = self._head, None
        if waiting is not None and not waiting.done():
            waiting.set_result(response)
        if self._left == 0 and not self._chunked:
            self._over(data)
        elif data:
            self._take(data)

    def _frame(self, head: ResponseHead) -> int | None:
        """How the body is to be told from what follows (RFC 9112 §6.3). The length that the head announces."""
        headers = head.headers
        length = content_length(headers)
        connection = headers.get("connection")
        self._keep = head.http11
        if connection is not None:
            said = _says(connection)
            self._keep = said == "keep-alive" or (head.http11 and said is None)
        self._chunked, self._part = False, Part.SIZE
        codings = headers.get("transfer-encoding")
        if head.status in (204, 304):
            self._left = 0
        elif head.status == 101:
            self._left, self._keep = None, False  # RFC 9110 §15.2.2: final in its way
        elif codings is not None:
            # §6.1, §6.3: a message with both "ought to be handled as an error", and what else than chunked there may
            # be, the client has not asked for.
            if length is not None or codings.lower() != "chunked":
                raise OriginError("http_response_transfer_coding", f"Transfer-Encoding: {codings!r}")
            self._left, self._chunked = 0, True
            self._keep = self._keep and head.http11
        else:
            self._left = length
            self._keep = self._keep and length is not None
        return length if head.status != 101 else None

    # -- bodies -------------------------------------------------------------------------------------------------

    def _take(self, data: bytes) -> None:
        if self._chunked:
            self._take_chunks(data)
            return
        left = self._left
        if left is not None:
            if len(data) >= left:
                if len(data) > left:
                    data, rest = data[:left], data[left:]
                else:
                    rest = b""
                self._put(data)
                self._over(rest)
                return
            self._left = left - len(data)
        self._put(data)

    def _put(self, data: bytes) -> None:
        if data and self._response is not None and not self._response.put(data) and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def _take_chunks(self, data: bytes) -> None:
        """RFC 9112 §7.1. ``_left`` is what is to come of the chunk's data."""
        if self._buffer:
            data, self._buffer = self._buffer + data, b""
        at = 0
        pieces: list[bytes] = []
        while at < len(data):
            if self._left:
                piece = data[at : at + self._left]
                pieces.append(piece)
                self._left -= len(piece)
                at += len(piece)
                continue
            line_end = data.find(b"\n", at) + 1
            if not line_end:
                self._buffer = data[at:]
                if len(self._buffer) > CHUNK_LINE_MOST:
                    raise OriginError("http_protocol_error", "a line between chunks that doesn't end")
                break
            line, at = data[at:line_end], line_end
            empty = line in (b"\r\n", b"\n")
            if self._part is Part.TRAILERS:
                if empty:
                    self._put(b"".join(pieces))
                    self._over(data[at:])
                    return
                # A trailer field: what comes after a body is not kept (RFC 9110 §6.5.1).
            elif self._part is Part.AFTER_DATA:
                if not empty:
                    raise OriginError("http_protocol_error", "a chunk that is longer than it says")
                self._part = Part.SIZE
            else:
                size = _CHUNK_LINE.fullmatch(line)
                if size is None:
                    raise OriginError("http_protocol_error", f"not the size of a chunk: {line[:40]!r}")
                self._left = int(size[1], 16)
                self._part = Part.AFTER_DATA if self._left else Part.TRAILERS
        self._put(b"".join(pieces))

    def _over(self, rest: bytes) -> None:
        """The response is here to its last byte."""
        response, self._response = self._response, None
        self.go_on()
        if self._keep and not rest and self.is_open:
            self.idle_since = time.monotonic()
            self._on_idle(self)
        else:
            self.close()
        if response is not None:
            response.end()
