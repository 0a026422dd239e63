"""Whole bodies on their way to the writer: how much waits there, and who hears when it is written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .entry import Entry
from .writer import WriteBody, Writer


class Pending:
    """What the writer has still to write. On the loop."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self.size = 0
        """Bytes of it, with heads, and"""
        self.count = 0
        """the number of bodies."""
        self._all_written: asyncio.Future[None] | None = None

    def write(self, entry: Entry, data: bytes, written: Callable[[OSError | None], None]) -> None:
        """Have a body written, with the row of its entry; ``written`` is called when it is, or could not be."""

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
        """Wait until nothing is left to write."""
        while self.count:
            if self._all_written is None or self._all_written.done():
                self._all_written = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._all_written)
