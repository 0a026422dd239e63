"""What OpenSSL and mitmproxy make of bytes that we read first, and whether we have read the same."""

from __future__ import annotations

import random
import ssl
import sys
from pathlib import Path

from h11._receivebuffer import ReceiveBuffer
from mitmproxy.net.http import http1

from proxy_cache.wire.client_hello import ClientHello, HelloReader, parse_client_hello
from proxy_cache.wire.connect import Connect, parse_connect
from proxy_cache.wire.requests import UNUSUAL

from .certificates import server_context

# -- the first message of TLS ----------------------------------------------------------------------------------------


class OpenSsl:
    """A server of TLS as the proxy is one to intercepted clients."""

    def __init__(self, certificate: Path) -> None:
        self._context = server_context(certificate)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._context.set_alpn_protocols(["http/1.1"])
        self._context.sni_callback = self._named
        self._name: str | None = None

    def _named(self, _: object, name: str | None, __: object) -> None:
        self._name = name

    def read(self, data: bytes) -> tuple[str, str | None, str | None]:
        """``answered``, ``waits`` or ``refused``; the name that was asked for; the protocol that was chosen."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = self._context.wrap_bio(incoming, outgoing, server_side=True)
        incoming.write(data)
        self._name = None
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None  # Python's, for names that are no ASCII
        try:
            server.do_handshake()
        except ssl.SSLWantReadError:
            return "answered" if outgoing.pending else "waits", self._name, server.selected_alpn_protocol()
        except (ssl.SSLError, ValueError):
            return "refused", self._name, None
        finally:
            sys.unraisablehook = hook
        return "answered", self._name, server.selected_alpn_protocol()


def wrong_about_hello(data: bytes, openssl: OpenSsl) -> str | None:
    """What OpenSSL answers we have to have read, with the same name; while it waits we may not say what comes."""
    found = parse_client_hello(data)
    outcome, name, protocol = openssl.read(data)
    if outcome != "answered":
        return None
    if not isinstance(found, ClientHello):
        if _has_empty_record(data):
            return None  # RFC 8446 §5.1: "Implementations MUST NOT send zero-length fragments of Handshake types"
        return f"OpenSSL answers it, we say {found!r}"
    if (name or "").lower().removesuffix(".") != (found.server_name or ""):
        return f"OpenSSL reads the name {name!r}, we {found.server_name!r}"
    if protocol is not None and protocol.encode() not in found.protocols:
        return f"OpenSSL chooses {protocol!r}, we have read {found.protocols!r}"
    return None


def _has_empty_record(data: bytes) -> bool:
    while len(data) >= 5:
        length = int.from_bytes(data[3:5], "big")
        if not length:
            return True
        data = data[5 + length :]
    return False


def wrong_in_pieces(pieces: list[bytes], whole: ClientHello | str | None) -> str | None:
    """However it is cut: the same answer, once."""
    reader = HelloReader()
    for piece in pieces:
        found = reader.feed(piece)
        if found is not None:
            # With fewer bytes it may be known already that it is no hello, but not the other way round.
            return None if found == whole else f"{found!r} in pieces, {whole!r} at once"
    return None if whole is None else f"nothing in pieces, {whole!r} at once"


# -- CONNECT ---------------------------------------------------------------------------------------------------------

HOSTS = (
    b"packages.example", b"A.Example.", b"10.0.0.1", b"[::1]", b"[2001:db8::1]", b"xn--bcher-kva.example",
    b"a_b.example", b"localhost",
)  # fmt: skip
PARTS = (
    b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\n\n", b"\n\r\n", b"\x00", b"\x0b", b"\x7f", b"\x80", b"\xff", b" ", b"\t",
    b"  ", b"\r\n ", b":", b"::", b"@", b"user:word@", b"%31", b"[", b"]", b"%25lo", b"/", b"//", b"http://",
    b"https://", b"?", b"#", b"*", b".", b"..", b"-1", b"0", b"65536", b"+443", b"0443", b"00000443", b"HTTP/1.0",
    b"HTTP/2.0", b"HTTP/1.11", b"connect", b"GET ", b"\r\nHost: other.example", b"\r\nContent-Length: 5",
    b"\r\nTransfer-Encoding: chunked", b"\r\nTransfer-Encoding : chunked", b"\r\nExpect: 100-continue",
    b"\r\nUpgrade: h2c", b"\r\nX", b"\r\n: x", b"A" * 300, b"x: " + b"y" * 9000, "\u2460".encode(), "\uff11".encode(),
    "\u3002".encode(),
)  # fmt: skip
FIELDS = (b"Host: %b", b"Proxy-Connection: keep-alive", b"User-Agent: x/1", b"X-Odd:  a \t b ", b"Accept: */*, \xe9")


def mutated_connect(chance: random.Random) -> bytes:
    """A CONNECT, three times of four with something changed."""
    host = chance.choice(HOSTS)
    authority = b"%b:%d" % (host, chance.choice((443, 443, 1, 65535, 8443)))
    lines = [b"CONNECT %b HTTP/1.%d" % (authority, chance.choice((1, 1, 0)))]
    lines += [field % authority if b"%b" in field else field for field in FIELDS if chance.random() < 0.6]
    head = b"\r\n".join([*lines, b"", b""])
    if chance.random() < 0.25:
        return head
    data = bytearray(head)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.choice((chance.randrange(len(data) + 1), chance.randrange(min(40, len(data)))))
        match chance.randrange(4):
            case 0:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del data[at : at + chance.choice((1, 1, 3))]
            case _:
                data[at:at] = chance.choice(PARTS)
        if not data:
            return b"C"
    return bytes(data)


def wrong_about_connect(data: bytes) -> str | None:
    """What we answer ourselves mitmproxy would have read the same; what we leave to it is its own."""
    found = parse_connect(data)
    if found == UNUSUAL:
        return None
    buffer = ReceiveBuffer()
    buffer += data
    lines = buffer.maybe_extract_lines()
    if found is None:
        return None if lines is None else f"we wait for more, mitmproxy has read {lines!r}"
    assert isinstance(found, Connect)
    if lines is None:
        return f"mitmproxy waits for more, we have read {found}"
    try:
        request = http1.read_request_head([bytes(line) for line in lines])
        size = http1.expected_http_body_size(request)
    except ValueError as error:
        return f"mitmproxy refuses it ({error}), we have read {found}"
    left = data[found.size :]
    host = request.host.lower()
    if not host.isascii():  # mitmproxy decodes names of IDNA
        host = host.encode("idna").decode()
    theirs = (request.method, host, request.port, size, bytes(buffer))
    if theirs != ("CONNECT", found.host, found.port, 0, left):
        return f"mitmproxy has read {theirs}, we {found}"
    return None
