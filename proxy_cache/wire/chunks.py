"""Decodes the chunked transfer coding (RFC 9112 §7.1): in requests, in forwarded responses, and in responses to fills.

Two recipients that disagree about the end of a chunk see different messages on one connection (RFC 9112 §11.2). So the
framing follows the grammar strictly: hexadecimal digits, extensions without control characters, CRLF after the line and
after the data. §2.2 lets a recipient accept a bare LF only in "the start-line and fields", and a chunk's line is
neither.
"""

from __future__ import annotations

import re
from typing import Final

from ..semantics.limits import HeadLimits

REQUEST_CHUNK_LINE_MAX: Final = 4096
"""Bytes of the line before a chunk in a request, with extensions and line break."""
RESPONSE_CHUNK_LINE_MAX: Final = 16 * 1024
"""The same in a response."""

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
# White space after the size is not in the grammar, but some servers send it, and every recipient ignores it.
# At most 15 significant digits, so that the size fits into 64 bits for every recipient.
_SIZE_LINE: Final = re.compile(
    rb"(?=[0-9A-Fa-f])0*+([0-9A-Fa-f]{0,15})[ \t]*+(?:;[\t\x20-\x7e\x80-\xff]*+)?\r\n",
)
_STRICT_FIELD: Final = re.compile(_TOKEN + rb":[\t\x20-\x7e\x80-\xff]*+\r\n")
# RFC 9112 §2.2 on a bare LF behind a field, §5.1 on white space before its colon.
_LENIENT_FIELD: Final = re.compile(_TOKEN + rb"[ \t]*+:[^\r\n\0]*+\r?\n")


class ChunkError(ValueError):
    """A malformed body. ``error``: the proxy error type (RFC 9209 §2.3), for responses; ``line``: the offending
    line."""

    def __init__(self, detail: str, line: bytes = b"", error: str = "http_protocol_error") -> None:
        super().__init__(detail)
        self.detail = detail
        self.line = line
        self.error = error


class ChunkDecoder:
    """One chunked body.

    Trailers are checked and dropped, RFC 9112 §7.1.2: "A recipient that removes the chunked coding from a message MAY
    selectively retain or discard the received trailer fields".
    """

    __slots__ = (
        "_after_data", "_held", "_in_trailers", "_left", "_limits", "_line_max", "_of_response", "_trailer_size",
        "_trailers", "is_over", "rest",
    )  # fmt: skip

    def __init__(self, limits: HeadLimits, *, of_response: bool) -> None:
        """``of_response``: trailers from origins are read as leniently as their heads. Those of clients are not:
        clients can be told what is wrong."""
        self._limits = limits
        self._of_response = of_response
        self._line_max = RESPONSE_CHUNK_LINE_MAX if of_response else REQUEST_CHUNK_LINE_MAX
        self._left = 0
        """Bytes of the current chunk still to come."""
        self._after_data = self._in_trailers = False
        self._trailers = self._trailer_size = 0
        """Fields and bytes of the trailer section so far."""
        self._held = b""
        """An incomplete line."""
        self.is_over = False
        """Whether the body is complete, trailers included."""
        self.rest = b""
        """Bytes received after the body."""

    def feed(self, data: bytes) -> bytes:
        """The content of all chunks in ``data``, joined: one-byte chunks must not become thousands of pieces. Raises
        :class:`ChunkError`; content before the error in the same ``data`` is lost."""
        if self._held:
            data, self._held = self._held + data, b""
        offset, size = 0, len(data)
        pieces: list[bytes] = []
        while offset < size:
            if self._left:
                piece = data[offset : offset + self._left]
                pieces.append(piece)
                self._left -= len(piece)
                self._after_data = not self._left
                offset += len(piece)
                continue
            if self._after_data:
                if data[offset : offset + 2] == b"\r\n":
                    self._after_data = False
                    offset += 2
                    continue
                if size - offset > 1 or data[offset] != 0x0D:
                    raise ChunkError("a chunk that is longer than it says, or no line break after it")
                self._held = data[offset:]
                break
            end = data.find(b"\n", offset) + 1
            longest = self._limits.line if self._in_trailers else self._line_max
            if (end or size + 1) - offset > longest:
                raise self._too_long(longest)
            if not end:
                self._held = data[offset:]
                break
            line, offset = data[offset:end], end
            if not self._in_trailers:
                found = _SIZE_LINE.fullmatch(line)
                if found is None:
                    raise ChunkError("not the size of a chunk", line)
                self._left = int(found[1] or b"0", 16)
                self._in_trailers = not self._left
            elif line == b"\r\n" or (line == b"\n" and self._of_response):
                self.is_over = True
                self.rest = data[offset:]
                break
            else:
                self._check_trailer(line)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _check_trailer(self, line: bytes) -> None:
        self._trailers += 1
        self._trailer_size += len(line)
        limits = self._limits
        if self._trailer_size > limits.total or self._trailers > limits.fields:
            raise ChunkError(
                f"trailers of more than {limits.total} bytes or {limits.fields} fields",
                error="http_response_trailer_section_size",
            )
        found = _LENIENT_FIELD.fullmatch(line) if self._of_response else _STRICT_FIELD.fullmatch(line)
        if found is None:
            raise ChunkError("not a trailer field", line)

    def _too_long(self, longest: int) -> ChunkError:
        if self._in_trailers:
            return ChunkError(f"a trailer of more than {longest} bytes", error="http_response_trailer_size")
        return ChunkError(f"a line of more than {longest} bytes before a chunk")
