"""A request again, over a new connection, where the one that was used before has ended (RFC 9112 §9.3.1).

An origin may close an idle connection at any time, also while the next request is on its way: no fault of anybody's,
and the client, whose own connection is open, can't know of it. What fills do for GETs is done here for the rest:
once, where nothing of a response has come, and for idempotent methods only (RFC 9110 §9.2.2: "A proxy MUST NOT
automatically retry non-idempotent requests").

A body that has gone by can't be sent again, so the beginning of each is kept. One that is longer than what is kept goes
over a new connection at once, which nobody closes for being idle.
"""

from __future__ import annotations

from mitmproxy.connection import Server
from mitmproxy.net.http import http1
from mitmproxy.proxy import layer
from mitmproxy.proxy.layers.http import GetHttpConnection, HttpLayer, SendHttp
from mitmproxy.proxy.layers.http import _events as http_events
from mitmproxy.proxy.layers.http._events import (
    HttpEvent,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    ResponseProtocolError,
)

from ...semantics.methods import is_idempotent
from ..compat import CANCELLED, UNREACHABLE
from .disconnects import has_ended
from .early import EarlyAnswers, is_http1
from .sent import MAX_REPEATED, ConnectionExpired


class NewConnection(GetHttpConnection):
    """A connection that nobody has used."""


class RepeatingStream(EarlyAnswers):
    """A stream whose request may go twice."""

    is_repeated = False

    def may_repeat(self, event: ResponseProtocolError) -> bool:
        return (
            isinstance(event, ConnectionExpired)
            and not self.is_repeated
            and (event.sent is not None or self._is_complete())
            and is_idempotent(self.flow.request.method)
            and self.flow.response is None
            and self.flow.error is None
            and self.server_state == self.state_wait_for_response_headers
            and self.client_state in (self.state_stream_request_body, self.state_done)
        )

    def repeat(self, event: ConnectionExpired) -> layer.CommandGenerator[None]:
        """Later pieces of the body are queued: the stream waits for its connection."""
        self.is_repeated = True
        connected = yield from self.make_server_connection()
        if not connected:
            return
        server = self.context.server
        rest = self._body_events() if event.sent is None else event.sent
        ends = self.client_state == self.state_done and not any(isinstance(each, RequestData) for each in rest)
        yield SendHttp(RequestHeaders(self.stream_id, self.flow.request, ends), server)
        for each in rest:
            yield SendHttp(each, server)

    def make_server_connection(self) -> layer.CommandGenerator[bool]:
        """As mitmproxy does, but a request that could not be repeated doesn't go where it might have to be."""
        request = self.flow.request
        if not (self.is_repeated or self._has_large_body()):
            return (yield from super().make_server_connection())
        server = self.flow.server_conn
        command = NewConnection(
            (request.host, request.port), request.scheme == "https", server.via, server.transport_protocol
        )
        connection, error = yield command
        if error:
            failed = ResponseProtocolError(self.stream_id, error, UNREACHABLE)
            yield from self.handle_protocol_error(failed)
            return False
        self.context.server = self.flow.server_conn = connection
        return True

    def _is_complete(self) -> bool:
        """Whether the request is here to its end, as it is where another addon is to see all of it."""
        request = self.flow.request
        return not request.stream and request.raw_content is not None and not request.trailers

    def _body_events(self) -> list[HttpEvent]:
        end = RequestEndOfMessage(self.stream_id)
        content = self.flow.request.raw_content
        return [RequestData(self.stream_id, content), end] if content else [end]

    def _has_large_body(self) -> bool:
        if not self.flow.request.stream:
            return False
        try:
            size = http1.expected_http_body_size(self.flow.request)
        except ValueError:
            return False
        return size is None or size > MAX_REPEATED


class ConnectionChoice(HttpLayer):
    """Which connection to an origin a request goes over."""

    def get_connection(self, event: GetHttpConnection, *, reuse: bool = True) -> layer.CommandGenerator[None]:
        """As mitmproxy does, but a connection that is not to be used again is closed: it counts among the few that a
        client may have to an origin."""
        client = self.context.client
        if reuse and is_http1(client.alpn):  # which has one request at a time: all connections are idle
            for connection, below in list(self.connections.items()):
                if (
                    isinstance(connection, Server)
                    and connection.connected
                    and is_http1(connection.alpn)
                    and event.connection_spec_matches(connection)
                    and (isinstance(event, NewConnection) or has_ended(client, connection))
                ):
                    reuse = False
                    given_up = http_events.RequestProtocolError(0, "not to be used again", CANCELLED)
                    yield from self.event_to_child(below, given_up)
        yield from super().get_connection(event, reuse=reuse)
