"""Chunked bodies (RFC 9112 §7.1), however they are cut: of requests, and of responses on every way alike."""

from __future__ import annotations

import pytest

from proxy_cache.semantics.limits import HeadLimits
from proxy_cache.wire.chunks import REQUEST_CHUNK_LINE_MAX, RESPONSE_CHUNK_LINE_MAX, ChunkDecoder, ChunkError

from .h11_reads import Reading
from .ours import chunks

LIMITS = HeadLimits(total=2000, fields=10, line=1000)


def readings(data: bytes, *, of_response: bool) -> list[Reading]:
    """Whole, cut in two wherever that can be, and byte by byte."""
    cuts = [[data[:at], data[at:]] for at in range(1, len(data))]
    return [
        chunks(pieces, of_response=of_response, limits=LIMITS)
        for pieces in ([data], *cuts, [data[at : at + 1] for at in range(len(data))])
    ]


@pytest.mark.parametrize("of_response", [False, True])
@pytest.mark.parametrize(
    ("data", "body"),
    [
        (b"0\r\n\r\n", b""),
        (b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n", b"abc0123456789"),
        (b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n"),
        (b"1 \r\na\r\n000\r\nX: trailer\r\nY:\r\n\r\n", b"a"),
        (b'1;a="b;c"\t\r\na\r\n0;last\r\n\r\n', b"a"),
        (b"0" * 30 + b"2\r\nok\r\n" + b"0" * 30 + b"\r\n\r\n", b"ok"),
    ],
)
def test_where_a_body_ends(data: bytes, body: bytes, of_response: bool) -> None:
    for reading in readings(data + b"next", of_response=of_response):
        assert (reading.outcome, reading.body, reading.rest) == ("over", body, b"next")


@pytest.mark.parametrize("of_response", [False, True])
@pytest.mark.parametrize(
    "data",
    [
        b"3\r\nabcXX0\r\n\r\n", b"3\r\nabcd\r\n0\r\n\r\n", b"3\nabc\r\n0\r\n\r\n", b"3\r\nabc\n0\r\n\r\n",
        b"3\r\nabc\r\n0\n\r\n",
        b"-1\r\n\r\n", b"+1\r\na\r\n", b"0x1\r\na\r\n", b" 1\r\na\r\n", b"\r\n\r\n", b";x\r\n\r\n",
        b"1_0\r\n", b"1\r\r\na\r\n",
        b"fffffffffffffffff\r\n", b"3;a\rb\r\nabc\r\n0\r\n\r\n", b"3;a\0b\r\nabc\r\n", b"3;a\nb\r\nabc\r\n",
        b"0\r\nA\r\n\r\n", b"0\r\nA: b\0\r\n\r\n", b"0\r\nA: b\rc\r\n\r\n", b"0\r\nA: b\r\n folded\r\n\r\n",
        b"0\r\n: a\r\n\r\n",
        b"0\r\nHTTP/1.1 200 OK\r\n\r\n", b"1\r\na\r\n0\r\n\r",
    ],
)  # fmt: skip
def test_chunks_that_are_none(data: bytes, of_response: bool) -> None:
    """RFC 9112 §2.2 lets a bare LF end "the start-line and fields", and a chunk is neither."""
    for reading in readings(data, of_response=of_response):
        assert not reading.is_over
        assert reading.refused is not None or data.endswith(b"\r\n\r")  # which is the beginning of the end


@pytest.mark.parametrize("trailers", [b"A : b\r\n\r\n", b"A: b\n\n", b"\n", b"A: b\r\n\n", b"A: \x0b\r\n\r\n"])
def test_trailers_of_responses_are_read_as_their_heads_are(trailers: bytes) -> None:
    """RFC 9112 §2.2, §5.1. Clients get an error (§5.1: 400)."""
    for reading in readings(b"0\r\n" + trailers, of_response=True):
        assert (reading.outcome, reading.rest) == ("over", b"")
    for reading in readings(b"0\r\n" + trailers, of_response=False):
        assert reading.outcome != "over"


def test_what_is_wrong_is_told_at_once() -> None:
    """And not when a line's end has come, which it need not."""
    assert chunks([b"3\r\nabcX"], of_response=True).refused is not None
    assert chunks([b"3\r\nabc\rX"], of_response=True).refused is not None


@pytest.mark.parametrize(("of_response", "longest"), [(False, REQUEST_CHUNK_LINE_MAX), (True, RESPONSE_CHUNK_LINE_MAX)])
def test_a_line_before_a_chunk_at_its_limit(of_response: bool, longest: int) -> None:
    line = b"2;" + b"x" * (longest - 4) + b"\r\n"
    assert chunks([line, b"ok\r\n0\r\n\r\n"], of_response=of_response).body == b"ok"
    assert chunks([b"2;x" + line[2:]], of_response=of_response).refused is not None
    assert chunks([b"2;" + b"x" * longest], of_response=of_response).refused is not None


@pytest.mark.parametrize(
    ("trailers", "error"),
    [
        (b"A:\r\n" * 10, None),
        (b"A:\r\n" * 11, "http_response_trailer_section_size"),
        (b"A: " + b"b" * 995 + b"\r\n", None),
        (b"A: " + b"b" * 996 + b"\r\n", "http_response_trailer_size"),
        (b"A: " + b"b" * 998, "http_response_trailer_size"),
        ((b"A: " + b"b" * 500 + b"\r\n") * 4, "http_response_trailer_section_size"),
    ],
    ids=["fields", "a field too many", "a line", "a line too long", "one that doesn't end", "too long"],
)
@pytest.mark.parametrize("of_response", [False, True])
def test_trailers_at_their_limits(trailers: bytes, error: str | None, of_response: bool) -> None:
    """The same as those of heads, for clients too."""
    decoder = ChunkDecoder(LIMITS, of_response=of_response)
    if error is None:
        assert decoder.feed(b"1\r\na\r\n0\r\n" + trailers + b"\r\n") == b"a"
        assert decoder.is_over
    else:
        with pytest.raises(ChunkError) as raised:
            decoder.feed(b"0\r\n" + trailers)
        assert raised.value.error == error


def test_small_chunks_are_one_piece() -> None:
    decoder = ChunkDecoder(LIMITS, of_response=True)
    assert decoder.feed(b"1\r\na\r\n" * 1000 + b"2;x=y\r\nbc\r\n0\r\nA: b\r\n\r\nrest") == b"a" * 1000 + b"bc"
    assert (decoder.is_over, decoder.rest) == (True, b"rest")
