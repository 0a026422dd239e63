"""The fast lane: the same answers as through flows, however requests arrive, and not where others must see flows."""

from __future__ import annotations

import http.client
import re
import socket
from collections.abc import Callable, Sequence

import pytest

from tests.support.content import content
from tests.support.origin import PATIENCE, Origin, Reply
from tests.support.proxy import Proxy

FRESH = ("Cache-Control", "max-age=600")
ETAG = ("ETag", '"v1"')
Start = Callable[..., Proxy]


def talk(proxy: Proxy, pieces: Sequence[bytes]) -> bytes:
    """Send the pieces one by one, and read until the proxy closes or an answer to each request has come."""
    with socket.create_connection(proxy.address, timeout=PATIENCE) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            connection.sendall(piece)
        got = b""
        while data := connection.recv(65536):
            got += data
        return got


def request(url: str, *fields: str, method: str = "GET", version: str = "1.1", close: bool = False) -> bytes:
    host = url.split("/")[2]
    lines = [f"{method} {url} HTTP/{version}", f"Host: {host}", *fields, *(["Connection: close"] if close else [])]
    return "\r\n".join([*lines, "", ""]).encode()


def comparable(raw: bytes) -> bytes:
    """Without what differs from one second, or one proxy, to the next."""
    raw = re.sub(rb"proxy-cache-[0-9a-f]{8}", b"proxy-cache", raw)
    answers = re.split(rb"(?=HTTP/1\.1 \d\d\d )", raw)
    # The origin's Date is a whole second: the answer to a miss has an Age if the next one has begun when it arrives.
    fetched = [b"; fwd=" in answer.partition(b"\r\n\r\n")[0] for answer in answers]
    raw = b"".join(
        re.sub(rb"Age: \d+\r\n", b"", answer, count=1) if miss else answer
        for answer, miss in zip(answers, fetched, strict=True)
    )
    raw = re.sub(rb"Age: \d+", b"Age: n", raw)
    raw = re.sub(rb"Date: [^\r]+", b"Date: d", raw)
    raw = re.sub(rb"ttl=-?\d+", b"ttl=n", raw)
    raw = re.sub(rb"boundary=[0-9a-f]{32}", b"boundary=b", raw)
    return re.sub(rb"--[0-9a-f]{32}", b"--b", raw)


@pytest.fixture
def both(start_proxy: Start) -> tuple[Proxy, Proxy]:
    return start_proxy(fast_lane=True), start_proxy(fast_lane=False)


def test_every_way_to_ask_gets_the_same_bytes(both: tuple[Proxy, Proxy], origin: Origin) -> None:
    """Whole, in pieces, pipelined, mixed with other methods, ranges and conditions, 1.0 and close, misses."""
    small = origin.serve("/small", Reply(headers=(FRESH, ETAG), size=1000))
    big = origin.serve("/big", Reply(headers=(FRESH, ETAG), size=300_000))
    for proxy in both:
        for url in (small, big):
            assert proxy.get(url).ok
            assert proxy.get(url).hit
    etag = ETAG[1]
    unknown = origin.serve("/unknown", Reply(chunked=True, size=2_000_000))
    long = origin.url("/long?x=" + "y" * 70_000)
    conversations: list[list[bytes]] = [
        [request(small, close=True)],
        [request(big, close=True)],
        [bytes([byte]) for byte in request(small, close=True)],
        [request(small) * 20 + request(big) * 3 + request(small, close=True)],
        [request(small), request(small, method="HEAD"), request(small), request(small, close=True)],
        [request(small) + request(small, method="HEAD") + request(small) + request(big, close=True)],
        [request(small, "Range: bytes=10-19"), request(big, "Range: bytes=-5"), request(big, "Range: bytes=1-2,9-11"),
         request(small, "Range: bytes=5000-"), request(small, close=True)],
        [request(small, f"If-None-Match: {etag}"), request(small, close=True)],
        [request(small, version="1.0")],
        [request(big, "Connection: keep-alive", version="1.0"), request(small, version="1.0")],
        [request(small, "Connection: keep-alive", version="1.0"),
         request(origin.url("/new"), "Connection: keep-alive", version="1.0"), request(small, version="1.0")],
        [request(unknown, "Connection: keep-alive", version="1.0")],
        [request(origin.url("/newer"), close=True)],
        [request(small, f"If-None-Match: {etag}", close=True)],
        [request(small, "Cache-Control: no-cache", close=True)],
        [request(long, close=True)],
        [request(small, "Cache-Control: only-if-cached"),
         request(origin.url("/absent"), "Cache-Control: only-if-cached", close=True)],
        [request(small).replace(b"\r\n", b"\n"), request(small, close=True)],
    ]  # fmt: skip
    for number, conversation in enumerate(conversations):
        lane, flows = (comparable(talk(proxy, conversation)) for proxy in both)
        assert lane == flows, f"conversation {number}"
        assert lane.startswith(b"HTTP/1.1 "), f"conversation {number}"


@pytest.mark.parametrize(
    ("version", "field", "told"),
    [
        ("1.1", None, None),
        ("1.1", "close", "close"),
        ("1.1", "keep-alive", None),
        ("1.1", "TE, Close", "close"),
        ("1.0", None, "close"),
        ("1.0", "keep-alive", "keep-alive"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_what_becomes_of_its_connection_is_told(
    proxy: Proxy, origin: Origin, method: str, version: str, field: str | None, told: str | None
) -> None:
    """RFC 9112 §9.6: who asks for the end of a connection is told that it has come, or would take it for one that can
    be used again. §9.3: HTTP/1.0 keeps what is said to be kept. Misses, hits, and what is only forwarded."""
    path = f"/told/{method}/{version}/{field}".replace(" ", "")
    url = origin.serve(path, Reply(headers=(FRESH,), size=3000))
    for _ in range(2):
        fields = [f"Connection: {field}"] if field else []
        with socket.create_connection(proxy.address, timeout=PATIENCE) as connection:
            length = ["Content-Length: 0"] if method == "POST" else []
            connection.sendall(request(url, *fields, *length, method=method, version=version))
            response = http.client.HTTPResponse(connection, method=method)
            response.begin()
            assert response.status == 200
            assert response.getheader("Connection") == told
            assert len(response.read()) == (0 if method == "HEAD" else 3000)
            ends = told == "close"
            assert not response.will_close or ends
            if ends:
                assert connection.recv(1) == b""
            else:
                connection.sendall(request(url, close=True))
                again = b""
                while data := connection.recv(65536):
                    again += data
                assert b"\r\nConnection: close\r\n" in again
        proxy.wait_until_idle()


def test_the_numbers_and_the_log_are_the_same(both: tuple[Proxy, Proxy], origin: Origin) -> None:
    url = origin.serve("/five", Reply(headers=(FRESH,), size=5000))
    seen = []
    for proxy in both:
        for _ in range(3):
            assert proxy.get(url).ok
        proxy.wait_for_log(r"GET \S+/five 200 5000 B .* hit \[127\.0\.0\.1\]")
        metrics = proxy.settled()
        seen.append(
            [
                metrics.value("hits_total"), metrics.value("misses_total"),
                metrics.value("bytes_served_total", source="hit"), metrics.value("bytes_served_total", source="miss"),
                metrics.value("cache_entries"), metrics.value("origin_fetches_total", outcome="stored"),
            ]
        )  # fmt: skip
    assert seen[0] == seen[1] == [2, 1, 10000, 5000, 1, 1]


def test_it_is_off_where_another_addon_sees_flows(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy(record=True)
    proxy.wait_for_log(r"fast lane off: addon recorder has the hook response")
    url = origin.serve("/ten", Reply(headers=(FRESH,), size=10))
    assert proxy.get(url).ok
    assert proxy.get(url).hit
    proxy.eventually(proxy.flow_file.read_text, lambda text: text.count('"hook": "response"') == 2)


@pytest.mark.parametrize("option", ["anticache", "modify_headers"])
def test_it_is_off_while_an_option_changes_messages(start_proxy: Start, origin: Origin, option: str) -> None:
    value: object = {"anticache": True, "modify_headers": ["/~s/X-Seen/yes"]}[option]
    proxy = start_proxy(**{option: value})
    proxy.wait_for_log(rf"fast lane off: option {option} is set")
    assert proxy.get(origin.serve("/ten", Reply(headers=(FRESH,), size=10))).ok


def test_it_is_switched_while_running(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy(control=True)
    url = origin.serve("/ten", Reply(headers=(FRESH,), size=10))
    proxy.wait_for_log(r"fast lane on")
    assert proxy.get(url).ok
    assert proxy.set_option("fast_lane=false") == "ok"
    assert proxy.get(url).hit
    proxy.wait_for_log(r"fast lane off: option fast_lane is false")


@pytest.mark.parametrize("size", [10_000, 200_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_without_its_first_byte_is_no_bug_of_ours(
    start_proxy: Start, origin: Origin, size: int, chunked: bool
) -> None:
    """The origin breaks off right behind the head: told in the log, counted nowhere as a bug, and nothing hangs on."""
    proxy = start_proxy(fast_lane=True, origin_retries=0)
    url = origin.serve("/broken", Reply(size=size, chunked=chunked, cut=0))
    for _ in range(2):
        assert not proxy.get(url).complete
    proxy.wait_until_idle()
    proxy.wait_for_metric("inflight_requests", 0)
    assert proxy.value("hook_errors_total") == 0
    proxy.eventually(lambda: sum("broke off after 0 bytes" in line for line in proxy.log), lambda count: count == 2)


def test_bodies_that_go_from_the_page_cache(start_proxy: Start, origin: Origin) -> None:
    """Of every size that is sent in another way, pipelined, and to a client that takes a little at a time."""
    proxy = start_proxy(fast_lane=True)
    for size in (65_536, 65_537, 100_000, 262_144, 262_145, 1_000_000, 1_100_000):
        url = origin.serve(f"/{size}", Reply(size=size, headers=(FRESH,)))
        body = content(f"/{size}", size)
        assert proxy.get(url).body == body
        for _ in range(3):
            response = proxy.get(url)
            assert response.hit
            assert response.body == body
        count = 5
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(proxy.address)
            connection.sendall(request(url) * (count - 1) + request(url, close=True))
            got = bytearray()
            while data := connection.recv(50_000):
                got += data
        assert got.count(body) == count
        head = len(got) - count * size
        assert head < count * 600, "nothing but heads between them"


def test_a_file_that_is_cut_short_while_it_is_in_use(start_proxy: Start, origin: Origin) -> None:
    """What has been sent from the file goes on from memory, whatever becomes of the file meanwhile."""
    proxy = start_proxy(fast_lane=True, cache_verify_rate=0)  # nobody else looks at the file
    size = 150_000
    url = origin.serve("/cut", Reply(size=size, headers=(FRESH,)))
    body = proxy.get(url).body
    assert body == content("/cut", size)
    proxy.wait_until_idle()  # it is stored, and in memory from the second hit on: the first one opens the file
    assert proxy.get(url).hit
    assert proxy.get(url).hit
    (file,) = proxy.body_files(body)
    with file.open("r+b") as opened:
        opened.truncate(70_000)
    for _ in range(3):
        response = proxy.get(url)
        assert response.hit
        assert response.body == body
    assert proxy.get(url).body == body
