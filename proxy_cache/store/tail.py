"""The newest bytes of a body, in memory until they are in its file or every reader has read them."""

from __future__ import annotations

from collections import deque


class Tail:
    """Chunks in order; ``start`` is the offset of the first byte in them."""

    __slots__ = ("chunks", "start")

    def __init__(self, start: int) -> None:
        self.chunks: deque[bytes] = deque()
        self.start = start

    def drop(self, count: int) -> None:
        """Drop the first ``count`` chunks."""
        for _ in range(count):
            self.start += len(self.chunks.popleft())

    def drop_before(self, offset: int) -> None:
        """Drop the chunks that end at ``offset`` or before."""
        while self.chunks and self.start + len(self.chunks[0]) <= offset:
            self.start += len(self.chunks.popleft())

    def clear(self, start: int) -> None:
        """Drop all chunks; the next one begins at ``start``."""
        self.chunks.clear()
        self.start = start

    def read(self, offset: int, stop: int, limit: int) -> bytes:
        """Bytes from ``offset`` up to ``stop``, and no further chunk once there are ``limit`` bytes."""
        start = self.start
        found: list[bytes] = []
        size = 0
        for chunk in self.chunks:
            end = start + len(chunk)
            if end > offset:
                piece = chunk if start == offset and end <= stop else chunk[offset - start : stop - start]
                found.append(piece)
                size += len(piece)
                offset += len(piece)
                if offset >= stop or size >= limit:
                    break
            start = end
        return found[0] if len(found) == 1 else b"".join(found)
