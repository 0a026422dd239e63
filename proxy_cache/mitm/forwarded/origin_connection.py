"""mitmproxy's end of HTTP/1 connections to origins, where it does not do what RFC 9110 and 9112 ask for.

mitmproxy takes an interim response for the final one, raises where a message has trailers, and waits for good. Put
right where bytes become responses, so that nothing above this ever sees them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from h11._readers import Http10Reader
from h11._receivebuffer import ReceiveBuffer
from mitmproxy import http
from mitmproxy.connection import ConnectionState
from mitmproxy.net.http import http1
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import HttpClient
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import (
    HttpEvent,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    RequestTrailers,
    ResponseHeaders,
    ResponseProtocolError,
)
from mitmproxy.proxy.layers.http._http1 import Http1Client, make_body_reader
from mitmproxy.proxy.layers.http._http2 import Http2Client

from ...semantics.headers import connection_options
from ...semantics.limits import HeadLimits
from ...semantics.methods import is_idempotent
from ...wire.head_checks import RefusedHead, cleaned_response
from ...wire.response_reader import MAX_INTERIM, MAX_LINE_BREAKS
from ..compat import BROKEN_OFF
from ..tls_close import alert_of, was_cut_short, watch
from .chunk_reader import ChunkReader
from .disconnects import was_reset
from .framing import settle_framing
from .head_limits import limit_http2, lines_of
from .sent import ConnectionExpired, SentRequest
from .timeouts import SilenceTimer


@dataclass
class InterimResponse(HttpEvent):
    """A 1xx from an origin, which is not the response that it belongs to."""

    response: http.Response


class OriginConnection(Http1Client):
    """The end towards an origin, or a parent proxy."""

    def __init__(self, context: Context, limits: HeadLimits, timeout: Callable[[], float]) -> None:
        """``timeout``: seconds that an idempotent request may be without a byte of its response."""
        super().__init__(context)
        self._limits = limits
        self._silence = SilenceTimer(context.client, self.conn, timeout)
        self._interim = 0
        self._requests = 0
        """Requests that have gone over the connection."""
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
        elif isinstance(event, events.ConnectionClosed) and (why := self._why_incomplete()) is not None:
            # A body without length is complete when its connection was closed, and not when it broke (RFC 9112 §8, and
            # §9.8 of TLS).
            assert self.stream_id is not None
            self.state = self.done
            yield commands.CloseConnection(self.conn)
            yield ReceiveHttp(ResponseProtocolError(self.stream_id, why, BROKEN_OFF))
            return
        yield from super().read_body(event)

    def _why_incomplete(self) -> str | None:
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
        lines = lines_of(self.buf, self._limits, 502, "http_response_header_section_size")
        if lines is None:
            return None
        assert self.request is not None
        cleaned, skipped = cleaned_response(lines, self._limits)
        response = http1.read_response_head(cleaned)
        # A sender that means something by such a line may also see the end of the message elsewhere.
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
            alert = alert_of(self.context, self.conn)
            why = f"tls_alert_received: {alert}" if alert else f"server closed connection {had}"
            yield from self._broken(why, expired=not self.buf)

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
