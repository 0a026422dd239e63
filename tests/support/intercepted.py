"""Clients whose TLS ends in the proxy."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from .agents import Wire
from .origin import Origin
from .proxy import Proxy


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
