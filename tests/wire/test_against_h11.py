"""Two opinions on the same bytes: h11's and ours (see :mod:`.differential`, which also runs by itself, for longer)."""

from __future__ import annotations

import re

import pytest
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.test import taddons

from tests.support import forwarding
from tests.support.examples import examples

from . import h11_reads, messages, ours
from .differential import (
    DIRECTIONS,
    check_chunks,
    check_response,
    run,
    why_stricter,
    why_stricter_chunks,
)

EXAMPLES = {"requests that are forwarded": 250, "responses on both ways": 500}
"""In each direction, 1000 by default. The path through mitmproxy's layers is slow."""
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_same_bytes_mean_the_same(direction: str) -> None:
    run(direction, examples(EXAMPLES.get(direction, 1000)))


@pytest.mark.parametrize(
    ("section", "data"),
    [
        ("RFC 9112 §2.2: line breaks before a head, which some servers send", b"\r\n" + OK + b"\r\n"),
        ("RFC 9112 §2.2: white space before the first field", OK + b" folded: a\r\n\r\n"),
        ("RFC 9112 §5.1: white space before a colon", OK + b"A : b\r\n\r\n"),
        ("RFC 9110 §5.5: NUL and CR are replaced", OK + b"A: b\0c\rd\r\n\r\n"),
        ("RFC 9110 §5.5: other control characters may stay", OK + b"A: \x0b\r\n\r\n"),
        ("no standard: lines that are no fields are skipped (semantics/field_lines.py)", OK + b"no field\r\n\r\n"),
        ("RFC 9110 §5.6.1: empty elements of a list", OK + b"Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n"),
        ("RFC 9112 §7: identity is no coding", OK + b"Transfer-Encoding: identity\r\n\r\n"),
        ("RFC 9110 §8.6: any number of digits", OK + b"Content-Length: " + b"0" * 30 + b"2\r\n\r\nok"),
        ("RFC 9112 §6.3: 304 ends with its head", b"HTTP/1.1 304 So\r\nTransfer-Encoding: gzip\r\n\r\n"),
    ],
)
def test_what_we_take_and_h11_does_not(section: str, data: bytes) -> None:
    """Deliberate differences still exist, and are handled as their section says."""
    theirs = h11_reads.response(data, eof=True)
    if b"0" * 30 in data and theirs.refused is None:
        pytest.skip("h11 before 0.16 takes any number of digits")
    assert theirs.refused is not None
    assert ours.response([data], eof=True).refused is None
    check_response(data, b"", True)


@pytest.mark.parametrize(
    ("section", "data"),
    [
        ("RFC 9110 §2.5: HTTP/2.0 on this connection", b"HTTP/2.0 200 OK\r\n\r\n"),
        ("RFC 9112 §4: control characters in a reason phrase", b"HTTP/1.1 200 O\x01K\r\n\r\n"),
        (
            "RFC 9112 §6.3: a length and a coding",
            OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        ("RFC 9110 §8.6: a length of more than 64 bits", OK + b"Content-Length: " + b"9" * 19 + b"\r\n\r\n"),
        ("RFC 9112 §7.1.1: control characters", OK + b"Transfer-Encoding: chunked\r\n\r\n1;\x01\r\na\r\n0\r\n\r\n"),
        ("RFC 9112 §5.2: folded trailers", OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n c\r\n\r\n"),
    ],
)
def test_what_h11_takes_and_we_do_not(section: str, data: bytes) -> None:
    assert ours.response([data], eof=True).refused is not None
    theirs = h11_reads.response(data, eof=False)
    assert theirs.refused is None
    assert why_stricter(data, theirs)
    check_response(data, b"", False)


@pytest.mark.parametrize(
    ("section", "data", "of_response"),
    [
        ("RFC 9112 §2.2: bare LF from clients", b"0\r\nA: b\n\n", False),
        ("RFC 9110 §5.5: control characters from clients", b"0\r\nA: \x01\r\n\r\n", False),
        ("RFC 9112 §7.1: sizes beyond 64 bits", b"f" * 16 + b"\r\n", True),
    ],
)
def test_chunks_that_h11_takes_and_we_do_not(section: str, data: bytes, of_response: bool) -> None:
    assert ours.chunks([data], of_response=of_response).outcome != "over"
    assert h11_reads.chunks(data).refused is None
    assert why_stricter_chunks(data, of_response=of_response)
    check_chunks(data, b"", of_response)


@pytest.mark.parametrize(
    ("section", "data", "of_response"),
    [
        ("RFC 9112 §7.1: any number of digits", b"0" * 30 + b"1\r\na\r\n0\r\n\r\n", False),
        ("RFC 9112 §7.1.1: bad white space", b"1 ;a=b\r\na\r\n0\r\n\r\n", False),
        ("RFC 9110 §6.5.1: no framing in trailers", b"0\r\nTransfer-Encoding: gzip\r\n\r\n", False),
        ("RFC 9112 §5.1: white space before a colon", b"0\r\nA : b\r\n\r\n", True),
    ],
)
def test_chunks_that_we_take_and_h11_does_not(section: str, data: bytes, of_response: bool) -> None:
    assert h11_reads.chunks(data).refused is not None
    assert ours.chunks([data], of_response=of_response).outcome == "over"
    check_chunks(data, b"", of_response)


def test_a_reader_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search does find bugs: a decoder that accepts a bare LF after the line before a chunk, say."""
    real = ours.ChunkDecoder.feed

    def lenient(decoder: ours.ChunkDecoder, data: bytes) -> bytes:
        return real(decoder, re.sub(rb"(?<!\r)\n", b"\r\n", data))

    monkeypatch.setattr(ours.ChunkDecoder, "feed", lenient)
    with pytest.raises(AssertionError):
        run("chunks", 2000)


def test_valid_requests_arrive() -> None:
    """What is forwarded is compared where it arrives; so it has to."""
    with taddons.context(Proxyserver()) as tctx:
        for method in range(4):
            data = messages.forwarded_requests(messages.Choices(bytes([method])))
            outcome = forwarding.forwarded(tctx.options, [data])
            assert [request.method for request in outcome.origins] == [data.split(b" ")[0]]
