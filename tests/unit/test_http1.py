"""Request heads: plain GETs, and those that are left to mitmproxy."""

from __future__ import annotations

import pytest

from proxy_cache.semantics.limits import DEFAULT_HEAD_LIMITS, HeadLimits
from proxy_cache.wire.requests import CLOSE, KEEP_ALIVE, Request, absolute_target, parse_request

PLAIN = b"GET http://packages.example/a HTTP/1.1\r\nHost: packages.example\r\nAccept: */*\r\n\r\n"


def test_a_plain_get() -> None:
    request = parse_request(PLAIN + b"GET next")
    assert isinstance(request, Request)
    assert (request.target, request.http11, request.size, request.close) == (
        "http://packages.example/a", True, len(PLAIN), False,
    )  # fmt: skip
    assert request.fields.plain
    assert request.fields.headers.fields == ((b"Accept", b"*/*"),)


@pytest.mark.parametrize("size", range(1, len(PLAIN)))
def test_every_beginning_of_it_is_waited_for(size: int) -> None:
    assert parse_request(PLAIN[:size]) is None


@pytest.mark.parametrize(
    "head",
    [
        b"POST http://a.example/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"HEAD http://a.example/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"get http://a.example/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"P",
        b"\x16\x03\x01",
        b"\r\nGET http://a.example/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://a.example/ HTTP/1.1\r\n\r\n",
        b"GET http://a.example/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET http://a.example/ HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"GET http://a.example/ HTTP/2.0\r\nHost: a\r\n\r\n",
        b"GET http://a.example/ b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://a.example/ HTTP/1.1\nHost: a\n\n",
        b"GET http://a.example/ HTTP/1.1\r\nHost: a\n\r\n",
        b"GET http://a.example/ HTTP/1.1\r\nHost: a\r\n b: folded\r\n\r\n",
        b"GET http://a.example/ HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n",
        b"GET http://a.example/ HTTP/1.1\r\nHost: a\r\nA: \0\r\n\r\n",
        b"GET http://a.example/ HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        b"GET http://a.example/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET http://a.example/ HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
        b"GET http://a.example/ HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\r\n",
        b"GET http://a.example/ HTTP/1.1\r\nHost: a\r\nConnection:\xc2\x85 close\r\n\r\n",
        b"GET http://a.example/ HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
        b"GET http://a.example/" + b"a" * DEFAULT_HEAD_LIMITS.total,
    ],
)
def test_unusual(head: bytes) -> None:
    assert parse_request(head) == "unusual"


@pytest.mark.parametrize(
    ("fields", "usual"),
    [
        (b"A:\r\n" * 99, True),
        (b"A:\r\n" * 100, False),
        (b"A: " + b"a" * 995 + b"\r\n", True),
        (b"A: " + b"a" * 996 + b"\r\n", False),
        ((b"A: " + b"a" * 393 + b"\r\n") * 4, True),
        ((b"A: " + b"a" * 395 + b"\r\n") * 5, False),
    ],
    ids=["fields", "a field too many", "a line", "a line too long", "a head", "a head too long"],
)
def test_heads_at_their_limits(fields: bytes, usual: bool) -> None:
    """A larger head is left to mitmproxy's path, and refused there."""
    limits = HeadLimits(total=2000, fields=100, line=1000)
    found = parse_request(b"GET http://a.example/ HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n", limits)
    assert isinstance(found, Request) is usual


def test_a_request_line_at_its_limit() -> None:
    limits = HeadLimits(total=2000, fields=100, line=1000)
    for length, usual in ((1000, True), (1001, False)):
        line = b"GET http://a.example/%b HTTP/1.1\r\n" % (b"a" * (length - 32))
        assert len(line) == length
        assert isinstance(parse_request(line + b"Host: a\r\n\r\n", limits), Request) is usual


@pytest.mark.parametrize(
    ("version", "connection", "close", "told"),
    [
        ("1", "", False, b""), ("0", "", True, CLOSE), ("1", "close", True, CLOSE),
        ("1", "x, Close", True, CLOSE), ("1", "keep-alive", False, b""), ("0", "keep-alive", False, KEEP_ALIVE),
        ("0", "Keep-Alive, x", False, KEEP_ALIVE), ("0", "keep-alive, close", True, CLOSE),
    ],
)  # fmt: skip
def test_whether_the_connection_ends(version: str, connection: str, close: bool, told: bytes) -> None:
    field = f"Connection: {connection}\r\n" if connection else ""
    request = parse_request(f"GET http://a.example/ HTTP/1.{version}\r\nHost: a\r\n{field}\r\n".encode())
    assert isinstance(request, Request)
    assert request.close is close
    assert request.persistence == told


@pytest.mark.parametrize(
    "field",
    ["Range: bytes=0-1,5-6", "Range: items=0-1", "If-None-Match: *", "Cache-Control: no-cache", "Pragma: no-cache"],
)
def test_not_plain(field: str) -> None:
    request = parse_request(f"GET http://a.example/ HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n".encode())
    assert isinstance(request, Request)
    assert not request.fields.plain


@pytest.mark.parametrize(
    ("field", "spec"),
    [
        ("Range: bytes=0-1", (0, 1)), ("range:\tBytes=7-  ", (7, None)), ("RANGE: bytes=-5", (None, 5)),
        ("Range: bytes=9-2", (9, 2)),  # beyond any body
    ],
)  # fmt: skip
def test_one_range_of_bytes(field: str, spec: tuple[int | None, int | None]) -> None:
    """The other lines are cached without it: they are the same for all ranges."""
    lines = f"Host: a\r\nAccept: */*\r\n{field}\r\nTE: x\r\n"
    request = parse_request(f"GET http://a.example/ HTTP/1.1\r\n{lines}\r\n".encode())
    assert isinstance(request, Request)
    assert request.range == spec
    assert request.fields.plain
    assert "range" not in request.fields.headers
    assert request.headers("via").get("range") == field.partition(":")[2].strip()
    assert request.lines == lines.encode()


@pytest.mark.parametrize(
    "fields",
    [
        "Range: bytes=-", "Range: bytes=0-1,2-3", "Range: bytes = 0-1", "Range: bytes=0-1\r\nRange: bytes=0-1",
        'Range: bytes=0-1\r\nIf-Range: "a"', 'If-None-Match: "a"\r\nRange: bytes=0-1', "If-Range: bytes=0-1",
        f"Range: bytes=0-{'9' * 19}",
    ],
)  # fmt: skip
def test_more_than_one_range_of_bytes(fields: str) -> None:
    request = parse_request(f"GET http://a.example/ HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n".encode())
    assert isinstance(request, Request)
    assert request.range is None
    assert not request.fields.plain
    assert len(request.fields.headers.fields) == fields.count("\n") + 1


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("http://A.example", "http://a.example/"),
        ("HTTP://a.example:80/b?c=d", "http://a.example/b?c=d"),
        ("http://127.0.0.1:8000/%7e", "http://127.0.0.1:8000/%7e"),
        ("https://a.example/", None),
        ("/a", None),
        ("http://user@a.example/", None),
        ("http://a.example:0/", None),
        (f"http://{'a' * 63}.example/", f"http://{'a' * 63}.example/"),
        (f"http://{'a' * 64}.example/", None),
        ("http://a-.example/", "http://a-.example/"),
        ("http://a_b.example/", "http://a_b.example/"),
        ("http://a--b.example/", "http://a--b.example/"),
        ("http://a..example/", None),
        ("http://a.example./", "http://a.example./"),
        ("http://a.example:99999/", None),
        ("http://[::1]/", "http://[::1]/"),
        ("http://XN--Bcher-kva.example/", "http://xn--bcher-kva.example/"),
        ("http://a.example/b?", "http://a.example/b?"),
        ("http://a.example/b#c", "http://a.example/b"),
        ("http://a.example//b", "http://a.example//b"),
        ("http://a.example?b", "http://a.example/?b"),
    ],
)
def test_targets(text: str, key: str | None) -> None:
    target = absolute_target(text)
    assert (target and target.key) == key
