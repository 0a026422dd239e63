"""The responses that come over one connection to an origin, told apart from one another: interim and final heads, and
where bodies end (RFC 9112 §6.3). Fed with bytes; what to do about it is decided by whoever has the socket.

Whatever leaves a question open is an error, and ends the connection: what follows could be taken for the answer to
somebody else. Requests are GETs.
"""

from __future__ import annotations

from typing import Final

from ..semantics.limits import DEFAULT_HEAD_LIMITS, HeadLimits
from .chunks import ChunkDecoder, ChunkError
from .responses import OriginError, ResponseHead, content_length, parse_head, persistence

MAX_LINE_BREAKS: Final = 256
"""Bytes of line breaks before a response: each is a sign of life, as those that follow are."""
MAX_INTERIM: Final = 64
"""Responses 1xx before the final one: each is a sign of life, but no slot is held for ever by them."""


class ResponseReader:
    """:meth:`head` until it has given a final response's, then :meth:`body` until :attr:`is_over`; and again."""

    __slots__ = (
        "_is_last", "_line_breaks", "chunks", "has_more", "held", "interims", "is_garbled", "is_over", "keep_alive",
        "left", "length", "limits",
    )  # fmt: skip

    def __init__(self, limits: HeadLimits = DEFAULT_HEAD_LIMITS) -> None:
        self.limits = limits
        self.held = b""
        """Bytes of a head that isn't complete; after a head, those that came with it."""
        self.interims = 0
        """Interim responses so far, of the response that is waited for; and"""
        self._line_breaks = 0
        """bytes of line breaks; and"""
        self._is_last = False
        """whether the connection ends with it, whatever that says: an interim response has announced a body, which it
        can't have, or has had a line that is no field."""
        self.is_garbled = False
        """Whether what came in place of a head is none."""
        self.length: int | None = None
        """The length that the head announces."""
        self.left: int | None = 0
        """Bytes of the body that are to come, if there are no chunks; ``None``: all until the end of the connection.
        Whoever takes some past :meth:`body` takes them off here."""
        self.chunks: ChunkDecoder | None = None
        self.is_over = True
        """Whether the response is here to its last byte."""
        self.has_more = False
        """Whether something has come after it, which nobody has asked for."""
        self.keep_alive = True
        """Whether the connection may be used again after the response (RFC 9112 §9.3)."""

    def head(self, data: bytes) -> ResponseHead | None:
        """The next head; ``None`` if its end hasn't come yet. What came after it is in :attr:`held`, for the next call
        after an interim response, or for :meth:`body`. Raises :class:`OriginError`."""
        data = self.held + data if self.held else data
        if data.startswith((b"\r", b"\n")):
            # Left over from the response before: some servers send it. One that goes on doing so says nothing.
            came, data = len(data), data.lstrip(b"\r\n")
            self._line_breaks += came - len(data)
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
            # RFC 9110 §7.8: "MUST NOT switch to a protocol that was not indicated by the client", which was none.
            raise OriginError("http_protocol_error", "101 Switching Protocols, which nobody has asked for")
        self.interims += 1
        content_length(head.headers)  # which it can't have (RFC 9110 §8.6), and not several different ones: raises
        # Who means something by a line that is no field may also see the end of the message elsewhere.
        self._is_last |= _announces_body(head) or bool(head.skipped)
        if self.interims > MAX_INTERIM:
            raise OriginError("http_protocol_error", f"more than {MAX_INTERIM} interim responses")
        return head

    def _start_body(self, head: ResponseHead) -> None:
        """How the body is to be told from what follows (RFC 9112 §6.3)."""
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
            # A server that sends a body all the same must not have it taken for the next answer.
            keep = keep and not _announces_body(head)
        elif codings is not None:
            listed = [coding for part in codings.split(",") if (coding := part.strip(" \t").lower())]
            if length is not None or listed not in (["chunked"], ["identity"], []):
                # §6.3: a message with both "ought to be handled as an error", and what else than chunked there may be,
                # the client has not asked for.
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
        """Whether it is the end of the connection that completes the body (RFC 9112 §6.3)."""
        return self.left is None and self.chunks is None

    def body(self, data: bytes) -> bytes:
        """The content in what has come. Sets :attr:`is_over`. Raises :class:`OriginError`."""
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
