"""Requests over HTTP/2, of which one connection has many: each ends by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from h2.events import StreamReset, TrailersReceived

from tests.support.certificates import self_signed, server_context
from tests.support.http2 import Fields, Http2, Http2Origin, pseudo
from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import Proxy

Start = Callable[..., Proxy]


# -- requests that are given up (RST_STREAM) -------------------------------------------------------------------------


def test_requests_that_are_given_up_leave_the_queue(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy(mode=f"reverse:http://{origin.netloc}", origin_max_in_flight=1, origin_queue_timeout=60)
    gate = Gate()
    origin.serve("/busy", Reply(gate=gate))
    origin.serve_prefix("/q", Reply(size=10))
    with Http2(proxy.address) as client:
        first = client.begin(pseudo(b"GET", b"/busy"))
        proxy.wait_for_metric("origin_fetches_in_flight", 1)
        queued = [client.begin(pseudo(b"GET", f"/q{number}".encode())) for number in range(5)]
        proxy.wait_for_metric("origin_fetches_queued", 5)
        client.reset(*queued[1:])
        proxy.wait_for_metric("origin_fetches_queued", 1)
        proxy.wait_for_metric("inflight_requests", 2)
        proxy.wait_for_metric("origin_fetch_queue_wait_seconds_count", 4, outcome="canceled")
        gate.open()
        assert client.response(first).status == 200
        assert client.response(queued[0]).status == 200  # the connection goes on, and who waits gets what it waits for
    proxy.wait_until_idle()
    assert [origin.count(f"/q{number}") for number in range(5)] == [1, 0, 0, 0, 0]
    proxy.wait_for_log(r"GET http://\S+/q4 499 0 B \S+ ms error queued=\S+ cut=client ")


def test_a_request_that_is_given_up_while_its_body_comes(start_proxy: Start, origin: Origin) -> None:
    """Nobody reads the body any more: its fill ends, and its slot is free."""
    proxy = start_proxy(
        mode=f"reverse:http://{origin.netloc}", origin_max_in_flight=1, origin_timeout=600, quick_abort_max="0"
    )
    gate = Gate()
    origin.serve("/body", Reply(size=1 << 20, body_gate=gate, gate_at=1000))
    with Http2(proxy.address) as client:
        stream = client.begin(pseudo(b"GET", b"/body"))
        assert client.response(stream, head_only=True).status == 200
        client.reset(stream)
        # The origin says nothing more, and may be silent for ten minutes.
        proxy.wait_for_metric("origin_fetches_in_flight", 0)
        proxy.wait_for_metric("inflight_requests", 0)
    gate.open()


def test_who_joined_a_request_that_is_given_up_has_its_answer(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy(mode=f"reverse:http://{origin.netloc}", origin_max_in_flight=1, origin_queue_timeout=60)
    gate = Gate()
    origin.serve("/a", Reply(size=10, gate=gate))
    with Http2(proxy.address) as client:
        streams = [client.begin(pseudo(b"GET", b"/a")) for _ in range(2)]
        proxy.wait_for_metric("inflight_requests", 2)
        client.reset(streams[0])
        proxy.wait_for_metric("inflight_requests", 1)
        gate.open()
        assert client.response(streams[1]).status == 200
    assert origin.count("/a") == 1


SLOW_SCRIPT = """
import asyncio
from pathlib import Path

async def request(flow):
    if "/held" in flow.request.path:
        Path({entered!r}).touch()
        while not Path({go!r}).exists():
            await asyncio.sleep(0.01)
"""


def test_a_request_that_is_given_up_while_another_addon_has_it(
    start_proxy: Start, origin: Origin, tmp_path: Path
) -> None:
    script, entered, go = tmp_path / "slow.py", tmp_path / "entered", tmp_path / "go"
    script.write_text(SLOW_SCRIPT.format(entered=str(entered), go=str(go)))
    proxy = start_proxy(
        mode=f"reverse:http://{origin.netloc}", origin_max_in_flight=1, origin_queue_timeout=60, scripts=[script]
    )
    gate = Gate()
    origin.serve("/busy", Reply(gate=gate))
    with Http2(proxy.address) as client:
        first = client.begin(pseudo(b"GET", b"/busy"))
        proxy.wait_for_metric("origin_fetches_in_flight", 1)
        held = client.begin(pseudo(b"GET", b"/held"))
        proxy.eventually(entered.exists)
        client.reset(held)
        client.connection.ping(b"12345678")
        client.socket.sendall(client.connection.data_to_send())
        assert client.socket.recv(65536)  # its answer: the reset has been read
        go.touch()
        proxy.wait_for_log(r"/held 499 0 B \S+ ms error .*cut=client")
        assert proxy.value("origin_fetches_queued") == 0
        gate.open()
        assert client.response(first).status == 200
    assert origin.count("/held") == 0


# -- what an origin, or a client, may not say -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def between(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Proxy, Http2Origin]]:
    """A proxy in front of an origin that speaks HTTP/2, and has what it reads of mitmproxy's own connections."""
    folder = tmp_path_factory.mktemp("http2")
    with Http2Origin(server_context(self_signed(folder / "certificate.pem"))) as origin:
        mode = f"reverse:https://{origin.netloc}"
        options = {"validate_inbound_headers": False, "ssl_insecure": True}
        with Proxy(tmp_path_factory.mktemp("proxy"), mode=mode, **options) as proxy:
            yield proxy, origin


@pytest.fixture
def pair(between: tuple[Proxy, Http2Origin]) -> tuple[Proxy, Http2Origin]:
    between[1].head, between[1].body, between[1].trailers = [(b":status", b"200")], b"hello", []
    between[1].events.clear()
    return between


@pytest.mark.parametrize(
    ("status", "expected"), [(b"42", 502), (b"-1", 502), (b"2000", 502), (b"99999", 502), (b"0", 502), (b"999", 999)]
)
@pytest.mark.parametrize("method", [b"OPTIONS", b"POST"])
def test_a_status_that_is_none(pair: tuple[Proxy, Http2Origin], method: bytes, status: bytes, expected: int) -> None:
    proxy, origin = pair
    origin.head = [(b":status", status)]
    with Http2(proxy.address) as client:
        assert client.ask(pseudo(method)) == expected
        origin.head = [(b":status", b"204")]
        assert client.ask(pseudo(method)) == 204


BAD_TRAILERS: dict[str, Fields] = {
    "line break": [(b"x-t", b"a\r\nEvil: 1")],
    "NUL": [(b"x-t", b"a\0")],
    "line break in a name": [(b"x\r\nevil", b"1")],
    "pseudo-header field": [(b"x-t", b"a"), (b":path", b"/")],
    "too many": [(b"x", b"y")] * 300,
    "a long one": [(b"x", b"y" * 20_000)],
}


@pytest.mark.parametrize("which", BAD_TRAILERS)
def test_trailers_of_a_response_that_are_none(pair: tuple[Proxy, Http2Origin], which: str) -> None:
    proxy, origin = pair
    origin.trailers = BAD_TRAILERS[which]
    with Http2(proxy.address) as client:
        response = client.response(client.begin(pseudo(b"OPTIONS")))
        assert not response.trailers
        assert not response.is_whole or response.status == 502
        origin.trailers = []
        assert client.response(client.begin(pseudo(b"OPTIONS"))).is_whole  # the connection goes on
    assert proxy.value("hook_errors_total") == 0


@pytest.mark.parametrize("which", BAD_TRAILERS)
def test_trailers_of_a_request_that_are_none(pair: tuple[Proxy, Http2Origin], which: str) -> None:
    proxy, origin = pair
    with Http2(proxy.address) as client:
        response = client.response(client.begin(pseudo(b"POST"), b"hello", BAD_TRAILERS[which]))
        assert response.status == 400
        assert client.response(client.begin(pseudo(b"POST"), b"hello")).body == b"hello"
    assert not origin.of(TrailersReceived)
    proxy.wait_for_log(r"POST https://\S+/x 400 ")
    assert proxy.value("hook_errors_total") == 0


def test_trailers_that_are_some_go_through(pair: tuple[Proxy, Http2Origin]) -> None:
    """But for those that speak of a connection, or of where a message ends (RFC 9110 §6.5.1, §7.6.1)."""
    proxy, origin = pair
    good: list[tuple[bytes, bytes]] = [(b"grpc-status", b"0"), (b"x-sum", b"\xe9 1")]
    bad: list[tuple[bytes, bytes]] = [(b"transfer-encoding", b"chunked"), (b"content-length", b"7"), (b"host", b"a")]
    origin.trailers = [*good, *bad]
    with Http2(proxy.address) as client:
        response = client.response(client.begin(pseudo(b"POST"), b"hello", [*bad, *good]))
    assert (response.status, response.body, response.is_whole) == (200, b"hello", True)
    assert response.trailers == good
    assert [list(event.headers) for event in origin.of(TrailersReceived)] == [good]
    assert not origin.of(StreamReset)
