"""TLS on a client's connection, once its handshake is over: to a lane it is a transport like any other.

The lane's own transport stays asyncio's, below: its reads, its buffer, its flow control and its end are those of the
connection. In between OpenSSL works on memory (``ssl.MemoryBIO``): a request takes one ``recv``, a hit one ``send``,
where a socket of OpenSSL's own takes two reads for each record and a write for each 16 kB.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from typing import Any, Final, Protocol

RECORD: Final = 16 * 1024
"""Bytes that a record may hold (RFC 8446 §5.1)."""
AT_ONCE: Final = 8 * RECORD
"""Bytes that are encrypted before they are sent: more of them don't stay in a core's own cache on their way."""
UNREAD_MAX: Final = 64 * 1024
"""Bytes of TLS' own that may wait for a client: each message has some thirty."""
INCOMING: Final = ssl.MemoryBIO()
OUTGOING: Final = ssl.MemoryBIO()
"""What OpenSSL reads from and writes to, for all connections: a ``MemoryBIO`` keeps the memory that it once took.

Both are empty whenever a connection has had its turn, whatever came of that. (The beginning of a record whose rest has
yet to come is OpenSSL's to keep.) They belong to the thread of the event loop."""


def empty() -> None:
    """After an exception that nobody expects, ``MemoryError`` say: the next connection must find nothing of this
    one's."""
    for memory in (INCOMING, OUTGOING):
        while memory.pending:
            memory.read(RECORD)


class Watcher(Protocol):
    """Hears of a connection."""

    def is_used(self) -> None:
        """The client has sent its first bytes through it."""

    def connection_lost(self, error: Exception | None) -> None: ...


class TlsTransport(asyncio.Transport, asyncio.Protocol):
    """The transport of what is inside TLS, and the protocol of the connection below."""

    def __init__(self, transport: Any, tls: ssl.SSLObject, watcher: Watcher) -> None:
        """``tls``: of :data:`INCOMING` and :data:`OUTGOING`, after its handshake."""
        super().__init__()
        self._transport = transport
        self._descriptor = transport.get_extra_info("socket").fileno()
        self._tls = tls
        inner: Any = getattr(tls, "_sslobj", tls)  # what Python's own object calls, a frame later
        self._decrypt, self._encrypt = inner.read, inner.write
        self._watcher = watcher
        self._protocol: Any = None
        self._has_ended = False
        """Whether the client has sent its last byte."""
        self._has_closed = False
        """Whether it was told that there is nothing more to come (RFC 8446 §6.1)."""
        self.is_cut = False
        """Whether the client must not take the end for a proper one: it isn't told of it, then."""
        self._unread = 0
        """Bytes of TLS' own that are buffered for the client, at most."""
        self._is_used = False
        """Whether anything has come through it."""

    # -- the protocol of the connection -------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._has_ended:
            return
        found = b""
        try:
            # The usual: one record, and nothing else.
            INCOMING.write(data)
            found = self._decrypt(RECORD)
            if INCOMING.pending or not found:
                found = self._decrypt_on(found)
        except (ssl.SSLError, ValueError) as error:
            self._cannot_decrypt(error)
        except BaseException:
            empty()
            raise  # asyncio closes the connection
        if OUTGOING.pending:
            self._flush_own()
        if found:
            if not self._is_used:
                self._is_used = True
                self._watcher.is_used()
            self._protocol.data_received(found)
        if self._has_ended:
            self._ended()

    def _decrypt_on(self, record: bytes) -> bytes:
        """The first record, and all that have come with it."""
        found = []
        try:
            while record:
                found.append(record)
                record = self._decrypt(RECORD)
            self._has_ended = True
        except (ssl.SSLError, ValueError) as error:
            self._cannot_decrypt(error)
        INCOMING.read()  # nothing, but after the client's end
        return b"".join(found) if not self._transport.is_closing() else b""

    def _cannot_decrypt(self, error: Exception) -> None:
        """There is no more, for now or at all. Whatever is wrong ends the connection."""
        if isinstance(error, ssl.SSLWantReadError):
            return
        INCOMING.read()
        if isinstance(error, ssl.SSLZeroReturnError):
            self._has_ended = True
            return
        # A record that is none: OpenSSL has an alert for the client.
        self._flush_own()
        self.abort()

    def _ended(self) -> None:
        if not self._protocol.eof_received():
            self.close()

    def eof_received(self) -> bool:
        """A FIN. One without TLS' own end before it is as good: a request says itself where it ends (RFC 9112 §9.8)."""
        if not self._has_ended:
            self._has_ended = True
            self._ended()
        return not self._transport.is_closing()

    def connection_lost(self, error: Exception | None) -> None:
        if self._protocol is not None:  # the owner may have failed to give it one
            self._protocol.connection_lost(error)
        self._watcher.connection_lost(error)

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    # -- the transport of what is inside ------------------------------------------------------------------------

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return bool(self._transport.is_closing())

    def is_reading(self) -> bool:
        return bool(self._transport.is_reading())

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._transport.set_write_buffer_limits(high, low)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        limits: tuple[int, int] = self._transport.get_write_buffer_limits()
        return limits

    def get_write_buffer_size(self) -> int:
        return int(self._transport.get_write_buffer_size())

    def send(self, head: bytes, body: bytes | bytearray | memoryview, file: int | None) -> bool:
        """As :meth:`.socket_writer.SocketWriter.send`, from memory."""
        if self._has_closed or self._transport.is_closing():
            return True
        first = RECORD - len(head)
        try:
            if len(body) <= first:
                self._encrypt(head + body)  # OpenSSL takes all of it: memory is never full
                return self._flush()
            first = max(first, 0)
            view = memoryview(body)
            self._encrypt(head + view[:first])
            if len(view) <= AT_ONCE:
                self._encrypt(view[first:])
                return self._flush()
        except ssl.SSLError:
            self._cannot_encrypt()
            return True
        self.write(view[first:])
        return bool(self._transport.get_write_buffer_size())

    def write(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        for start in range(0, len(view), AT_ONCE):
            if self._has_closed or self._transport.is_closing():
                return
            try:
                self._encrypt(view[start : start + AT_ONCE])
            except ssl.SSLError:
                self._cannot_encrypt()
                return
            self._flush()

    def writelines(self, lines: Any) -> None:
        self.write(b"".join(lines))

    def _cannot_encrypt(self) -> None:
        OUTGOING.read()
        self.abort()

    def _flush(self) -> bool:
        """Send what is encrypted, on a connection that isn't closing: its descriptor may be somebody else's by then.
        Whether some of it is left."""
        transport = self._transport
        try:
            data = OUTGOING.read()
        except BaseException:
            empty()
            self.abort()  # a record is missing
            raise
        if not transport.get_write_buffer_size():
            try:
                sent = os.write(self._descriptor, data)
            except OSError:  # it is full, or closed: the transport finds out
                sent = 0
            if sent == len(data):
                return False
            data = data[sent:]
        transport.write(data)
        return True

    def _flush_own(self) -> None:
        """The same for what TLS itself has to say. A client that has OpenSSL say more and more (it refuses each new
        handshake, and answers each request for new keys) and reads none of it is cut off."""
        transport = self._transport
        self._unread += OUTGOING.pending if transport.get_write_buffer_size() else -self._unread
        if transport.is_closing() or self._unread > UNREAD_MAX:
            OUTGOING.read()
            self.abort()
        else:
            self._flush()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """The client may still send (RFC 8446 §6.1: each side of a connection has an end of its own)."""
        if not self._transport.is_closing():
            self._say_closed()
            self._transport.write_eof()

    def _say_closed(self) -> None:
        if self._has_closed or self._transport.is_closing():
            return
        self._has_closed = True
        try:
            self._tls.unwrap()
        except (ssl.SSLError, ValueError):  # it would wait for the client's
            pass
        self._flush_own()

    def close(self) -> None:
        if not self._transport.is_closing():
            if not self.is_cut:
                self._say_closed()
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()
