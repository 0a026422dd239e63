"""CONNECT: a raw tunnel that nobody looks into."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509

from tests.support.agents import Wire
from tests.support.certificates import self_signed, server_context
from tests.support.content import content
from tests.support.origin import PATIENCE, Echo, Origin
from tests.support.proxy import Proxy
from tests.support.tools import nobody_listens


@contextlib.contextmanager
def tunnel(proxy: Proxy, netloc: str) -> Iterator[Wire]:
    with Wire(proxy.address) as wire:
        wire.send(f"CONNECT {netloc} HTTP/1.1\r\nHost: {netloc}\r\nProxy-Connection: keep-alive\r\n\r\n")
        status, headers = wire.head()
        assert status == 200, headers
        assert not {name.lower() for name, _ in headers} & {"content-length", "transfer-encoding"}
        yield wire


@contextlib.contextmanager
def server(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """A TCP server for one connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(PATIENCE)

        def serve() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listening.accept()
                with connection:
                    connection.settimeout(PATIENCE)
                    talk(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        thread.join(PATIENCE)


def test_bytes_pass_unchanged(proxy: Proxy, echo: Echo) -> None:
    """Also such as look like TLS or HTTP: the tunnel is not for us to understand."""
    pieces = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
        b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
        os.urandom(300_000),
    ]
    for piece in pieces:
        with tunnel(proxy, echo.netloc) as wire:
            sender = threading.Thread(target=wire.send, args=(piece,))
            sender.start()
            assert wire.exactly(len(piece)) == piece
            sender.join(PATIENCE)


def test_bytes_sent_with_the_connect(proxy: Proxy, echo: Echo) -> None:
    """A client in a hurry does not wait for the 200."""
    with Wire(proxy.address) as wire:
        wire.send(f"CONNECT {echo.netloc} HTTP/1.1\r\nHost: {echo.netloc}\r\n\r\nearly")
        assert wire.head()[0] == 200
        assert wire.exactly(5) == b"early"


def test_the_client_finishes_first(proxy: Proxy, echo: Echo) -> None:
    """Half-close: the target hears of it, and what it still says arrives."""
    with tunnel(proxy, echo.netloc) as wire:
        wire.send("hello")
        wire.finish()
        assert wire.rest() == b"hello" + Echo.GOODBYE
    assert echo.eof.is_set()


def test_the_target_finishes_first(proxy: Proxy) -> None:
    got = []

    def talk(connection: socket.socket) -> None:
        connection.sendall(b"that is all")
        connection.shutdown(socket.SHUT_WR)
        while data := connection.recv(65536):
            got.append(data)

    with server(talk) as netloc, tunnel(proxy, netloc) as wire:
        assert wire.rest() == b"that is all"
        wire.send("but not from me")
        wire.finish()
    assert b"".join(got) == b"but not from me"


def test_a_refused_connection_is_a_502(proxy: Proxy) -> None:
    with nobody_listens() as netloc, Wire(proxy.address) as wire:
        wire.send(f"CONNECT {netloc} HTTP/1.1\r\nHost: {netloc}\r\n\r\n")
        response = wire.response()
    assert response.status == 502
    assert response.body
    assert "proxy-cache" in (response.header("Proxy-Status") or "")


def test_an_unknown_host_is_a_502(proxy: Proxy) -> None:
    netloc = "does-not-exist.invalid:443"
    with Wire(proxy.address) as wire:
        wire.send(f"CONNECT {netloc} HTTP/1.1\r\nHost: {netloc}\r\n\r\n")
        assert wire.response().status == 502


def test_a_client_may_try_again_over_its_connection(proxy: Proxy, echo: Echo) -> None:
    with nobody_listens() as netloc, Wire(proxy.address) as wire:
        for _ in range(3):
            wire.send(f"CONNECT {netloc} HTTP/1.1\r\nHost: {netloc}\r\n\r\n")
            assert wire.response().status == 502
        wire.send(f"CONNECT {echo.netloc} HTTP/1.1\r\nHost: {echo.netloc}\r\n\r\n")
        assert wire.head()[0] == 200
        wire.send("x")
        assert wire.exactly(1) == b"x"


def test_bytes_and_tunnels_are_counted(start_proxy: Callable[..., Proxy], echo: Echo) -> None:
    proxy = start_proxy()
    with tunnel(proxy, echo.netloc) as wire:
        wire.send(b"x" * 1000)
        wire.exactly(1000)
        proxy.wait_for_metric("tunnels_active", 1)
        wire.finish()
        assert wire.rest() == Echo.GOODBYE
    proxy.wait_for_metric("tunnels_active", 0)
    metrics = proxy.settled()
    assert metrics.value("forward_requests_total", method="CONNECT") == 1
    assert metrics.value("tunnel_bytes_total", direction="from_client") == 1000
    assert metrics.value("tunnel_bytes_total", direction="to_client") == 1000 + len(Echo.GOODBYE)
    assert metrics.value("tunnel_duration_seconds_count") == 1
    assert metrics.value("inflight_requests") == 0


def test_the_target_is_dialled_once(proxy: Proxy, echo: Echo) -> None:
    for _ in range(3):
        with tunnel(proxy, echo.netloc) as wire:
            wire.send("x")
            wire.exactly(1)
    assert echo.connections == 3


def test_50_tunnels_at_once(proxy: Proxy, echo: Echo) -> None:
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(tunnel(proxy, echo.netloc)) for _ in range(50)]
        for number, wire in enumerate(wires):
            wire.send(content(str(number), 5000))
        for number, wire in enumerate(wires):
            assert wire.exactly(5000) == content(str(number), 5000)


def test_plain_http_in_a_tunnel_is_not_cached(proxy: Proxy, origin: Origin) -> None:
    for _ in range(2):
        with tunnel(proxy, origin.netloc) as wire:
            wire.send(f"GET /inside HTTP/1.1\r\nHost: {origin.netloc}\r\n\r\n")
            response = wire.response()
            assert response.body == content("/inside", 1000)
            assert response.header("Via") is None
            assert response.header("Cache-Status") is None
    assert origin.count("/inside") == 2


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("certificate") / "origin.pem")


def test_tls_is_not_intercepted(proxy: Proxy, certificate: Path) -> None:
    """The certificate that the agent sees is the origin's own."""
    context = server_context(certificate)

    def talk(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            secure.sendall(secure.recv(100).upper())

    trusting = ssl.create_default_context()
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    with (
        server(talk) as netloc,
        tunnel(proxy, netloc) as wire,
        trusting.wrap_socket(wire.socket, server_hostname="origin.test") as secure,
    ):
        presented = secure.getpeercert(binary_form=True)
        assert presented is not None
        own = x509.load_pem_x509_certificate(certificate.read_bytes())
        assert x509.load_der_x509_certificate(presented) == own
        secure.sendall(b"hello")
        assert secure.recv(100) == b"HELLO"
