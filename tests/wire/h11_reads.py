"""What h11 makes of bytes: the other opinion."""

from __future__ import annotations

from dataclasses import dataclass, field

import h11

LIMIT = 1 << 20
"""Bytes of a head: ours are tested by themselves."""
Field = tuple[bytes, bytes]


@dataclass
class Head:
    """``first``: method and target, or status and reason."""

    first: tuple[bytes | int, bytes]
    http11: bool
    fields: list[Field]


@dataclass
class Reading:
    """The result for one message, and for interim ones before it."""

    head: Head | None = None
    interims: list[Head] = field(default_factory=list)
    body: bytes = b""
    refused: str | None = None
    is_over: bool = False
    keep_alive: bool = False
    """Whether the connection may go on after it."""
    has_more: bool = False
    rest: bytes = b""

    @property
    def outcome(self) -> str:
        return "refused" if self.refused is not None else "over" if self.is_over else "waiting"


def response(data: bytes, *, eof: bool) -> Reading:
    """The first response to a GET. ``eof``: whether the connection ends after ``data``."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=LIMIT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "a.example")]))
    connection.send(h11.EndOfMessage())
    reading = Reading()
    if data:
        connection.receive_data(data)
    _read(connection, reading)
    if eof and reading.outcome == "waiting":
        connection.receive_data(b"")
        _read(connection, reading)
    return reading


def request(data: bytes) -> Reading:
    """The first request."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=LIMIT)
    reading = Reading()
    if data:
        connection.receive_data(data)
    _read(connection, reading)
    return reading


def chunks(data: bytes) -> Reading:
    """A chunked body alone."""
    reading = request(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
    assert reading.head is not None
    return reading


def _read(connection: h11.Connection, reading: Reading) -> None:
    try:
        while True:
            event = connection.next_event()
            if event in (h11.NEED_DATA, h11.PAUSED):
                break
            if isinstance(event, h11.Request):
                reading.head = Head((event.method, event.target), event.http_version >= b"1.1", _fields(event))
            elif isinstance(event, (h11.Response, h11.InformationalResponse)):
                head = Head((event.status_code, event.reason), event.http_version >= b"1.1", _fields(event))
                if isinstance(event, h11.Response):
                    reading.head = head
                else:
                    reading.interims.append(head)
            elif isinstance(event, h11.Data):
                reading.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                reading.is_over = True
                break
            elif isinstance(event, h11.ConnectionClosed):
                reading.refused = "closed"
                break
    except h11.RemoteProtocolError as error:
        reading.refused = str(error)
        return
    reading.keep_alive = connection.their_state is h11.DONE
    reading.rest = connection.trailing_data[0]
    reading.has_more = bool(reading.rest)


def _fields(event: h11.Request | h11.Response | h11.InformationalResponse) -> list[Field]:
    return [(bytes(name), bytes(value)) for name, value in event.headers.raw_items()]
