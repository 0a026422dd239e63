"""Bodies stream, both ways, whatever their size and however slow the client."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.support.agents import Fetch, Wire, parse_head, results
from tests.support.content import content
from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import Proxy
from tests.support.tools import curl

MB = 1_000_000
FRESH = ("Cache-Control", "max-age=3600")
NO_STORE = ("Cache-Control", "no-store")


def peak_memory(proxy: Proxy, until: Callable[[], bool], timeout: float = 60) -> int:
    """The most anonymous memory the proxy has while something comes about."""
    deadline = time.monotonic() + timeout
    peak = proxy.anonymous_memory()
    while not until():
        assert time.monotonic() < deadline, "it did not come about"
        peak = max(peak, proxy.anonymous_memory())
        time.sleep(0.02)
    return max(peak, proxy.anonymous_memory())


def test_20_slow_agents_and_200_mb(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """They read a cold, then a cached object of 200 MB at 2 MB/s each: memory stays flat, the origin is done early."""
    proxy = start_proxy(origin_max_in_flight=1, execute=True)  # its memory is measured
    size = 200 * MB
    for number in range(20):  # what the process takes for having served anything at all
        assert proxy.get(origin.url(f"/warm/{number}")).ok
    base = proxy.anonymous_memory()
    url = origin.serve("/image.tar", Reply(size=size))

    def start() -> list[Fetch]:
        return [proxy.start_get(url, expect=size, rate=2 * MB) for _ in range(20)]

    def all_have(fetches: list[Fetch], count: int) -> bool:
        return all(fetch.response.received >= count or fetch.ended for fetch in fetches)

    cold = start()
    grown = peak_memory(proxy, lambda: origin.count() > 20 and origin.seen("/image.tar")[0].answered) - base
    proxy.wait_for_metric("origin_fetches_in_flight", 0)
    assert not any(fetch.ended for fetch in cold), "the agents still read"
    assert proxy.get(origin.url("/other")).ok, "the slot is free"
    grown = max(grown, peak_memory(proxy, lambda: all_have(cold, 6 * MB)) - base)
    print(f"cold: {grown / MB:.1f} MB more")
    assert grown < 60 * MB
    for fetch in cold:
        assert not fetch.ended
        fetch.leave()
    assert origin.count("/image.tar") == 1

    whole = proxy.get(url, expect=size)
    assert whole.ok
    assert whole.hit
    cached = start()
    grown = peak_memory(proxy, lambda: all_have(cached, 6 * MB)) - base
    print(f"cached: {grown / MB:.1f} MB more")
    assert grown < 60 * MB
    for fetch in cached:
        assert not fetch.ended
        fetch.leave()
    assert origin.count("/image.tar") == 1


def test_a_large_cold_body_arrives_right(proxy: Proxy, origin: Origin) -> None:
    size = 60 * MB
    url = origin.serve("/cold.tar", Reply(size=size))
    assert all(response.ok for response in results([proxy.start_get(url, expect=size) for _ in range(3)]))
    assert origin.count("/cold.tar") == 1


def test_a_slow_agent_does_not_hold_the_slot(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """It reads nothing at all, and the fill is done all the same."""
    proxy = start_proxy(origin_max_in_flight=1)
    size = 50 * MB
    url = origin.serve("/big", Reply(size=size))
    stuck = proxy.start_get(url, expect=size, paused=True)
    stuck.head()
    origin.wait(lambda: origin.seen("/big")[0].answered, told="the end of the fill")
    proxy.wait_for_metric("origin_fetches_in_flight", 0)
    quick = proxy.start_get(url, expect=size)
    assert proxy.get(origin.url("/other")).ok
    assert quick.result().ok
    assert not stuck.ended
    stuck.resume()
    assert stuck.result().ok
    assert origin.count("/big") == 1


@pytest.mark.parametrize(
    ("method", "headers", "body"),
    [
        ("GET", (FRESH,), b""),
        ("GET", (NO_STORE,), b""),
        ("GET", (FRESH,), b"a GET with a body"),
        ("POST", (NO_STORE,), b"question"),
        ("PUT", (NO_STORE,), b"thing"),
    ],
    ids=["cold", "no-store", "get-with-body", "post", "put"],
)
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_the_first_bytes_come_before_the_last(
    proxy: Proxy, origin: Origin, method: str, headers: tuple[tuple[str, str], ...], body: bytes, chunked: bool
) -> None:
    gate = Gate()
    size = 2 * MB
    url = origin.serve("/body", Reply(size=size, headers=headers, chunked=chunked, body_gate=gate, gate_at=MB))
    fetch = proxy.start_request(method, url, body=body, expect=size)
    fetch.received(MB)
    assert not origin.seen("/body")[0].answered
    gate.open()
    assert fetch.result().ok


def test_a_small_piece_is_not_held_back(proxy: Proxy, origin: Origin) -> None:
    """A log that grows line by line: 100 bytes are passed on though nothing follows for a while."""
    for headers in (FRESH, NO_STORE):
        gate = Gate()
        target = f"/log/{headers[1]}"
        url = origin.serve(target, Reply(size=200, headers=(headers,), chunked=True, body_gate=gate, gate_at=100))
        fetch = proxy.start_get(url, expect=200)
        fetch.received(100)
        gate.open()
        assert fetch.result().ok


def test_an_upload_streams_and_keeps_its_length(proxy: Proxy, origin: Origin) -> None:
    """A PUT of 50 MB with Content-Length arrives with it, and its first bytes are there before its last are sent."""
    origin.serve("/artifact", Reply(status=201, size=2, headers=()))
    size, step = 50 * MB, MB
    with Wire(proxy.address) as wire:
        wire.send(f"PUT {origin.url('/artifact')} HTTP/1.1\r\nHost: {origin.netloc}\r\nContent-Length: {size}\r\n\r\n")
        wire.send(content("upload", step))
        origin.wait(lambda: bool(origin.seen("/artifact")) and origin.seen("/artifact")[0].body_received > 0)
        for offset in range(step, size, step):
            wire.send(content("upload", step, offset))
        assert wire.response().status == 201
    (request,) = origin.seen("/artifact")
    assert request.header_values("Content-Length") == [str(size)]
    assert request.header("Transfer-Encoding") is None
    assert request.body_received == size
    assert request.body[:step] == content("upload", step)


def test_a_chunked_upload_stays_chunked(proxy: Proxy, origin: Origin) -> None:
    with Wire(proxy.address) as wire:
        wire.send(
            f"POST {origin.url('/stream')} HTTP/1.1\r\nHost: {origin.netloc}\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        wire.send(b"5\r\nhello\r\n")
        origin.wait(lambda: bool(origin.seen("/stream")) and origin.seen("/stream")[0].body_received == 5)
        wire.send(b"6\r\n world\r\n0\r\n\r\n")
        assert wire.response().status == 200
    (request,) = origin.seen("/stream")
    assert request.chunked
    assert request.header("Content-Length") is None
    assert request.body == b"hello world"


def test_an_upload_without_a_body_keeps_its_length(proxy: Proxy, origin: Origin) -> None:
    assert proxy.request("PUT", origin.url("/empty"), headers=[("Content-Length", "0")]).ok
    assert origin.seen("/empty")[0].header_values("Content-Length") == ["0"]


def test_an_upload_takes_no_memory(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    proxy = start_proxy(execute=True)  # its memory is measured
    assert proxy.request("PUT", origin.url("/warm"), body=b"x" * MB).ok
    base = proxy.anonymous_memory()
    upload = proxy.start_request("PUT", origin.url("/upload"), body=bytes(100 * MB))
    assert peak_memory(proxy, lambda: upload.ended) - base < 40 * MB
    assert upload.result().ok
    assert origin.seen("/upload")[0].body_received == 100 * MB


def test_curl_expects_100_continue(proxy: Proxy, origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("upload") / "file"
    file.write_bytes(content("upload", 3 * MB))
    url = origin.url("/curl")
    response = curl(proxy, url, "-T", str(file), "-H", "Expect: 100-continue", "--expect100-timeout", "20")
    assert response.status == 200
    assert origin.seen("/curl")[0].body_received == 3 * MB


def test_an_upload_that_waits_for_100_continue(proxy: Proxy, origin: Origin) -> None:
    """Not a byte of it is sent before."""
    for number, (framing, body) in enumerate(
        (("Content-Length: 5", "hello"), ("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"))
    ):
        with Wire(proxy.address) as wire:
            for turn in range(2):
                url = origin.url(f"/waits/{number}/{turn}")
                wire.send(f"PUT {url} HTTP/1.1\r\nHost: {origin.netloc}\r\nExpect: 100-continue\r\n{framing}\r\n\r\n")
                assert wire.head()[0] == 100
                wire.send(body)
                assert wire.response().status == 200
                assert origin.seen(f"/waits/{number}/{turn}")[0].body == b"hello"


@pytest.mark.parametrize("reply", [Reply(size=100_000), Reply(size=100_000, chunked=True)], ids=["length", "chunked"])
def test_an_http_1_0_client(proxy: Proxy, origin: Origin, reply: Reply) -> None:
    """No chunks for it: the body ends with Content-Length, or with the connection."""
    url = origin.serve("/old", reply)
    for _ in range(2):
        with Wire(proxy.address) as wire:
            wire.send(f"GET {url} HTTP/1.0\r\n\r\n")
            head, _, body = wire.rest().partition(b"\r\n\r\n")
        _, status, headers = parse_head(head + b"\r\n\r\n")
        assert status == 200
        assert "transfer-encoding" not in {name.lower() for name, _ in headers}
        assert body == content("/old", 100_000)
    assert origin.count("/old") == 1


def test_an_upgrade_is_passed_on(proxy: Proxy, origin: Origin) -> None:
    url = origin.serve("/socket", Reply(headers=(FRESH,)))
    for _ in range(2):
        response = proxy.get(url, headers=[("Connection", "Upgrade"), ("Upgrade", "websocket")])
        assert response.ok
        assert not response.hit
    assert [request.header("Upgrade") for request in origin.seen("/socket")] == ["websocket", "websocket"]
