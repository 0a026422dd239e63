"""What is forwarded and not cached: messages as an origin sends them and as a client gets them (RFC 9110, RFC 9112)."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mitmproxy.test import tflow
from wsproto import ConnectionType, WSConnection, events

from proxy_cache.mitm import addon, flow_requests
from proxy_cache.semantics.dates import parse_http_date
from tests.support.agents import Wire, parse_head
from tests.support.origin import PATIENCE, Origin, Reply
from tests.support.proxy import Proxy
from tests.support.scripted import HINTS, OK, Scripted, ThreadedOrigin, asks
from tests.support.tasks import until


@pytest.fixture
def scripted(origin_tls: ssl.SSLContext | None) -> Iterator[Scripted]:
    with Scripted(origin_tls) as running:
        yield running


# -- interim responses (RFC 9110 §15.2) ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "interim", ["HTTP/1.1 100 Continue\r\n\r\n", HINTS, "HTTP/1.1 102 Processing\r\n\r\n" + HINTS * 2]
)
@pytest.mark.parametrize("method", ["POST", "OPTIONS", "DELETE"])
def test_a_1xx_is_not_the_response(proxy: Proxy, scripted: Scripted, interim: str, method: str) -> None:
    scripted.answers = [interim + OK]
    with Wire(proxy.address) as wire:
        for _ in range(3):
            wire.send(asks(scripted, method))
            passed = []
            while (response := wire.response()).status < 200:
                passed.append((response.status, response.header("Link"), response.header("X-Hop")))
            assert (response.status, response.body) == (200, b"final")
            expected = [(102, None, None)] if "102" in interim else []
            assert passed == expected + [(103, "</a>", None)] * interim.count("103")
    assert scripted.connections == 1


def test_the_answers_to_pipelined_requests_stay_in_step(proxy: Proxy, scripted: Scripted) -> None:
    scripted.answers = [HINTS + OK.replace("final", name) for name in ("first", "secnd", "third")]
    with Wire(proxy.address) as wire:
        wire.send(asks(scripted) * 3)
        bodies = [wire.response().body for _ in range(6)]
    assert bodies == [b"", b"first", b"", b"secnd", b"", b"third"]


def test_a_1xx_before_the_answer_to_a_head(proxy: Proxy, scripted: Scripted) -> None:
    scripted.answers = [HINTS + OK.removesuffix("final")]
    with Wire(proxy.address) as wire:
        for _ in range(2):
            wire.send(asks(scripted, "HEAD"))
            assert wire.head()[0] == 103
            assert wire.head()[0] == 200


def test_only_an_interim_response_is_none(proxy: Proxy, scripted: Scripted) -> None:
    scripted.answers = [HINTS + "<close>"]
    with Wire(proxy.address) as wire:
        wire.send(asks(scripted))
        assert wire.head()[0] == 103
        assert wire.response().status == 502


def test_no_1xx_for_http_1_0(proxy: Proxy, scripted: Scripted) -> None:
    scripted.answers = [HINTS + OK]
    with Wire(proxy.address) as wire:
        wire.send(asks(scripted, "POST", "Expect: 100-continue", version="1.0"))
        assert wire.response().status == 200


def test_a_1xx_does_not_hide_what_a_post_has_changed(proxy: Proxy, origin: Origin) -> None:
    """The status that counts for invalidation is the last one (RFC 9111 §4.4)."""
    url = origin.serve("/a", Reply(headers=(("Cache-Control", "max-age=600"),)))
    for status, hit in ((200, False), (404, True)):
        proxy.get(url)
        proxy.wait_until_idle()
        origin.serve("/a", Reply(status=status, headers=(), interim=((103, ()), (100, ()))))
        with Wire(proxy.address) as wire:
            wire.send(f"POST {url} HTTP/1.1\r\nHost: {origin.netloc}\r\nContent-Length: 1\r\n\r\nx")
            assert wire.head()[0] == 103
            assert wire.response().status == status
        origin.serve("/a", Reply(headers=(("Cache-Control", "max-age=600"),)))
        assert proxy.get(url).hit is hit


def test_101_is_the_last_response(proxy: Proxy, scripted: Scripted) -> None:
    scripted.answers = [HINTS + "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nnow raw"]
    with Wire(proxy.address) as wire:
        wire.send(asks(scripted, "GET", "Connection: upgrade", "Upgrade: x"))
        assert wire.head()[0] == 103
        assert wire.head()[0] == 101
        assert wire.exactly(7) == b"now raw"


@pytest.mark.plain
def test_a_1xx_through_a_parent(start_proxy: Callable[..., Proxy], scripted: Scripted) -> None:
    parent = start_proxy()
    proxy = start_proxy(mode=f"upstream:{parent.url}")
    scripted.answers = [HINTS + OK]
    with Wire(proxy.address) as wire:
        wire.send(asks(scripted))
        assert wire.head()[0] == 103
        assert wire.response().body == b"final"


# -- WebSocket (RFC 6455) --------------------------------------------------------------------------------------------


class WebSocketOrigin(ThreadedOrigin):
    """Sends every message back."""

    def _serve(self, connection: socket.socket) -> None:
        messages = WSConnection(ConnectionType.SERVER)
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65536):
                messages.receive_data(data)
                for event in messages.events():
                    match event:
                        case events.Request():
                            connection.sendall(messages.send(events.AcceptConnection()))
                        case events.Message(data=data, message_finished=finished):
                            connection.sendall(messages.send(events.Message(data, message_finished=finished)))
                        case events.Ping():
                            connection.sendall(messages.send(event.response()))
                        case events.CloseConnection():
                            connection.sendall(messages.send(event.response()))
                            return


def test_a_websocket(proxy: Proxy, origin_tls: ssl.SSLContext | None) -> None:
    messages = WSConnection(ConnectionType.CLIENT)
    with WebSocketOrigin(origin_tls) as origin, Wire(proxy.address) as wire:
        url = f"{'https' if origin_tls else 'http'}://{origin.netloc}/x"
        wire.send(messages.send(events.Request(host=origin.netloc, target=url)))

        def next_event() -> events.Event:
            while (event := next(messages.events(), None)) is None:
                messages.receive_data(wire.socket.recv(65536) or None)
            return event

        assert isinstance(next_event(), events.AcceptConnection)
        for message in ("hello", "grüße" * 40_000, b"\x00" * 300_000):
            sender = threading.Thread(target=wire.send, args=(messages.send(events.Message(message)),))
            sender.start()
            received, is_over = message[:0], False
            while not is_over:
                event = next_event()
                assert isinstance(event, events.Message)
                received += event.data
                is_over = event.message_finished
            assert received == message
            sender.join(PATIENCE)
        wire.send(messages.send(events.Ping(b"still there?")))
        assert next_event() == events.Pong(b"still there?")
        wire.send(messages.send(events.CloseConnection(1000, "done")))
        assert next_event() == events.CloseConnection(1000, "done")
        assert wire.rest() == b""


# -- trailers (RFC 9112 §7.1.2) --------------------------------------------------------------------------------------

CHUNKS = "5\r\nhello\r\n0\r\n"
TRAILER = "X-Checksum: 1\r\nX-More: 2\r\n"


def in_flight(proxy: Proxy) -> int:
    return int(proxy.status()["requests_in_flight"])


def test_trailers_of_an_upload_are_dropped(proxy: Proxy, scripted: Scripted) -> None:
    head = f"PUT {scripted.url} HTTP/1.1\r\nHost: {scripted.netloc}\r\nTransfer-Encoding: chunked\r\n"
    with Wire(proxy.address) as wire:
        for trailer in (TRAILER, "", TRAILER):
            wire.send(f"{head}Trailer: X-Checksum\r\n\r\n{CHUNKS}{trailer}\r\n")
            assert wire.response().body == b"final"
            assert scripted.bodies[-1] == b"hello"
            assert not scripted.fields("Trailer")
    proxy.eventually(lambda: in_flight(proxy), lambda count: count == 0)


@pytest.mark.parametrize("method", ["POST", "OPTIONS"])
def test_trailers_of_a_response_are_dropped(proxy: Proxy, scripted: Scripted, method: str) -> None:
    head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Checksum\r\n\r\n"
    scripted.answers = [f"{head}{CHUNKS}{trailer}\r\n" for trailer in (TRAILER, "", TRAILER)]
    with Wire(proxy.address) as wire:
        for _ in range(3):
            wire.send(asks(scripted, method))
            response = wire.response()
            assert (response.body, response.header("Trailer")) == (b"hello", None)
    assert scripted.connections == 1
    proxy.eventually(lambda: in_flight(proxy), lambda count: count == 0)


@pytest.mark.parametrize("trailer", ["no colon\r\n", "a\0b: c\r\n", ": x\r\n"])
def test_what_is_no_trailer_ends_the_upload(proxy: Proxy, scripted: Scripted, trailer: str) -> None:
    with Wire(proxy.address) as wire:
        head = f"PUT {scripted.url} HTTP/1.1\r\nHost: {scripted.netloc}\r\nTransfer-Encoding: chunked\r\n"
        wire.send(f"{head}\r\n{CHUNKS}{trailer}\r\n")
        wire.rest()
    proxy.eventually(lambda: in_flight(proxy), lambda count: count == 0)


@pytest.mark.plain
@pytest.mark.parametrize("mode", ["regular", "upstream"])
@pytest.mark.parametrize("hook", ["request", "response"])
def test_what_fails_in_mitmproxy_ends_the_connection(
    start_proxy: Callable[..., Proxy], scripted: Scripted, tmp_path: Path, hook: str, mode: str
) -> None:
    """An exception in one of its layers, here by way of another addon, leaves no client waiting and no request open."""
    script = tmp_path / "fails.py"
    script.write_text(
        "def fail(data):\n"
        "    raise RuntimeError('on purpose')\n"
        f"def {hook}headers(flow):\n"
        "    if 'fail' in flow.request.query:\n"
        f"        flow.{hook}.stream = fail\n"
    )
    upstream = [f"upstream:http://{scripted.netloc}"] if mode == "upstream" else []
    proxy = start_proxy(arguments=["-s", str(script)], mode=upstream)
    proxy.expects_errors = True
    scripted.url += "?fail=1"
    with Wire(proxy.address) as wire:
        wire.send(asks(scripted))
        assert b"final" not in wire.rest()
    proxy.eventually(lambda: in_flight(proxy), lambda count: count == 0)
    proxy.wait_for_log("on purpose")
    assert proxy.text().count("Traceback (most recent call last)") == 1
    scripted.url = scripted.url.partition("?")[0]
    with Wire(proxy.address) as wire:
        wire.send(asks(scripted))
        assert wire.response().body == b"final"


def test_a_request_that_nothing_ends_ends_after_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept of it, and that of another client goes on."""
    monkeypatch.setattr(flow_requests, "LEFT_BEHIND", 0.0)
    cache = addon.CacheAddon()

    async def leave() -> list[weakref.ref[Any]]:
        first, second = tflow.tflow(), tflow.tflow()
        for flow in (first, second):
            cache.flows.begin(flow)
        cache.client_disconnected(tflow.tclient_conn())  # of nobody's request
        for flow, left in ((first, 1), (second, 0)):
            cache.client_disconnected(flow.client_conn)
            await until(lambda left=left: cache.app.accounts.unfinished == left)  # type: ignore[misc]
        return [weakref.ref(first), weakref.ref(second)]

    flows = asyncio.run(leave())
    gc.collect()
    assert [flow() for flow in flows] == [None, None]


# -- Host (RFC 9112 §3.2) --------------------------------------------------------------------------------------------


@pytest.mark.plain
@pytest.mark.parametrize("hosts", [["other.example"], [""], ["same"]])
@pytest.mark.parametrize("mode", ["regular", "upstream"])
def test_host_is_the_targets(
    start_proxy: Callable[..., Proxy], proxy: Proxy, scripted: Scripted, hosts: list[str], mode: str
) -> None:
    """RFC 9112 §3.2.2: a proxy ignores the Host it got, and makes one from the target."""
    used = proxy
    if mode == "upstream":
        # The parent is no proxy here but the origin: it sees what leaves.
        used = start_proxy(mode=f"upstream:http://{scripted.netloc}")
    for method in ("POST", "OPTIONS", "HEAD"):
        with Wire(used.address) as wire:
            lines = [f"Host: {host}" for host in hosts]
            wire.send("\r\n".join([f"{method} {scripted.url} HTTP/1.1", "A: 1", *lines, "B: 2", "", ""]))
            wire.head()
        assert scripted.fields("Host") == [scripted.netloc]
        assert scripted.fields("A") == ["1"]
        assert scripted.fields("B") == ["2"]


@pytest.mark.plain
def test_host_is_without_the_default_port(start_proxy: Callable[..., Proxy], scripted: Scripted) -> None:
    proxy = start_proxy(mode=f"upstream:http://{scripted.netloc}")
    for target, host in (
        ("http://a.example:80/x", "a.example"),
        ("http://A.example/x", "a.example"),
        ("http://a.example:81/", "a.example:81"),
        ("http://[::1]:80/", "[::1]"),
    ):
        with Wire(proxy.address) as wire:
            wire.send(f"POST {target} HTTP/1.1\r\nHost: b.example\r\nContent-Length: 0\r\n\r\n")
            assert wire.response().status == 200
        assert scripted.fields("Host") == [host]


@pytest.mark.plain
@pytest.mark.parametrize("keep", [True, False])
def test_host_in_reverse_mode_is_mitmproxys(start_proxy: Callable[..., Proxy], scripted: Scripted, keep: bool) -> None:
    proxy = start_proxy(mode=f"reverse:http://{scripted.netloc}", keep_host_header=keep)
    with Wire(proxy.address) as wire:
        wire.send("POST /x HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 0\r\n\r\n")
        assert wire.response().status == 200
    assert scripted.fields("Host") == ["shop.example" if keep else scripted.netloc]


@pytest.mark.plain
def test_other_addons_see_the_host_that_came(
    start_proxy: Callable[..., Proxy], scripted: Scripted, tmp_path: Path
) -> None:
    script = tmp_path / "sees.py"
    script.write_text(
        "import logging\n"
        "def response(flow):\n"
        "    request, response = flow.request, flow.response\n"
        "    logging.error('seen %s %s %s %s', request.headers.get_all('host'), request.http_version,\n"
        "                  response.http_version, sorted(response.headers))\n"
    )
    proxy = start_proxy(arguments=["-s", str(script)])
    scripted.answers = ["HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nfinal<close>"]
    with Wire(proxy.address) as wire:
        wire.send(asks(scripted, host="other.example", version="1.0"))
        assert wire.response().header("Date")
    proxy.wait_for_log(r"seen \['other.example'\] HTTP/1.0 HTTP/1.0 \['Content-Length'\]")


# -- versions, and how long connections last (RFC 9112 §2.3, §6.1, §9.3) ---------------------------------------------


@pytest.mark.parametrize("client", ["1.0", "1.1"])
@pytest.mark.parametrize("method", ["POST", "HEAD"])
def test_each_hop_has_its_own_version(proxy: Proxy, scripted: Scripted, client: str, method: str) -> None:
    body = "final" if method == "POST" else ""
    scripted.answers = [
        f"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n{body}<close>",
        f"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{body}",
        f"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 5\r\n\r\n{body}",
        f"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{body}",
    ]
    with Wire(proxy.address) as wire:
        for _ in range(4):  # the client's connection lasts, whatever becomes of the origin's
            wire.send(asks(scripted, method, *(["Connection: keep-alive"] if client == "1.0" else [])))
            assert parse_head(wire.until(b"\r\n\r\n"))[:2] == ("HTTP/1.1", 200)
            assert wire.exactly(len(body)) == body.encode()
            assert scripted.heads[-1].split("\r\n")[0] == f"{method} /x HTTP/1.1"
    assert scripted.connections == 3


def test_the_connection_of_an_http_1_0_client_ends(proxy: Proxy, scripted: Scripted) -> None:
    with Wire(proxy.address) as wire:
        wire.send(asks(scripted, version="1.0"))
        response = wire.response()
        assert (response.version, response.header("Connection")) == ("HTTP/1.1", "close")
        assert wire.rest() == b""


@pytest.mark.parametrize("keep_alive", [True, False])
def test_no_chunks_for_http_1_0(proxy: Proxy, scripted: Scripted, keep_alive: bool) -> None:
    scripted.answers = [f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n{CHUNKS}{TRAILER}\r\n"]
    with Wire(proxy.address) as wire:
        wire.send(asks(scripted, "POST", *(["Connection: keep-alive"] if keep_alive else []), version="1.0"))
        version, status, fields = parse_head(wire.until(b"\r\n\r\n"))
        assert (version, status) == ("HTTP/1.1", 200)
        names = {name.lower(): value for name, value in fields}
        assert "transfer-encoding" not in names
        assert names["connection"] == "close"
        assert wire.rest() == b"hellohello"
    proxy.eventually(lambda: in_flight(proxy), lambda count: count == 0)


def test_the_end_of_a_broken_body_is_no_end_to_http_1_0(proxy: Proxy, scripted: Scripted) -> None:
    scripted.answers = ["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n<close>"]
    with Wire(proxy.address) as wire:
        wire.send(asks(scripted, version="1.0"))
        with pytest.raises(ConnectionResetError):
            wire.exactly(1000)


def test_no_chunks_for_a_head_of_http_1_0(proxy: Proxy, scripted: Scripted) -> None:
    scripted.answers = ["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"]
    with Wire(proxy.address) as wire:
        wire.send(asks(scripted, "HEAD", version="1.0"))
        assert b"transfer-encoding" not in wire.rest().lower()


# -- Date (RFC 9110 §6.6.1) ------------------------------------------------------------------------------------------


def test_a_response_without_date_gets_one(proxy: Proxy, scripted: Scripted) -> None:
    scripted.answers = [OK, OK.replace("\r\n\r\n", "\r\nDate: Thu, 01 Jan 2015 00:00:00 GMT\r\n\r\n")]
    with Wire(proxy.address) as wire:
        wire.send(asks(scripted))
        now = parse_http_date(wire.response().header("Date") or "")
        assert now is not None
        assert abs(now - time.time()) < 60
        wire.send(asks(scripted))
        assert wire.response().header_values("Date") == ["Thu, 01 Jan 2015 00:00:00 GMT"]


# -- Max-Forwards (RFC 9110 §7.6.2) ----------------------------------------------------------------------------------


def test_options_goes_no_further_than_it_may(proxy: Proxy, scripted: Scripted) -> None:
    with Wire(proxy.address) as wire:
        for left, body in (("0", ""), ("00", "hello"), ("0", "")):
            length = [f"Content-Length: {len(body)}"] if body else []
            wire.send(asks(scripted, "OPTIONS", f"Max-Forwards: {left}", *length) + body)
            response = wire.response()
            assert (response.status, response.body) == (200, b"")
            assert {"GET", "OPTIONS"} <= set((response.header("Allow") or "").split(", "))
            assert response.header("Content-Length") == "0"
            assert response.header("Date")
        assert not scripted.heads
        for came, goes in (("1", "0"), ("2", "1"), ("010", "9"), ("x", "x"), ("-1", "-1")):
            wire.send(asks(scripted, "OPTIONS", f"Max-Forwards: {came}"))
            assert wire.response().body == b"final"
            assert scripted.fields("Max-Forwards") == [goes]
        # "A recipient MAY ignore a Max-Forwards header field received with any other request methods."
        wire.send(asks(scripted, "POST", "Max-Forwards: 0"))
        assert wire.response().body == b"final"
        assert scripted.fields("Max-Forwards") == ["0"]
    proxy.eventually(lambda: in_flight(proxy), lambda count: count == 0)


@pytest.mark.plain
def test_trace_shows_what_has_come_without_secrets(proxy: Proxy, scripted: Scripted) -> None:
    secrets = [
        "Authorization: Basic s3",
        "Proxy-Authorization: s3",
        "Cookie: a=s3",
        "X-Api-Key: s3",
        "X-Auth-Token: s3",
    ]
    with Wire(proxy.address) as wire:
        wire.send(asks(scripted, "TRACE", "Max-Forwards: 0", "X-Odd:  a  b", *secrets, "Via: 1.0 before"))
        response = wire.response()
        assert (response.status, response.header("Content-Type")) == (200, "message/http")
        lines = response.body.decode().split("\r\n")
        assert lines[:2] == [f"TRACE {scripted.url} HTTP/1.1", f"Host: {scripted.netloc}"]
        assert lines[2:] == ["Max-Forwards: 0", "X-Odd: a  b", "Via: 1.0 before", "", ""]
        assert not scripted.heads
        wire.send(asks(scripted, "TRACE", "Max-Forwards: 1"))
        assert wire.response().body == b"final"
        assert scripted.fields("Max-Forwards") == ["0"]


@pytest.mark.plain
def test_each_of_two_proxies_counts(start_proxy: Callable[..., Proxy], scripted: Scripted) -> None:
    parent = start_proxy()
    proxy = start_proxy(mode=f"upstream:{parent.url}")
    with Wire(proxy.address) as wire:
        wire.send(asks(scripted, "TRACE", "Max-Forwards: 1"))
        trace = wire.response()
        assert trace.header("Content-Type") == "message/http"
        assert trace.body.decode().count("Via: ") == 1
        assert not scripted.heads
        wire.send(asks(scripted, "TRACE", "Max-Forwards: 2"))
        assert wire.response().body == b"final"
        assert scripted.fields("Max-Forwards") == ["0"]


# -- only-if-cached (RFC 9111 §5.2.1.7) ------------------------------------------------------------------------------


def test_a_head_for_what_is_cached_only(proxy: Proxy, origin: Origin) -> None:
    url = origin.serve("/a", Reply(headers=(("Cache-Control", "max-age=600"), ("ETag", '"1"'))))
    only = [("Cache-Control", "only-if-cached")]
    answers = [proxy.request(method, url, headers=only) for method in ("GET", "HEAD")]
    for response in answers:
        assert response.status == 504
        assert "only-if-cached" in (response.header("Cache-Status") or "")
    assert answers[0].header("Cache-Status") == answers[1].header("Cache-Status")
    assert origin.count() == 0
    proxy.get(url)
    proxy.wait_until_idle()
    assert proxy.request("HEAD", url, headers=only).status == 200
    # what is there but would have to be asked about
    assert proxy.request("HEAD", url, headers=[("Cache-Control", "only-if-cached, max-age=0")]).status == 504
    assert origin.count() == 1
    proxy.eventually(lambda: in_flight(proxy), lambda count: count == 0)
