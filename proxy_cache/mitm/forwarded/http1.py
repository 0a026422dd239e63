"""mitmproxy's ends of HTTP/1 connections, where they do not do what RFC 9110 and 9112 ask for.

mitmproxy takes an interim response for the final one, raises where a message has trailers, waits for the end of a head
however long it gets, and reads what no other recipient would read alike. Put right where bytes become messages, so that
nothing above this ever sees them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from h11._readers import Http10Reader
from h11._receivebuffer import ReceiveBuffer
from mitmproxy import http
from mitmproxy.connection import ConnectionState
from mitmproxy.net.http import http1
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import HttpClient
from mitmproxy.proxy.layers.http import _events as http_events
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import (
    HttpEvent,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    RequestTrailers,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
    ResponseTrailers,
)
from mitmproxy.proxy.layers.http._http1 import Http1Client, Http1Server, make_body_reader
from mitmproxy.proxy.layers.http._http2 import Http2Client

from ...semantics.headers import connection_options
from ...semantics.limits import HeadLimits
from ...semantics.methods import is_idempotent
from ...wire.head_checks import RefusedHead, checked_request, cleaned_response, without_quotes
from ...wire.response_reader import MAX_INTERIM, MAX_LINE_BREAKS
from ..compat import HTTP2_LIMITS
from ..tls_close import say_closed, was_cut_short, watch
from .chunk_reader import ChunkReader
from .disconnects import was_reset
from .framing import settle_framing
from .outcome import BadBody
from .requests import request_of
from .sent import ConnectionExpired, SentRequest
from .timeouts import SilenceTimer

logger = logging.getLogger(__name__)

# mitmproxy 12 has an enum where 11 had status codes; both mean: no further answer, close the connection.
_ERROR_CODES: Any = getattr(http_events, "ErrorCode", None)
BROKEN_OFF: Any = _ERROR_CODES.GENERIC_SERVER_ERROR if _ERROR_CODES else 502
LINGER = 5.0
"""Seconds of silence, and"""
LINGER_MAX = 30.0
"""seconds in all, for which more is read, and dropped, from a client that has had its last answer. With unread data in
front of it a closed connection is reset, and the answer may be lost (RFC 9112 §9.6). (nginx has the same two.)"""


@dataclass
class InterimResponse(HttpEvent):
    """A 1xx from an origin, which is not the response that it belongs to."""

    response: http.Response


@dataclass
class ResponseSent(HttpEvent):
    """A client has been sent all of its response, and its request is still on its way. The end of the response is to
    be seen now; its :class:`ResponseEndOfMessage` follows when the request has ended too."""


@dataclass
class StopReading(HttpEvent):
    """Nothing more is wanted of a client: it has had its answer before its request was complete."""


class ClientConnection(Http1Server):
    """The end towards a client."""

    def __init__(
        self,
        context: Context,
        limits: HeadLimits,
        refuse: Callable[..., http.Response],
        still_listens: Callable[[], bool] = lambda: False,
        *,
        forward: bool,
    ) -> None:
        """``refuse`` makes the response to a request that can't be read, of status, proxy error type, detail, and
        ``has_flow`` if one has been made of it. ``still_listens``: whether a client that sends no more waits for its
        answer all the same. ``forward``: whether requests say where they go (see
        :func:`.requests.request_of`)."""
        super().__init__(context)
        self._limits = limits
        self._refusal = refuse
        self._still_listens = still_listens
        self._forward = forward
        self._empty = 0
        self._lingered = 0.0
        self._is_silent = True
        self._has_finished = False
        """Whether the client has sent all that it is going to, and waits for the answer."""
        self._is_answered = False
        """Whether the end of the response can be seen, before that of the request has come."""

    def read_headers(self, event: events.Event) -> layer.CommandGenerator[None]:
        if not isinstance(event, events.DataReceived):
            yield from say_closed(self.context, self.conn)
            yield commands.CloseConnection(self.conn)
            return
        try:
            lines = self._head()
            if lines is None:
                return
            checked_request(lines, self._limits)
            scheme = "https" if self.conn.tls else "http"
            self.request = request = request_of(lines, forward=self._forward, scheme=scheme)
            size = http1.expected_http_body_size(request)
        except RefusedHead as refused:
            yield from self._refuse(refused)
            return
        except ValueError as error:
            yield from self._refuse(RefusedHead(400, "http_request_error", str(error)))
            return
        yield ReceiveHttp(RequestHeaders(self.stream_id, request, size == 0))
        chunks = ChunkReader(self._limits, of_response=False)
        self.body_reader = chunks if size is None else make_body_reader(size)  # type: ignore[assignment]
        self.state = self.read_body
        yield from self.state(event)

    def _head(self) -> list[bytes] | None:
        """The lines of the head, when it has come. Raises :class:`RefusedHead`."""
        # RFC 9112 §2.2: "a server that is expecting to receive and parse a request-line SHOULD ignore at least one
        # empty line (CRLF) received prior to the request-line". mitmproxy would take it for a head of no lines.
        data = self.buf._data
        if bytes(data[:1]) in (b"\r", b"\n"):
            empty = 0
            while empty <= self._limits.line and (size := _line_break(data, empty)):
                empty += size
            if empty:
                self._empty += empty
                self.buf.maybe_extract_at_most(empty)
            if self._empty > self._limits.line:
                raise RefusedHead(400, "http_request_error", "nothing but empty lines")
            if self.buf._data == b"\r" or not self.buf:
                return None
        return _lines_of(self.buf, self._limits, 431, "http_request_error")

    def read_body(self, event: events.Event) -> layer.CommandGenerator[None]:
        reader = self.body_reader
        if isinstance(event, events.Wakeup):
            return
        why, answer = "", None
        for command in super().read_body(event):
            if (
                isinstance(command, commands.CloseConnection)
                and isinstance(reader, ChunkReader)
                and reader.error is not None
            ):
                why, reader.error = reader.error, None
                if self.response is None:
                    refused = RefusedHead(400, "http_request_error", why)
                    size = yield from self._refuse(refused, has_flow=True)
                    answer = refused.status, size, refused.error, why
                    continue
            if (
                isinstance(command, ReceiveHttp)
                and isinstance(command.event, RequestProtocolError)
                and answer is not None
            ):
                bad = BadBody(command.event.stream_id, why, command.event.code)
                bad.answer = answer
                command = ReceiveHttp(bad)
            yield command

    def send(self, event: HttpEvent) -> layer.CommandGenerator[None]:
        if self.state == self.linger or isinstance(event, ResponseTrailers):  # the latter are of an HTTP/2 origin
            return
        if isinstance(event, StopReading):
            if not self.request_done and self.state == self.read_body:
                yield from self.stop_reading()
            return
        if isinstance(event, ResponseSent):
            yield from self._show_end()
            return
        if self._is_answered and isinstance(event, ResponseEndOfMessage):
            self._is_answered = False
            yield from self.mark_done(response=True)
            return
        for command in super().send(event):
            if isinstance(command, commands.CloseConnection) and self.response is None:  # not one that breaks off
                yield from say_closed(self.context, self.conn)
            yield command

    def _show_end(self) -> layer.CommandGenerator[None]:
        """The client may wait for the end of the response before it sends more, or leaves: RFC 9112 §9.5 has it watch
        for an answer while it sends."""
        assert self.request is not None
        assert self.response is not None
        self._is_answered = True
        headers = self.response.headers
        if "chunked" in headers.get("transfer-encoding", "").lower() and self.request.method != "HEAD":
            yield commands.SendData(self.conn, b"0\r\n\r\n")
        if "close" in connection_options(headers.get_all("connection")):  # as all say whose end is the connection's
            yield from say_closed(self.context, self.conn)
            yield commands.CloseTcpConnection(self.conn, half_close=True)

    def wait(self, event: events.Event) -> layer.CommandGenerator[None]:
        """RFC 9112 §9.6: "a TCP connection that is half-closed by the client does not delimit a request message, nor
        does it imply that the client is no longer interested in a response"."""
        if isinstance(event, events.ConnectionClosed) and self._still_listens():
            self._has_finished = True
            return
        yield from super().wait(event)

    def mark_done(self, *, request: bool = False, response: bool = False) -> layer.CommandGenerator[None]:
        self._empty = 0
        for command in super().mark_done(request=request, response=response):
            if isinstance(command, commands.CloseConnection) and command.connection is self.conn:
                yield from say_closed(self.context, self.conn)
            yield command
        if self._has_finished and self.state in (self.read_headers, self.read_body, self.passthrough):
            # There is nothing more to come: of the next request, or through the tunnel.
            self._has_finished = False
            yield from self.state(events.ConnectionClosed(self.conn))

    def _refuse(self, refused: RefusedHead, *, has_flow: bool = False) -> layer.CommandGenerator[int]:
        """Answer it: how many bytes the answer has. ``has_flow``: whether there will be more to tell of the request."""
        response = self._refusal(refused.status, refused.error, refused.detail, has_flow=has_flow)
        response.headers["Connection"] = "close"
        yield commands.SendData(self.conn, http1.assemble_response(response))
        yield from self.stop_reading()
        return len(response.raw_content or b"")

    def stop_reading(self) -> layer.CommandGenerator[None]:
        """The client has had its last answer: let it read that, and close."""
        self.buf = ReceiveBuffer()
        self.state = self.linger
        yield from say_closed(self.context, self.conn)
        yield commands.CloseTcpConnection(self.conn, half_close=True)
        yield commands.RequestWakeup(LINGER)

    def linger(self, event: events.Event) -> layer.CommandGenerator[None]:
        self.buf = ReceiveBuffer()
        if isinstance(event, events.DataReceived):
            self._is_silent = False
            return
        self._lingered += LINGER
        if isinstance(event, events.Wakeup) and not self._is_silent and self._lingered < LINGER_MAX:
            self._is_silent = True
            yield commands.RequestWakeup(LINGER)
            return
        self.state = self.done
        yield commands.CloseConnection(self.conn)


class OriginConnection(Http1Client):
    """The end towards an origin, or a parent proxy."""

    def __init__(self, context: Context, limits: HeadLimits, timeout: Callable[[], float]) -> None:
        """``timeout``: seconds that an idempotent request may be without a byte of its response."""
        super().__init__(context)
        self._limits = limits
        self._silence = SilenceTimer(context.client, self.conn, timeout)
        self._interim = 0
        self._requests = 0
        """So many have gone over it."""
        self._sent = SentRequest()
        self._is_last = False
        """Whether the connection ends with the current response, whatever that says."""
        self._line_breaks = 0

    def read_body(self, event: events.Event) -> layer.CommandGenerator[None]:
        self._silence.heard = time.monotonic()
        if self.response_done:  # and the request is still on its way
            self.buf = ReceiveBuffer()
            if isinstance(event, events.DataReceived):
                return
        elif isinstance(event, events.ConnectionClosed) and (why := self._why_not_whole()) is not None:
            # A body without length is complete when its connection was closed, and not when it broke (RFC 9112 §8, and
            # §9.8 of TLS).
            assert self.stream_id is not None
            self.state = self.done
            yield commands.CloseConnection(self.conn)
            yield ReceiveHttp(ResponseProtocolError(self.stream_id, why, BROKEN_OFF))
            return
        yield from super().read_body(event)

    def _why_not_whole(self) -> str | None:
        """Why a body is not complete with the connection's end, with its proxy error type."""
        self._silence.end()
        if self._silence.error is not None:
            return f"connection_read_timeout: {self._silence.error}"
        if not isinstance(self.body_reader, Http10Reader):
            return None  # its length or its chunks tell
        if was_reset(self.context.client, self.conn):
            return "http_response_incomplete: the connection was reset"
        if was_cut_short(self.context, self.conn):
            return "http_response_incomplete: the connection ended without TLS' closing alert"
        return None

    def send(self, event: HttpEvent) -> layer.CommandGenerator[None]:
        if isinstance(event, RequestTrailers):  # of an HTTP/2 client
            return
        if isinstance(event, (RequestHeaders, RequestProtocolError)):
            self._silence.end()
        if isinstance(event, RequestHeaders):
            self._requests += 1
            self._sent.begin(reused=self._requests > 1)
            self._is_last = False
            self._interim = self._line_breaks = 0
        else:
            self._sent.add(event)
        yield from super().send(event)
        if (
            isinstance(event, RequestEndOfMessage)
            and self.request is not None
            and not self.response_done
            and is_idempotent(self.request.data.method.decode("ascii", "replace"))
        ):
            self._silence.begin()

    def read_headers(self, event: events.Event) -> layer.CommandGenerator[None]:
        """RFC 9110 §15.2: "A client MUST be able to parse one or more 1xx responses received prior to a final
        response, even if the client does not expect one"."""
        if not isinstance(event, events.DataReceived):
            yield from self._closed()
            return
        self._silence.heard = time.monotonic()
        if self.request is None or self.stream_id is None:  # nobody has asked for it
            self.buf = ReceiveBuffer()
            yield commands.CloseConnection(self.conn)
            return
        try:
            while True:
                response = self._response()
                if response is None:
                    return
                size = http1.expected_http_body_size(self.request, response)
                # 101 is the last one that HTTP has a say in (RFC 9110 §15.2.2).
                if not 100 <= response.status_code < 200 or response.status_code == 101:
                    break
                yield ReceiveHttp(InterimResponse(self.stream_id, response))
                if not self.buf:
                    return
        except RefusedHead as error:
            yield from self._failed(str(error), expired=error.error == "http_protocol_error")
            return
        except ValueError as error:
            yield from self._failed(f"http_protocol_error: {error}")
            return
        self.response = response
        self._sent.forget()
        yield ReceiveHttp(ResponseHeaders(self.stream_id, response, size == 0))
        chunks = ChunkReader(self._limits, of_response=True)
        self.body_reader = chunks if size is None else make_body_reader(size)  # type: ignore[assignment]
        self.state = self.read_body
        yield from self.state(event)

    def _response(self) -> http.Response | None:
        """The next response's head, when it has come. Raises ``ValueError``."""
        self._skip_line_breaks()
        start = bytes(self.buf._data[:5])
        if start != b"HTTP/"[: len(start)]:
            raise RefusedHead(
                502, "http_protocol_error", f"not the status line of HTTP/1: {bytes(self.buf._data[:40])!r}"
            )
        lines = _lines_of(self.buf, self._limits, 502, "http_response_header_section_size")
        if lines is None:
            return None
        assert self.request is not None
        cleaned, skipped = cleaned_response(lines, self._limits)
        response = http1.read_response_head(cleaned)
        # Who means something by a line that is none may also see the end of the message elsewhere.
        self._is_last |= settle_framing(response) or bool(skipped)
        if response.status_code == 101 and "upgrade" not in self.request.headers:
            # RFC 9110 §15.2.2: the client is to have sent an Upgrade. What follows would be taken for HTTP by nobody.
            raise RefusedHead(502, "http_upgrade_failed", "101 to a request without Upgrade")
        self._interim = self._interim + 1 if response.status_code < 200 else 0
        if self._interim > MAX_INTERIM:
            raise RefusedHead(502, "http_protocol_error", f"more than {MAX_INTERIM} interim responses")
        return response

    def _skip_line_breaks(self) -> None:
        """Left over from the response before: some servers send it, after the last chunk or a body of a length."""
        data = self.buf._data
        size = 0
        while size <= MAX_LINE_BREAKS and bytes(data[size : size + 1]) in (b"\r", b"\n"):
            size += 1
        if size:
            self._line_breaks += size
            if self._line_breaks > MAX_LINE_BREAKS:
                raise RefusedHead(502, "http_protocol_error", "nothing but line breaks")
            self.buf.maybe_extract_at_most(size)

    def _closed(self) -> layer.CommandGenerator[None]:
        if self.conn.state & ConnectionState.CAN_WRITE:
            yield commands.CloseConnection(self.conn)
        self._silence.end()
        if self.stream_id and self._silence.error is not None:
            yield from self._broken(f"http_response_timeout: {self._silence.error}", expired=False)
        elif self.stream_id:
            had = "within the header of a response" if self.buf else "before a response"
            yield from self._broken(f"server closed connection {had}", expired=not self.buf)

    def _failed(self, why: str, *, expired: bool = False) -> layer.CommandGenerator[None]:
        self._silence.end()
        self.state = self.done
        yield commands.CloseConnection(self.conn)
        yield from self._broken(why, expired=expired)

    def _broken(self, why: str, *, expired: bool) -> layer.CommandGenerator[None]:
        """There will be no response. ``expired``: nothing of one has come, unless there was a 1xx: if the connection
        had been used before, another may do. (What can't be read may be left over from the response before.)"""
        assert self.stream_id is not None
        self.buf = ReceiveBuffer()
        if expired and self._requests > 1 and not self._interim:
            again = ConnectionExpired(self.stream_id, why, BROKEN_OFF)
            again.sent = self._sent.rest
            yield ReceiveHttp(again)
        else:
            yield ReceiveHttp(ResponseProtocolError(self.stream_id, why, BROKEN_OFF))

    def mark_done(self, *, request: bool = False, response: bool = False) -> layer.CommandGenerator[None]:
        if response:
            self._silence.end()
        last = self._is_last or (
            self.response is not None and "close" in connection_options(self.response.headers.get_all("connection"))
        )
        yield from super().mark_done(request=request, response=response)
        # RFC 9112 §9.6. mitmproxy knows the option in small letters only, and would send the next request as well.
        if last and self.request is None and self.state == self.read_headers and self.conn.connected:
            yield commands.CloseConnection(self.conn)
            self.state = self.done


def _line_break(data: bytearray, at: int) -> int:
    """Bytes of the line break at this place, if there is one."""
    return 1 if data[at : at + 1] == b"\n" else 2 if data[at : at + 2] == b"\r\n" else 0


def _lines_of(buf: ReceiveBuffer, limits: HeadLimits, status: int, error: str) -> list[bytes] | None:
    """The lines of the head that ``buf`` begins with. Raises :class:`RefusedHead` if it gets too long before its end.
    A search goes on where the last one ended: the head may come byte by byte."""
    lines = buf.maybe_extract_lines()
    if lines is not None:
        return [bytes(line) for line in lines] or [b""]
    if len(buf) > limits.line and status == 431 and b"\n" not in buf._data[: limits.line]:
        raise RefusedHead(414, error, f"a request line of more than {limits.line} bytes")
    if len(buf) > limits.total:
        raise RefusedHead(status, error, f"more than {limits.total} bytes")
    return None


def take_over(stack: layer.Layer, limits: HeadLimits, timeout: Callable[[], float]) -> None:
    """Put our end in place of mitmproxy's, on a connection to an origin that has just been made. ``timeout``: see
    :class:`OriginConnection`."""
    client = stack
    while not isinstance(client, HttpClient):  # below a tunnel through a parent proxy, or TLS
        below = getattr(client, "child_layer", None)
        if below is None:
            return
        client = below
    old = getattr(client, "child_layer", None)
    if isinstance(old, Http2Client):
        limit_http2(old, limits)
    if type(old) is not Http1Client:
        return
    watch(client.context)
    new = OriginConnection(client.context, limits, timeout)
    client.context.layers.remove(old)
    new.state = new.read_headers
    client.child_layer = new
    client._handle_event = new.handle_event  # type: ignore[method-assign]


def limit_http2(connection: Any, limits: HeadLimits) -> None:
    """Fields of more than this in all end the connection (RFC 9113 §10.5.1); h2 bounds the frames that they come in.
    And what h2 finds wrong is told without the field's value, which it quotes: it may be a credential."""

    def limit() -> None:
        connection.h2_conn.decoder.max_header_list_size = limits.total
        end = connection.protocol_error
        connection.protocol_error = lambda message, *code: end(without_quotes(message), *code)

    HTTP2_LIMITS.guard(logger, limit)
