"""Our decoder of chunks in the place of h11's, for messages that mitmproxy reads.

h11 before 0.16 takes any two bytes for the end of a chunk (CVE-2025-43859), no version bounds the line before a chunk,
mitmproxy raises where there are trailers, and all quote what is wrong at its full length.
"""

from __future__ import annotations

import h11
from h11._receivebuffer import ReceiveBuffer

from ...semantics.limits import HeadLimits
from ...wire.chunks import ChunkDecoder, ChunkError


class ChunkReader:
    """Gives what h11's readers of bodies give, and is called as they are."""

    def __init__(self, limits: HeadLimits, *, of_response: bool) -> None:
        """``of_response``: see :class:`wire.chunks.ChunkDecoder`."""
        self._decoder = ChunkDecoder(limits, of_response=of_response)
        self.error: str | None = None
        """Why the body can't be read, if it can't."""

    def __call__(self, buf: ReceiveBuffer) -> h11.Data | h11.EndOfMessage | None:
        decoder = self._decoder
        content = b""
        if not decoder.is_over:
            data = buf.maybe_extract_at_most(len(buf))
            if data is None:
                return None
            try:
                content = decoder.feed(bytes(data))
            except ChunkError as error:
                self.error = error.detail
                raise h11.RemoteProtocolError(error.detail) from error
            buf += decoder.rest  # the next message
        if content:
            return h11.Data(data=content)
        return h11.EndOfMessage() if decoder.is_over else None

    def read_eof(self) -> h11.EndOfMessage:
        raise h11.RemoteProtocolError("the connection ended within a chunked body")
