"""Connections of clients: how long they last, and who hears of them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

import pytest

from tests.support.agents import results
from tests.support.content import content
from tests.support.origin import PATIENCE, Echo, Gate, Origin, Reply
from tests.support.proxy import SCRIPTS, Proxy
from tests.test_lane import request

Start = Callable[..., Proxy]
FRESH = ("Cache-Control", "max-age=3600")


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(proxy.address, timeout=PATIENCE)


def receive(connection: socket.socket, until: Callable[[bytes], bool]) -> bytes:
    got = b""
    while not until(got):
        data = connection.recv(65536)
        assert data, f"the connection has ended after {got!r}"
        got += data
    return got


def wait_for_the_end_of_an_idle_one(proxy: Proxy) -> None:
    with connect(proxy) as idle:
        assert idle.recv(1) == b""


def test_only_what_is_idle_is_closed(start_proxy: Start, origin: Origin) -> None:
    """Not what is being answered, however long that takes: it is the origin that is slow here."""
    proxy = start_proxy(scripts=[SCRIPTS / "impatient.py"])
    gate = Gate()
    size, half = 400_000, 200_000
    slow = Reply(size=size, body_gate=gate, gate_at=half)
    fetches = []
    for name in ("first", "second"):  # mitmproxy hears of the first
        fetches.append(proxy.start_get(origin.serve(f"/{name}", slow), expect=size))
        fetches[-1].received(half)
    fetches.append(proxy.start_get(origin.serve("/silent", Reply(size=size, gate=gate)), expect=size))
    origin.wait_for("/silent")
    for _ in range(2):
        wait_for_the_end_of_an_idle_one(proxy)
    gate.open()
    assert all(response.ok for response in results(fetches))


def test_idle_once_it_has_been_used(start_proxy: Start, origin: Origin) -> None:
    """After a miss, after a hit, after what mitmproxy has forwarded, after half a request: then it is idle too."""
    proxy = start_proxy(scripts=[SCRIPTS / "impatient.py"])
    url = origin.serve("/x", Reply(headers=(FRESH,), size=10))
    conversations = [
        [request(url)],
        [request(url), request(url)],
        [request(url), request(url, "Content-Length: 0", method="POST"), request(url)],
        [request(url), request(url)[:20]],
        [b""],
    ]
    with contextlib.ExitStack() as stack:
        connections = []
        for conversation in conversations * 2:
            connection = stack.enter_context(connect(proxy))
            connections.append(connection)
            for piece in conversation:
                connection.sendall(piece)
                if piece.endswith(b"\r\n\r\n"):
                    receive(connection, lambda got: got.endswith(content("/x", 10)))
        for connection in connections:
            while connection.recv(65536):
                pass
    assert proxy.value("hook_errors_total") == 0


def test_a_script_that_wants_to_hears_of_every_connection(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy(scripts=[SCRIPTS / "visitors.py"])
    url = origin.serve("/x", Reply(headers=(FRESH,), size=10))
    for _ in range(4):
        assert proxy.get(url).ok
    proxy.eventually(lambda: sum("goes" in line for line in proxy.log), lambda count: count == 4)
    assert sum("visitor 127.0.0.1" in line and "comes" in line for line in proxy.log) == 4


@pytest.mark.parametrize("sent", [b"", b"GET ht", b"POST / HTT", b"\x16\x03\x01\x02\x00\x01"])
def test_clients_that_come_and_go(proxy: Proxy, origin: Origin, sent: bytes) -> None:
    """With nothing, or something unfinished: gone is gone, and the next one is served."""
    for _ in range(3):
        with connect(proxy) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1000):
                pass
    assert proxy.get(origin.serve("/after", Reply(size=10))).ok


def test_one_connection_for_everything(proxy: Proxy, origin: Origin, echo: Echo) -> None:
    """A second connection, of which mitmproxy does not know at first: hits, a POST, a HEAD, hits again, a tunnel."""
    url = origin.serve("/all", Reply(headers=(FRESH,), size=1000))
    assert proxy.get(url).ok
    assert proxy.get(url).ok
    with connect(proxy) as connection:
        for method, fields in (("GET", ()), ("POST", ("Content-Length: 0",)), ("GET", ()), ("HEAD", ()), ("GET", ())):
            connection.sendall(request(url, *fields, method=method))
            end = b"\r\n\r\n" if method == "HEAD" else content("/all", 1000)
            got = receive(connection, lambda got, end=end: got.endswith(end))  # type: ignore[misc]
            assert got.startswith(b"HTTP/1.1 200 ")
        connection.sendall(f"CONNECT {echo.netloc} HTTP/1.1\r\nHost: {echo.netloc}\r\n\r\n".encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"hello")
        assert connection.recv(65536) == b"hello"
