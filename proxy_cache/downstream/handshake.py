"""The beginning of TLS on a client's connection: its first message, and the handshake if that is to end here."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Literal, Protocol

from ..wire.client_hello import MAX_HELLO, NO_TLS, ClientHello, HelloReader
from .tls import INCOMING, OUTGOING, TlsTransport, empty

SILENCE = 10.0
"""Seconds without a byte after which a client waits for its server to speak first, which TLS doesn't know."""
PATIENCE = 60.0
"""Seconds that a handshake may take."""
RECEIVED_MAX = 8 * MAX_HELLO
"""Bytes of a client that waits for its certificate, and has nothing to say meanwhile. (A ClientHello in records of one
byte each has six times as many as it has in one.)"""
UNRECOGNIZED_NAME = b"\x15\x03\x03\x00\x02\x02\x70"
"""A fatal alert (RFC 6066 §3), before there are any keys."""


class Owner(Protocol):
    """Decides what becomes of the connection."""

    def hello_arrived(self, hello: ClientHello | Literal["no TLS"]) -> None:
        """Followed by one of :meth:`Handshake.answer`, :meth:`Handshake.refuse` and :meth:`Handshake.give_back`."""

    def established(self, tls: TlsTransport, *, resumed: bool) -> None:
        """The handshake is over. The owner sets the protocol."""

    def is_used(self) -> None:
        """The client has sent its first bytes through TLS."""

    def failed(self, reason: str, *, by_client: bool) -> None:
        """There will be no TLS. ``by_client``: the client has sent an alert."""

    def left(self, *, has_seen_certificate: bool) -> None:
        """The client has closed the connection without a word."""

    def connection_lost(self, error: Exception | None) -> None: ...


class Handshake(asyncio.Protocol):
    """The protocol of a connection from the answer to its CONNECT until TLS is there."""

    def __init__(self, transport: Any, owner: Owner) -> None:
        self._transport = transport
        self._owner = owner
        self._received = bytearray()
        """All that has come, until there is an answer to it."""
        self._reader = HelloReader()
        self._has_hello = False
        self._is_over = False
        self._tls: ssl.SSLObject | None = None
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(SILENCE, self._still_silent)

    # -- what the connection tells ------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._tls is not None:
            self._go_on(data)
        elif not self._is_over:
            self._received += data
            if not self._has_hello:
                self._look(data)
            elif len(self._received) > RECEIVED_MAX:  # before it has had an answer
                self._end()
                self._owner.failed("more than a ClientHello", by_client=False)
                self._transport.abort()

    def eof_received(self) -> bool:
        self._left()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._left()
        self._owner.connection_lost(error)

    def pause_writing(self) -> None:
        pass

    def resume_writing(self) -> None:
        pass

    # -- the way of it ------------------------------------------------------------------------------------------

    def _look(self, data: bytes) -> None:
        hello = self._reader.feed(data)
        if hello is None:
            return
        self._has_hello = True
        self._owner.hello_arrived(hello)

    def _still_silent(self) -> None:
        if not self._has_hello and not self._received:
            self._has_hello = True
            self._owner.hello_arrived(NO_TLS)
        else:
            self._timer = asyncio.get_running_loop().call_later(PATIENCE - SILENCE, self._too_late)

    def _too_late(self) -> None:
        if not self._is_over:
            self._end()
            self._owner.failed(f"not over after {PATIENCE:.0f} s", by_client=False)
            self._transport.abort()

    def answer(self, context: ssl.SSLContext) -> None:
        """Be the server of TLS, with the certificate of ``context``."""
        if self._is_over or self._transport.is_closing():
            return
        self._tls = context.wrap_bio(INCOMING, OUTGOING, server_side=True)
        received, self._received = self._received, bytearray()
        self._go_on(received)

    def refuse(self, alert: bytes) -> None:
        """Close the connection after an alert."""
        if self._is_over:
            return
        self._end()
        self._transport.write(alert)
        self._transport.close()

    def give_back(self) -> bytes:
        """Let the owner have the connection, and what has come over it."""
        self._end()
        return bytes(self._received)

    def _end(self) -> None:
        self._is_over = True
        self._timer.cancel()

    def _go_on(self, data: bytes | bytearray) -> None:
        tls = self._tls
        assert tls is not None
        if self._is_over:
            return
        failure: Exception | None = None
        try:
            INCOMING.write(data)
            tls.do_handshake()
        except (ssl.SSLError, ValueError) as error:
            failure = error
        except BaseException:
            empty()
            raise  # asyncio closes the connection
        rest = INCOMING.read()  # of a client that sends its request along
        self._flush()  # also OpenSSL's alert
        if isinstance(failure, ssl.SSLWantReadError):
            return
        if failure is not None:
            self._end()
            reason = str(getattr(failure, "reason", "") or failure)
            self._owner.failed(reason.lower().replace("_", " "), by_client="ALERT" in reason)
            self._transport.close()
            return
        self._end()
        established = TlsTransport(self._transport, tls, self._owner)
        self._transport.set_protocol(established)
        self._owner.established(established, resumed=bool(tls.session_reused))
        if rest and not self._transport.is_closing():
            established.data_received(rest)

    def _flush(self) -> None:
        data = OUTGOING.read()
        if data and not self._transport.is_closing():
            self._transport.write(data)

    def _left(self) -> None:
        if not self._is_over:
            self._end()
            self._owner.left(has_seen_certificate=self._tls is not None)
