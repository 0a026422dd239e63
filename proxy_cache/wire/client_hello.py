"""The first message of TLS, as bytes (RFC 8446 §4.1.2, RFC 5246 §7.4.1.2). Pure, no I/O.

Only what is needed to decide who shall answer it; whether it is sound otherwise is for a TLS library to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

NO_TLS: Final = "no TLS"
MAX_HELLO: Final = 64 * 1024
"""Bytes of a ClientHello. With certificates, tickets and keys of post-quantum schemes real ones have less than 4 kB."""
_RECORD_HEAD: Final = 5
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
    return HelloReader().feed(data)


class HelloReader:
    """Reads a ClientHello while it arrives. Each byte is looked at once, however small the pieces and the records are:
    a client that sends one byte a record, in a packet each, takes no more of everybody's time than another one."""

    def __init__(self) -> None:
        self._head = b""
        """Of the next record, as far as it is there."""
        self._left = 0
        """Bytes that the record at hand still has."""
        self._message = bytearray()
        self._size = 0
        """Bytes of the message; 0 until that is known."""

    def feed(self, data: bytes) -> ClientHello | Literal["no TLS"] | None:
        """What it is, by all that has come until now; ``None`` if more bytes have to come first."""
        message, position = self._message, 0
        try:
            while not self._size or len(message) < self._size:
                # A message may be spread over several records.
                if not self._left:
                    more = data[position : position + _RECORD_HEAD - len(self._head)]
                    head = self._head + more
                    self._left = _length_of(head)
                    if not self._left:
                        self._head = head
                        return None
                    self._head = b""
                    position += len(more)
                piece = data[position : position + self._left]
                if not piece:
                    return None
                message += piece
                position += len(piece)
                self._left -= len(piece)
                if not self._size:
                    self._size = _size_of(message)
            return _hello(_Fields(bytes(message[4 : self._size])))
        except _Malformed:
            return NO_TLS


def _length_of(head: bytes) -> int:
    """Bytes of the record that begins so; 0 if there isn't all of its head. Raises :class:`_Malformed` if it has
    nothing of a handshake."""
    if (head and head[0] != _HANDSHAKE) or (len(head) > 1 and head[1] != 3):
        raise _Malformed
    if len(head) < _RECORD_HEAD:
        return 0
    length = head[3] << 8 | head[4]
    if not 0 < length <= _MAX_RECORD:
        raise _Malformed
    return length


def _size_of(message: bytearray) -> int:
    """Bytes of the message that begins so; 0 if that can't be told yet. Raises :class:`_Malformed` if it is no
    ClientHello."""
    if message[0] != _CLIENT_HELLO:
        raise _Malformed
    if len(message) < 4:
        return 0
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
