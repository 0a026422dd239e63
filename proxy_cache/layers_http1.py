"""mitmproxy's ends of HTTP/1 connections, where they do not do what RFC 9110 and 9112 ask for.

mitmproxy takes an interim response for the final one, and raises where a message has trailers: its client would wait
for good. Both are put right where bytes become messages, so that nothing above this ever sees them.
"""

from __future__ import annotations

from dataclasses import dataclass

import h11
from h11._readers import ChunkedReader
from h11._receivebuffer import ReceiveBuffer
from mitmproxy import http
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers.http import HttpClient
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import HttpEvent, RequestTrailers, ResponseHeaders, ResponseTrailers
from mitmproxy.proxy.layers.http._http1 import Http1Client, Http1Server

from .semantics.headers import connection_options


@dataclass
class InterimResponse(HttpEvent):
    """A 1xx from an origin, which is not the response that it belongs to."""

    response: http.Response


class ChunksOnly(ChunkedReader):  # type: ignore[misc]
    """A body in chunks. RFC 9112 §7.1.2: "A recipient that removes the chunked coding from a message MAY selectively
    retain or discard the received trailer fields"."""

    def __call__(self, buf: ReceiveBuffer) -> h11.Data | h11.EndOfMessage | None:
        event: h11.Data | h11.EndOfMessage | None = super().__call__(buf)
        return h11.EndOfMessage() if isinstance(event, h11.EndOfMessage) and event.headers else event


class ClientConnection(Http1Server):
    """The end towards a client."""

    def read_body(self, event: events.Event) -> layer.CommandGenerator[None]:
        if type(self.body_reader) is ChunkedReader:  # it has just been made, and has read nothing yet
            self.body_reader = ChunksOnly()
        return super().read_body(event)

    def send(self, event: HttpEvent) -> layer.CommandGenerator[None]:
        if not isinstance(event, ResponseTrailers):  # of an HTTP/2 origin
            yield from super().send(event)


class OriginConnection(Http1Client):
    """The end towards an origin, or a parent proxy."""

    def read_body(self, event: events.Event) -> layer.CommandGenerator[None]:
        if type(self.body_reader) is ChunkedReader:
            self.body_reader = ChunksOnly()
        return super().read_body(event)

    def send(self, event: HttpEvent) -> layer.CommandGenerator[None]:
        if not isinstance(event, RequestTrailers):  # of an HTTP/2 client
            yield from super().send(event)

    def read_headers(self, event: events.ConnectionEvent) -> layer.CommandGenerator[None]:
        """RFC 9110 §15.2: "A client MUST be able to parse one or more 1xx responses received prior to a final
        response, even if the client does not expect one"."""
        again = True
        while again:
            again = False
            for command in super().read_headers(event):
                if isinstance(command, ReceiveHttp) and (response := _interim(command.event)) is not None:
                    # What mitmproxy would do next, read a body, is not done: this stays where heads are read.
                    self.response = None
                    yield ReceiveHttp(InterimResponse(command.event.stream_id, response))
                    again = bool(self.buf)
                    break
                yield command

    def mark_done(self, *, request: bool = False, response: bool = False) -> layer.CommandGenerator[None]:
        last = self.response is not None and "close" in connection_options(self.response.headers.get_all("connection"))
        yield from super().mark_done(request=request, response=response)
        # RFC 9112 §9.6. mitmproxy knows the option in small letters only, and would send the next request as well.
        if last and self.request is None and self.state == self.read_headers and self.conn.connected:
            yield commands.CloseConnection(self.conn)
            self.state = self.done


def _interim(event: HttpEvent) -> http.Response | None:
    """The response, if it is a 1xx. 101 is the last one that HTTP has a say in (RFC 9110 §15.2.2)."""
    if not isinstance(event, ResponseHeaders):
        return None
    status = event.response.status_code
    return event.response if 100 <= status < 200 and status != 101 else None


def take_over(stack: layer.Layer) -> None:
    """Put our end in place of mitmproxy's, on a connection to an origin that has just been made."""
    client = stack
    while not isinstance(client, HttpClient):  # below a tunnel through a parent proxy, or TLS
        below = getattr(client, "child_layer", None)
        if below is None:
            return
        client = below
    old = getattr(client, "child_layer", None)
    if type(old) is not Http1Client:
        return
    new = OriginConnection(client.context)
    client.context.layers.remove(old)
    new.state = new.read_headers
    client.child_layer = new
    client._handle_event = new.handle_event  # type: ignore[method-assign]
