"""Chunked bodies of messages that mitmproxy reads, in place of h11's reader (RFC 9112 §7.1).

h11 before 0.16 takes any two bytes for the end of a chunk (CVE-2025-43859), no version bounds the line before a chunk
or the trailers, and all quote what is wrong at its full length.
"""

from __future__ import annotations

import re
from typing import Final

import h11
from h11._receivebuffer import ReceiveBuffer

from ..semantics.limits import HeadLimits

CHUNK_LINE_MOST: Final = 4096
"""Bytes of the line before a chunk, extensions included."""
_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*+(?:;[\t\x20-\x7e\x80-\xff]*+)?")
_FIELD: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+")


class ChunkReader:
    """Gives what h11's readers of bodies give, and is called as they are.

    Trailers are read and dropped, RFC 9112 §7.1.2: "A recipient that removes the chunked coding from a message MAY
    selectively retain or discard the received trailer fields".
    """

    def __init__(self, limits: HeadLimits) -> None:
        self._limits = limits
        self._left = 0
        """Bytes of the chunk that are still to come."""
        self._after_chunk = False
        self._in_trailers = False
        self._trailer_size = 0
        self._searched = 0
        self._ended = False
        self.error: str | None = None
        """Why the body can't be read, if it can't."""

    def __call__(self, buf: ReceiveBuffer) -> h11.Data | h11.EndOfMessage | None:
        """The content of all chunks that have come as one piece: chunks of a byte each would be thousands of events."""
        pieces: list[bytearray] = []
        while True:
            piece = self._next(buf)
            if isinstance(piece, bytearray):
                pieces.append(piece)
                continue
            if not pieces:
                return piece
            self._ended = piece is not None  # told by the next call
            return h11.Data(data=b"".join(pieces))

    def _next(self, buf: ReceiveBuffer) -> bytearray | h11.EndOfMessage | None:
        if self._ended:
            return h11.EndOfMessage()
        while not self._left:
            most = self._limits.line if self._in_trailers else CHUNK_LINE_MOST
            line = self._line(buf, most)
            if line is None:
                return None
            if self._in_trailers:
                if not line:
                    return h11.EndOfMessage()
                self._trailer_size += len(line) + 2
                if self._trailer_size > self._limits.total:
                    raise self._failed("trailers are too large")
                if _FIELD.fullmatch(line) is None:
                    raise self._failed("a trailer that is not a field")
            elif self._after_chunk:
                if line:
                    raise self._failed("no line break after a chunk")
                self._after_chunk = False
            else:
                found = _LINE.fullmatch(line)
                if found is None:
                    raise self._failed("not the size of a chunk")
                self._left = int(found[1], 16)
                self._in_trailers = not self._left
        data: bytearray | None = buf.maybe_extract_at_most(self._left)
        if data is not None:
            self._left -= len(data)
            self._after_chunk = not self._left
        return data

    def read_eof(self) -> h11.EndOfMessage:
        raise h11.RemoteProtocolError("the connection ended within a chunked body")

    def _line(self, buf: ReceiveBuffer, most: int) -> bytes | None:
        """The next line, which ends in CRLF (RFC 9112 §7.1: a bare LF is no end of it)."""
        most = 0 if self._after_chunk else most
        data = buf._data
        end = data.find(b"\n", self._searched, most + 2)
        if end < 0 and len(data) < most + 2 and (not self._after_chunk or not data or data[0] == 13):
            self._searched = len(data)
            return None
        if end < 1 or data[end - 1] != 13:
            told = "no line break after a chunk" if self._after_chunk else "a line too long, or one that ends in LF"
            raise self._failed(told)
        self._searched = 0
        line = buf.maybe_extract_at_most(end + 1)
        return bytes(line[:-2]) if line else b""

    def _failed(self, why: str) -> h11.RemoteProtocolError:
        self.error = why
        return h11.RemoteProtocolError(why)
