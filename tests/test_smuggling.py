"""What is forwarded is what was meant: nobody gets another request, or another response, past the proxy in one."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import h11
import pytest
from h11._receivebuffer import ReceiveBuffer
from mitmproxy import http
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.proxy.layers.http import HTTPMode
from mitmproxy.test import taddons

from proxy_cache.mitm.forwarded import heads as forwarded_heads
from proxy_cache.mitm.forwarded.chunk_reader import ChunkReader
from proxy_cache.semantics.limits import HeadLimits
from proxy_cache.semantics.texts import brief
from proxy_cache.wire import outgoing
from proxy_cache.wire.chunks import REQUEST_CHUNK_LINE_MAX
from proxy_cache.wire.head_checks import why_malformed, why_malformed_request
from proxy_cache.wire.outgoing import Mismatch
from tests.support import forwarding
from tests.support.agents import Wire
from tests.support.http2 import Http2, pseudo
from tests.support.origin import PATIENCE, Origin, Reply
from tests.support.proxy import Proxy
from tests.support.scripted import OK, Scripted, asks


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    with Scripted() as running:
        yield running


# -- the origin gets the request that the key names --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "status"), [("HTTP/2.0", 505), ("HTTP/1.2", 505), ("HTTP/0.9", 505), ("HTTP/3", 400), ("http/1.1", 400)]
)
@pytest.mark.parametrize("method", ["HEAD", "POST", "GET"])
def test_a_version_that_the_connection_does_not_speak(
    proxy: Proxy, scripted: Scripted, method: str, version: str, status: int
) -> None:
    with Wire(proxy.address) as wire:
        wire.send(f"{method} {scripted.url} {version}\r\nHost: evil.example\r\nContent-Length: 0\r\n\r\n")
        assert wire.head()[0] == status
    assert scripted.heads == []


def test_another_vhost_cannot_change_what_is_stored(proxy: Proxy, origin: Origin) -> None:
    url = origin.serve("/pkg", Reply(headers=(("Cache-Control", "max-age=600"), ("X-Of", "victim"))))
    assert proxy.get(url).ok
    for method in ("HEAD", "POST"):
        with Wire(proxy.address) as wire:
            wire.send(f"{method} {url} HTTP/2.0\r\nHost: evil.example\r\nCache-Control: no-cache\r\n\r\n")
            wire.head()
    assert proxy.get(url).hit
    assert origin.count("/pkg") == 1


def test_an_absolute_target_does_not_choose_the_host_in_reverse_mode(
    start_proxy: Callable[..., Proxy], scripted: Scripted
) -> None:
    proxy = start_proxy(mode=f"reverse:http://{scripted.netloc}")
    with Wire(proxy.address) as wire:
        wire.send("POST http://evil.example/x HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 0\r\n\r\n")
        assert wire.response().status == 200
    assert scripted.heads[0].split("\r\n")[0] == "POST /x HTTP/1.1"
    assert scripted.fields("Host") == [scripted.netloc]


def test_under_another_host_that_is_kept_nothing_stored_changes(
    start_proxy: Callable[..., Proxy], scripted: Scripted
) -> None:
    """keep_host_header: HEAD and POST under a name of the client's choice say nothing about what GETs have stored."""
    proxy = start_proxy(mode=f"reverse:http://{scripted.netloc}", keep_host_header=True)
    scripted.answers = [OK.replace("\r\n\r\n", '\r\nCache-Control: max-age=600\r\nETag: "a"\r\n\r\n')]
    with Wire(proxy.address) as wire:
        wire.send(f"GET /x HTTP/1.1\r\nHost: {scripted.netloc}\r\n\r\n")
        assert wire.response().status == 200
    proxy.wait_until_idle()
    evil = 'HTTP/1.1 200 OK\r\nX-Evil: 1\r\nCache-Control: max-age=9\r\nETag: "a"\r\nContent-Length: 5\r\n\r\n'
    scripted.answers = [evil]
    with Wire(proxy.address) as wire:
        wire.send("HEAD /x HTTP/1.1\r\nHost: evil.example\r\nCache-Control: no-cache\r\n\r\n")
        assert wire.head()[0] == 200
    scripted.answers = [OK]
    with Wire(proxy.address) as wire:
        wire.send("POST /x HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 0\r\n\r\n")
        assert wire.response().status == 200
    with Wire(proxy.address) as wire:
        wire.send(f"GET /x HTTP/1.1\r\nHost: {scripted.netloc}\r\n\r\n")
        response = wire.response()
    assert response.hit
    assert response.header("X-Evil") is None


def request(**changed: object) -> http.Request:
    made = http.Request(
        "a.example", 80, b"POST", b"http", b"", b"/x", b"HTTP/1.1", http.Headers([(b"Host", b"b.example")]), b"", None,
        0.0, 0.0,
    )  # fmt: skip
    for name, value in changed.items():
        setattr(made.data, name, value)
    return made


@pytest.mark.parametrize(
    "changed",
    [
        {"path": b"/x HTTP/1.1\r\nEvil: 1"},
        {"method": b"POST /y"},
        {"headers": http.Headers([(b"A", b"b\r\nC: d")])},
        {"headers": http.Headers([(b"A\r\nB", b"c")])},
        {"headers": http.Headers([(b"Content-Length", b"1"), (b"Transfer-Encoding", b"chunked")])},
        {"headers": http.Headers([(b"Content-Length", b"1"), (b"Content-Length", b"2")])},
    ],
)
@pytest.mark.parametrize("mode", list(HTTPMode))
def test_what_is_not_meant_never_leaves(changed: dict[str, object], mode: HTTPMode) -> None:
    """The one assertion in front of every connection to an origin."""
    with pytest.raises(Mismatch):
        forwarded_heads.for_origin(request(**changed), "via", to_parent=mode is HTTPMode.upstream, binary=False)


@pytest.mark.parametrize("mode", list(HTTPMode))
def test_what_leaves_is_made_from_the_target(mode: HTTPMode) -> None:
    came = request(authority=b"evil.example", http_version=b"HTTP/2.0", path=b"/x#evil")
    left = forwarded_heads.for_origin(came, "via", to_parent=mode is HTTPMode.upstream, binary=False)
    assert left.headers.get_all("host") == ["a.example"]
    assert left.http_version == "HTTP/1.1"
    assert left.path == "/x"
    assert left.authority == ("a.example" if mode is HTTPMode.upstream else "")
    assert (
        forwarded_heads.for_origin(came, "via", to_parent=mode is HTTPMode.upstream, binary=True).authority
        == "a.example"
    )


def test_a_body_of_http2_has_a_length_in_http1() -> None:
    """No field need say over HTTP/2 that there is one: the origin would take it for its next request."""
    came = request(http_version=b"HTTP/2.0")
    assert "transfer-encoding" not in forwarded_heads.for_origin(came, "v", to_parent=False, binary=False).headers
    left = forwarded_heads.for_origin(came, "v", to_parent=False, binary=False, has_body=True)
    assert left.headers["Transfer-Encoding"] == "chunked"


# -- heads that others would read otherwise ----------------------------------------------------------------------------

ODD = [
    "X: a\rTransfer-Encoding: chunked", "X: a\0b", "X: a\rb", "X: a\r\n b", "X: a\x1bb", " X: a", "X : a", "X", ": a",
    "X\0: a", "Transfer-Encoding: gzip, chunked", "Content-Length: 99999999999999999999999",
]  # fmt: skip


@pytest.mark.parametrize("field", ODD)
@pytest.mark.parametrize("method", ["POST", "GET", "HEAD", "OPTIONS"])
def test_a_field_that_is_none(proxy: Proxy, scripted: Scripted, method: str, field: str) -> None:
    with Wire(proxy.address) as wire:
        wire.send(f"{method} {scripted.url} HTTP/1.1\r\nHost: {scripted.netloc}\r\n{field}\r\n\r\n")
        response = wire.head()
        assert response[0] == (501 if "gzip" in field else 400)
        assert dict(response[1])["Connection"] == "close"
    assert scripted.heads == []


@pytest.mark.parametrize("line", ["G\x1b[31mET {} HTTP/1.1", "POST {}\0 HTTP/1.1", "POST\t{} HTTP/1.1", "POST {}"])
def test_a_request_line_that_is_none(proxy: Proxy, scripted: Scripted, line: str) -> None:
    with Wire(proxy.address) as wire:
        wire.send(f"{line.format(scripted.url)}\r\nHost: {scripted.netloc}\r\n\r\n")
        assert wire.response().status == 400
    assert scripted.heads == []


@pytest.mark.parametrize("method", ["get", "head", "connect", "Post"])
def test_methods_are_case_sensitive(proxy: Proxy, scripted: Scripted, method: str) -> None:
    with Wire(proxy.address) as wire:
        wire.send(f"{method} {scripted.url} HTTP/1.1\r\nHost: {scripted.netloc}\r\n\r\n")
        assert wire.head()[0] == 501
    assert scripted.heads == []


@pytest.mark.parametrize("method", ["POST", "HEAD", "GET"])
def test_responses_are_mended(proxy: Proxy, scripted: Scripted, method: str) -> None:
    """RFC 9110 §5.5 and RFC 9112 §5: CR, NUL and folds become spaces, and what is before a colon goes."""
    lines = ["A: b\rTransfer-Encoding: chunked", "B: c\0d", "C: d", "\t e", "D : f", "Content-Length: 5", "", ""]
    odd = "\r\n".join(["HTTP/1.1 200 OK", *lines])
    if method == "GET":
        odd = odd.replace("\rTransfer", " Transfer")  # a fill has its own parser
    scripted.answers = [odd + ("" if method == "HEAD" else "final")]
    with Wire(proxy.address) as wire:
        wire.send(asks(scripted, method))
        raw = wire.until(b"\r\n\r\n")
    assert raw.count(b"\r") == raw.count(b"\r\n") == raw.count(b"\n")
    assert b"\0" not in raw
    assert b"\r\n " not in raw and b"\r\n\t" not in raw  # noqa: PT018
    for field in (b"\r\nA: b Transfer-Encoding: chunked\r\n", b"\r\nB: c d\r\n", b"\r\nC: d e\r\n", b"\r\nD: f\r\n"):
        assert field in raw


@pytest.mark.parametrize(
    "line",
    ["HTTP/2.0 200 OK", "HTTP/1.1 +200 OK", "HTTP/1.1 20 OK", "HTTP/1.1 1000 OK", "HTTP/1.1 099 OK", "ICY 200 OK"],
)
@pytest.mark.parametrize("method", ["POST", "HEAD"])
def test_a_status_line_that_is_none(proxy: Proxy, scripted: Scripted, method: str, line: str) -> None:
    scripted.answers = [f"{line}\r\nContent-Length: 0\r\n\r\n<close>"]
    with Wire(proxy.address) as wire:
        wire.send(asks(scripted, method))
        status, headers = wire.head()
    assert status == 502
    assert "http_protocol_error" in dict(headers)["Proxy-Status"]


def test_101_without_an_upgrade(proxy: Proxy, scripted: Scripted) -> None:
    scripted.answers = ["HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"]
    with Wire(proxy.address) as wire:
        wire.send(asks(scripted))
        assert wire.response().status == 502


@pytest.mark.parametrize(
    ("upgrade", "left"), [("H2C", []), ("h2c, foo", ["foo"]), ("h2c/1", []), ("foo", ["foo"]), ("x, H2c", ["x"])]
)
def test_http2_over_plain_tcp_is_not_negotiated(
    proxy: Proxy, scripted: Scripted, upgrade: str, left: list[str]
) -> None:
    with Wire(proxy.address) as wire:
        wire.send(
            asks(scripted, "GET", "Connection: Upgrade, HTTP2-Settings", f"Upgrade: {upgrade}", "HTTP2-Settings: AAMA")
        )
        assert wire.response().status == 200
    assert scripted.fields("Upgrade") == left
    assert scripted.fields("HTTP2-Settings") == []


# -- HTTP/2 (CVE-2025-57804) -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [("method", b"GET / HTTP/1.1\r\nA"), ("method", b"head"), ("path", b"/\r\nA: b"), ("path", b"/ b"), ("path", b"x"),
     ("authority", b"a\r\nB: c"), ("authority", b"u@a"), ("scheme", b"http\r\n")],
)  # fmt: skip
def test_pseudo_header_fields_that_are_none(name: str, value: bytes) -> None:
    usual = {"method": b"GET", "scheme": b"https", "authority": b"a.example", "path": b"/"}
    assert why_malformed_request(**usual, fields=()) is None
    assert why_malformed_request(**{**usual, name: value}, fields=()) is not None


@pytest.mark.parametrize("field", [(b"a", b"b\r\nc: d"), (b"a\r\nb", b"c"), (b"a", b"\0"), (b"a:", b"b"), (b"", b"b")])
def test_fields_of_http2_that_are_none(field: tuple[bytes, bytes]) -> None:
    assert why_malformed([(b"a", b"b\xff\t")]) is None
    assert why_malformed([field]) is not None


def test_http2_in_front_of_http1(start_proxy: Callable[..., Proxy], scripted: Scripted) -> None:
    """What cannot be said in HTTP/1 is refused, and a body has its length."""
    proxy = start_proxy(mode=f"reverse:http://{scripted.netloc}")
    for fields, expected in (
        (pseudo(path=b"/x HTTP/1.1\r\nEvil: 1\r\n\r\nGET /y"), (400, 0)),
        (pseudo(authority=b"a\r\nEvil: 1"), (400, 0)),
        (pseudo(method=b"PO ST"), (400, 0)),
        ([*pseudo(), (b"a", b"b\r\nEvil: 1")], (400, 0)),
        ([*pseudo(), (b"a\r\nevil", b"1")], (400, 0)),
        ([*pseudo(), *[(b"a", b"b")] * 400], (431, 0)),
        ([*pseudo(), (b"a", b"b" * 100_000)], (431, 0)),
    ):
        client = Http2(proxy.address)
        assert client.ask(fields) in expected
        client.socket.close()
    assert scripted.heads == []
    client = Http2(proxy.address)
    assert client.ask(pseudo(authority=b"evil.example"), b"GET /smuggled HTTP/1.1\r\n\r\n") == 200
    client.socket.close()
    assert scripted.bodies == [b"GET /smuggled HTTP/1.1\r\n\r\n"]
    assert scripted.fields("Transfer-Encoding") == ["chunked"]
    assert scripted.fields("Host") == [scripted.netloc]


# -- chunks (CVE-2025-43859) -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    ["3\r\nabcXX0\r\n\r\n", "3\nabc\n0\n\n", "3\r\nabc\n0\r\n\r\n", "-1\r\n", "0x3\r\nabc\r\n", " 3\r\nabc\r\n",
     "fffffffffffffffff\r\n", "3;a\rb\r\nabc\r\n0\r\n\r\n", "0\r\nA\r\n\r\n", "0\r\nA: b\0\r\n\r\n", "\r\n",
     "3;" + "a" * 5000],
)  # fmt: skip
def test_chunks_that_are_none(proxy: Proxy, scripted: Scripted, body: str) -> None:
    with Wire(proxy.address) as wire:
        wire.send(
            f"POST {scripted.url} HTTP/1.1\r\nHost: {scripted.netloc}\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
        )
        assert wire.response().status == 400
    proxy.wait_until_idle()
    assert scripted.bodies == []


def test_chunks_of_an_origin_that_are_none(proxy: Proxy, scripted: Scripted) -> None:
    scripted.answers = ["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcXX3\r\nabc\r\n0\r\n\r\n"]
    with Wire(proxy.address) as wire:
        wire.send(asks(scripted))
        assert wire.head()[0] == 200
        assert not wire.rest().endswith(b"0\r\n\r\n")


def test_many_small_chunks_are_one_piece_however_they_are_cut() -> None:
    coded = b"1\r\na\r\n" * 1000 + b"2;x=y\r\nbc\r\n0\r\nA: b\r\n\r\nrest"
    for step in (1, 2, 7, len(coded)):
        reader, buffer, got = ChunkReader(HeadLimits(), of_response=False), ReceiveBuffer(), []
        for start in range(0, len(coded), step):
            buffer += coded[start : start + step]
            while isinstance(event := reader(buffer), h11.Data):
                got.append(bytes(event.data))
            if isinstance(event, h11.EndOfMessage):
                buffer += coded[start + step :]
                break
        assert b"".join(got) == b"a" * 1000 + b"bc"
        assert bytes(buffer) == b"rest"
        assert len(got) < 2 or step != len(coded)


def test_a_line_before_a_chunk_is_not_kept_for_ever() -> None:
    reader, buffer = ChunkReader(HeadLimits(), of_response=False), ReceiveBuffer()
    buffer += b"5;" + b"a" * REQUEST_CHUNK_LINE_MAX
    with pytest.raises(h11.ProtocolError):
        reader(buffer)


# -- empty lines (RFC 9112 §2.2) ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", ["\r\n", "\r\n\r\n", "\n"])
def test_empty_lines_before_a_request(proxy: Proxy, origin: Origin, before: str) -> None:
    url = origin.serve("/a", Reply(headers=(("Cache-Control", "max-age=600"),)))
    get = f"GET {url} HTTP/1.1\r\nHost: {origin.netloc}\r\n\r\n"
    post = f"POST {url}x HTTP/1.1\r\nHost: {origin.netloc}\r\nContent-Length: 3\r\n\r\nabc"
    with Wire(proxy.address) as wire:
        wire.send(before + get)
        assert wire.response().status == 200
        wire.send(post + before + get)
        assert [wire.response().status for _ in range(2)] == [200, 200]
        wire.send(post)
        assert wire.response().status == 200
        for char in before:
            wire.send(char)
        wire.send(get)
        assert wire.response().hit


def test_nothing_but_empty_lines(proxy: Proxy) -> None:
    with Wire(proxy.address) as wire:
        wire.send("\r\n" * 20_000)
        assert wire.response().status == 400


# -- limits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("POST http://a.example/" + "x" * 20_000, 414),
        ("POST http://a.example/ HTTP/1.1\r\nA: " + "x" * 20_000 + "\r\n\r\n", 431),
        ("POST http://a.example/ HTTP/1.1\r\n" + "A: x\r\n" * 300 + "\r\n", 431),
        ("POST http://a.example/ HTTP/1.1\r\n" + f"A: {'x' * 900}\r\n" * 100, 431),
        ("POST http://a.example/ HTTP/1.1\r\nA: " + "x" * 100_000, 431),
    ],
)
def test_a_request_with_a_head_that_is_too_large(proxy: Proxy, head: str, status: int) -> None:
    with Wire(proxy.address) as wire:
        wire.send(head)
        response = wire.response()
    assert response.status == status
    assert response.header("Connection") == "close"
    assert "more than" in (response.header("Proxy-Status") or "")


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ("A: " + "x" * 20_000 + "\r\n", "http_response_header_size"),
        ("A: x\r\n" * 300, "http_response_header_section_size"),
        (f"A: {'x' * 900}\r\n" * 100, "http_response_header_section_size"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "HEAD"])
def test_a_response_with_a_head_that_is_too_large(
    proxy: Proxy, scripted: Scripted, method: str, fields: str, error: str
) -> None:
    scripted.answers = [f"HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n"]
    with Wire(proxy.address) as wire:
        wire.send(asks(scripted, method))
        status, headers = wire.head()
    assert status == 502
    assert error in dict(headers)["Proxy-Status"]


@pytest.mark.parametrize("method", ["POST", "HEAD"])
def test_garbage_of_an_origin_is_quoted_in_short(proxy: Proxy, scripted: Scripted, method: str) -> None:
    scripted.answers = ["g\x1b[31m" * 50_000]
    with Wire(proxy.address) as wire:
        wire.send(asks(scripted, method))
        head = wire.until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 502 ")
    assert len(head) < 1000
    proxy.wait_until_idle()
    assert max(map(len, proxy.log)) < 1000
    assert "\x1b" not in proxy.text()


def test_brief_texts() -> None:
    assert brief("a fault") == "a fault"
    assert brief("a\r\nb\0c\x1b") == "a??b?c?"
    assert len(brief("x" * 10_000_000)) < 210


# -- what nobody reads is not kept -------------------------------------------------------------------------------------

MUCH = 64 * 1024 * 1024
KEPT = 24 * 1024 * 1024
"""Bytes that the proxy may grow by, of those."""


def pushed(proxy: Proxy, head: str, *, unit: bytes = b"x" * (1 << 20)) -> tuple[int, bytes]:
    """How much a client can push behind a head, and what it is told."""
    sent = 0
    with Wire(proxy.address) as wire:
        wire.socket.settimeout(2)
        wire.send(head)
        try:
            while sent < MUCH:
                wire.socket.sendall(unit)
                sent += len(unit)
        except OSError:
            pass
        wire.socket.settimeout(10)
        try:
            told = wire.socket.recv(65536)
        except OSError:
            told = b""
        proxy_memory.append(proxy.anonymous_memory())
    return sent, told


proxy_memory: list[int] = []


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ("OPTIONS {url} HTTP/1.1\r\nHost: x\r\nMax-Forwards: 0\r\nContent-Length: 9999999999\r\n\r\n", b" 200 "),
        ("TRACE {url} HTTP/1.1\r\nHost: x\r\nMax-Forwards: 0\r\nContent-Length: 9999999999\r\n\r\n", b" 200 "),
        ("POST {url} HTTP/1.1\r\nHost: x\r\nVia: 1.1 {via}\r\nContent-Length: 9999999999\r\n\r\n", b" 502 "),
        ("POST http://127.0.0.1:1/ HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n", b" 502 "),
        ("POST {url} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;", b" 400 "),
        ("POST {url} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ", b" 400 "),
        ("POST {url} HTTP/1.1\r\nX: ", b" 431 "),
        ("POST {url}", b" 414 "),
    ],
)
def test_what_is_sent_for_nobody_is_not_kept(proxy: Proxy, scripted: Scripted, lines: str, status: bytes) -> None:
    with Wire(proxy.address) as wire:
        wire.send(asks(scripted))
        via = (wire.response().header("Via") or "").split()[-1]
    before = proxy.anonymous_memory()
    _, told = pushed(proxy, lines.format(url=scripted.url, via=via))
    assert status in told
    assert proxy_memory[-1] - before < KEPT
    proxy.wait_until_idle()


def test_a_small_body_that_nobody_reads_leaves_the_connection_open(proxy: Proxy, scripted: Scripted) -> None:
    with Wire(proxy.address) as wire:
        for _ in range(2):
            wire.send(
                f"OPTIONS {scripted.url} HTTP/1.1\r\nHost: x\r\nMax-Forwards: 0\r\nContent-Length: 5\r\n\r\nhello"
            )
            assert wire.response().status == 200
        wire.send(asks(scripted))
        assert wire.response().body == b"final"


def test_what_waits_behind_a_request_is_bounded(proxy: Proxy, scripted: Scripted) -> None:
    """And is answered in its turn when the first one has been."""
    released = threading.Event()

    class Slow(Scripted):
        def read_head(self, stream: object) -> str:
            head = Scripted.read_head(stream)
            if head:
                released.wait(60)
            return head

    with Slow() as slow:
        before = proxy.anonymous_memory()
        sent = 0
        with Wire(proxy.address) as wire:
            wire.send(asks(slow))
            slow_one = asks(slow)
            wire.socket.settimeout(2)
            try:
                while sent < MUCH:
                    wire.socket.sendall((slow_one * 1000).encode())
                    sent += len(slow_one) * 1000
            except TimeoutError:
                pass
            assert sent < MUCH
            assert proxy.anonymous_memory() - before < KEPT
            released.set()
            wire.socket.settimeout(60)
            assert [wire.response().status for _ in range(20)] == [200] * 20


def test_bytes_for_a_tunnel_that_is_being_dialled_wait(proxy: Proxy) -> None:
    """A backlog that is full keeps us dialling."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(address)
            fillers.append(filler)
        before = proxy.anonymous_memory()
        sent, _ = pushed(proxy, f"CONNECT {address[0]}:{address[1]} HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sent < MUCH
        assert proxy_memory[-1] - before < KEPT
        for filler in fillers:
            filler.close()
    proxy.wait_until_idle()


@pytest.mark.parametrize("reads", ["client", "nobody"])
def test_neither_side_is_read_faster_than_the_other_reads(proxy: Proxy, reads: str) -> None:
    """An upload to an origin that reads nothing, and a response to a client that reads nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ended = threading.Event()

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                if reads == "nobody":
                    connection.settimeout(3)
                    with contextlib.suppress(OSError):
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n" + b"x" * MUCH)
                        reached.append(MUCH)
                ended.wait(60)

        reached: list[int] = []
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        before = proxy.anonymous_memory()
        if reads == "client":
            sent, _ = pushed(proxy, f"POST {url} HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n")
            assert sent < MUCH
        else:
            with Wire(proxy.address) as wire:
                wire.send(f"POST {url} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
                ended.wait(5)
                assert reached == []
                proxy_memory.append(proxy.anonymous_memory())
        assert proxy_memory[-1] - before < KEPT
        ended.set()
        thread.join(PATIENCE)


def test_what_follows_an_upgrade_is_not_kept(proxy: Proxy, scripted: Scripted) -> None:
    """One WebSocket message of any size, or bytes of any other protocol."""
    scripted.answers = ["HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"]
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(scripted.answers[0].encode())
                while connection.recv(1 << 20):
                    pass

        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        before = proxy.anonymous_memory()
        head = "\r\n".join(
            [
                f"GET {url} HTTP/1.1",
                "Host: x",
                "Connection: Upgrade",
                "Upgrade: websocket",
                "Sec-WebSocket-Version: 13",
                "",
                "",
            ]
        )
        with Wire(proxy.address) as wire:
            wire.send(head)
            assert wire.head()[0] == 101
            wire.socket.sendall(b"\x82\xff" + (1 << 40).to_bytes(8, "big") + b"mask")
            for _ in range(MUCH >> 20):
                wire.socket.sendall(b"x" * (1 << 20))
            assert proxy.anonymous_memory() - before < KEPT


def test_a_client_that_leaves_while_its_tunnel_is_dialled(proxy: Proxy) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        failed = proxy.value("tunnels_total", outcome="failed")
        for _ in range(3):
            with Wire(proxy.address) as wire:
                wire.send(f"CONNECT {address[0]}:{address[1]} HTTP/1.1\r\nHost: x\r\n\r\n")
                proxy.eventually(lambda: proxy.metrics().value("forward_requests_total", method="CONNECT") > 0)
        proxy.eventually(lambda: proxy.value("tunnels_total", outcome="failed") >= failed + 3)
        assert proxy.value("tunnels_active") == 0
        for filler in fillers:
            filler.close()


# -- inputs by the thousand --------------------------------------------------------------------------------------------


def test_the_origin_gets_what_was_meant() -> None:
    """``python -m tests.support.forwarding 300000`` does more of these."""
    with taddons.context(Proxyserver()) as context:
        wrong = [told for number in range(1500) if (told := forwarding.check(context.options, 0, number))]
    assert wrong == []


def test_the_comparison_finds_what_is_not_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy_cache.mitm.forwarded.client_connection.checked_request", lambda lines, limits: None)
    monkeypatch.setattr(forwarded_heads, "request_head", lambda *given: None)
    assert outgoing.request_head is not forwarded_heads.request_head
    with taddons.context(Proxyserver()) as context:
        assert any(forwarding.check(context.options, 0, number) for number in range(1500))
