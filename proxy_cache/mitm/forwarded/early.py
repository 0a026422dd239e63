"""Requests that have their answer before their body has come: refused ones, and those that go no further.

mitmproxy would keep the body until it is complete, and only then answer.
"""

from __future__ import annotations

from typing import Final

from mitmproxy import http
from mitmproxy.proxy import events, layer
from mitmproxy.proxy.layers.http import DropStream, SendHttp
from mitmproxy.proxy.layers.http import _events as http_events

from ..compat import CANCELLED
from .client_connection import ResponseSent, StopReading
from .outcome import ToldApart

MAX_DROPPED: Final = 256 * 1024
"""Bytes of a body that are read and dropped before the answer, so that the connection can go on. With more to come the
answer is sent at once, and the connection ends."""


class EarlyAnswers(ToldApart):
    """A stream that drops what nobody is going to read."""

    dropped = 0
    """Bytes of the request's body that were."""
    has_ended = False
    """Whether a client in HTTP/2 has been sent the end of its response."""

    def state_consume_request_body(self, event: events.Event) -> layer.CommandGenerator[None]:
        if not isinstance(event, http_events.RequestData) or self.flow.response is None:
            yield from super().state_consume_request_body(event)
            return
        self.dropped += len(event.data)
        if self.dropped > MAX_DROPPED:
            self.flow.response.headers["Connection"] = "close"
            yield from super().state_consume_request_body(http_events.RequestEndOfMessage(self.stream_id))
            yield from self.stop_reading()

    def state_done(self, event: events.Event) -> layer.CommandGenerator[None]:
        """The rest of a body whose request has been answered may still be on its way."""
        yield from ()

    @property
    def is_unread(self) -> bool:
        """Whether the whole response has been sent, and the request is still being taken on to its origin."""
        return bool(self.client_state == self.state_stream_request_body and self.server_state == self.state_done)

    def send_own(self, response: http.Response) -> layer.CommandGenerator[None]:
        """A whole response of our own to the client."""
        client = self.context.client
        content = b"" if self.flow.request.method == "HEAD" else response.raw_content or b""
        yield SendHttp(http_events.ResponseHeaders(self.stream_id, response, not content), client)
        if content:
            yield SendHttp(http_events.ResponseData(self.stream_id, content), client)
        yield SendHttp(http_events.ResponseEndOfMessage(self.stream_id), client)

    def end_response(self) -> layer.CommandGenerator[None]:
        """The origin has answered, and reads on. mitmproxy would keep the end of the response until that of the request
        has come, and a client that stops sending when it is answered would wait for it."""
        if self.is_http1:
            yield SendHttp(ResponseSent(self.stream_id), self.context.client)
        else:
            self.has_ended = True
            yield SendHttp(http_events.ResponseEndOfMessage(self.stream_id), self.context.client)

    def flow_done(self) -> layer.CommandGenerator[None]:
        if not self.has_ended:
            yield from super().flow_done()
            return
        self.flow.live = False
        yield DropStream(self.stream_id)

    def end_early(self) -> layer.CommandGenerator[None]:
        """The origin has answered and left, and the rest of the request is read by nobody. The client gets the end of
        its response, and the time to read it: a connection that is closed with something unread is reset (RFC 9112
        §9.6)."""
        self.flow.live = False
        self.client_state = self.state_done
        given_up = http_events.RequestProtocolError(self.stream_id, "answered before it was complete", CANCELLED)
        yield SendHttp(given_up, self.context.server)
        if not self.has_ended:
            yield SendHttp(http_events.ResponseEndOfMessage(self.stream_id), self.context.client)
        yield DropStream(self.stream_id)
        yield from self.stop_reading()

    def stop_reading(self) -> layer.CommandGenerator[None]:
        if self.is_http1:
            yield SendHttp(StopReading(self.stream_id), self.context.client)

    @property
    def is_http1(self) -> bool:
        """Whether the client's connection is HTTP/1. The transport says so, and not what the client has written."""
        return is_http1(self.context.client.alpn)


def is_http1(alpn: bytes | None) -> bool:
    """Whether a connection with this ALPN protocol is HTTP/1."""
    return alpn != b"h2" and not (alpn is not None and (alpn == b"h3" or alpn.startswith(b"h3-")))
