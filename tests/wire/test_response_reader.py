"""Responses, piece by piece and without a socket: their end, and the persistence of the connection (RFC 9112 §6)."""

from __future__ import annotations

import pytest

from proxy_cache.wire.response_reader import MAX_INTERIM, MAX_LINE_BREAKS, ResponseReader

from . import ours
from .h11_reads import Reading

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


def readings(data: bytes, *, eof: bool = False) -> list[Reading]:
    """Whole, cut in two wherever that can be, and byte by byte."""
    cuts = [[data[:at], data[at:]] for at in range(1, len(data))]
    return [
        ours.response(pieces, eof=eof) for pieces in ([data], *cuts, [data[at : at + 1] for at in range(len(data))])
    ]


@pytest.mark.parametrize(
    ("data", "body", "keep_alive"),
    [
        (OK, b"ok", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"", True),
        (b"HTTP/1.1 200 OK\nContent-Length: 4\n\n\r\n\r\n", b"\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"ok", True),
        (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"ok", False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 0\r\n\r\n", b"", True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"", False),
        (b"HTTP/1.1 204 So\r\nTransfer-Encoding: gzip\r\n\r\n", b"", False),
        (EARLY + b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"ok", True),
        (b"HTTP/1.1 103 So\r\nContent-Length: 1\r\n\r\n" + OK, b"ok", False),
        (b"HTTP/1.1 103 So\r\nno field\r\n\r\n" + OK, b"ok", False),
        (b"\r\n\n" + EARLY + b"\r\n" + OK, b"ok", True),
        (b"HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 2\r\n\r\nok", b"ok", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok", False),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok", b"ok", True),
        (b"HTTP/1.1 200 OK\r\nno field\r\nContent-Length: 2\r\n\r\nok", b"ok", False),
    ],
)
def test_where_a_response_ends(data: bytes, body: bytes, keep_alive: bool) -> None:
    for reading in readings(data):
        assert (reading.outcome, reading.body, reading.keep_alive, reading.has_more) == (
            "over",
            body,
            keep_alive,
            False,
        )
    for reading in readings(data + b"H"):
        assert (reading.body, reading.has_more) == (body, True)


@pytest.mark.parametrize("framing", [b"", b"Transfer-Encoding: identity\r\n", b"Transfer-Encoding: ,\r\n"])
def test_a_body_until_the_end_of_the_connection(framing: bytes) -> None:
    data = b"HTTP/1.1 200 OK\r\n" + framing + b"\r\nbody"
    for reading in readings(data):
        assert (reading.outcome, reading.body) == ("waiting", b"body")
    for reading in readings(data, eof=True):
        assert (reading.outcome, reading.keep_alive) == ("over", False)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n", EARLY, b"",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n",
    ],
)  # fmt: skip
def test_what_breaks_off_is_incomplete(data: bytes) -> None:
    for reading in readings(data):
        assert reading.outcome == "waiting"
    for reading in readings(data, eof=True):
        assert reading.outcome == "refused"


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n",
        b"HTTP/1.1 304 So\r\nContent-Length: 2, 3\r\n\r\n",
        b"HTTP/1.1 103 So\r\nContent-Length: 2, 3\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
    ],
)
def test_what_leaves_a_question_open_is_refused(data: bytes) -> None:
    for reading in readings(data + OK):
        assert reading.refused is not None


def test_interim_responses_are_counted_anew_for_each_response() -> None:
    reader = ResponseReader()
    for _ in range(3):
        data = EARLY * MAX_INTERIM + b"\r\n" * (MAX_LINE_BREAKS // 2) + b"HTTP/1.1 304 So\r\n\r\n"
        statuses = []
        while not statuses or statuses[-1] < 200:
            head = reader.head(data)
            assert head is not None
            statuses.append(head.status)
            data = b""
        assert statuses == [103] * MAX_INTERIM + [304]
        assert reader.is_over
        assert reader.keep_alive


def test_bytes_that_are_taken_past_the_reader() -> None:
    """As a splice does."""
    reader = ResponseReader()
    assert reader.head(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab") is not None
    held, reader.held = reader.held, b""
    assert reader.body(held) == b"ab"
    assert reader.left == 7
    reader.left -= 5
    assert reader.body(b"yz") == b"yz"
    assert reader.is_over
