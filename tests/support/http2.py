"""HTTP/2 over TLS by hand: a client and an origin that let nobody check what they send."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Sequence
from typing import Any, TypeAlias

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)

from .origin import PATIENCE
from .scripted import ThreadedOrigin

Fields: TypeAlias = Sequence[tuple[bytes, bytes]]


def _unchecked(*, client: bool) -> H2Connection:
    return H2Connection(
        H2Configuration(
            client_side=client,
            header_encoding=None,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            validate_inbound_headers=False,
        )
    )


class Http2:
    """A client that speaks HTTP/2 to a proxy in front of an origin."""

    def __init__(self, address: tuple[str, int]) -> None:
        trusting = ssl.create_default_context()
        trusting.check_hostname = False
        trusting.verify_mode = ssl.CERT_NONE
        trusting.set_alpn_protocols(["h2"])
        self.socket = trusting.wrap_socket(socket.create_connection(address, PATIENCE), server_hostname="a.example")
        assert self.socket.selected_alpn_protocol() == "h2"
        self.connection = _unchecked(client=True)
        self.connection.initiate_connection()

    def __enter__(self) -> Http2:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def begin(self, fields: Fields, body: bytes = b"", trailers: Fields = ()) -> int:
        """Send a request. The number of its stream."""
        stream: int = self.connection.get_next_available_stream_id()
        self.connection.send_headers(stream, fields, end_stream=not body and not trailers)
        if body:
            self.connection.send_data(stream, body, end_stream=not trailers)
        if trailers:
            self.connection.send_headers(stream, trailers, end_stream=True)
        self.socket.sendall(self.connection.data_to_send())
        return stream

    def reset(self, *streams: int) -> None:
        """RST_STREAM, with CANCEL."""
        for stream in streams:
            self.connection.reset_stream(stream, 8)
        self.socket.sendall(self.connection.data_to_send())

    def ask(self, fields: Fields, body: bytes = b"", trailers: Fields = ()) -> int:
        """The status; 0 if the connection or the stream ends without one."""
        return self.response(self.begin(fields, body, trailers), head_only=True).status

    def response(self, stream: int, *, head_only: bool = False) -> Http2Response:
        """What comes of it, to its end, or until its head has come."""
        response = Http2Response()
        while data := self.socket.recv(65536):
            for event in self.connection.receive_data(data):
                if isinstance(event, ConnectionTerminated):
                    return response
                if getattr(event, "stream_id", None) != stream:
                    continue
                if isinstance(event, ResponseReceived):
                    response.fields = list(event.headers)
                    response.status = int(dict(event.headers)[b":status"])
                    if head_only:
                        return response
                elif isinstance(event, DataReceived):
                    response.body += event.data
                elif isinstance(event, TrailersReceived):
                    response.trailers = list(event.headers)
                elif isinstance(event, (StreamEnded, StreamReset)):
                    response.is_whole = isinstance(event, StreamEnded)
                    return response
            self.socket.sendall(self.connection.data_to_send())
        return response


class Http2Response:
    """What a client was sent: a status of 0 is none."""

    def __init__(self) -> None:
        self.status = 0
        self.fields: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.trailers: list[tuple[bytes, bytes]] = []
        self.is_whole = False
        """Whether the stream ended, and was not reset."""


def pseudo(method: bytes = b"POST", path: bytes = b"/x", authority: bytes = b"a.example") -> list[tuple[bytes, bytes]]:
    return [(b":method", method), (b":scheme", b"https"), (b":authority", authority), (b":path", path)]


class Http2Origin(ThreadedOrigin):
    """Answers each request, once all of it has come, with ``head``, ``body`` and ``trailers``."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__()
        context.set_alpn_protocols(["h2"])
        self._context = context
        self.head: Fields = [(b":status", b"200")]
        self.body = b"hello"
        self.trailers: Fields = []
        self.events: list[Any] = []
        """All that has come, as h2 tells it."""

    def of(self, kind: type) -> list[Any]:
        return [event for event in list(self.events) if isinstance(event, kind)]

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            tls = self._context.wrap_socket(connection, server_side=True, suppress_ragged_eofs=True)
            with tls:
                self._talk(tls)

    def _talk(self, tls: ssl.SSLSocket) -> None:
        connection = _unchecked(client=False)
        connection.initiate_connection()
        tls.sendall(connection.data_to_send())
        while data := tls.recv(65536):
            for event in connection.receive_data(data):
                self.events.append(event)
                if isinstance(event, StreamEnded):
                    self._answer(connection, event.stream_id)
            tls.sendall(connection.data_to_send())

    def _answer(self, connection: H2Connection, stream: int) -> None:
        connection.send_headers(stream, self.head, end_stream=not self.body and not self.trailers)
        if self.body:
            connection.send_data(stream, self.body, end_stream=not self.trailers)
        if self.trailers:
            connection.send_headers(stream, self.trailers, end_stream=True)
