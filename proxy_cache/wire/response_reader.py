"""Splits the bytes from an origin's connection into responses: interim and final heads, ends of bodies (RFC 9112 §6.3).

A state machine without a socket. Anything ambiguous is an error and ends the connection: otherwise later bytes could be
taken for the response to another request. All requests are GETs.
"""

from __future__ import annotations

from typing import Final

from ..semantics.limits import DEFAULT_HEAD_LIMITS, HeadLimits
from .chunks import ChunkDecoder, ChunkError
from .responses import OriginError, ResponseHead, content_length, parse_head, persistence

MAX_LINE_BREAKS: Final = 256
"""Bytes of line breaks before a response. Each one restarts the timeout, so their number is limited."""
MAX_INTERIM: Final = 64
"""1xx responses before the final one, limited for the same reason."""


class ResponseReader:
    """Call :meth:`head` until it returns a final head, then :meth:`body` until :attr:`is_over`; and again."""

    __slots__ = (
        "_is_last", "_line_breaks", "chunks", "has_more", "held", "interims", "interims_max", "is_garbled", "is_over",
        "keep_alive", "left", "length", "limits",
    )  # fmt: skip

    def __init__(self, limits: HeadLimits = DEFAULT_HEAD_LIMITS, interims_max: int = MAX_INTERIM) -> None:
        self.limits = limits
        self.interims_max = interims_max
        self.held = b""
        """An incomplete head; after a complete one, the bytes that follow it."""
        self.interims = 0
        """Interim responses so far, before the next final one."""
        self._line_breaks = 0
        """Bytes of line breaks so far, before the next final head."""
        self._is_last = False
        """Whether the connection ends with the next final response, whatever its head says: an interim response
        announced a body, which it can't have, or had a line that is not a field."""
        self.is_garbled = False
        """Whether the bytes in place of a head are none."""
        self.length: int | None = None
        """The announced length of the body."""
        self.left: int | None = 0
        """Bytes of an unchunked body still to come; ``None``: all until the end of the connection. Spliced bytes, which
        bypass :meth:`body`, are subtracted by the caller."""
        self.chunks: ChunkDecoder | None = None
        self.is_over = True
        """Whether the response is complete."""
        self.has_more = False
        """Whether unsolicited bytes followed it."""
        self.keep_alive = True
        """Whether the connection may be used again after the response (RFC 9112 §9.3)."""

    def head(self, data: bytes) -> ResponseHead | None:
        """The next head; ``None`` if its end hasn't arrived. Bytes after it are in :attr:`held`: for the next call, if
        the response is interim, or else for :meth:`body`. Raises :class:`OriginError`."""
        data = self.held + data if self.held else data
        if data.startswith((b"\r", b"\n")):
            # Some servers send a line break after a response. A server that sends nothing else is not answering.
            size, data = len(data), data.lstrip(b"\r\n")
            self._line_breaks += size - len(data)
            if self._line_breaks > MAX_LINE_BREAKS:
                raise OriginError("http_protocol_error", f"more than {MAX_LINE_BREAKS} line breaks before a head")
        self.held = data
        try:
            head = parse_head(data, self.limits) if data else None
        except OriginError as error:
            self.is_garbled = error.error == "http_protocol_error"
            raise
        if head is None:
            return None
        self.held = data[head.size :]
        if head.status >= 200:
            self._start_body(head)
            return head
        if head.status == 101:
            # RFC 9110 §7.8: "MUST NOT switch to a protocol that was not indicated by the client". We indicated none.
            raise OriginError("http_protocol_error", "101 Switching Protocols, which nobody has asked for")
        self.interims += 1
        content_length(head.headers)  # raises if it is invalid; a 1xx must not have one at all (RFC 9110 §8.6)
        # A server that sends lines that are not fields may also disagree about the end of the message.
        self._is_last |= _announces_body(head) or bool(head.skipped)
        if self.interims > self.interims_max:
            raise OriginError("http_protocol_error", f"more than {self.interims_max} interim responses")
        return head

    def _start_body(self, head: ResponseHead) -> None:
        """Determine the end of the body (RFC 9112 §6.3)."""
        self.length = length = content_length(head.headers)
        connection = head.hop.get("connection")
        keep = head.http11
        if connection is not None:
            option = connection if connection == "keep-alive" else persistence(connection)
            keep = option == "keep-alive" or (head.http11 and option is None)
        self.chunks = None
        codings = head.hop.get("transfer-encoding")
        if head.status in (204, 304):
            self.left = 0
            # If the server sends a body anyway, it must not be read as the next response.
            keep = keep and not _announces_body(head)
        elif codings is not None:
            listed = [coding for part in codings.split(",") if (coding := part.strip(" \t").lower())]
            if length is not None or listed not in (["chunked"], ["identity"], []):
                # §6.3: a message with both "ought to be handled as an error"; and we accept no coding but chunked.
                raise OriginError("http_response_transfer_coding", f"Transfer-Encoding: {codings[:40]!r}")
            self.left = None
            if listed == ["chunked"]:
                self.chunks = ChunkDecoder(self.limits, of_response=True)
            keep = keep and head.http11 and self.chunks is not None
        else:
            self.left = length
            keep = keep and length is not None
        self.keep_alive = keep and not (self._is_last or head.skipped)
        self.is_over, self.has_more = self.left == 0, self.left == 0 and bool(self.held)
        self.interims = self._line_breaks = 0
        self._is_last = False

    @property
    def ends_with_connection(self) -> bool:
        """Whether the end of the connection completes the body (RFC 9112 §6.3)."""
        return self.left is None and self.chunks is None

    def body(self, data: bytes) -> bytes:
        """The content in ``data``. Sets :attr:`is_over`. Raises :class:`OriginError`."""
        if self.chunks is not None:
            try:
                content = self.chunks.feed(data)
            except ChunkError as error:
                line = f": {error.line[:40]!r}" if error.line else ""
                raise OriginError(error.error, f"{error.detail}{line}") from error
            if self.chunks.is_over:
                self.is_over, self.has_more = True, bool(self.chunks.rest)
            return content
        left = self.left
        if left is None:
            return data
        if len(data) < left:
            self.left = left - len(data)
            return data
        self.left, self.is_over, self.has_more = 0, True, len(data) > left
        return data[:left] if self.has_more else data


def _announces_body(head: ResponseHead) -> bool:
    return "transfer-encoding" in head.hop or (head.headers.get("content-length") or "0").strip("0") != ""
