"""What mitmproxy's path makes of an origin's bytes, in the terms of :mod:`.h11_reads`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mitmproxy import ctx, http
from mitmproxy.connection import Client, ConnectionState
from mitmproxy.net.http.validate import validate_headers
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import (
    RequestEndOfMessage,
    RequestHeaders,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
)
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.mode_specs import ProxyMode

from proxy_cache.mitm.forwarded.origin_connection import InterimResponse, OriginConnection

from .h11_reads import Head, Reading
from .ours import LIMITS


def response(pieces: Iterable[bytes], *, eof: bool) -> Reading:
    """The first response to a POST. For within ``taddons.context``."""
    client = Client(
        peername=("127.0.0.1", 1), sockname=("127.0.0.1", 2), timestamp_start=1.0, state=ConnectionState.OPEN,
        proxy_mode=ProxyMode.parse("regular"),
    )  # fmt: skip
    context = Context(client, ctx.options)
    server = context.server
    server.address, server.state = ("a.example", 80), ConnectionState.OPEN
    layer = OriginConnection(context, LIMITS, lambda: 30.0)
    layer.state = layer.read_headers
    reading = Reading(keep_alive=True)

    def feed(event: events.Event) -> None:
        for command in layer.handle_event(event):
            if isinstance(command, commands.CloseConnection):
                reading.keep_alive = False
                server.state = ConnectionState.CLOSED
            elif isinstance(command, ReceiveHttp):
                _hear(command.event, reading)

    asked = http.Request(
        "a.example", 80, b"POST", b"http", b"", b"/", b"HTTP/1.1", http.Headers([(b"Host", b"a.example")]), b"", None,
        0.0, 0.0,
    )  # fmt: skip
    feed(RequestHeaders(1, asked, True))
    feed(RequestEndOfMessage(1))
    for piece in pieces:
        if reading.outcome != "waiting":
            break
        feed(events.DataReceived(server, piece))
    if eof and reading.outcome == "waiting":
        server.state &= ~ConnectionState.CAN_READ
        feed(events.ConnectionClosed(server))
    return reading


def _hear(event: Any, reading: Reading) -> None:
    if isinstance(event, InterimResponse):
        reading.interims.append(_head(event.response))
    elif isinstance(event, ResponseHeaders):
        reading.head = _head(event.response)
        try:
            validate_headers(event.response)  # as the layer above does
        except ValueError as error:
            reading.refused = str(error)
    elif isinstance(event, ResponseData):
        reading.body += event.data
    elif isinstance(event, ResponseEndOfMessage):
        reading.is_over = True
    elif isinstance(event, ResponseProtocolError):
        reading.refused = event.message


def _head(response: http.Response) -> Head:
    data = response.data
    return Head((data.status_code, data.reason), data.http_version != b"HTTP/1.0", list(data.headers.fields))
