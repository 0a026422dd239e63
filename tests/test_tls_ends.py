"""Responses in TLS that last until the end of their connection are complete with TLS' closing alert (RFC 9112 §9.8)."""

from __future__ import annotations

import itertools
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agents import Wire, parse_head
from tests.support.certificates import self_signed, server_context
from tests.support.proxy import Proxy
from tests.support.tls import CLOSE, CUT, GARBAGE, TlsOrigin

HEAD = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\n"
WHOLE = b"w" * 300_000
PIECE = WHOLE[:100_000]
paths = (f"/{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("tls") / "origin.pem")


@pytest.fixture(scope="module")
def secure(certificate: Path) -> Iterator[TlsOrigin]:
    with TlsOrigin(server_context(certificate)) as running:
        yield running


@pytest.fixture(scope="module")
def mirror(
    tmp_path_factory: pytest.TempPathFactory, certificate: Path, secure: TlsOrigin, fast_lane: bool
) -> Iterator[Proxy]:
    """Stands in for the origin."""
    with Proxy(
        tmp_path_factory.mktemp("proxy"),
        fast_lane=fast_lane,
        mode=f"reverse:https://{secure.netloc}",
        ssl_verify_upstream_trusted_ca=certificate,
        origin_retries=1,
    ) as proxy:
        yield proxy


def until_close(body: bytes, end: str) -> tuple[bytes, str]:
    return HEAD + b"Connection: close\r\n\r\n" + body, end


def asked(proxy: Proxy, path: str, method: str = "GET", version: str = "1.1") -> tuple[bytes, bool]:
    """The body that a client gets, and whether it can know it for complete: by the last chunk, the length, or by the
    end of a connection that was not reset."""
    with Wire(proxy.address) as wire:
        length = "Content-Length: 0\r\n" if method == "POST" else ""
        wire.send(f"{method} {path} HTTP/{version}\r\nHost: origin\r\n{length}Connection: close\r\n\r\n")
        data, was_reset = b"", False
        try:
            while more := wire.socket.recv(1 << 16):
                data += more
        except ConnectionResetError:
            was_reset = True
    head, _, rest = data.partition(b"\r\n\r\n")
    _, _, fields = parse_head(head + b"\r\n\r\n")
    headers = {name.lower(): value for name, value in fields}
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            if not int(size, 16):
                return body, True
            body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
        return body, False
    if "content-length" in headers:
        return rest, len(rest) == int(headers["content-length"])
    return rest, not was_reset


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_a_body_that_is_cut_short_is_not_kept(mirror: Proxy, secure: TlsOrigin, version: str) -> None:
    """It breaks off at its client's, and the next one gets all of it."""
    path = secure.serve(next(paths), until_close(PIECE, CUT), until_close(WHOLE, CLOSE))
    body, complete = asked(mirror, path, version=version)
    assert len(body) <= len(PIECE)
    assert not complete
    assert asked(mirror, path, version=version) == (WHOLE, True)
    mirror.wait_until_idle()
    assert asked(mirror, path, version=version) == (WHOLE, True)
    assert secure.count(path) == 2, "what was complete is a hit"


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("end", [CUT, CLOSE, GARBAGE])
def test_what_is_forwarded_breaks_off_too(mirror: Proxy, secure: TlsOrigin, end: str, version: str) -> None:
    path = secure.serve(next(paths), until_close(PIECE, end))
    body, complete = asked(mirror, path, "POST", version)
    assert complete == (end == CLOSE)
    assert body == PIECE if complete else len(body) <= len(PIECE)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("complete", [True, False])
def test_other_bodies_end_by_themselves(
    mirror: Proxy, secure: TlsOrigin, method: str, framing: str, complete: bool
) -> None:
    """Then it does not matter how the connection ends, but only that they have."""
    if framing == "length":
        message = HEAD + b"Content-Length: %d\r\n\r\n" % len(WHOLE) + (WHOLE if complete else PIECE)
    else:
        message = HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(PIECE), PIECE)
        message += b"0\r\n\r\n" if complete else b""
    body, whole = asked(mirror, secure.serve(next(paths), (message, CUT)), method)
    assert whole == complete
    if complete:
        assert body == (WHOLE if framing == "length" else PIECE)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("end", [CUT, CLOSE])
def test_clients_in_tls_are_told_in_the_same_way(mirror: Proxy, secure: TlsOrigin, method: str, end: str) -> None:
    """By the closing alert, or by its absence: a client of HTTP/1.0 has nothing else to go by."""
    path = secure.serve(next(paths), until_close(PIECE, end))
    trusting = ssl.create_default_context(cafile=mirror.folder / "mitmproxy" / "mitmproxy-ca-cert.pem")
    trusting.check_hostname = False
    with (
        Wire(mirror.address) as wire,
        trusting.wrap_socket(wire.socket, server_hostname="origin.test", suppress_ragged_eofs=False) as tls,
    ):
        length = "Content-Length: 0\r\n" if method == "POST" else ""
        tls.sendall(f"{method} {path} HTTP/1.0\r\nHost: origin\r\n{length}\r\n".encode())
        data, complete = b"", True
        try:
            while more := tls.recv(1 << 16):
                data += more
        except (ssl.SSLEOFError, ConnectionResetError):
            complete = False
    assert complete == (end == CLOSE)
    if complete:
        assert data.endswith(PIECE)


EARLY = b"HTTP/1.1 401 No\r\nConnection: close\r\n\r\nnever"
PUT = "PUT {path} HTTP/{version}\r\nHost: origin\r\nContent-Length: 10\r\n\r\nhello"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (PUT.replace("{version}", "1.1"), 401),
        (PUT.replace("{version}", "1.0"), 401),
        (PUT.replace("{version}", "1.1") + "world", 401),
        ("GET {path} HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET {path} HTTP/1.1\r\nHost: a\r\nX: " + "x" * 100_000 + "\r\n\r\n", 431),
        ("PUT {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n", 400),
    ],
    ids=["half", "half 1.0", "whole", "400", "431", "chunk"],
)
def test_the_last_answer_has_a_proper_end(mirror: Proxy, secure: TlsOrigin, request_: str, status: int) -> None:
    """Also one that comes before the request has ended, and the refusal of what is none."""
    path = secure.serve(next(paths), (EARLY, CLOSE))
    trusting = ssl.create_default_context(cafile=mirror.folder / "mitmproxy" / "mitmproxy-ca-cert.pem")
    trusting.check_hostname = False
    with (
        Wire(mirror.address) as wire,
        trusting.wrap_socket(wire.socket, server_hostname="origin.test", suppress_ragged_eofs=False) as tls,
    ):
        tls.sendall(request_.replace("{path}", path).encode())
        data = b""
        while more := tls.recv(1 << 16):  # raises if there is no closing alert
            data += more
    assert data.startswith(f"HTTP/1.1 {status} ".encode())
    assert status != 401 or data.endswith(b"never")


def test_a_parent_proxy_in_tls(tmp_path: Path, certificate: Path, secure: TlsOrigin, fast_lane: bool) -> None:
    """The connection that ends is the one to the parent."""
    with Proxy(
        tmp_path,
        fast_lane=fast_lane,
        mode=f"upstream:https://{secure.netloc}",
        ssl_verify_upstream_trusted_ca=certificate,
        origin_retries=0,
    ) as proxy:
        for method in ("GET", "POST"):
            for end in (CUT, CLOSE):
                url = secure.serve(f"http://origin.example{next(paths)}", until_close(PIECE, end))
                body, complete = asked(proxy, url, method)
                assert complete == (end == CLOSE), (method, end)
                assert body == PIECE if complete else len(body) <= len(PIECE)
                assert secure.count(url)
