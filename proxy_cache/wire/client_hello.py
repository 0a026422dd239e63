"""The first message of TLS, as bytes (RFC 8446 §4.1.2, RFC 5246 §7.4.1.2). Pure, no I/O.

Only what is needed to decide who shall answer it; whether it is sound otherwise is for a TLS library to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

NO_TLS: Final = "no TLS"
MAX_HELLO: Final = 64 * 1024
"""Bytes of a ClientHello. With certificates, tickets and keys of post-quantum schemes real ones have less than 4 kB."""

MAX_RECORDS: Final = 2048
"""Records that it may be spread over (RFC 8446 §5.1). Real ones take one or two."""

_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_MAX_RECORD: Final = 16384
_SERVER_NAME: Final = 0
_ALPN: Final = 16


class _Malformed(Exception):
    """It isn't a ClientHello."""


@dataclass(frozen=True, slots=True)
class ClientHello:
    """``server_name``: in lower case, without a dot at the end (RFC 6066 §3); ``None`` if the client names none.
    ``protocols``: of ALPN (RFC 7301), empty if the client has none to offer."""

    server_name: str | None
    protocols: tuple[bytes, ...]

    @property
    def speaks_http1(self) -> bool:
        """Whether HTTP/1.1 will do for the client. Without ALPN a client of port 443 expects nothing else."""
        return not self.protocols or b"http/1.1" in self.protocols


def parse_client_hello(data: bytes) -> ClientHello | Literal["no TLS"] | None:
    """The ClientHello at the start of ``data``; ``None`` if more bytes have to come first."""
    return HelloReader().read(data)


class HelloReader:
    """Reads a ClientHello that comes in pieces. No byte is looked at twice: each record may come in a packet of its
    own, or byte by byte."""

    def __init__(self) -> None:
        self._unread = b""
        """Of a record's head."""
        self._left = 0
        """Bytes of the record that are still to come."""
        self._message = bytearray()
        self._records = 0

    def read(self, data: bytes) -> ClientHello | Literal["no TLS"] | None:
        """``data``: what has come since the last call. ``None``: more bytes have to come."""
        if self._unread:
            data = self._unread + data
        position = 0
        try:
            while not self._is_complete():
                if not self._left:
                    head = data[position : position + 5]
                    if (head and head[0] != _HANDSHAKE) or (len(head) > 1 and head[1] != 3):
                        return NO_TLS
                    if len(head) < 5:
                        self._unread = head
                        return None
                    self._left = int.from_bytes(head[3:], "big")
                    self._records += 1
                    if not 0 < self._left <= _MAX_RECORD or self._records > MAX_RECORDS:
                        return NO_TLS
                    position += 5
                piece = data[position : position + self._left]
                if not piece:
                    self._unread = b""
                    return None
                self._message += piece
                self._left -= len(piece)
                position += len(piece)
            return _hello(_Fields(bytes(self._message[4 : _size_of(self._message)])))
        except _Malformed:
            return NO_TLS

    def _is_complete(self) -> bool:
        """Whether it is a ClientHello with all of its bytes. Raises :class:`_Malformed` once it can't become one."""
        message = self._message
        if message and message[0] != _CLIENT_HELLO:
            raise _Malformed
        return len(message) >= 4 and len(message) >= _size_of(message)


def _size_of(message: bytearray) -> int:
    size = 4 + int.from_bytes(message[1:4], "big")
    if size > MAX_HELLO:
        raise _Malformed
    return size


class _Fields:
    """Reads the fields of a message one after the other. Raises :class:`_Malformed` where it ends early."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def __bool__(self) -> bool:
        return self._position < len(self._data)

    def take(self, size: int) -> bytes:
        end = self._position + size
        if end > len(self._data):
            raise _Malformed
        taken, self._position = self._data[self._position : end], end
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> _Fields:
        """A vector with its length, of ``size`` bytes, before it (RFC 8446 §3.4)."""
        return _Fields(self.take(self.number(size)))

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._position)


def _hello(fields: _Fields) -> ClientHello:
    fields.take(2 + 32)  # version and random
    fields.vector(1)  # session id
    fields.vector(2)  # cipher suites
    fields.vector(1)  # compression methods
    name: str | None = None
    protocols: tuple[bytes, ...] = ()
    if fields:
        extensions = fields.vector(2)
        seen = set()
        while extensions:
            kind, content = extensions.number(2), extensions.vector(2)
            if kind in seen:
                raise _Malformed  # RFC 8446 §4.2: "There MUST NOT be more than one extension of the same type"
            seen.add(kind)
            if kind == _SERVER_NAME:
                name = _server_name(content)
            elif kind == _ALPN:
                protocols = _protocols(content)
    return ClientHello(name, protocols)


def _server_name(content: _Fields) -> str | None:
    names = content.vector(2)
    while names:
        kind, name = names.number(1), names.vector(2).rest()
        if kind == 0:
            if not name or not name.isascii():
                raise _Malformed
            return name.decode("ascii").lower().removesuffix(".")
    return None


def _protocols(content: _Fields) -> tuple[bytes, ...]:
    offered = content.vector(2)
    found = []
    while offered:
        found.append(offered.vector(1).rest())
    return tuple(found)
