"""Detecting the end of TLS, with two OpenSSL peers and no network."""

from __future__ import annotations

from pathlib import Path

import pytest
from OpenSSL import SSL

from proxy_cache.mitm.tls_close import WatchedTls
from tests.support.certificates import self_signed

NO_RECORD = b"\x17\x03\x03\x00\x20" + 32 * b"x"


def move(source: SSL.Connection, target: SSL.Connection) -> None:
    try:
        target.bio_write(source.bio_read(65536))
    except SSL.WantReadError:
        pass


@pytest.fixture
def ends(tmp_path: Path) -> tuple[SSL.Connection, SSL.Connection]:
    """Client and server, after the handshake."""
    certificate = self_signed(tmp_path / "origin.pem")
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate_file(str(certificate))
    context.use_privatekey_file(str(certificate))
    server, client = SSL.Connection(context), SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD))
    server.set_accept_state()
    client.set_connect_state()
    for _ in range(3):
        for here, there in ((client, server), (server, client)):
            try:
                here.do_handshake()
            except SSL.WantReadError:
                pass
            move(here, there)
    return client, server


def test_the_closing_alert(ends: tuple[SSL.Connection, SSL.Connection]) -> None:
    client, server = ends
    watched = WatchedTls(client)
    server.send(b"hello")
    server.shutdown()
    move(server, client)
    assert watched.recv(100) == b"hello"
    assert not watched.was_closed
    with pytest.raises(SSL.ZeroReturnError):
        watched.recv(100)
    assert watched.was_closed
    assert watched.get_shutdown() & SSL.RECEIVED_SHUTDOWN


def test_an_alert_that_tells_of_an_error(ends: tuple[SSL.Connection, SSL.Connection]) -> None:
    """For OpenSSL it ends the connection, but it completes no message."""
    client, server = ends
    watched = WatchedTls(client)
    server.bio_write(NO_RECORD)
    with pytest.raises(SSL.Error):
        server.recv(100)
    move(server, client)
    for _ in range(3):
        with pytest.raises(SSL.Error):
            watched.recv(100)
    assert client.get_shutdown() & SSL.RECEIVED_SHUTDOWN
    assert not watched.was_closed
    assert not watched.get_shutdown()


def test_nothing(ends: tuple[SSL.Connection, SSL.Connection]) -> None:
    client, _ = ends
    watched = WatchedTls(client)
    with pytest.raises(SSL.WantReadError):
        watched.recv(100)
    assert not watched.was_closed
