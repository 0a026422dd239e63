"""Whole bodies that wait for the writer's thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .entry import Entry
from .writer import WriteBody, Writer


class Pending:
    """Counts bodies that are not written yet. On the loop."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self.size = 0
        """Bytes that wait, heads included."""
        self.count = 0
        """Bodies that wait."""
        self._all_written: asyncio.Future[None] | None = None

    def write(self, entry: Entry, data: bytes, written: Callable[[OSError | None], None]) -> None:
        """Write a body, and the row of its entry. ``written(error)`` is called when that is done, or has failed."""
        size = entry.size

        def done(error: OSError | None) -> None:
            self.size -= size
            self.count -= 1
            try:
                written(error)
            finally:
                if not self.count and self._all_written is not None and not self._all_written.done():
                    self._all_written.set_result(None)

        self.size += size
        self.count += 1
        self._writer.put(WriteBody(entry, [data], asyncio.get_running_loop(), done))

    async def all_written(self) -> None:
        """Wait until no body is left to write."""
        while self.count:
            if self._all_written is None or self._all_written.done():
                self._all_written = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._all_written)
