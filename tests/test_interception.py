"""mitmproxy takes TLS apart under our layers where a mode has it so (``--mode socks5``, TLS clients in reverse mode):
what is asked for in there is answered as elsewhere, also if that takes waiting."""

from __future__ import annotations

import shutil
import ssl
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.agents import Wire
from tests.support.certificates import self_signed, server_context
from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import Proxy

Start = Callable[..., Proxy]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("tls") / "origin.pem")


@pytest.fixture
def secure(certificate: Path) -> Iterator[Origin]:
    with Origin(tls=server_context(certificate)) as running:
        yield running


@pytest.fixture(scope="module")
def socks(tmp_path_factory: pytest.TempPathFactory, certificate: Path, fast_lane: bool) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("socks")
    with Proxy(
        folder, fast_lane=fast_lane, mode="socks5", ssl_verify_upstream_trusted_ca=certificate, origin_retries=0
    ) as proxy:
        yield proxy


def trusting(proxy: Proxy) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=proxy.folder / "mitmproxy" / "mitmproxy-ca-cert.pem")


def through_socks(proxy: Proxy, origin: Origin, *, tls: bool) -> Wire:
    """A connection to an origin through SOCKS (RFC 1928), and TLS in it."""
    wire = Wire(proxy.address)
    wire.send(b"\x05\x01\x00")
    assert wire.exactly(2) == b"\x05\x00"
    wire.send(b"\x05\x01\x00\x01\x7f\x00\x00\x01" + struct.pack("!H", origin.port))
    assert wire.exactly(10)[1] == 0
    if tls:
        wire.socket = trusting(proxy).wrap_socket(wire.socket, server_hostname="127.0.0.1")
    return wire


def request(method: str, origin: Origin, path: str, body: str = "") -> str:
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{method} {path} HTTP/1.1\r\nHost: {origin.netloc}\r\n{length}\r\n{body}"


@pytest.mark.parametrize("tls", [False, True])
def test_through_socks(socks: Proxy, origin: Origin, secure: Origin, tls: bool) -> None:
    """Misses, hits, what others wait for too, and what is forwarded, on one connection."""
    asked = secure if tls else origin
    gate = Gate()
    asked.serve("/slow", Reply(size=200_000, gate=gate))
    with through_socks(socks, asked, tls=tls) as wire, through_socks(socks, asked, tls=tls) as other:
        wire.send(request("GET", asked, "/slow"))
        asked.wait_for("/slow")
        other.send(request("GET", asked, "/slow"))
        socks.wait_for_waiters(2)
        gate.open()
        assert wire.response().body == other.response().body == asked.body_of("/slow", 200_000)
        for method, body in (("GET", ""), ("HEAD", ""), ("POST", "hello"), ("GET", "")):
            wire.send(request(method, asked, "/other", body))
            if method == "HEAD":
                assert wire.head()[0] == 200
            else:
                assert wire.response().body == asked.body_of("/other", 1000)
        wire.send(request("GET", asked, "/slow"))
        response = wire.response()
        assert "hit" in (response.header("Cache-Status") or "")
        assert response.body == asked.body_of("/slow", 200_000)
    assert asked.count("/slow") == 1


def curl(proxy: Proxy, *arguments: str) -> dict[str, Any]:
    program = shutil.which("curl")
    if program is None:
        pytest.skip("no curl")
    command = [program, "-sS", "--cacert", str(proxy.folder / "mitmproxy" / "mitmproxy-ca-cert.pem"), *arguments]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return {"body": done.stdout}


def test_http2_through_socks(socks: Proxy, secure: Origin) -> None:
    """mitmproxy speaks HTTP/2 to clients in TLS."""
    host, port = socks.address
    secure.serve("/x", Reply(size=200_000))
    for _ in range(2):
        answer = curl(socks, "--http2", "--socks5", f"{host}:{port}", secure.url("/x"))
        assert answer["body"] == secure.body_of("/x", 200_000)
    assert secure.count("/x") == 1


def test_tls_clients_in_reverse_mode(start_proxy: Start, secure: Origin, certificate: Path) -> None:
    proxy = start_proxy(mode=f"reverse:{secure.base}", ssl_verify_upstream_trusted_ca=certificate)
    gate = Gate()
    secure.serve("/slow", Reply(size=200_000, gate=gate))
    with Wire(proxy.address) as wire:
        wire.socket = trusting(proxy).wrap_socket(wire.socket, server_hostname="127.0.0.1")
        wire.send(request("GET", secure, "/slow"))
        secure.wait_for("/slow")
        gate.open()
        assert wire.response().body == secure.body_of("/slow", 200_000)
        wire.send(request("POST", secure, "/post", "hello"))
        assert wire.response().status == 200
    for _ in range(2):
        answer = curl(proxy, "--http2", proxy.url.replace("http:", "https:") + "/slow")
        assert answer["body"] == secure.body_of("/slow", 200_000)
    assert secure.count("/slow") == 1


INTERCEPT = """
from mitmproxy import http

def http_connect(flow):
    flow.response = http.Response.make(200)
"""


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("over_tls", [False, True])
def test_a_script_that_takes_tunnels_apart(
    start_proxy: Start, origin: Origin, secure: Origin, certificate: Path, tmp_path: Path, tls: bool, over_tls: bool
) -> None:
    """It answers the CONNECT itself: mitmproxy then looks into it, with one HTTP layer in another."""
    script = tmp_path / "intercept.py"
    script.write_text(INTERCEPT)
    proxy = start_proxy(arguments=["-s", str(script)], ssl_verify_upstream_trusted_ca=certificate)
    asked = secure if tls else origin
    gate = Gate()
    asked.serve("/slow", Reply(size=200_000, gate=gate))
    with Wire(proxy.address) as wire:
        if over_tls:  # to the proxy itself
            context = trusting(proxy)
            context.check_hostname = False
            wire.socket = context.wrap_socket(wire.socket)
        wire.send(f"CONNECT {asked.netloc} HTTP/1.1\r\nHost: {asked.netloc}\r\n\r\n")
        assert wire.head()[0] == 200
        if tls and not over_tls:
            wire.socket = trusting(proxy).wrap_socket(wire.socket, server_hostname="127.0.0.1")
        if tls and over_tls:
            pytest.skip("Python has no TLS in TLS for sockets")
        wire.send(request("GET", asked, "/slow"))
        asked.wait_for("/slow")
        gate.open()
        assert wire.response().body == asked.body_of("/slow", 200_000)
        wire.send(request("POST", asked, "/post", "hello"))
        assert wire.response().status == 200
        wire.send(request("GET", asked, "/slow"))
        assert "hit" in (wire.response().header("Cache-Status") or "")
    assert asked.count("/slow") == 1
