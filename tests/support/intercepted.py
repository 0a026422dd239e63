"""Clients whose TLS ends in the proxy."""

from __future__ import annotations

import re
import select
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from .agents import Wire
from .origin import PATIENCE, Origin
from .proxy import Proxy

T = TypeVar("T")


def ca_of(proxy: Proxy) -> Path:
    """The CA that clients have to trust."""
    return proxy.folder / "mitmproxy" / "mitmproxy-ca-cert.pem"


def trusting(proxy: Proxy, *protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_of(proxy))
    if protocols:
        context.set_alpn_protocols(protocols)
    return context


def connected(proxy: Proxy, netloc: str) -> Wire:
    """A connection with a 200 to its CONNECT."""
    wire = Wire(proxy.address)
    wire.send(f"CONNECT {netloc} HTTP/1.1\r\nHost: {netloc}\r\nProxy-Connection: keep-alive\r\n\r\n")
    status, headers = wire.head()
    assert status == 200, headers
    assert not headers
    return wire


def intercepted(
    proxy: Proxy, origin: Origin, context: ssl.SSLContext | None = None, name: str = "127.0.0.1", **options: Any
) -> Wire:
    """A connection in TLS, with the proxy in the place of ``origin``."""
    wire = connected(proxy, origin.netloc)
    try:
        wire.socket = (context or trusting(proxy)).wrap_socket(wire.socket, server_hostname=name, **options)
    except BaseException:
        wire.socket.close()
        raise
    return wire


def is_intercepted(wire: Wire) -> bool:
    """Whether the certificate is the proxy's."""
    connection = wire.socket
    assert isinstance(connection, ssl.SSLSocket)
    certificate: Any = connection.getpeercert()
    return any(("organizationName", "mitmproxy") in part for part in certificate["issuer"])


class StrictSocket(ssl.SSLSocket):
    """To whom an end without TLS' own (RFC 8446 §6.1) is a connection that has broken off.

    One thread may send while another one reads: OpenSSL takes one of them at a time, and nobody waits inside it.
    """

    _turn = threading.Lock()

    def recv(self, *arguments: Any) -> bytes:
        try:
            return self._in_turn(super().recv, *arguments)
        except ssl.SSLEOFError as error:
            raise ConnectionResetError(str(error)) from error

    def send(self, *arguments: Any) -> int:
        return self._in_turn(super().send, *arguments)

    def _in_turn(self, act: Callable[..., T], *arguments: Any) -> T:
        while True:
            with self._turn:
                timeout = self.gettimeout()
                self.settimeout(0)
                try:
                    return act(*arguments)
                except ssl.SSLWantReadError:
                    ready = select.POLLIN
                except ssl.SSLWantWriteError:
                    ready = select.POLLOUT
                finally:
                    self.settimeout(timeout)
            waiting = select.poll()
            waiting.register(self, ready)
            if not waiting.poll(None if timeout is None else timeout * 1000):
                raise TimeoutError(f"nothing within {timeout} s")


class InterceptedWire(Wire):
    """What a test sends to the proxy as ``GET https://origin/x`` goes through TLS to an intercepted ``origin``."""

    _ABSOLUTE = re.compile(rb"^([A-Za-z]+ )https://([^/ ]+)(?=[/? ])", re.MULTILINE)
    ca: Path | None = None
    """Of the proxy at hand."""

    def __init__(self, address: tuple[str, int], timeout: float = PATIENCE) -> None:
        super().__init__(address, timeout)
        self._netloc: bytes | None = None

    def send(self, data: bytes | str) -> None:
        raw = data.encode("latin-1") if isinstance(data, str) else data
        if self._netloc is None:
            found = self._ABSOLUTE.match(raw)
            assert found is not None, raw[:200]
            self._netloc = found[2]
            super().send(b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (self._netloc, self._netloc))
            assert self.head()[0] == 200
            context = ssl.create_default_context(cafile=self.ca)
            context.sslsocket_class = StrictSocket
            self.socket = context.wrap_socket(self.socket, server_hostname="127.0.0.1", suppress_ragged_eofs=False)
        super().send(self._ABSOLUTE.sub(rb"\1", raw))

    def finish(self) -> None:
        socket.socket.shutdown(self.socket, socket.SHUT_WR)  # an SSLSocket's own would end TLS in both directions
