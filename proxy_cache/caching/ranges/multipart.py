"""Several spans of a body as one: the content of a multipart/byteranges response (RFC 9110 §14.6)."""

from __future__ import annotations

from ...semantics import ranges
from ..answers import Seekable


class MultipartReader:
    """Reads the spans one after the other through one source, each behind the head of its part."""

    __slots__ = ("_end", "_parts", "_source", "_started")

    def __init__(self, source: Seekable, parts: list[ranges.BodyPart], end: bytes) -> None:
        self._source = source
        self._parts = parts[::-1]
        self._end = end
        self._started = False

    def read_now(self) -> bytes | None:
        data = self._source.read_now() if self._started else b""
        return self._next() if data == b"" else data

    async def read(self) -> bytes:
        data = await self._source.read() if self._started else b""
        return data or self._next()

    def _next(self) -> bytes:
        if self._parts:
            part = self._parts.pop()
            self._source.seek(*part.span)
            self._started = True
            return part.head
        end, self._end = self._end, b""
        return end

    def close(self) -> None:
        self._source.close()
