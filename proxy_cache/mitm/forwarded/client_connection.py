"""mitmproxy's end of HTTP/1 connections to clients, where it does not do what RFC 9110 and 9112 ask for.

mitmproxy waits for the end of a head however long it gets, reads what no other recipient would read alike, and resets
connections whose clients still send. Put right where bytes become requests, so that nothing above this ever sees them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from h11._receivebuffer import ReceiveBuffer
from mitmproxy import http
from mitmproxy.net.http import http1
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import (
    HttpEvent,
    RequestHeaders,
    RequestProtocolError,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseTrailers,
)
from mitmproxy.proxy.layers.http._http1 import Http1Server, make_body_reader

from ...semantics.headers import connection_options
from ...semantics.limits import HeadLimits
from ...wire.head_checks import RefusedHead, checked_request
from ..tls_close import say_closed
from .chunk_reader import ChunkReader
from .head_limits import line_break, lines_of
from .outcome import BadBody
from .requests import request_of

LINGER = 5.0
"""Seconds of silence, and"""
MAX_LINGER = 30.0
"""seconds in all, for which more is read, and dropped, from a client that has had its last answer. With unread data in
front of it a closed connection is reset, and the answer may be lost (RFC 9112 §9.6). (nginx has the same two.)"""


@dataclass
class ResponseSent(HttpEvent):
    """A client has been sent all of its response, and its request is still on its way. The end of the response is to
    be seen now; its :class:`ResponseEndOfMessage` follows when the request has ended too."""


@dataclass
class StopReading(HttpEvent):
    """Nothing more is wanted of a client: it has had its answer before its request was complete."""


class ClientConnection(Http1Server):
    """The end towards a client."""

    connect_is_answered: Callable[[], bool] = staticmethod(lambda: False)
    """Whether the client has had a 200 to its CONNECT already."""
    _is_mute = False
    """Whether nothing may be said to the client: it waits for its tunnel, and there is none."""

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
            while empty <= self._limits.line and (size := line_break(data, empty)):
                empty += size
            if empty:
                self._empty += empty
                self.buf.maybe_extract_at_most(empty)
            if self._empty > self._limits.line:
                raise RefusedHead(400, "http_request_error", "nothing but empty lines")
            if self.buf._data == b"\r" or not self.buf:
                return None
        return lines_of(self.buf, self._limits, 431, "http_request_error")

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
        if self._is_mute:
            return
        if (
            isinstance(event, ResponseHeaders)
            and self.request is not None
            and self.request.method == "CONNECT"
            and self.connect_is_answered()
        ):
            yield from self._after_200(event)
            return
        for command in super().send(event):
            if isinstance(command, commands.CloseConnection) and self.response is None:  # not one that breaks off
                yield from say_closed(self.context, self.conn)
            yield command

    def _after_200(self, event: ResponseHeaders) -> layer.CommandGenerator[None]:
        """The answer to a CONNECT that was answered before it was known that the origin has to be dialled for it."""
        if 200 <= event.response.status_code < 300:
            for command in super().send(event):
                if not isinstance(command, commands.SendData):
                    yield command
            return
        self._is_mute = True
        yield commands.CloseConnection(self.conn)

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
        if isinstance(event, events.Wakeup) and not self._is_silent and self._lingered < MAX_LINGER:
            self._is_silent = True
            yield commands.RequestWakeup(LINGER)
            return
        self.state = self.done
        yield commands.CloseConnection(self.conn)
